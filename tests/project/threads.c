/* threads.c - for tests/project/thread-sanitizer: threads that allocate, pass blocks to each other
 * and fork. */
#define _GNU_SOURCE
#include <dvsm/dvsm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 4, ROUNDS = 20, BLOCKS = 200, HANDED = 500 };

static _Atomic(int *) box;
static dvsm_heap *heap;

static void must(int condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

static void *work(void *context)
{
    char *block[BLOCKS];

    for (size_t round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < BLOCKS; i++) {
            size_t size = 16 + i * 37 % 5000 + (i % 50 == 0 ? 300000 : 0);

            block[i] = i % 2 == 0 ? dvsm_malloc(size) : dvsm_heap_malloc(heap, size);
            must(block[i] != NULL, "no memory");
            memset(block[i], (int)i, size);
        }
        for (size_t i = 0; i < BLOCKS; i++)
            dvsm_free(block[i]);
    }
    return context;
}

static void *produce(void *context)
{
    for (int i = 0; i < HANDED; i++) {
        int *block = dvsm_malloc(100);

        must(block != NULL, "no memory");
        *block = i;
        while (atomic_load(&box) != NULL)
            ;
        atomic_store(&box, block);
    }
    return context;
}

static void *consume(void *context)
{
    for (int i = 0; i < HANDED; i++) {
        int *block;

        while ((block = atomic_load(&box)) == NULL)
            ;
        must(*block == i, "another block");
        atomic_store(&box, NULL);
        dvsm_free(block);
    }
    return context;
}

int main(void)
{
    pthread_t thread[WORKERS + 2];
    int status;

    heap = dvsm_heap_create(NULL);
    must(heap != NULL, "no heap");
    for (size_t i = 0; i < WORKERS; i++)
        pthread_create(&thread[i], NULL, work, NULL);
    pthread_create(&thread[WORKERS], NULL, produce, NULL);
    pthread_create(&thread[WORKERS + 1], NULL, consume, NULL);
    for (size_t i = 0; i < WORKERS + 2; i++)
        pthread_join(thread[i], NULL);

    pid_t child = fork();
    if (child == 0) {
        work(NULL);
        _exit(0);
    }
    waitpid(child, &status, 0);
    must(status == 0, "the child failed");
    must(dvsm_check(dvsm_heap_default(), stderr) == 0 && dvsm_check(heap, stderr) == 0, "damage");
    return dvsm_heap_destroy(heap) == 0 ? 0 : 1;
}
