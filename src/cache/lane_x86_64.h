/* lane_x86_64.h - the restartable sequences, instruction by instruction.
 *
 * Each sequence begins by naming its descriptor to the kernel. Whenever the thread does not run
 * from label 1 to label 2 undisturbed, the kernel sends it to label 4, and nothing has happened.
 * The last instruction before 2 is the commit. Before it, a sequence changes nothing shared that
 * anybody reads before the commit, but for the note that the lane is filled, which may be wrong
 * that way.
 *
 * An aborted sequence is not begun again: it has no block, is full or has lost, and the slow path
 * goes on. A thread that is single-stepped is always aborted, and would try for ever. So the slow
 * paths try once or twice more, and then do without the lane (exchange.c, drain.c).
 *
 *         lea  3b(%rip), %r8       the descriptor's address ...
 *         mov  %r8, %fs:8(rseq)    ... into the thread's rseq area, field rseq_cs
 *     1:  mov  %fs:4(rseq), %r8d   the CPU's number, field cpu_id
 *         shl  $10, %r8            ... as the distance of its lane from that of CPU 0
 *         add  lanes, %r8          ... and the lane's address
 *         ...
 *         mov  %r9, (%r8,cls,8)     the commit
 *     2:
 *
 * NB: no asm goto with outputs: gcc 12 loses what a jump out of one returns (its bug 113921). So a
 * pop that has no block falls through, and the others name their scratch registers.
 *
 * The descriptor: version and flags 0, start, length, where to go on abort. The kernel demands a
 * signature, which glibc registered, in the four bytes before that place. Here the signature is the
 * operand of an undefined instruction (ud1), so that no thread can run into it.
 */
#ifndef DVSM_CACHE_LANE_X86_64_H
#define DVSM_CACHE_LANE_X86_64_H

_Static_assert(LANE_SHIFT == 10, "as the sequences have it");

#define LANE_BEGIN                                                                                 \
    ".pushsection __rseq_cs, \"aw\"\n\t"                                                           \
    ".balign 32\n"                                                                                 \
    "3:\n\t"                                                                                       \
    ".long 0, 0\n\t"                                                                               \
    ".quad 1f, 2f - 1f, 4f\n\t"                                                                    \
    ".popsection\n\t"                                                                              \
    "leaq 3b(%%rip), %%r8\n\t"                                                                     \
    "movq %%r8, %%fs:8(%[rseq])\n"                                                                 \
    "1:\n\t"                                                                                       \
    "movl %%fs:4(%[rseq]), %%r8d\n\t"                                                              \
    "shlq $10, %%r8\n\t"                                                                           \
    "addq %[lanes], %%r8\n\t"

#define LANE_END(elsewhere)                                                                        \
    "2:\n\t"                                                                                       \
    ".pushsection __rseq_abort, \"ax\"\n\t"                                                        \
    ".byte 0x0f, 0xb9, 0x3d\n\t"                                                                   \
    ".long 0x53053053\n"                                                                           \
    "4:\n\t"                                                                                       \
    "jmp " elsewhere "\n\t"                                                                        \
    ".popsection\n\t"

/* The inputs of each sequence. */
#define LANE_INPUTS [rseq] "r"(view->rseq), [lanes] "m"(view->lanes), [cls] "r"(cls)

/* The block below is the next one of the class that this lane hands out. Its cache line is
 * prefetched for writing once the commit is done (done before the commit, batches took a tenth
 * longer on Zen 4). NB: the block's address is read inside the sequence: outside, the magazine may
 * be another's, or gone. On processors that do not know prefetchw it does nothing. */
static inline __attribute__((always_inline)) void *lane_pop(const struct lane_view *view,
                                                            size_t cls, size_t mask)
{
    void *block;

    __asm__ volatile(LANE_BEGIN "movq (%%r8,%[cls],8), %%r9\n\t" /* the word */
                                "testl %[mask], %%r9d\n\t"       /* no block in the magazine? */
                                "jz 6f\n\t"
                                "movq -9(%%r9), %[block]\n\t" /* the last slot's block */
                                "movq -17(%%r9), %%r10\n\t"   /* the one below, or the link */
                                "subq $8, %%r9\n\t"
                                "movq %%r9, (%%r8,%[cls],8)\n" /* one fewer */
                     LANE_END("6f") "prefetchw (%%r10)\n"
                                    "7:\n\t"
                                    ".pushsection __rseq_abort, \"ax\"\n"
                                    "6:\n\t"
                                    "xorl %k[block], %k[block]\n\t" /* NULL */
                                    "jmp 7b\n\t"
                                    ".popsection"
                     : [block] "=&r"(block)
                     : LANE_INPUTS, [mask] "ri"((unsigned)mask)
                     : "r8", "r9", "r10", "memory", "cc");
    return block;
}

/* A block with a mark, right or wrong, is for the slow path. The mark is looked at inside: whoever
 * frees the block as well, in a signal handler, in a child that a handler forked or on this CPU
 * after this thread was preempted, aborts the sequence, and the slow path sees the second free. The
 * mark is stored before the commit. So an aborted sequence may leave a mark, and the slow path
 * finds that it is wrong. */
static inline __attribute__((always_inline)) bool lane_push(const struct lane_view *view,
                                                            size_t cls, size_t mask, void *block)
{
    __asm__ goto volatile(
        LANE_BEGIN "cmpl %[mark], 4(%[block])\n\t"
                   "je %l[full]\n\t"
                   "movq (%%r8,%[cls],8), %%r9\n\t" /* the word */
                   "leaq 8(%%r9), %%r10\n\t"        /* with one more */
                   "testl %[mask], %%r10d\n\t"      /* no slot left in the magazine? */
                   "jz %l[full]\n\t"
                   "movq %[block], -1(%%r9)\n\t" /* into the next slot */
                   "movl %%r9d, (%[block])\n\t"  /* the mark */
                   "movl %[mark], 4(%[block])\n\t"
                   "movq %%r10, (%%r8,%[cls],8)\n" /* one more */
        LANE_END("%l[full]")
        :
        : LANE_INPUTS, [block] "r"(block), [mask] "ri"((unsigned)mask), [mark] "i"(MAGAZINE_MARK)
        : "r8", "r9", "r10", "memory", "cc"
        : full);
    return true;
full:
    return false;
}

/* A lane that gets a magazine counts as filled from before the commit on. */
static inline bool lane_exchange(const struct lane_view *view, unsigned cpu, size_t cls, word old,
                                 word replacement)
{
    uint32_t filled = replacement != 0 ? LANE_FILLED : 0;

    __asm__ goto volatile(
        LANE_BEGIN "cmpl %[cpu], %%fs:4(%[rseq])\n\t" /* another CPU? */
                   "jne %l[lost]\n\t"
                   "cmpq %[old], (%%r8,%[cls],8)\n\t" /* used meanwhile? */
                   "jne %l[lost]\n\t"
                   "orl %[filled], %c[place](%%r8)\n\t"
                   "movq %[replacement], (%%r8,%[cls],8)\n" /* the other magazine */
        LANE_END("%l[lost]")
        :
        : LANE_INPUTS, [cpu] "r"(cpu), [old] "r"(old), [replacement] "r"(replacement),
          [filled] "r"(filled), [place] "i"(offsetof(struct lane, filled))
        : "r8", "memory", "cc"
        : lost);
    return true;
lost:
    return false;
}

static inline bool lane_begin_to_empty(const struct lane_view *view, unsigned cpu)
{
    __asm__ goto volatile(
        LANE_BEGIN "cmpl %[cpu], %%fs:4(%[rseq])\n\t" /* another CPU? */
                   "jne %l[lost]\n\t"
                   "movl %[state], %c[place](%%r8)\n" LANE_END("%l[lost]")
        :
        : [rseq] "r"(view->rseq), [lanes] "m"(view->lanes), [cpu] "r"(cpu),
          [state] "i"(LANE_BEING_EMPTIED), [place] "i"(offsetof(struct lane, filled))
        : "r8", "memory", "cc"
        : lost);
    return true;
lost:
    return false;
}

#endif
