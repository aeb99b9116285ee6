/* main.c - crash-harness PART [full] [locked] [seed=N] [only=SCENARIO] [cpu=N]
 *
 * Prints the seed; the same seed gives the same run. `locked`: in a heap without restartable
 * sequences. `cpu`: the CPU for parts that step, so that two can run side by side.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "crash/harness.h"
#include "crash/ledger.h"
#include "crash/tracee.h"
#include "support/cpu.h"

struct place place;
struct dvsm_heap *the_heap;

static void say_where(void)
{
    fprintf(stderr,
            "\n  in %s, scenario %s, seed %" PRIu64
            ", step %zu, step %zu of the survivor, variant %u,"
            " before the instruction at %#zx\n",
            place.part, place.scenario, place.seed, place.step, place.second, place.variant,
            (size_t)place.at);
}

_Noreturn void violation(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fprintf(stderr, "VIOLATION: ");
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    say_where();
    fflush(NULL);
    _exit(1);
}

_Noreturn void give_up(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fprintf(stderr, "the harness failed: ");
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    say_where();
    fflush(NULL);
    _exit(2);
}

/* Alarms since the survivor began. A single one may be due to a stop of the whole machine, or of
 * this process. */
unsigned alarms;
enum { ALARMS_MOST = 3, ALARM_SECONDS = 10 };

static void on_signal(int number)
{
    if (number == SIGALRM && ++alarms < ALARMS_MOST) {
        alarm(ALARM_SECONDS);
        return;
    }
    violation("the survivor got signal %d%s", number, number == SIGALRM ? ": it hangs" : "");
}

static void on_fault(const dvsm_fault *fault)
{
    violation("fault: %s: %s at %p", fault->function, fault->what, fault->address);
}

static void watch_signals(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGABRT, SIGALRM, SIGILL, SIGFPE};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaction(numbers[i], &action, NULL);
    dvsm_set_fault_handler(on_fault);
}

/* Binds tracer and tracee to one CPU: a step is cheaper so, and only that CPU's lanes are used. */
static void stay_on_one_cpu(int wanted)
{
    size_t cpu = (size_t)(wanted >= 0 ? wanted : sched_getcpu());

    if (!cpu_go_to(cpu))
        give_up("CPU %zu is not to be had", cpu);
    standin.cpu_id_start = standin.cpu_id = (uint32_t)cpu;
}

/* Executes the program again without the C library's rseq area, so that lanes are locked. */
static void run_again_locked(char **argv)
{
    static const char tunable[] = "glibc.pthread.rseq=0";
    const char *now = getenv("GLIBC_TUNABLES");

    if (now != NULL && strcmp(now, tunable) == 0)
        return;
    setenv("GLIBC_TUNABLES", tunable, 1);
    execv("/proc/self/exe", argv);
    give_up("exec");
}

static const struct part {
    const char *name;
    int (*run)(const struct budget *budget);
    bool one_cpu;
} parts[] = {
    {"boundaries", run_boundaries, true}, {"real", run_real, true},
    {"recovery", run_recovery, true},     {"interleave", run_interleave, true},
    {"storm", run_storm, false},          {"plants", run_plants, true},
};

int main(int argc, char **argv)
{
    struct budget budget = {.seed = (uint64_t)time(NULL)};
    const struct part *part = NULL;
    int cpu = -1;

    for (size_t i = 0; argc > 1 && i < sizeof parts / sizeof *parts; i++)
        if (strcmp(parts[i].name, argv[1]) == 0)
            part = &parts[i];
    for (int i = 2; i < argc; i++) {
        budget.full |= strcmp(argv[i], "full") == 0;
        if (strcmp(argv[i], "locked") == 0)
            run_again_locked(argv);
        if (strncmp(argv[i], "seed=", 5) == 0)
            budget.seed = strtoull(argv[i] + 5, NULL, 0);
        if (strncmp(argv[i], "only=", 5) == 0)
            budget.only = argv[i] + 5;
        if (strncmp(argv[i], "cpu=", 4) == 0)
            cpu = atoi(argv[i] + 4);
    }
    if (part == NULL) {
        fprintf(stderr,
                "usage: crash-harness PART [full] [locked] [seed=N] [only=SCENARIO] [cpu=N]\n");
        return 2;
    }
    printf("%s, seed %" PRIu64 "\n", part->name, budget.seed);
    fflush(stdout);
    ledger_open();
    if (part->one_cpu)
        stay_on_one_cpu(cpu);
    watch_signals();
    int status = part->run(&budget);
    visited_write();
    return status;
}
