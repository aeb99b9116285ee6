/* plant.h - faults that the crash harness plants in the library, one at a time, and must find.
 *
 * tests/crash/plants.c says what each of them is. Only the harness's own build has them: in every
 * other build PLANTED() is the constant 0.
 */
#ifndef DVSM_BASE_PLANT_H
#define DVSM_BASE_PLANT_H

enum planted {
    PLANT_NONE,
    PLANT_COUNT_AFTER_STORE,
    PLANT_ROLL_BACK_FORWARDS,
    PLANT_VICTIM_STORED_FIRST,
    PLANT_RUN_TAKEN_BEFORE_PENDING,
    PLANT_ABSORBED_STAYS_PENDING,
    PLANT_TRANSIT_NOT_CLEARED,
    PLANT_SPLIT_UNLISTED_FIRST,
    PLANT_FILLED_WITHOUT_JOURNAL,
    PLANT_TRANSIT_LEFT,
    PLANT_PENDING_LEFT,
    PLANT_INNER_WORDS_LEFT,
    PLANT_DEPOT_BEFORE_ARENA,
    PLANT_JOURNAL_EMPTIED_FIRST,
    PLANT_NEW_TAKEN_FOR_LOADED,
    PLANT_RELEASED_WITHOUT_NOTE,
    PLANT_HOLES_WITHOUT_JOURNAL,
    PLANT_REMOTE_TAKEN_BEFORE_NOTED,
    PLANT_REMOTE_PASSED_WHEN_DONE,
    PLANTS
};

#ifdef DVSM_PLANT
extern enum planted dvsm_planted;
#define PLANTED(fault) (dvsm_planted == PLANT_##fault)
#else
#define PLANTED(fault) 0
#endif

#endif
