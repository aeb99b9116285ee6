/* trace.h - reading a trace of tests/golden/FORMAT.md, one request a line. */
#ifndef DVSM_REPLAY_TRACE_H
#define DVSM_REPLAY_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct request {
    char kind;            /* the line's letter */
    const size_t *number; /* what follows it */
    size_t count;
};

struct trace {
    FILE *file;
    const char *name;
    size_t line;     /* of the request read last */
    bool unread;     /* the text is yet to be handed out: a first line that is a request */
    size_t segments; /* of a first line `segments N`, 0 where there is none */
    char *text;
    size_t text_size;
    size_t *number;
    size_t number_size;
};

/* Opens a trace and reads its first line where that is `segments N`. A file that cannot be read,
 * and a line that does not parse, end the program: name, line, what was expected; exit status 2. */
void trace_open(struct trace *trace, const char *name);

/* The next request; false at the end. */
bool trace_next(struct trace *trace, struct request *request);

/* Ends the program likewise, for what only the replay can find wrong in a line. */
_Noreturn void trace_expected(const struct trace *trace, const char *what);

void trace_close(struct trace *trace);

#endif
