/* plants.c - faults planted in the library, one at a time, each to be found: the harness can fail.
 *
 * They are the uses of PLANTED() in src/, by number. Only the harness's own build of the library
 * has them.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crash/harness.h"

#ifdef DVSM_PLANT

static const struct plant {
    const char *what;
    int (*found_by)(const struct budget *budget);
    const char *only; /* the scenario that goes by it; NULL: many do */
} plants[] = {
    {"(nothing: all must be well)", run_boundaries, NULL},
    {"the journal's count is raised after the store", run_boundaries, NULL},
    {"a journal is rolled back from its first entry on", run_boundaries, NULL},
    {"the victim is stored before it is journaled", run_boundaries, NULL},
    {"a run is taken and committed before it is pending", run_boundaries, NULL},
    {"what the arena absorbed stays pending", run_boundaries, NULL},
    {"a trade's transit record is not cleared", run_boundaries, NULL},
    {"a magazine to be split is out of its list before the copy", run_boundaries, NULL},
    {"a magazine is filled and drained without the journal", run_boundaries, NULL},
    {"recovery leaves what is in transit", run_boundaries, NULL},
    {"recovery leaves what is pending", run_boundaries, NULL},
    {"recovery does not restore the words inside a run", run_boundaries, NULL},
    {"a depot is recovered before the arena that counts in it", run_boundaries, NULL},
    {"a roll back empties the journal before it puts back", run_recovery, NULL},
    {"recovery takes the new magazine for loaded", run_boundaries, NULL},
    {"memory is released without a note", run_boundaries, NULL},
    {"an arena's holes are counted without the journal", run_boundaries, "punch"},
    {"a list of remote frees is taken off before it is noted", run_boundaries, "work-off"},
    {"a remote free is passed on when it is done", run_boundaries, "work-off"},
};
enum { PLANTS = sizeof plants / sizeof *plants };

/* In a process of its own, whose last words are kept. 0: found nothing; 1: found. */
static int try_plant(size_t number, const struct budget *budget, char *line, size_t bytes)
{
    int fds[2], status;
    ssize_t length;

    if (pipe(fds) != 0)
        give_up("pipe");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int nowhere = open("/dev/null", O_WRONLY);

        dup2(nowhere, STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        struct budget less = *budget;

        dvsm_planted = (int)number;
        less.only = number == 0            ? "random"
                    : budget->only != NULL ? budget->only
                                           : plants[number].only;
        _exit(plants[number].found_by(&less));
    }
    close(fds[1]);
    size_t have = 0;
    char all[1 << 16];
    while ((length = read(fds[0], all + have, sizeof all - 1 - have)) > 0)
        have += (size_t)length;
    all[have] = '\0';
    close(fds[0]);
    waitpid(child, &status, 0);
    const char *last = strstr(all, "VIOLATION");
    snprintf(line, bytes, "%.*s", last != NULL ? (int)strcspn(last, "\n") : 0,
             last != NULL ? last : "");
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

int run_plants(const struct budget *budget)
{
    size_t found = 0;
    char line[200];

    for (size_t number = 0; number < PLANTS; number++) {
        int result = try_plant(number, budget, line, sizeof line);

        printf("  %2zu %-60s %s\n", number, plants[number].what,
               result != 0   ? line
               : number == 0 ? "nothing found"
                             : "NOT FOUND");
        fflush(stdout);
        if (number == 0 && result != 0)
            return 1;
        found += result != 0;
    }
    printf("plants: %zu of %d found\n", found, PLANTS - 1);
    return found == PLANTS - 1 ? 0 : 1;
}

#else

int run_plants(const struct budget *budget)
{
    (void)budget;
    fprintf(stderr, "only crash-harness-planted has faults to find\n");
    return 2;
}

#endif
