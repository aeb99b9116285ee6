/* window.h - which addresses a heap gets, so that other programs find them free, too.
 *
 * A heap that only descendants share may lie anywhere. One that a program after exec, or an
 * unrelated one, is to join must be at addresses that are free there. On x86-64 (47 bits) these
 * take the rest, as looked up in each of them and tried (docs/names.md):
 *
 *     0 to 64 TiB          the kernel's choice for nothing; where V8 (node) asks for memory at
 *                          random; Go's heap (0xc0'0000'0000), Java's (below 32 GiB), ASan's
 *                          shadow (0x7fff'8000 to 16 TiB), TSan's (1 TiB to 64 TiB)
 *     0x4000'0000'0000     nobody. Here are the default heaps, which each program has, in 10 TiB,
 *     0x4a00'0000'0000     and other heaps without a name, in as much again, so that none of them
 *                          meets the default heap of a program that joins it. Not with TSan, which
 *                          allows no mapping here
 *     0x5500'0000'0000     nobody; TSan and MSan allow mappings, because position independent
 *                          programs begin behind. Here are the heaps with a name, in 340 GiB
 *     0x5555'5555'4000 on  programs and their brk heaps
 *     0x6000'0000'0000 on  the allocators of ASan, LSan and TSan
 *     0x7b00'0000'0000 on  TSan's heap; libraries, stacks, mmap's own choice
 *
 * On other machines every heap lies where the system puts it.
 */
#ifndef DVSM_HEAP_WINDOW_H
#define DVSM_HEAP_WINDOW_H

#include <stdbool.h>
#include <stddef.h>

/* How many places are tried, with a name and without, before the system chooses. */
enum { WINDOW_TRIES = 64, WINDOW_TRIES_UNNAMED = 4 };

/* The nth place to try for a range of `bytes`; NULL: that is none. With a name, the places depend
 * on the name, and those where another named heap is at this moment are none. */
void *window_place(const char *name, bool is_default, size_t bytes, unsigned nth);

#endif
