/* guestbook.c - unrelated programs share a list by the name of a heap.
 *
 *     guestbook NAME TEXT    writes a line into the guest book of that name
 *     guestbook NAME         prints it
 *     guestbook NAME -d      removes it
 *
 * Start it as often as you like, also at once, from several shells:
 *
 *     $ guestbook /hotel "we liked the view"
 *     $ guestbook /hotel "the soup was cold"
 *     $ guestbook /hotel
 *
 * No program has to come first: whoever needs the heap makes it, and whoever needs the book in it
 * makes that. Lines are linked by plain pointers, and never removed, so one compare-exchange puts
 * one in front: there is no lock to be held when a process is killed.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dvsm/dvsm.h>

struct line {
    struct line *older;
    char text[];
};

struct book {
    _Atomic(struct line *) newest;
};

static void *make_book(dvsm_heap *heap, void *context)
{
    (void)context;
    return dvsm_heap_calloc(heap, 1, sizeof(struct book));
}

static int write_line(dvsm_heap *heap, struct book *book, const char *text)
{
    struct line *line = dvsm_heap_malloc(heap, sizeof *line + strlen(text) + 1);

    if (line == NULL)
        return EXIT_FAILURE;
    strcpy(line->text, text);
    line->older = atomic_load(&book->newest);
    while (!atomic_compare_exchange_weak(&book->newest, &line->older, line))
        ;
    return EXIT_SUCCESS;
}

static void print_from_oldest(const struct line *line)
{
    size_t count = 0, n = 0;

    for (const struct line *l = line; l != NULL; l = l->older)
        count++;
    const struct line **lines = malloc((count + 1) * sizeof *lines);
    if (lines == NULL)
        return;
    for (; line != NULL; line = line->older)
        lines[n++] = line;
    while (n > 0)
        puts(lines[--n]->text);
    free(lines);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: guestbook NAME [TEXT | -d]\n");
        return EXIT_FAILURE;
    }
    if (argc > 2 && strcmp(argv[2], "-d") == 0)
        return dvsm_heap_unlink(argv[1]) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;

    dvsm_heap *heap =
        dvsm_heap_create(&(dvsm_options){.backend = &dvsm_backend_shm_open, .name = argv[1]});
    if (heap == NULL) {
        fprintf(stderr, "guestbook: %s\n", dvsm_heap_message());
        return EXIT_FAILURE;
    }
    struct book *book = dvsm_root_get_or_init(heap, "book", make_book, NULL);
    if (book == NULL)
        return EXIT_FAILURE;
    if (argc > 2)
        return write_line(heap, book, argv[2]);
    print_from_oldest(atomic_load(&book->newest));
    return EXIT_SUCCESS;
}
