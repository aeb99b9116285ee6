/* scenarios_arena.c - what workers do to arenas, segments and large blocks. */
#include <errno.h>
#include <string.h>

#include "crash/scenarios.h"

/* Makes free chunks of all kinds between blocks in use: small ones, some in trees, a victim. */
void prepare_holes(void)
{
    static const size_t sizes[] = {24, 40, 72, 250, 300, 800, 1500, 5000};

    for (size_t i = 0; i < 32; i++)
        call_allocate(own_slot(i), sizes[i / 4], BY_MALLOC);
    drop(0, 32, 2);
    call_trim();
    call_free(own_slot(1));
}

void prepare_few(void)
{
    hold(0, 4, 40);
    drop(0, 2, 1);
}

void prepare_many(void)
{
    hold(0, MANY, 400);
}

void prepare_large(void)
{
    hold(0, 3, LARGE_SIZE);
    call_free(own_slot(1));
    hold(3, 4, 100);
}

void prepare_limit(void)
{
    hold(0, 8, 1000);
    hold(8, 4, 30000);
    drop(8, 2, 1);
    dvsm_malloc_set_footprint_limit(dvsm_malloc_footprint());
}

void prepare_segments(void)
{
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -1);
    hold(0, 10, 30000);
    drop(1, 8, 1);
}

/* Makes an arena with two segments, and a large block between them. */
void prepare_two_segments(void)
{
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 90000);
    hold(0, 1, 30000);
    hold(1, 1, 200000);
    hold(2, 6, 30000);
}

/* Makes free chunks of a few pages each between blocks, a larger one, a victim and a top. All of
 * them have pages inside that can be given back. */
void prepare_pages(void)
{
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -1);
    hold(0, 12, 20000);
    drop(1, 9, 2);
    drop(6, 1, 1);
    hold(1, 1, 6000);
}

void prepare_punched(void)
{
    prepare_pages();
    call_trim();
}

void prepare_punched_at_limit(void)
{
    prepare_punched();
    dvsm_malloc_set_footprint_limit(dvsm_malloc_footprint());
}

void prepare_no_retaining(void)
{
    prepare_segments();
    segment_set_retain(&the_heap->segments, 0);
}

/* Makes two segments with two free granules between them. `first` says what the second segment
 * begins with: a block in use (0), a free chunk (1), the victim (2), the top (3). */
static void prepare_gap(int first)
{
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 90000);
    hold(0, 2, 25000);
    /* All but 16 bytes, so that no free chunk is left in the first segment. */
    hold(7, 1, region_arena(the_heap->region, 0)->arena.top_size - 24);
    hold(2, 1, 100000); /* a large block, later the free granules */
    hold(3, 2, 25000);
    hold(5, 1, 2000);
    if (first == 2) {
        call_free(own_slot(4));
        hold(6, 1, 40);
        call_free(own_slot(6));
    }
    if (first != 0)
        call_free(own_slot(3));
    if (first == 3)
        drop(4, 2, 1);
    call_free(own_slot(2));
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -1);
}

void prepare_gap_used(void)
{
    prepare_gap(0);
}

void prepare_gap_free(void)
{
    prepare_gap(1);
}

void prepare_gap_victim(void)
{
    prepare_gap(2);
}

void prepare_gap_top(void)
{
    prepare_gap(3);
}

/* Two blocks are freed, and block 10 is put into the place of one of them. The victim is behind
 * block 10, and before block 4 or 7. */
void prepare_victim(void)
{
    hold(0, 9, 600);
    call_free(own_slot(3));
    call_free(own_slot(6));
    hold(10, 1, 200);
}

void prepare_trim_in_vain(void)
{
    hold(0, 4, 600);
    dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, 0);
}

void prepare_short_of_memory(void)
{
    hold(0, 8, 3000);
    hold(8, 3, LARGE_SIZE);
    drop(8, 2, 1);
    failing_backend_fail(failing, FAILING_COMMIT, 1, ENOMEM, true);
    failing_backend_fail(failing, FAILING_RELEASE, 1, ENOMEM, true);
}

void act_small(void)
{
    for (size_t i = 40; i < 46; i++)
        call_allocate(own_slot(i), 20 + i * 8, i % 2 == 0 ? BY_MALLOC : BY_HEAP);
    drop(40, 6, 1);
}

void act_through_holes(void)
{
    call_allocate(own_slot(40), 40, BY_MALLOC);
    call_allocate(own_slot(41), 64, BY_MALLOC);
    call_allocate(own_slot(42), 280, BY_CALLOC);
    call_allocate(own_slot(43), 1200, BY_HEAP);
    call_allocate(own_slot(44), 4000, BY_MALLOC);
    drop(3, 8, 4);
    drop(40, 5, 1);
    drop(1, 30, 2);
}

void act_trim(void)
{
    call_trim();
    hold(60, 1, 40);
}

void act_free_and_trim(void)
{
    drop(0, 4, 1);
    call_trim();
}

void act_grow(void)
{
    hold(40, 4, 30000);
    drop(40, 4, 1);
    call_trim();
}

/* The first arena is taken: another one is made, and serves. */
void act_elsewhere(void)
{
    hold(40, 4, 30000);
    hold(44, 4, 100);
    hold(48, 6, 90000);
    drop(40, 14, 1);
}

/* Somebody else has granules behind the segment, so that the arena makes another one, which is
 * later joined from below. */
void act_segments(void)
{
    hold(20, 3, 40000);
    drop(20, 3, 1);
    drop(0, 10, 1);
    call_trim();
}

/* The older segment becomes one free chunk, and is given back. */
void act_unused_segment(void)
{
    drop(0, 1, 1);
    drop(2, 2, 1);
    call_trim();
}

void act_large(void)
{
    hold(40, 1, LARGE_SIZE);
    call_resize(own_slot(40), LARGE_SIZE / 2, false);
    call_resize(own_slot(40), LARGE_SIZE, false);
    call_resize(own_slot(40), 3 * LARGE_SIZE, false);
    call_resize(own_slot(40), 1000, false);
    call_aligned(own_slot(41), 1 << 17, LARGE_SIZE);
    call_free(own_slot(0));
    call_free(own_slot(41));
    call_free(own_slot(40));
}

void act_lazy(void)
{
    call_allocate(own_slot(40), 4 * LARGE_SIZE, BY_CALLOC);
    call_resize(own_slot(40), 2 * LARGE_SIZE, false);
    call_resize(own_slot(40), 6 * LARGE_SIZE, false);
    call_aligned(own_slot(41), 1 << 18, 2 * LARGE_SIZE);
    drop(40, 2, 1);
    hold(42, 2, 30000);
    drop(42, 2, 1);
}

/* Two blocks grow in turns: each is in the other's way until they have moved to where there is
 * room behind them. */
void act_grow_by_turns(void)
{
    for (size_t size = 2 * LARGE_SIZE; size < 5 * LARGE_SIZE; size += LARGE_SIZE / 2)
        for (size_t i = 40; i < 42; i++) {
            if (size == 2 * LARGE_SIZE)
                hold(i, 1, size);
            else
                call_resize(own_slot(i), size, false);
        }
    call_free(own_slot(0));
    drop(40, 2, 1);
}

void act_resize(void)
{
    call_resize(own_slot(31), 9000, false);
    call_resize(own_slot(31), 12000, false);
    call_resize(own_slot(3), 20, false);
    call_resize(own_slot(7), 90, false);
    call_resize(own_slot(11), 500, false);
    call_resize(own_slot(15), 100, true);
    call_resize(own_slot(19), 900, true);
    call_resize(own_slot(23), 3000, false);
    call_resize(own_slot(27), 1600, true);
    call_resize(own_slot(29), 100, true);
}

void act_aligned(void)
{
    call_aligned(own_slot(40), 256, 100);
    call_aligned(own_slot(41), 4096, 3000);
    call_allocate(own_slot(42), 70, BY_MEMALIGN);
    call_allocate(own_slot(43), 30, BY_STRDUP);
    drop(40, 4, 1);
}

void act_close_segment(void)
{
    hold(0, 2, 25000);
    hold(2, 1, 50000);
    hold(3, 2, 25000);
    call_free(own_slot(2));
    drop(3, 2, 1);
    drop(0, 2, 1);
}

/* The new segment fills the gap exactly. */
void act_prepend(void)
{
    hold(40, 1, 100000);
    hold(42, 2, 30000);
    drop(0, 8, 1);
    drop(40, 4, 1);
    call_trim();
}

void prepare_threshold(void)
{
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 40000);
}

/* No CPU has a preferred arena, as for a CPU that is new to the heap; and no other arena may be
 * made. */
void prepare_another_cpu(void)
{
    hold(0, 4, 600);
    memset(the_heap->region->arenas.preferred, 0, sizeof the_heap->region->arenas.preferred);
}

void act_large_in_place(void)
{
    call_free(own_slot(2));
    hold(40, 1, LARGE_SIZE);
    call_resize(own_slot(40), 4 * LARGE_SIZE, true);
    call_resize(own_slot(40), LARGE_SIZE, true);
    call_bulk_free(own_slot(40), 1);
}

/* A large block grows where it is; one that has a neighbour moves to where it can grow on. */
void act_large_grows(void)
{
    hold(40, 1, 4 * LARGE_SIZE);
    call_resize(own_slot(40), 5 * LARGE_SIZE, true);
    hold(41, 2, LARGE_SIZE / 2);
    call_resize(own_slot(41), 2 * LARGE_SIZE, false);
    drop(40, 3, 1);
}

/* Blocks grow into a part of the victim, into it and the free block behind it, and into all of
 * it. */
void act_into_victim(void)
{
    call_resize(own_slot(10), 300, true);
    call_resize(own_slot(2), 1000, true);
    call_free(own_slot(4));
    call_free(own_slot(7));
    call_resize(own_slot(10), 1200, true);
    call_resize(own_slot(5), 1200, true);
    call_resize(own_slot(8), 100000, false);
}

/* A block that ends at top grows by more than top has, so that the arena grows behind it. */
void act_resize_at_top(void)
{
    hold(20, 3, 40000); /* so that top has room for a block that would otherwise be a large one */
    drop(20, 3, 1);
    hold(20, 1, 100000);
    call_resize(own_slot(20), 300000, false);
    call_free(own_slot(20));
}

void act_trim_in_vain(void)
{
    drop(3, 1, 1);
    drop(0, 3, 1);
}

void act_short_of_memory(void)
{
    hold(40, 2, 60000);
    hold(42, 1, LARGE_SIZE);
    call_resize(own_slot(10), 3 * LARGE_SIZE, false);
    drop(0, 8, 1);
    call_free(own_slot(10));
    call_trim();
}

/* Cuts from chunks with holes in every way, grows into them, and lets them be merged. */
void act_punched(void)
{
    hold(40, 1, 9000);
    hold(41, 1, 100);
    call_resize(own_slot(2), 30000, true);
    call_resize(own_slot(11), 26000, true);
    hold(42, 1, 50000);
    call_trim();
    drop(4, 6, 2);
    drop(40, 3, 1);
}

void act_to_the_limit(void)
{
    hold(40, 3, 60000);
    hold(44, 2, LARGE_SIZE);
    hold(48, 4, 500);
    drop(0, 8, 1);
}

/* Gives back granules with holes. */
void act_give_holes(void)
{
    drop(0, 12, 1);
    call_trim();
}

void act_large_once(void)
{
    hold(40, 1, LARGE_SIZE);
}
