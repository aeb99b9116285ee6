/* plants.c - faults are planted in the library, one at a time; the harness must find each.
 *
 * They are the uses of PLANTED() in src/, listed in base/plant.h. Only the harness's own build of
 * the library has them.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crash/harness.h"

#ifdef DVSM_PLANT

static const struct plant {
    const char *what;
    int (*found_by)(const struct budget *budget); /* NULL: by run_boundaries() */
    const char *only;                             /* the scenario that meets it; NULL: many do */
} plants[] = {
    [PLANT_NONE] = {.what = "(nothing: all must be well)"},
    [PLANT_COUNT_AFTER_STORE] = {.what = "the journal's count is raised after the store"},
    [PLANT_ROLL_BACK_FORWARDS] = {.what = "a journal is rolled back from its first entry on"},
    [PLANT_VICTIM_STORED_FIRST] = {.what = "the victim is stored before it is journaled"},
    [PLANT_RUN_TAKEN_BEFORE_PENDING] = {.what =
                                            "a run is taken and committed before it is pending"},
    [PLANT_ABSORBED_STAYS_PENDING] = {.what = "what the arena absorbed stays pending"},
    [PLANT_TRANSIT_NOT_CLEARED] = {.what = "an exchange's transit record is not cleared"},
    [PLANT_SPLIT_UNLISTED_FIRST] =
        {.what = "a magazine to be split is out of its list before the copy"},
    [PLANT_FILLED_WITHOUT_JOURNAL] = {.what =
                                          "a magazine is filled and drained without the journal"},
    [PLANT_TRANSIT_LEFT] = {.what = "recovery leaves what is in transit"},
    [PLANT_PENDING_LEFT] = {.what = "recovery leaves what is pending"},
    [PLANT_INNER_WORDS_LEFT] = {.what = "recovery does not restore the words inside a run"},
    [PLANT_DEPOT_BEFORE_ARENA] = {.what =
                                      "a depot is recovered before the arena that counts in it"},
    [PLANT_JOURNAL_EMPTIED_FIRST] = {.what = "a roll back empties the journal before it puts back",
                                     .found_by = run_recovery},
    [PLANT_NEW_TAKEN_FOR_LOADED] = {.what = "recovery takes the new magazine for loaded"},
    [PLANT_RELEASED_WITHOUT_NOTE] = {.what = "memory is released without a note"},
    [PLANT_HOLES_WITHOUT_JOURNAL] = {.what = "an arena's holes are counted without the journal",
                                     .only = "punch"},
    [PLANT_REMOTE_TAKEN_BEFORE_NOTED] =
        {.what = "a list of remote frees is taken off before it is noted", .only = "work-off"},
    [PLANT_REMOTE_PASSED_WHEN_DONE] = {.what = "a remote free is passed on when it is done",
                                       .only = "work-off"},
};
_Static_assert(sizeof plants / sizeof *plants == PLANTS, "each fault is looked for");

/* Tries the fault in a process of its own, whose last line is kept. 0: found nothing; 1: found. */
static int try_plant(size_t number, const struct budget *budget, char *line, size_t bytes)
{
    int fds[2], status;
    ssize_t length;

    if (pipe(fds) != 0)
        give_up("pipe");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int nowhere = open("/dev/null", O_WRONLY);

        dup2(nowhere, STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        struct budget less = *budget;

        dvsm_planted = (enum planted)number;
        less.only = number == 0            ? "random"
                    : budget->only != NULL ? budget->only
                                           : plants[number].only;
        _exit(plants[number].found_by != NULL ? plants[number].found_by(&less)
                                              : run_boundaries(&less));
    }
    close(fds[1]);
    size_t have = 0;
    char all[1 << 16];
    while ((length = read(fds[0], all + have, sizeof all - 1 - have)) > 0)
        have += (size_t)length;
    all[have] = '\0';
    close(fds[0]);
    waitpid(child, &status, 0);
    const char *last = strstr(all, "VIOLATION");
    snprintf(line, bytes, "%.*s", last != NULL ? (int)strcspn(last, "\n") : 0,
             last != NULL ? last : "");
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

int run_plants(const struct budget *budget)
{
    size_t found = 0;
    char line[200];

    for (size_t number = 0; number < PLANTS; number++) {
        if (plants[number].what == NULL)
            give_up("a planted fault that nobody looks for");
        int result = try_plant(number, budget, line, sizeof line);

        printf("  %2zu %-60s %s\n", number, plants[number].what,
               result != 0   ? line
               : number == 0 ? "nothing found"
                             : "NOT FOUND");
        fflush(stdout);
        if (number == 0 && result != 0)
            return 1;
        found += result != 0;
    }
    printf("plants: %zu of %d found\n", found, PLANTS - 1);
    return found == PLANTS - 1 ? 0 : 1;
}

#else

int run_plants(const struct budget *budget)
{
    (void)budget;
    fprintf(stderr, "only crash-harness-planted has faults to find\n");
    return 2;
}

#endif
