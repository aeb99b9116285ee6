/* wordcount.c - processes build one hash table together, by plain pointers.
 *
 *     wordcount [-n PROCESSES] [-t TOP] [PATH...]
 *
 * Counts the words of all text files in the given files and directories. Everything below is in
 * shared memory, from dvsm_malloc(), and linked by ordinary pointers:
 *
 *     job --> table of buckets --> node --> node          a node is one word; which process made it
 *      |                     \--> node                    depends on who saw the word first
 *      +----> pieces of files, taken one by one by whichever process is idle
 *
 * A node is put into its bucket by one atomic exchange, and its count is raised by an atomic add:
 * no locks. In the end the parent prints the most frequent words and frees all nodes, its
 * children's too.
 *
 * A word is a run of letters (ASCII), in lower case: the result is that of
 *     tr -cs A-Za-z '\n' | tr A-Z a-z | sort | uniq -c
 *
 * What cannot be read is named on stderr and left out, and the exit status is 1 then.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <dvsm/dvsm.h>

enum { BUCKETS = 1 << 16, PIECE = 1 << 20, PROCESSES_MOST = 1024, DIRECTORIES_OPEN = 16 };

struct node {
    struct node *next;
    atomic_size_t count;
    unsigned maker; /* the process that allocated it */
    size_t length;
    char text[];
};

/* Words that begin in [start, end) of a file. */
struct piece {
    const char *path;
    off_t start, end;
};

struct job {
    struct node *_Atomic bucket[BUCKETS];
    struct piece *piece;
    size_t pieces;
    atomic_size_t next_piece;
    char **path;
    size_t paths;
    off_t bytes;              /* of all pieces */
    atomic_size_t bytes_done; /* for the display of progress */
    size_t made[PROCESSES_MOST];
};

static struct job *job; /* the same address in all processes */

/* Of the parent, which alone looks for files. */
static size_t not_text;
static bool complained;

/* False, for the caller to return. */
static bool complain(const char *what)
{
    fprintf(stderr, "wordcount: %s: %s\n", what, strerror(errno));
    complained = true;
    return false;
}

static _Noreturn void fail(const char *what)
{
    complain(what);
    exit(1);
}

static void *must(void *block)
{
    if (block == NULL)
        fail("allocating");
    return block;
}

/* ---- what there is to read ------------------------------------------------------------------- */

/* As grep does: a file with a zero byte near its start is no text. */
static bool is_text(const char *path)
{
    char start[4096];
    FILE *file = fopen(path, "r");

    if (file == NULL)
        return complain(path);
    size_t bytes = fread(start, 1, sizeof start, file);
    bool readable = !ferror(file) || complain(path);
    bool text = memchr(start, '\0', bytes) == NULL;
    fclose(file);
    not_text += readable && !text;
    return readable && text;
}

/* The array with room for one more than `count`: it doubles at each power of two. */
static void *with_room(void *array, size_t count, size_t size)
{
    if ((count & (count - 1)) != 0)
        return array;
    return must(dvsm_reallocarray(array, count == 0 ? 1 : 2 * count, size));
}

static void add_piece(const char *path, off_t start, off_t end)
{
    job->piece = with_room(job->piece, job->pieces, sizeof *job->piece);
    job->piece[job->pieces++] = (struct piece){path, start, end};
}

static int add_file(const char *path, const struct stat *status, int type, struct FTW *place)
{
    (void)place;
    if (type == FTW_DNR || type == FTW_NS)
        complain(path);
    if (type != FTW_F || !S_ISREG(status->st_mode) || status->st_size == 0 || !is_text(path))
        return 0;

    job->path = with_room(job->path, job->paths, sizeof *job->path);
    char *copy = job->path[job->paths++] = must(dvsm_strdup(path));
    for (off_t start = 0; start < status->st_size; start += PIECE) {
        off_t end = start + PIECE < status->st_size ? start + PIECE : status->st_size;
        add_piece(copy, start, end);
    }
    job->bytes += status->st_size;
    return 0;
}

/* Links inside a directory are not followed, so that no file counts twice; those named are. */
static void add_path(const char *path)
{
    char *real = realpath(path, NULL);

    if (real == NULL || nftw(real, add_file, DIRECTORIES_OPEN, FTW_PHYS) != 0)
        complain(path);
    free(real); /* from libc */
}

static void add_default_paths(void)
{
    static const char *const paths[] = {"/usr/share/common-licenses", "/usr/share/man",
                                        "/usr/share/doc"};

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        if (access(paths[i], R_OK) == 0)
            add_path(paths[i]);
}

/* ---- the table ------------------------------------------------------------------------------- */

static size_t hash(const char *text, size_t length)
{
    size_t h = 2166136261u; /* FNV-1a */

    for (size_t i = 0; i < length; i++)
        h = (h ^ (unsigned char)text[i]) * 16777619u;
    return h;
}

/* Looks through the list from `from` up to `until`. */
static struct node *find(struct node *from, const struct node *until, const char *text,
                         size_t length)
{
    for (; from != until; from = from->next)
        if (from->length == length && memcmp(from->text, text, length) == 0)
            return from;
    return NULL;
}

static struct node *make_node(const char *text, size_t length, unsigned process)
{
    struct node *node = must(dvsm_malloc(sizeof *node + length + 1));

    atomic_init(&node->count, 1);
    node->maker = process;
    node->length = length;
    memcpy(node->text, text, length);
    node->text[length] = '\0';
    return node;
}

/* Where another process was faster, only what it put in front has to be looked at. */
static void count_word(const char *text, size_t length, unsigned process)
{
    struct node *_Atomic *bucket = &job->bucket[hash(text, length) % BUCKETS];
    struct node *head = atomic_load(bucket);
    struct node *node = find(head, NULL, text, length);
    struct node *made = NULL;

    while (node == NULL) {
        if (made == NULL)
            made = make_node(text, length, process);
        made->next = head;
        if (atomic_compare_exchange_strong(bucket, &head, made)) {
            job->made[process]++;
            return;
        }
        node = find(head, made->next, text, length);
    }
    atomic_fetch_add(&node->count, 1);
    dvsm_free(made); /* the race was lost */
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool is_letter(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The word being read. */
struct word {
    char *text;
    size_t length, room;
};

static void append(struct word *word, int letter)
{
    if (word->length == word->room) {
        word->room = word->room == 0 ? 64 : 2 * word->room;
        word->text = must(dvsm_realloc(word->text, word->room));
    }
    word->text[word->length++] = (char)(letter | 0x20);
}

/* A word that began before the piece is left to the piece before; one that begins in it is read to
 * its end. */
static void count_piece(const struct piece *piece, struct word *word, unsigned process)
{
    FILE *file = fopen(piece->path, "r");
    off_t at = piece->start > 0 ? piece->start - 1 : 0;
    bool inside = piece->start > 0; /* in a word that is not ours */

    if (file == NULL || fseeko(file, at, SEEK_SET) != 0)
        fail(piece->path);
    for (int c; (c = getc_unlocked(file)) != EOF; at++) {
        if (!is_letter(c)) {
            inside = false;
            if (word->length > 0)
                count_word(word->text, word->length, process);
            word->length = 0;
        }
        if (at >= piece->end && word->length == 0)
            break;
        if (is_letter(c) && !inside)
            append(word, c);
    }
    if (word->length > 0)
        count_word(word->text, word->length, process);
    word->length = 0;
    if (ferror(file))
        fail(piece->path);
    fclose(file);
}

static void count_pieces(unsigned process)
{
    struct word word = {0};
    size_t i;

    while ((i = atomic_fetch_add(&job->next_piece, 1)) < job->pieces) {
        count_piece(&job->piece[i], &word, process);
        atomic_fetch_add(&job->bytes_done, (size_t)(job->piece[i].end - job->piece[i].start));
    }
    dvsm_free(word.text);
}

static void show_progress(void)
{
    fprintf(stderr, "\r%zu of %zu MiB", atomic_load(&job->bytes_done) >> 20,
            (size_t)job->bytes >> 20);
}

/* Waits for all children. A child that failed has said why. */
static void wait_for(unsigned processes)
{
    const struct timespec moment = {0, 100 * 1000 * 1000};
    bool progress = isatty(STDERR_FILENO), shown = false, failed = false;
    int status;

    while (processes > 0) {
        pid_t child = waitpid(-1, &status, progress ? WNOHANG : 0);

        if (child < 0 && errno != EINTR)
            fail("waiting");
        if (child > 0) {
            processes--;
            failed |= status != 0;
        } else if (child == 0) {
            nanosleep(&moment, NULL);
            show_progress();
            shown = true;
        }
    }
    if (shown)
        fputs("\r                              \r", stderr);
    if (failed) {
        fputs("wordcount: a child failed\n", stderr);
        exit(1);
    }
}

static void count_in(unsigned processes)
{
    fflush(stdout);
    for (unsigned i = 0; i < processes; i++) {
        pid_t child = fork();

        if (child < 0)
            fail("fork");
        if (child == 0) {
            count_pieces(i);
            _exit(0);
        }
    }
    wait_for(processes);
}

/* ---- the result ------------------------------------------------------------------------------ */

static int by_frequency(const void *left, const void *right)
{
    const struct node *a = *(struct node *const *)left, *b = *(struct node *const *)right;
    size_t count_a = atomic_load(&a->count), count_b = atomic_load(&b->count);

    return count_a != count_b ? (count_a < count_b ? 1 : -1) : strcmp(a->text, b->text);
}

/* All nodes in an array, which has room for `words`. */
static void collect(struct node **nodes)
{
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct node *node = atomic_load(&job->bucket[i]); node != NULL; node = node->next)
            *nodes++ = node;
}

static void print_result(struct node **nodes, size_t words, size_t top, unsigned processes)
{
    size_t total = 0;

    qsort(nodes, words, sizeof *nodes, by_frequency);
    for (size_t i = 0; i < words; i++) {
        total += atomic_load(&nodes[i]->count);
        if (i < top)
            printf("%7zu %s\n", atomic_load(&nodes[i]->count), nodes[i]->text);
    }
    printf("\n%zu words, %zu of them different, in %zu files\n", total, words, job->paths);
    if (not_text > 0)
        printf("%zu files skipped (not text)\n", not_text);
    for (unsigned i = 0; i < processes; i++)
        printf("process %u made %zu nodes\n", i + 1, job->made[i]);
}

/* By the parent, whoever made it. */
static void free_all(struct node **nodes, size_t words)
{
    for (size_t i = 0; i < words; i++)
        dvsm_free(nodes[i]);
    dvsm_free(nodes);
    dvsm_free(job->piece);
    dvsm_bulk_free((void **)job->path, job->paths);
    dvsm_free(job->path);
    dvsm_free(job);
}

/* Returns whether the heap is empty and sound. */
static bool show_heap(void)
{
    dvsm_stats_t stats;
    int violations = dvsm_check(dvsm_heap_default(), stderr);

    if (dvsm_stats(dvsm_heap_default(), &stats) != 0)
        fail("dvsm_stats");
    printf("the heap after freeing everything: %zu blocks, %zu bytes in use, %s\n",
           stats.used_blocks, stats.used_bytes, violations == 0 ? "sound" : "DAMAGED");
    return stats.used_blocks == 0 && violations == 0;
}

/* A number from 0 (or 1) up; ends the program where the text is none. */
static size_t number(const char *text, size_t least, size_t most)
{
    char *end;

    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || value < least || value > most) {
        fprintf(stderr, "wordcount: %s: expected a number from %zu to %zu\n", text, least, most);
        exit(2);
    }
    return value;
}

static unsigned cpus(void)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);

    return online < 1 ? 1 : online > PROCESSES_MOST ? PROCESSES_MOST : (unsigned)online;
}

int main(int argc, char **argv)
{
    unsigned processes = cpus();
    size_t top = 10, words = 0;

    for (int option; (option = getopt(argc, argv, "n:t:")) != -1;) {
        if (option == 'n') {
            processes = (unsigned)number(optarg, 1, PROCESSES_MOST);
        } else if (option == 't') {
            top = number(optarg, 0, SIZE_MAX);
        } else {
            fputs("usage: wordcount [-n PROCESSES] [-t TOP] [PATH...]\n", stderr);
            return 2;
        }
    }
    job = must(dvsm_calloc(1, sizeof *job));
    if (optind == argc)
        add_default_paths();
    for (int i = optind; i < argc; i++)
        add_path(argv[i]);

    count_in(processes);
    for (unsigned i = 0; i < processes; i++)
        words += job->made[i];
    struct node **nodes = must(dvsm_reallocarray(NULL, words, sizeof(struct node *)));
    collect(nodes);
    print_result(nodes, words, top, processes);
    free_all(nodes, words);
    return show_heap() && !complained ? 0 : 1;
}
