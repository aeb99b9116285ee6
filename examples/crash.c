/* crash.c - processes that build an index together are killed at random; the others go on.
 *
 *     crash [SECONDS]      10, if nothing else is said
 *
 * Eight workers put words into a hash table in shared memory, linked by plain pointers, from
 * dvsm_malloc(). Every few milliseconds the parent kills one with SIGKILL, wherever it is, inside
 * malloc and free most often, and starts another. Nobody waits for the dead, nothing is repaired by
 * hand.
 *
 * A worker may die between having a block and linking it: then nobody knows of the block, but the
 * heap does. In the end the parent counts all, frees what is in the index, frees what the dead left
 * (dvsm_walk() finds it), and has every invariant checked. The exit status is 0 if nothing is left.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <dvsm/dvsm.h>

enum { WORKERS = 8, BUCKETS = 1 << 15, WORDS = 100000, TEXT = 200, PAUSE_US = 10000 };

struct entry {
    struct entry *next;
    atomic_ulong times;
    char word[];
};

struct shared_index {
    _Atomic(struct entry *) bucket[BUCKETS];
    atomic_ulong words;
};

static struct shared_index *shared;

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static size_t hash_of(const char *word)
{
    size_t hash = 5381;

    while (*word != '\0')
        hash = hash * 33 + (unsigned char)*word++;
    return hash % BUCKETS;
}

static struct entry *find(struct entry *first, const char *word)
{
    while (first != NULL && strcmp(first->word, word) != 0)
        first = first->next;
    return first;
}

/* Two workers may make one word's entry at the same time: then the second finds the first's. */
static void add(const char *word)
{
    _Atomic(struct entry *) *bucket = &shared->bucket[hash_of(word)];
    struct entry *first = atomic_load(bucket), *there = find(first, word), *mine = NULL;

    while (there == NULL) {
        if (mine == NULL) {
            mine = dvsm_malloc(sizeof *mine + strlen(word) + 1);
            if (mine == NULL)
                return;
            strcpy(mine->word, word);
            atomic_init(&mine->times, 0);
        }
        mine->next = first;
        if (atomic_compare_exchange_weak(bucket, &first, mine)) {
            there = mine;
            mine = NULL;
        } else {
            there = find(first, word);
        }
    }
    atomic_fetch_add(&there->times, 1);
    atomic_fetch_add(&shared->words, 1);
    dvsm_free(mine);
}

/* A line of text in a block of its own: most of the allocating is this. */
static _Noreturn void work(uint64_t random)
{
    int ignored = nice(10); /* so that the one who kills gets his turn */

    (void)ignored;
    for (;;) {
        uint64_t number = next_random(&random);
        char *line = dvsm_malloc(20 + number % TEXT);

        if (line != NULL) {
            snprintf(line, 20, "word%lu", (unsigned long)(number >> 20) % WORDS);
            add(line);
        }
        dvsm_free(line);
    }
}

static pid_t start_worker(uint64_t seed)
{
    pid_t worker = fork();

    if (worker == 0)
        work(seed);
    if (worker < 0) {
        perror("fork");
        exit(1); /* the workers' pids are what is killed: -1 would be everybody */
    }
    return worker;
}

static void bury(pid_t worker)
{
    kill(worker, SIGKILL);
    waitpid(worker, NULL, 0);
}

/* How many were killed. */
static size_t build_and_kill(time_t seconds)
{
    uint64_t random = (uint64_t)time(NULL);
    pid_t worker[WORKERS];
    size_t kills = 0;
    time_t end = time(NULL) + seconds;

    for (int i = 0; i < WORKERS; i++)
        worker[i] = start_worker(next_random(&random));
    while (time(NULL) < end) {
        pid_t *victim = &worker[next_random(&random) % WORKERS];

        usleep((useconds_t)(next_random(&random) % PAUSE_US));
        bury(*victim);
        kills++;
        *victim = start_worker(next_random(&random));
    }
    for (int i = 0; i < WORKERS; i++)
        bury(worker[i]);
    return kills + WORKERS;
}

/* ---- the end */

struct blocks {
    void **block;
    size_t count, most;
};

static void note(const dvsm_chunk *chunk, void *context)
{
    struct blocks *left = context;

    if ((chunk->state == DVSM_CHUNK_USED || chunk->state == DVSM_CHUNK_LARGE) &&
        left->count < left->most)
        left->block[left->count++] = chunk->block;
}

static size_t free_index(unsigned long *times)
{
    size_t entries = 0;

    for (size_t i = 0; i < BUCKETS; i++)
        for (struct entry *e = shared->bucket[i], *next; e != NULL; e = next) {
            next = e->next;
            *times += e->times;
            entries++;
            dvsm_free(e);
        }
    dvsm_free(shared);
    return entries;
}

static size_t free_what_the_dead_left(size_t kills)
{
    struct blocks left = {.most = 2 * kills};

    left.block = calloc(left.most, sizeof *left.block);
    if (left.block == NULL)
        return 0;
    dvsm_walk(dvsm_heap_default(), note, &left);
    for (size_t i = 0; i < left.count; i++)
        dvsm_free(left.block[i]);
    free(left.block);
    return left.count;
}

int main(int argc, char **argv)
{
    long seconds = argc > 1 ? strtol(argv[1], NULL, 10) : 10;
    unsigned long times = 0;
    dvsm_stats_t stats;

    shared = dvsm_calloc(1, sizeof *shared);
    if (shared == NULL)
        return 1;
    size_t kills = build_and_kill(seconds);
    printf("%zu kills survived, %lu words counted meanwhile\n", kills, shared->words);

    int violations = dvsm_check(dvsm_heap_default(), stderr);
    size_t entries = free_index(&times);
    size_t left = free_what_the_dead_left(kills);
    printf("an index of %zu entries for %lu words, %zu blocks that the dead had: all freed\n",
           entries, times, left);

    dvsm_malloc_trim(0);
    violations += dvsm_check(dvsm_heap_default(), stderr);
    dvsm_stats(dvsm_heap_default(), &stats);
    printf("the heap: %zu blocks in use, %d invariants violated, %zu locks of the dead repaired\n",
           stats.used_blocks, violations, stats.recoveries);
    return violations == 0 && stats.used_blocks == 0 ? 0 : 1;
}
