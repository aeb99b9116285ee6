/* test_joining.c - the examples of programs that join a heap: by its name, and after exec. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GUESTS = 30, COMMAND = 4096, OUTPUT = 1 << 16 };

static char book[64];

/* Runs a shell command and gives what it prints, cut to OUTPUT; its exit code. */
static int run(char output[static OUTPUT], const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static int run(char output[static OUTPUT], const char *format, ...)
{
    char command[COMMAND];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    output[fread(output, 1, OUTPUT - 1, pipe)] = '\0';
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static size_t lines_of(const char *text)
{
    size_t lines = 0;

    for (; *text != '\0'; text++)
        lines += *text == '\n';
    return lines;
}

/* Many guests at once, and nobody came first by plan: no line is lost. */
static void test_the_guest_book(void **state)
{
    static char output[OUTPUT];
    char line[32];

    (void)state;
    assert_int_equal(run(output,
                         "for i in $(seq %d); do $DVSM_BIN/guestbook %s \"guest $i\" & done; wait",
                         GUESTS, book),
                     0);
    assert_int_equal(run(output, "$DVSM_BIN/guestbook %s", book), 0);
    assert_int_equal(lines_of(output), GUESTS);
    for (int i = 1; i <= GUESTS; i++) {
        snprintf(line, sizeof line, "guest %d\n", i);
        assert_non_null(strstr(output, line));
    }
    assert_int_equal(run(output, "$DVSM_BIN/guestbook %s -d", book), 0);
    assert_int_not_equal(run(output, "$DVSM_BIN/guestbook %s -d", book), 0);
    assert_int_not_equal(run(output, "$DVSM_BIN/guestbook no-slash 2>&1"), 0);
    assert_non_null(strstr(output, "guestbook: "));
}

static void test_the_fork_server(void **state)
{
    static char output[OUTPUT];

    (void)state;
    assert_int_equal(run(output, "$DVSM_BIN/forkserver 6 200000"), 0);
    assert_string_equal(output, "6 workers, 200000 requests, 0 wrong\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_guest_book),
        cmocka_unit_test(test_the_fork_server),
    };

    snprintf(book, sizeof book, "/dvsm-test-book-%ld", (long)getpid());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
