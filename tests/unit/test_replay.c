/* test_replay.c - dvsm-replay: what it says of a trace that does not parse, and its exit status.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/child.h"

static char trace[] = "/tmp/dvsm-test-replay-XXXXXX", program[4096];

struct replay {
    const char *argument[3]; /* NULL: none */
    const char *command;     /* run by the shell instead; $REPLAY is the program */
    char errors[1000];
};

static int run_program(void *context)
{
    struct replay *r = context;
    int null = open("/dev/null", O_WRONLY);

    CHILD_CHECK(null >= 0 && dup2(null, STDOUT_FILENO) == STDOUT_FILENO);
    if (r->command != NULL)
        execl("/bin/sh", "sh", "-c", r->command, (char *)NULL);
    execl(program, program, r->argument[0], r->argument[1], r->argument[2], (char *)NULL);
    perror(program);
    return 126;
}

static int status_of(struct replay *r)
{
    int status = run_in_child_with_stderr(run_program, r, r->errors, sizeof r->errors);

    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void write_trace(const char *text, size_t bytes)
{
    FILE *file = fopen(trace, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static void assert_refused_bytes(const char *text, size_t bytes, unsigned line,
                                 const char *expected)
{
    struct replay r = {.argument = {trace}};
    char message[1000];

    write_trace(text, bytes);
    assert_int_equal(status_of(&r), 2);
    snprintf(message, sizeof message, "%s:%u: expected %s\n", trace, line, expected);
    assert_string_equal(r.errors, message);
}

static void assert_refused(const char *text, unsigned line, const char *expected)
{
    assert_refused_bytes(text, strlen(text), line, expected);
}

static void assert_accepted(const char *text)
{
    struct replay r = {.argument = {"--check", trace}};

    write_trace(text, strlen(text));
    assert_int_equal(status_of(&r), 0);
    assert_string_equal(r.errors, "");
}

static int setup(void **state)
{
    const char *bin = getenv("DVSM_BIN");
    int fd = mkstemp(trace);

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    snprintf(program, sizeof program, "%s/dvsm-replay", bin != NULL ? bin : "build/bin");
    setenv("REPLAY", program, 1);
    setenv("TRACE", trace, 1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return unlink(trace);
}

static void test_traces_that_are_right(void **state)
{
    (void)state;
    assert_accepted("");
    assert_accepted("m 1 10\nf 1\n");
    assert_accepted("m 1 10"); /* the last line has no newline */
    assert_accepted("f 7\nr 8 100\np 9 100\nb 0\ni 1 0 5\nk 1 0\n");
    assert_accepted("m 1 18446744073709551615\nf 1\nr 1 18446744073709551615\n");
    assert_accepted("segments 16\nm 1 100\nh 1 2\nu 1\nu 2\nt 0\nl 65536\nm 2 100000\n");
}

static void test_unknown_letters(void **state)
{
    static const char letters[] = "one of the letters m c f r p a i k b h u t l";

    (void)state;
    assert_refused("x 1 2\n", 1, letters);
    assert_refused("m 1 10\n\nm 2 10\n", 2, letters);
    assert_refused("m 1 10\n# a comment\n", 2, letters);
    assert_refused(" m 1 10\n", 1, letters);
    assert_refused("M 1 10\n", 1, letters);
}

static void test_numbers_missing_or_too_many(void **state)
{
    static const struct {
        const char *form, *few, *many;
    } lines[] = {
        {"m ID SIZE", "m 1", "m 1 2 3"},
        {"c ID COUNT SIZE", "c 1 2", "c 1 2 3 4"},
        {"f ID", "f", "f 1 2"},
        {"r ID SIZE", "r 1", "r 1 2 3"},
        {"p ID SIZE", "p 1", "p 1 2 3"},
        {"a ID ALIGNMENT SIZE", "a 1 2", "a 1 2 3 4"},
        {"i ID COUNT SIZE", "i 1 2", "i 1 2 3 4"},
        {"k ID COUNT and COUNT sizes", "k 1 2 3", "k 1 2 3 4 5"},
        {"k ID COUNT and COUNT sizes", "k 1", "k 1 18446744073709551615"},
        {"b COUNT and COUNT ids", "b 2 1", "b 1 2 3"},
        {"b COUNT and COUNT ids", "b", "b 18446744073709551615"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char text[100];
        snprintf(text, sizeof text, "m 1 10\n%s\n", lines[i].few);
        assert_refused(text, 2, lines[i].form);
        snprintf(text, sizeof text, "m 1 10\nf 1\n%s\n", lines[i].many);
        assert_refused(text, 3, lines[i].form);
    }
}

static void test_what_is_no_number(void **state)
{
    static const char *const lines[] = {
        "m 1 x\n",  "m 1  2\n", "m 1 -2\n",  "m 1 +2\n", "m 1 2 \n", "m 1 0x1\n", "m1 2\n",
        "m 1 2a\n", "m 1\t2\n", "m 1 2\r\n", "mm 1 2\n", "m \n",     "m 1 2.5\n"};

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_refused(lines[i], 1, "m ID SIZE");
    assert_refused("m 1 18446744073709551616\n", 1, "a number below 2^64");
    assert_refused("m 1 99999999999999999999999\n", 1, "a number below 2^64");
    assert_refused_bytes("m 1 2\0\n", 7, 1, "text, not a NUL byte");
}

static void test_ids_and_counts_too_large(void **state)
{
    (void)state;
    assert_refused("m 268435456 1\n", 1, "an id below 268435456");
    assert_refused("f 18446744073709551615\n", 1, "an id below 268435456");
    assert_refused("i 1 268435456 1\n", 1, "fewer elements than 268435456");
    assert_refused("b 1 268435456\n", 1, "an id below 268435456");
}

static void test_first_line(void **state)
{
    static const char form[] = "segments N, a number of granules above 0";
    static const char *const lines[] = {"segments\n",     "segments 0\n",  "segments x\n",
                                        "segments 1 2\n", "segments -1\n", "segmentsx 1\n"};

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_refused(lines[i], 1, form);
    assert_refused("segments 18446744073709551615\n", 1,
                   "as many granules as an address space holds");
    assert_refused("m 1 1\nsegments 4\n", 2, "one of the letters m c f r p a i k b h u t l");
}

static void test_letters_that_need_segments(void **state)
{
    static const char *const lines[] = {"h 1 2\n", "u 1\n", "t 0\n", "l 1\n"};

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_refused(lines[i], 1, "a first line `segments N` before h, u, t or l");
}

/* A pipe cannot be read twice, although the first line is looked at before the trace is
 * replayed. */
static void test_a_trace_from_a_pipe(void **state)
{
    static const char *const traces[] = {"m 1 100\nm 2 50\nf 1\nm 3 20\n", "m 1 100",
                                         "segments 16\nm 1 100\nh 1 2\nu 1\n"};
    struct replay same = {.command = "$REPLAY $TRACE >$TRACE.file && "
                                     "cat $TRACE | $REPLAY /dev/stdin | cmp - $TRACE.file 1>&2; "
                                     "status=$?; rm $TRACE.file; exit $status"};
    struct replay first = {.command = "printf 'x 1\\nm 1 10\\n' | $REPLAY /dev/stdin"};
    struct replay second = {.command = "printf 'm 1 10\\nx 1\\n' | $REPLAY /dev/stdin"};
    struct replay none = {.command = "true | $REPLAY /dev/stdin"};

    (void)state;
    for (size_t i = 0; i < sizeof traces / sizeof *traces; i++) {
        write_trace(traces[i], strlen(traces[i]));
        assert_int_equal(status_of(&same), 0);
        assert_string_equal(same.errors, "");
    }
    assert_int_equal(status_of(&first), 2);
    assert_non_null(strstr(first.errors, "/dev/stdin:1: expected one of the letters"));
    assert_int_equal(status_of(&second), 2);
    assert_non_null(strstr(second.errors, "/dev/stdin:2: expected one of the letters"));
    assert_int_equal(status_of(&none), 0);
}

/* The reference's recorded placements are met from a pipe, too. */
static void test_a_golden_trace_from_a_pipe(void **state)
{
    struct replay golden = {.command = "g=$DVSM_SOURCE/tests/golden/small; "
                                       "cat $g.trace | $REPLAY /dev/stdin | cmp - $g.golden 1>&2"};

    (void)state;
    if (sizeof(void *) < 8 || getenv("DVSM_SOURCE") == NULL)
        skip();
    assert_int_equal(status_of(&golden), 0);
    assert_string_equal(golden.errors, "");
}

static void test_command_line(void **state)
{
    struct replay none = {.errors = ""}, two = {.argument = {trace, trace}};
    struct replay unknown = {.argument = {"--unknown", trace}};
    struct replay help = {.argument = {"--help"}}, folder = {.argument = {"/"}};
    struct replay missing = {.argument = {"/nowhere/at/all"}};

    (void)state;
    assert_int_equal(status_of(&none), 2);
    assert_non_null(strstr(none.errors, "usage: dvsm-replay"));
    assert_int_equal(status_of(&two), 2);
    assert_int_equal(status_of(&unknown), 2);
    assert_int_equal(status_of(&help), 0);
    assert_string_equal(help.errors, "");
    assert_int_equal(status_of(&missing), 2);
    assert_string_equal(missing.errors, "/nowhere/at/all: No such file or directory\n");
    assert_int_equal(status_of(&folder), 2);
    assert_string_equal(folder.errors, "/: Is a directory\n");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_traces_that_are_right),
        cmocka_unit_test(test_unknown_letters),
        cmocka_unit_test(test_numbers_missing_or_too_many),
        cmocka_unit_test(test_what_is_no_number),
        cmocka_unit_test(test_ids_and_counts_too_large),
        cmocka_unit_test(test_first_line),
        cmocka_unit_test(test_letters_that_need_segments),
        cmocka_unit_test(test_a_trace_from_a_pipe),
        cmocka_unit_test(test_a_golden_trace_from_a_pipe),
        cmocka_unit_test(test_command_line),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
