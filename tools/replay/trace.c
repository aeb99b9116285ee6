/* trace.c - reading a trace. */
#define _GNU_SOURCE
#include "trace.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_TRACE = 2 };

/* The letters, how many numbers follow, and where the number is that says how many more do. */
struct form {
    char kind;
    size_t numbers;
    int counter; /* -1: none */
    bool segments_only;
    const char *text;
};

static const struct form forms[] = {
    {'m', 2, -1, false, "m ID SIZE"},
    {'c', 3, -1, false, "c ID COUNT SIZE"},
    {'f', 1, -1, false, "f ID"},
    {'r', 2, -1, false, "r ID SIZE"},
    {'p', 2, -1, false, "p ID SIZE"},
    {'a', 3, -1, false, "a ID ALIGNMENT SIZE"},
    {'i', 3, -1, false, "i ID COUNT SIZE"},
    {'k', 2, 1, false, "k ID COUNT and COUNT sizes"},
    {'b', 1, 0, false, "b COUNT and COUNT ids"},
    {'h', 2, -1, true, "h ID GRANULES"},
    {'u', 1, -1, true, "u ID"},
    {'t', 1, -1, true, "t PAD"},
    {'l', 1, -1, true, "l BYTES"},
};

_Noreturn void trace_expected(const struct trace *trace, const char *what)
{
    fprintf(stderr, "%s:%zu: expected %s\n", trace->name, trace->line, what);
    exit(EXIT_TRACE);
}

static _Noreturn void cannot_read(const struct trace *trace)
{
    fprintf(stderr, "%s: %s\n", trace->name, strerror(errno));
    exit(EXIT_TRACE);
}

/* Reads a line without its end; false at the end of the file. */
static bool read_line(struct trace *trace)
{
    if (trace->unread) {
        trace->unread = false;
        return true;
    }
    errno = 0;
    ssize_t length = getline(&trace->text, &trace->text_size, trace->file);

    if (length < 0) {
        if (ferror(trace->file))
            cannot_read(trace);
        return false;
    }
    trace->line++;
    if (length > 0 && trace->text[length - 1] == '\n')
        trace->text[--length] = '\0';
    if (strlen(trace->text) != (size_t)length)
        trace_expected(trace, "text, not a NUL byte");
    return true;
}

static void add_number(struct trace *trace, size_t count, size_t number)
{
    if (count == trace->number_size) {
        trace->number_size = count == 0 ? 64 : 2 * count;
        trace->number = reallocarray(trace->number, trace->number_size, sizeof *trace->number);
        if (trace->number == NULL)
            cannot_read(trace);
    }
    trace->number[count] = number;
}

/* The numbers of a line, each after one space. How many. What size_t cannot hold, on 32 bit, is
 * SIZE_MAX there. */
static size_t read_numbers(struct trace *trace, const char *text, const char *form)
{
    size_t count = 0;

    while (*text != '\0') {
        char *end;

        if (text[0] != ' ' || text[1] < '0' || text[1] > '9')
            trace_expected(trace, form);
        errno = 0;
        unsigned long long number = strtoull(text + 1, &end, 10);
        if (errno != 0)
            trace_expected(trace, "a number below 2^64");
        add_number(trace, count++, number > SIZE_MAX ? SIZE_MAX : (size_t)number);
        text = end;
    }
    return count;
}

static const struct form *find_form(const struct trace *trace)
{
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (forms[i].kind == trace->text[0])
            return &forms[i];
    trace_expected(trace, "one of the letters m c f r p a i k b h u t l");
}

bool trace_next(struct trace *trace, struct request *request)
{
    if (!read_line(trace))
        return false;

    const struct form *form = find_form(trace);
    size_t count = read_numbers(trace, trace->text + 1, form->text);
    size_t wanted = form->numbers;

    if (count >= wanted && form->counter >= 0 &&
        __builtin_add_overflow(wanted, trace->number[form->counter], &wanted))
        trace_expected(trace, form->text);
    if (count != wanted)
        trace_expected(trace, form->text);
    if (form->segments_only && trace->segments == 0)
        trace_expected(trace, "a first line `segments N` before h, u, t or l");
    *request = (struct request){form->kind, trace->number, count};
    return true;
}

void trace_open(struct trace *trace, const char *name)
{
    static const char first_line[] = "segments";

    *trace = (struct trace){.name = name, .file = fopen(name, "r")};
    if (trace->file == NULL)
        cannot_read(trace);
    if (!read_line(trace))
        return;
    if (strncmp(trace->text, first_line, sizeof first_line - 1) != 0) {
        trace->unread = true; /* no seeking: it may be a pipe */
        return;
    }
    const char *form = "segments N, a number of granules above 0";
    if (read_numbers(trace, trace->text + sizeof first_line - 1, form) != 1 ||
        trace->number[0] == 0)
        trace_expected(trace, form);
    trace->segments = trace->number[0];
}

void trace_close(struct trace *trace)
{
    fclose(trace->file);
    free(trace->text);
    free(trace->number);
}
