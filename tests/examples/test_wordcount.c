/* test_wordcount.c - the example's result: that of one process, and that of tr, sort and uniq. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/child.h"

enum { COMMAND = 4096 };

static char directory[] = "/tmp/dvsm-wordcount-XXXXXX";

/* Runs a shell command in the test's directory; its exit code. */
static int run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int run(const char *format, ...)
{
    char command[COMMAND];
    va_list arguments;
    int at = snprintf(command, sizeof command, "cd %s && ", directory);

    va_start(arguments, format);
    vsnprintf(command + at, sizeof command - (size_t)at, format, arguments);
    va_end(arguments);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* $WORDCOUNT with all its words into NAME.words, sorted, and its other lines into NAME.summary. */
static void count_words(const char *name, const char *arguments)
{
    assert_int_equal(run("$WORDCOUNT -t 99999999 %s >%s.out", arguments, name), 0);
    assert_int_equal(
        run("grep -E '^ *[0-9]+ [a-z]+$' %s.out | LC_ALL=C sort -k2 >%s.words", name, name), 0);
    assert_int_equal(run("grep -vE '^ *[0-9]+ [a-z]+$' %s.out >%s.summary", name, name), 0);
}

static void write_file(const char *name, const char *text, size_t bytes)
{
    char path[256];

    snprintf(path, sizeof path, "%s/text/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

/* Six pieces: words of every length from 1 on, over all borders of pieces, then one word
 * that is longer than a piece. */
static void write_large_file(void)
{
    const size_t bytes = (5 << 20) + 12345;
    char *text = malloc(bytes);
    uint32_t state = 12345;

    assert_non_null(text);
    for (size_t i = 0; i < bytes; i++) {
        state = state * 1664525u + 1013904223u;
        text[i] =
            state >> 24 < 60 ? " \n-,7_\t."[state >> 16 & 7] : (char)('a' + (state >> 20 & 7));
        if (i > 3 << 20 && i < (4 << 20) + 100)
            text[i] = 'q';
        if ((state >> 18 & 15) == 0 && text[i] >= 'a')
            text[i] = (char)(text[i] - 'a' + 'A');
    }
    write_file("large", text, bytes);
    free(text);
}

static int set_up(void **state)
{
    char program[4200];
    const char *bin = getenv("DVSM_BIN");

    (void)state;
    if (bin == NULL || mkdtemp(directory) == NULL)
        return -1;
    snprintf(program, sizeof program, "%s/wordcount", bin);
    setenv("WORDCOUNT", program, 1);
    /* A system without them: the files made below are enough. */
    if (run("mkdir text; cp -L /usr/share/common-licenses/* text/ 2>/dev/null; true") != 0)
        return -1;
    write_large_file();
    write_file("no-newline-at-end", "one two One TWO three", 21);
    write_file("letters-only", "word", 4);
    write_file("empty", "", 0);
    write_file("not-text", "not\0text", 8);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return run("rm -rf %s", directory);
}

static void test_equals_tr_sort_uniq(void **state)
{
    (void)state;
    count_words("two", "-n 2 text");
    assert_int_equal(run("for f in text/*; do case $f in */not-text) ;; *) cat $f; echo ;; esac; "
                         "done | LC_ALL=C tr -cs A-Za-z '\\n' | LC_ALL=C tr A-Z a-z | grep . | "
                         "LC_ALL=C sort | LC_ALL=C uniq -c >expected"),
                     0);
    assert_int_equal(run("test -s expected && cmp expected two.words"), 0);
}

static void test_any_number_of_processes_gives_the_same(void **state)
{
    static const char *const arguments[] = {"-n 2 text", "-n 7 text", "-n 40 text"};

    (void)state;
    count_words("one", "-n 1 text");
    for (size_t i = 0; i < sizeof arguments / sizeof arguments[0]; i++) {
        count_words("many", arguments[i]);
        assert_int_equal(run("cmp one.words many.words"), 0);
    }
}

/* Each node is counted by the process that made it: the sum is the number of different words. */
static void test_says_how_many_nodes_each_process_made(void **state)
{
    (void)state;
    count_words("three", "-n 3 text");
    assert_int_equal(run("test $(grep -c '^process [123] made [0-9]* nodes$' three.summary) = 3"),
                     0);
    assert_int_equal(run("test $(awk '/^process/ {n += $4} END {print n}' three.summary) = "
                         "$(wc -l <three.words)"),
                     0);
}

static void test_leaves_the_heap_empty_and_sound(void **state)
{
    (void)state;
    count_words("three", "-n 3 text");
    assert_int_equal(run("grep -q 'freeing everything: 0 blocks, 0 bytes in use, sound$' "
                         "three.summary"),
                     0);
}

static void test_prints_the_most_frequent_words_only(void **state)
{
    (void)state;
    assert_int_equal(run("$WORDCOUNT -t 3 text | grep -cE '^ *[0-9]+ [a-z]+$' >n; grep -qx 3 n"),
                     0);
    count_words("all", "text");
    assert_int_equal(run("$WORDCOUNT -t 3 text | head -3 >top && head -3 all.out | cmp - top"), 0);
    assert_int_equal(run("head -200 all.out | LC_ALL=C sort -c -s -k1,1nr"), 0);
}

static void test_refuses_what_it_does_not_understand(void **state)
{
    (void)state;
    assert_int_equal(run("$WORDCOUNT -n 0 text 2>err >out"), 2);
    assert_int_equal(run("$WORDCOUNT -n many text 2>err >out; grep -q many err"), 0);
    assert_int_equal(run("$WORDCOUNT -x text 2>err >out"), 2);
    assert_int_equal(run("$WORDCOUNT no-such-file 2>err >out"), 1);
    assert_int_equal(run("grep -q no-such-file err"), 0);
}

static void test_says_how_many_files_are_no_text(void **state)
{
    (void)state;
    count_words("all", "text");
    assert_int_equal(run("grep -qx '1 files skipped (not text)' all.summary"), 0);
    count_words("one", "text/letters-only");
    assert_int_equal(run("! grep -q skipped one.summary"), 0);
}

/* What can be read is counted; the exit status tells that it is not all. */
static void test_goes_on_after_what_is_not_there(void **state)
{
    (void)state;
    assert_int_equal(run("$WORDCOUNT no-such-file text/letters-only 2>err >out"), 1);
    assert_int_equal(run("echo 'wordcount: no-such-file: No such file or directory' | cmp - err"),
                     0);
    assert_int_equal(run("grep -qx ' *1 word' out && grep -q ' in 1 files$' out"), 0);
    assert_int_equal(run("grep -q ' sound$' out"), 0);
}

/* root may read everything: as somebody else, and then with a copy of the program, whose directory
 * might be root's own. */
static int count_as_nobody(void *context)
{
    (void)context;
    if (getuid() == 0)
        CHILD_CHECK(setuid(65534) == 0);
    return run("./wordcount unreadable 2>nobody/err >nobody/out");
}

static void test_says_what_cannot_be_read(void **state)
{
    static const char *const paths[] = {"secret", "closed", "listed/inside"};

    (void)state;
    assert_int_equal(
        run("chmod 755 . && cp $WORDCOUNT wordcount && mkdir nobody && chmod 777 nobody && "
            "mkdir unreadable unreadable/closed unreadable/listed && cd unreadable && "
            "echo alpha | tee open secret listed/inside >closed/inside && "
            "chmod 0 secret closed && chmod 444 listed"),
        0);
    int status = run_in_child(count_as_nobody, NULL);
    assert_int_equal(run("chmod -R u+rwx unreadable"), 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        assert_int_equal(run("grep -qx \"wordcount: $(pwd -P)/unreadable/%s: Permission denied\" "
                             "nobody/err",
                             paths[i]),
                         0);
    assert_int_equal(run("grep -qx ' *1 alpha' nobody/out && grep -q ' in 1 files$' nobody/out"),
                     0);
    assert_int_equal(run("! grep -q skipped nobody/out"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_tr_sort_uniq),
        cmocka_unit_test(test_any_number_of_processes_gives_the_same),
        cmocka_unit_test(test_says_how_many_nodes_each_process_made),
        cmocka_unit_test(test_leaves_the_heap_empty_and_sound),
        cmocka_unit_test(test_prints_the_most_frequent_words_only),
        cmocka_unit_test(test_refuses_what_it_does_not_understand),
        cmocka_unit_test(test_says_how_many_files_are_no_text),
        cmocka_unit_test(test_goes_on_after_what_is_not_there),
        cmocka_unit_test(test_says_what_cannot_be_read),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
