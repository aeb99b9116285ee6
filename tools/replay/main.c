/* dvsm-replay - replays a trace of tests/golden/FORMAT.md and prints its placements.
 *
 *     dvsm-replay [--check] TRACE
 *
 * Exit status: 0; 1 where --check found a violation; 2 where the trace or the command line is
 * wrong.
 */
#include <getopt.h>
#include <stdlib.h>

#include "replay.h"

static _Noreturn void usage(int status)
{
    fprintf(status == 0 ? stdout : stderr,
            "usage: dvsm-replay [--check] TRACE\n"
            "Replays a trace of allocation requests on one arena and prints where each block is "
            "placed.\n"
            "  --check  verify every invariant after each request\n");
    exit(status);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"check", no_argument, NULL, 'c'}, {"help", no_argument, NULL, 'h'}, {0}};
    static struct replay replay; /* what it still has at the end is no leak */
    struct request request;
    int option;

    while ((option = getopt_long(argc, argv, "ch", options, NULL)) != -1) {
        if (option != 'c')
            usage(option == 'h' ? 0 : 2);
        replay.check = true;
    }
    if (argc - optind != 1)
        usage(2);

    trace_open(&replay.trace, argv[optind]);
    replay_start(&replay);
    while (trace_next(&replay.trace, &request)) {
        replay_request(&replay, &request);
        if (replay.check && replay_check(&replay) != 0) {
            fprintf(stderr, "%s:%zu: found after this line\n", replay.trace.name,
                    replay.trace.line);
            return 1;
        }
    }
    replay_print_state(&replay);
    trace_close(&replay.trace);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("dvsm-replay: stdout");
        return 2;
    }
    return 0;
}
