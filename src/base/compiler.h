/* compiler.h - the few things the code asks of the compiler, under one name each.
 *
 * gcc and clang. Nothing here knows of shared memory, threads or the operating system.
 */
#ifndef DVSM_BASE_COMPILER_H
#define DVSM_BASE_COMPILER_H

#include <stddef.h>
#include <stdint.h>

#define likely(condition) __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)
#define NOINLINE __attribute__((noinline))
/* A function of at most 512 bytes: the alignment puts it into as few cache lines as possible and
 * into one page. Both effects were measured: a page border within the path of a call cost 8 %
 * of that call. */
#define HOT __attribute__((aligned(512)))
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))

/* Memory that the program also sees as objects of its own types: no aliasing rule holds for it. */
#define MAY_ALIAS __attribute__((may_alias))

/* The machine stores a word whole, by one store: the unit of everything that processes share. */
typedef uintptr_t MAY_ALIAS word;

#define WORD sizeof(word)

/* A half of one, if it has 64 bits. */
typedef uint32_t MAY_ALIAS half_word;

/* Reads a word that others may be storing. They store it whole, and after the data that it refers
 * to. On x86 a plain load is enough, and may be part of another instruction; other processors, and
 * ThreadSanitizer, need an atomic load. */
static inline word word_peek(const void *address)
{
#if (defined __x86_64__ || defined __i386__) && !defined __SANITIZE_THREAD__
    return *(const word *)address;
#else
    return __atomic_load_n((const word *)address, __ATOMIC_ACQUIRE);
#endif
}

/* Likewise a half, of a word that others store whole. */
static inline half_word half_peek(const void *address)
{
#if (defined __x86_64__ || defined __i386__) && !defined __SANITIZE_THREAD__
    return *(const half_word *)address;
#else
    return __atomic_load_n((const half_word *)address, __ATOMIC_ACQUIRE);
#endif
}

/* Stores a word for word_peek(), after all earlier stores. */
static inline void word_show(void *address, word w)
{
    __atomic_store_n((word *)address, w, __ATOMIC_RELEASE);
}

/* Keeps the compiler from moving a store to shared memory across this line. The processor needs no
 * barrier: a killed thread has executed all stores before some instruction and none after it. */
static inline void compiler_barrier(void)
{
    __asm__ volatile("" ::: "memory");
}

#endif
