/* tracee.c - stepping by ptrace, and the kernel's part in a death. */
#define _GNU_SOURCE
#include "crash/tracee.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crash/harness.h"
#include "crash/ledger.h"

extern char __executable_start, etext;
enum { TEXT_MOST = 4 << 20, LOCKS_MOST = 2048, WAITS_MOST = 200000 };

size_t boundaries_visited;
static unsigned char visited[TEXT_MOST];
static size_t waits_in_a_row;

/* ---- instructions */

/* Whether the ModRM byte's operand is memory that is not addressed by the stack pointer. */
static bool operand_is_shared(const unsigned char *modrm, bool extended)
{
    if (modrm[0] >> 6 == 3)
        return false;
    return !((modrm[0] & 7) == 4 && (modrm[1] & 7) == 4 && !extended);
}

/* Whether a two-byte opcode only loads or computes. */
static bool only_reads_0f(unsigned char opcode)
{
    return (opcode >= 0x40 && opcode <= 0x4f) || (opcode >= 0x80 && opcode <= 0x8f) ||
           opcode == 0x10 || opcode == 0x28 || opcode == 0x6f || opcode == 0x1e || opcode == 0x1f ||
           opcode == 0xaf || opcode == 0xa3 || opcode == 0xb6 || opcode == 0xb7 || opcode == 0xbe ||
           opcode == 0xbf || opcode == 0xbc || opcode == 0xbd || opcode == 0x57 || opcode == 0xef ||
           opcode == 0x6e || opcode == 0x6c || opcode == 0x16 || opcode == 0x12 || opcode == 0xa2;
}

/* Whether the instruction may store outside the stack: true, unless it is known to be harmless. */
static bool may_write(const unsigned char *code)
{
    bool extended = false;

    while (*code == 0x66 || *code == 0xf2 || *code == 0xf3 || *code == 0x2e)
        code++;
    if ((*code & 0xf0) == 0x40)
        extended = (*code++ & 1) != 0;
    unsigned char op = code[0];
    const unsigned char *modrm = code + 1;

    if (op == 0x0f)
        return code[1] == 0x05 ||
               (!only_reads_0f(code[1]) && operand_is_shared(code + 2, extended));
    if ((op >= 0x50 && op <= 0x5f) || (op >= 0x70 && op <= 0x7f) || (op >= 0xb0 && op <= 0xbf) ||
        (op >= 0x90 && op <= 0x99) || op == 0xe8 || op == 0xe9 || op == 0xeb || op == 0xc3 ||
        op == 0xa8 || op == 0xa9 || op == 0x84 || op == 0x85 || op == 0x8a || op == 0x8b ||
        op == 0x8d || op == 0x63 || op == 0x68 || op == 0x6a || op == 0x69 || op == 0x6b)
        return false;
    if (op < 0x40 && (op & 7) < 6)
        return (op & 7) < 2 && op < 0x38 && operand_is_shared(modrm, extended);
    if (op == 0x80 || op == 0x81 || op == 0x83)
        return (*modrm >> 3 & 7) != 7 && operand_is_shared(modrm, extended);
    if (op == 0xf6 || op == 0xf7)
        return (*modrm >> 3 & 7) != 0 && operand_is_shared(modrm, extended);
    if (op == 0xff && (*modrm >> 3 & 7) >= 2)
        return false;
    if (op == 0x88 || op == 0x89 || op == 0xc6 || op == 0xc7 || op == 0xc0 || op == 0xc1 ||
        (op >= 0xd0 && op <= 0xd3) || op == 0xff || op == 0xfe || op == 0x86 || op == 0x87)
        return operand_is_shared(modrm, extended);
    return true;
}

static void note_visit(const struct tracee *t)
{
    uintptr_t offset = t->at - (uintptr_t)&__executable_start;

    boundaries_visited++;
    if (t->tried && offset < TEXT_MOST)
        visited[offset] = 1;
}

/* Writes the addresses, one a line and as the linker knows them, to a file of its own for
 * tests/crash/lines. */
void visited_write(void)
{
    const char *folder = getenv("DVSM_CRASH_VISITED");
    char path[4096];

    if (folder == NULL)
        return;
    snprintf(path, sizeof path, "%s/%s-%ld", folder, place.part, (long)getpid());
    FILE *file = fopen(path, "w");
    if (file == NULL)
        give_up("%s: %s", path, strerror(errno));
    for (size_t i = 0; i < TEXT_MOST; i++)
        if (visited[i])
            fprintf(file, "%zx\n", i);
    fclose(file);
}

/* ---- stepping */

static _Noreturn void work(int who, void (*act)(void))
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ledger_me = who;
    ledger_stepped = true;
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(3);
    raise(SIGSTOP);
    act();
    _exit(0);
}

static long ask(int request, pid_t pid, void *address, void *data)
{
    long result = ptrace(request, pid, address, data);

    if (result != 0)
        give_up("ptrace %d: %s", request, strerror(errno));
    return result;
}

/* False: the tracee ended. */
static bool wait_for_stop(struct tracee *t)
{
    int status;

    if (waitpid(t->pid, &status, __WALL) != t->pid)
        give_up("waitpid: %s", strerror(errno));
    if (WIFSTOPPED(status)) {
        if (WSTOPSIG(status) != SIGTRAP && WSTOPSIG(status) != SIGSTOP)
            violation("worker %d stopped by signal %d", t->who, WSTOPSIG(status));
        return true;
    }
    t->pid = 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        violation("worker %d ended with status %#x", t->who, (unsigned)status);
    return false;
}

static uintptr_t peek_user(const struct tracee *t, size_t offset)
{
    errno = 0;
    return (uintptr_t)ptrace(PTRACE_PEEKUSER, t->pid, (void *)offset, NULL);
}

static uintptr_t peek(const struct tracee *t, uintptr_t address)
{
    errno = 0;
    return (uintptr_t)ptrace(PTRACE_PEEKDATA, t->pid, (void *)address, NULL);
}

static void look_where(struct tracee *t)
{
    t->at = peek_user(t, offsetof(struct user_regs_struct, rip));
}

void tracee_start(struct tracee *t, int who, void (*act)(void))
{
    size_t length;
    void *head;

    fflush(NULL);
    *t = (struct tracee){.who = who};
    ledger->inside[who] = 0;
    t->pid = fork();
    if (t->pid == 0)
        work(who, act);
    if (t->pid < 0 || !wait_for_stop(t))
        give_up("no worker");
    ask(PTRACE_SETOPTIONS, t->pid, NULL, (void *)PTRACE_O_EXITKILL);
    if (syscall(SYS_get_robust_list, t->pid, &head, &length) != 0)
        give_up("get_robust_list: %s", strerror(errno));
    t->robust = (uintptr_t)head;
}

/* Passes over a system call that waits for a lock; returns whether it was one. */
static bool skip_waiting(struct tracee *t)
{
    struct user_regs_struct regs;

    ask(PTRACE_GETREGS, t->pid, NULL, &regs);
    if (regs.rax != SYS_futex)
        return false;
    int op = (int)regs.rsi & FUTEX_CMD_MASK;
    if (op != FUTEX_WAIT && op != FUTEX_WAIT_BITSET && op != FUTEX_LOCK_PI)
        return false;
    regs.rax = (unsigned long long)-EAGAIN;
    regs.rip += 2;
    ask(PTRACE_SETREGS, t->pid, NULL, &regs);
    t->at = regs.rip;
    t->waits = true;
    if (++waits_in_a_row > WAITS_MOST)
        violation("worker %d waits for ever", t->who);
    return true;
}

/* Whether this is an instruction that copies or clears repeatedly, which the processor steps
 * byte by byte. A block in the middle of it belongs to nobody yet. */
static bool is_repeated(const unsigned char *code)
{
    return code[0] == 0xf3 &&
           (code[1] == 0xa4 || code[1] == 0xaa || (code[1] == 0x48 && (code[2] & 0xf6) == 0xa2));
}

/* Runs to the end of the instruction, by a breakpoint behind it. */
static bool run_through(struct tracee *t)
{
    size_t length = ((const unsigned char *)t->at)[1] == 0x48 ? 3 : 2;
    uintptr_t behind = t->at + length, text = peek(t, behind);

    ask(PTRACE_POKEDATA, t->pid, (void *)behind, (void *)((text & ~(uintptr_t)0xff) | 0xcc));
    ask(PTRACE_CONT, t->pid, NULL, NULL);
    if (!wait_for_stop(t))
        return false;
    ask(PTRACE_POKEDATA, t->pid, (void *)behind, (void *)text);
    ask(PTRACE_POKEUSER, t->pid, (void *)offsetof(struct user_regs_struct, rip), (void *)behind);
    return true;
}

enum step tracee_step(struct tracee *t)
{
    bool inside = ledger->inside[t->who] != 0;

    t->wrote = true;
    t->called_system = !inside;
    if (inside) {
        const unsigned char *code = (const unsigned char *)t->at;

        note_visit(t);
        t->steps++;
        t->called_system = code[0] == 0x0f && code[1] == 0x05;
        t->wrote = may_write(code);
        if (t->called_system && skip_waiting(t))
            return STEP_DONE;
        if (t->called_system)
            waits_in_a_row = 0;
    }
    if (inside && is_repeated((const unsigned char *)t->at)) {
        if (!run_through(t))
            return STEP_ENDED;
    } else {
        ask(inside ? PTRACE_SINGLESTEP : PTRACE_CONT, t->pid, NULL, NULL);
        if (!wait_for_stop(t))
            return STEP_ENDED;
    }
    look_where(t);
    return inside ? STEP_DONE : STEP_CALL;
}

void tracee_finish(struct tracee *t)
{
    while (t->pid != 0) {
        ask(PTRACE_CONT, t->pid, NULL, NULL);
        wait_for_stop(t);
    }
}

void tracee_kill(struct tracee *t)
{
    int status;

    if (t->pid == 0)
        return;
    kill(t->pid, SIGKILL);
    if (waitpid(t->pid, &status, __WALL) != t->pid || !WIFSIGNALED(status))
        give_up("worker %d would not die", t->who);
    t->pid = 0;
}

/* ---- restartable sequences */

/* As linux/rseq.h has it. */
struct sequence {
    uint32_t version, flags;
    uint64_t start, length, abort;
};

/* The worker's stand-in has the same address as the tracer's: the worker's main thread is the
 * tracer's, forked. */
void tracee_preempt(struct tracee *t, unsigned cpu)
{
    uintptr_t named = peek(t, (uintptr_t)&standin.rseq_cs);
    const struct sequence *sequence = (const struct sequence *)named;
    uint64_t cpus = (uint64_t)cpu << 32 | cpu;

    if (named != 0 && t->at - sequence->start < sequence->length) {
        ask(PTRACE_POKEUSER, t->pid, (void *)offsetof(struct user_regs_struct, rip),
            (void *)sequence->abort);
        t->at = sequence->abort;
    }
    ask(PTRACE_POKEDATA, t->pid, &standin.rseq_cs, NULL);
    ask(PTRACE_POKEDATA, t->pid, &standin.cpu_id_start, (void *)cpus);
}

/* ---- death */

static void read_list(const struct tracee *t, uintptr_t named[3])
{
    struct iovec here = {named, 3 * sizeof *named};
    struct iovec there = {(void *)t->robust, 3 * sizeof *named};

    if (process_vm_readv(t->pid, &here, 1, &there, 1, 0) != (ssize_t)here.iov_len)
        give_up("process_vm_readv: %s", strerror(errno));
}

bool tracee_list_changed(struct tracee *t)
{
    uintptr_t named[3];

    read_list(t, named);
    if (memcmp(named, t->named, sizeof named) == 0)
        return false;
    memcpy(t->named, named, sizeof named);
    return true;
}

/* Like the kernel's handle_futex_death(), but wakes nobody: nobody waits. */
static void mark_dead(uintptr_t entry, uintptr_t offset, pid_t owner)
{
    uint32_t *futex = (uint32_t *)((entry & ~(uintptr_t)1) + offset);

    if ((*futex & FUTEX_TID_MASK) == (uint32_t)owner)
        *futex = (*futex & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
}

/* Like the kernel's exit_robust_list(): marks all locks in the list, then the one that is being
 * taken or left. Locks are in shared memory, the list's head is in the worker's own. */
void tracee_die(const struct tracee *t)
{
    uintptr_t
        named[3]; /* the first entry, the offset of the futex from an entry, the pending one */
    size_t count = 0;

    read_list(t, named);
    for (uintptr_t entry = named[0]; (entry & ~(uintptr_t)1) != t->robust; count++) {
        uintptr_t next = *(uintptr_t *)(entry & ~(uintptr_t)1);

        if (entry != named[2])
            mark_dead(entry, named[1], t->pid);
        if (count > LOCKS_MOST)
            violation("the list of robust locks has no end");
        entry = next;
    }
    if (named[2] != 0)
        mark_dead(named[2], named[1], t->pid);
}
