/* lane_view.h - what a process needs to know of a heap's lanes, and of which blocks belong there.
 *
 * Private to the process: one for each heap, and a copy of the default heap's where dvsm_malloc()
 * finds it at hand (heap/view.c). The fast path asks no mode. It compares with the first three
 * fields, which are 0 unless the process enters the lanes by sequences, and then does nothing. The
 * slow paths go by `mode`, and by the same two limits whatever the mode is.
 */
#ifndef DVSM_CACHE_LANE_VIEW_H
#define DVSM_CACHE_LANE_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "cache/classes.h"

struct lane;

/* How a process enters the lanes. A heap's own mode is one of the last two. */
enum lane_mode {
    LANES_NONE, /* it does not: there is no cache, or the heap has sequences and the process no
                   rseq */
    LANES_LOCKED,
    LANES_SEQUENCES
};

struct lane_view {
    size_t exact_limit;  /* requests below this size are served from an exact class */
    size_t coarse_limit; /* requests below this size, from a coarse class */
    size_t span;         /* blocks lie less than this many times 16 bytes beyond base */
    struct lane *lanes;  /* CPU 0's */
    intptr_t rseq;       /* distance of the thread's rseq area from the thread pointer */
    uintptr_t base;      /* the lowest possible block: a header beyond the first granule's start */
    const word *words;   /* the granule map's words, one for each granule within the span */
    size_t key;          /* of the seals of the blocks' headers (bins/seal.h) */
    size_t cpus;         /* how many lanes blocks are taken from */
    enum lane_mode mode;
    size_t limit;                      /* of all classes, in every mode but LANES_NONE */
    size_t covered;                    /* as span, likewise */
    unsigned char coarse[CLASS_TABLE]; /* class_fill_table(); here its address is at hand */
};

/* From now on lanes serve requests below `limit`; those of a hardened heap only by the slow paths.
 * No block belongs there before lane_view_cover(). */
void lane_view_open(struct lane_view *view, enum lane_mode mode, size_t limit, bool hardened);

/* Blocks within the first `units` times 16 bytes belong into lanes. */
void lane_view_cover(struct lane_view *view, size_t units);

/* From now on calls that go by this view do without lanes. */
void lane_view_close(struct lane_view *view);

/* Makes a closed view a copy of another one. Calls that go by it meanwhile see it closed, or
 * whole. */
void lane_view_copy(struct lane_view *view, const struct lane_view *from);

#endif
