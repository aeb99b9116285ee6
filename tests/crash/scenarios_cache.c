/* scenarios_cache.c - what workers do to lanes, depots and magazines. */
#include "cache/depot.h"
#include "crash/scenarios.h"

/* The lane's word for blocks of 40 bytes, on the CPU that the harness uses. */
static word loaded_word(void)
{
    return lane_word(&the_heap->cache, standin.cpu_id, class_above(chunk_size_for(40)));
}

/* Fills the lane, and keeps some blocks to be freed. */
void prepare_lane_full(void)
{
    hold(0, 62, 40);
    for (size_t i = 62; i-- > FEW && !magazine_is_full(CLASS_EXACT_LAST, loaded_word());)
        call_free(own_slot(i));
    if (!magazine_is_full(CLASS_EXACT_LAST, loaded_word()))
        give_up("the lane is not full");
}

/* Allocates so many blocks and then frees them. */
static void come_and_go(size_t count)
{
    void *blocks[300];

    for (size_t i = 0; i < count; i++)
        blocks[i] = dvsm_malloc(40);
    for (size_t i = 0; i < count; i++)
        dvsm_free(blocks[i]);
}

/* Leaves the lane empty, and magazines in the depot's stock. */
void prepare_stock(void)
{
    come_and_go(140);
    hold(0, MANY, 40);
}

/* Leaves full magazines in stock. The last exchange went the other way than the next one, which
 * splits a magazine. */
void prepare_split(void)
{
    come_and_go(300);
    hold(0, MANY, 40);
    come_and_go(60);
}

void prepare_coarse(void)
{
    hold(0, 20, 1500);
    drop(0, 6, 1);
}

void act_pop_and_push(void)
{
    hold(40, 4, 40);
    drop(40, 4, 1);
}

/* Frees one block more than the lane holds: an exchange, and a split. */
void act_spill(void)
{
    drop(0, FEW, 1);
    hold(0, 3, 40);
}

void act_split(void)
{
    drop(0, MANY, 1);
    hold(0, MANY, 40);
    drop(0, MANY, 1);
}

void act_refill(void)
{
    hold(48, 8, 40);
}

void act_fill_from_arena(void)
{
    for (size_t i = 40; i < 48; i++)
        call_allocate(own_slot(i), 300, BY_MALLOC);
    hold(48, 2, 2000);
}

/* Leaves unaligned blocks of the class in lanes and depots. */
void prepare_unaligned(void)
{
    prepare_holes();
    hold(40, 6, 110);
    drop(40, 6, 1);
}

/* Aligned blocks come from lanes, where some blocks go back to the arena first; from runs cut
 * for them, behind a lead; and from an arena that grows for them. */
void act_aligned_cached(void)
{
    call_aligned(own_slot(40), 64, 110);
    call_aligned(own_slot(41), 64, 110);
    call_aligned(own_slot(42), 32, 1100);
    call_aligned(own_slot(43), 4096, 50);
    call_resize(own_slot(43), 120, false);
    hold(44, 2, 30000);
    call_aligned(own_slot(46), 128, 28000);
    drop(40, 7, 1);
}

/* Leaves little in stock, but several magazines that were made. */
void prepare_magazines(void)
{
    struct fault fault = {0};
    size_t count = 3 * magazine_capacity(CLASS_EXACT_LAST);
    void *last = NULL;

    for (size_t i = 0; i < count; i++) {
        void **block = dvsm_malloc(40);

        *block = last;
        last = block;
    }
    while (last != NULL) {
        void *next = *(void **)last;

        dvsm_free(last);
        last = next;
    }
    stock_drain(&the_heap->cache, class_above(chunk_size_for(40)), SIZE_MAX, &fault);
}

static void take_units(unsigned cls, size_t until)
{
    struct cache *cache = &the_heap->cache;

    if (!depot_enter(cache, cls))
        give_up("the depot is not to be had");
    while (cache->table->room == 0 ||
           ((struct magazine_granule *)cache->table->room)->unused < until) {
        if (!place_take(cache, cls))
            give_up("no unit");
        depot_make_magazines(depot_of(cache, cls), cls);
    }
    depot_leave(depot_of(cache, cls));
}

/* Two classes without blocks use the magazines' granule up, except for its last unit. Two other
 * classes are past their first blocks. */
void prepare_units(void)
{
    struct cache *cache = &the_heap->cache;

    prepare_few();
    take_units(class_above(chunk_size_for(600)), UNITS - 3);
    take_units(class_above(chunk_size_for(700)), UNITS - 1);
    word_show(&depot_of(cache, class_above(chunk_size_for(500)))->demand, 2);
    word_show(&depot_of(cache, class_above(chunk_size_for(2000)))->demand, 2);
}

/* The same, but most units have come back. */
void prepare_units_given(void)
{
    prepare_units();
    depot_shrink(&the_heap->cache, class_above(chunk_size_for(700)));
}

void act_units(void)
{
    hold(40, 1, 500);
    hold(41, 1, 2000);
    depot_shrink(&the_heap->cache, class_above(chunk_size_for(700)));
}

void act_small_cached(void)
{
    hold(40, 2, 40);
    drop(40, 2, 1);
}

/* Allocates more than a lane holds. */
void act_exhaust(void)
{
    hold(0, SLOTS_EACH, 40);
}
