/* plants.c - faults planted in the library, one at a time, each to be found: the harness can fail.
 *
 * They are the uses of PLANTED() in src/, by number. Only the harness's own build of the library has
 * them.
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
} plants[] = {
    {"(nothing: all must be well)", run_boundaries},
    {"the journal's count is raised after the store", run_boundaries},
    {"a journal is rolled back from its first entry on", run_boundaries},
    {"the victim is stored before it is journaled", run_boundaries},
    {"a run is taken and committed before it is pending", run_boundaries},
    {"what the arena absorbed stays pending", run_boundaries},
    {"a trade's transit record is not cleared", run_boundaries},
    {"a magazine to be split is out of its list before the copy", run_boundaries},
    {"a magazine is filled and drained without the journal", run_boundaries},
    {"recovery leaves what is in transit", run_boundaries},
    {"recovery leaves what is pending", run_boundaries},
    {"recovery does not restore the words inside a run", run_boundaries},
    {"a depot is recovered before the arena that counts in it", run_boundaries},
    {"a roll back empties the journal before it puts back", run_recovery},
    {"recovery takes the new magazine for loaded", run_boundaries},
    {"memory is released without a note", run_boundaries},
    {"an arena's holes are counted without the journal", run_boundaries},
    {"a list of remote frees is taken off before it is noted", run_boundaries},
    {"a remote free is passed on without the journal", run_boundaries},
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
        less.only = number == 0 ? "random" : budget->only;
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
