/* Single-steps one program from its start to the next execve(2) and counts, from the first instruction of its main on:
 * user instructions, system calls, and of those the ones that begin with uid 0 or with CAP_NET_BIND_SERVICE effective,
 * as the kernel says in /proc/PID/status. Also the instructions up to the first capset(2), and the peak of its memory.
 *
 *   steps UID ENTRY MAIN FILE PROGRAM [ARG...]
 *
 * With 0 for ENTRY nothing is stepped and nothing counted but system calls and memory, and PROGRAM may end instead.
 * PROGRAM is static (it starts at its own entry) and runs with UID for its uid, gid and one group. ENTRY and MAIN are
 * the ELF entry and the address of main in hexadecimal, as readelf and nm print them. FILE gets a line `ADDRESS COUNT`
 * for every instruction that ran. Prints: instructions before main, instructions, system calls, privileged ones,
 * instructions before the first capset(2), kB of memory at most (VmHWM).
 * An instruction with a rep prefix counts once per iteration. Run as root: a tracer with CAP_SYS_PTRACE leaves setuid
 * and file capabilities of what it traces in force, if it attaches from outside (see ptrace(2)). x86-64 only. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { IMAGE = 8 << 20, SYSCALL = 0x050f };

static unsigned counts[IMAGE];

static _Noreturn void die(const char *what) {
    perror(what);
    exit(1);
}

static unsigned long peak;

static int is_privileged(pid_t pid) {
    char path[64], text[4096], *effective, *uids;
    unsigned euid = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    int fd = open(path, O_RDONLY);
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (len < 0)
        die(path);
    close(fd);
    text[len] = 0;
    char *memory = strstr(text, "\nVmHWM:");
    if (memory)
        peak = strtoul(memory + 7, NULL, 10);
    if (!(effective = strstr(text, "\nCapEff:")) || !(uids = strstr(text, "\nUid:")) ||
        sscanf(uids, "\nUid: %*u %u", &euid) != 1)
        die("status");
    return !euid || strtoull(effective + 8, NULL, 16) >> 10 & 1; /* CAP_NET_BIND_SERVICE is number 10 */
}

/* Stands at its first instruction when this returns. It waits for the tracer at a pipe that execve(2) closes. */
static pid_t start(unsigned uid, char **program) {
    int gate[2], status;
    if (pipe2(gate, O_CLOEXEC))
        die("pipe2");
    pid_t pid = fork();
    if (!pid) {
        char byte;
        if (setgroups(1, &uid) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid) || read(gate[0], &byte, 1) != 1)
            _exit(126);
        execv(program[0], program);
        _exit(127);
    }
    if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL))
        die("PTRACE_SEIZE");
    if (write(gate[1], "", 1) != 1 || waitpid(pid, &status, 0) != pid ||
        status >> 8 != (SIGTRAP | PTRACE_EVENT_EXEC << 8))
        die(program[0]);
    close(gate[0]);
    close(gate[1]);
    return pid;
}

int main(int argc, char **argv) {
    if (argc < 6)
        return 2;
    unsigned long entry = strtoul(argv[2], NULL, 16), first = strtoul(argv[3], NULL, 16);
    unsigned long before = 0, instructions = 0, calls = 0, privileged = 0, capset = 0;
    struct user_regs_struct registers;
    int status, in_main = 0;
    pid_t pid = start((unsigned)atoi(argv[1]), argv + 5);
    if (ptrace(PTRACE_GETREGS, pid, 0, &registers))
        die("PTRACE_GETREGS");
    unsigned long base = registers.rip - entry;
    while (!entry) {
        if (ptrace(PTRACE_SYSCALL, pid, 0, 0) || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
            die("PTRACE_SYSCALL");
        if (status >> 16 == PTRACE_EVENT_EXEC)
            break;
        calls++; /* at its begin and at its end */
        is_privileged(pid);
        if (status >> 16 == PTRACE_EVENT_EXIT)
            break;
    }
    while (entry) {
        if (ptrace(PTRACE_GETREGS, pid, 0, &registers))
            die("PTRACE_GETREGS");
        unsigned long at = registers.rip - base;
        in_main = in_main || at == first;
        if (in_main) {
            errno = 0;
            long code = ptrace(PTRACE_PEEKTEXT, pid, registers.rip, 0);
            if (!errno && (code & 0xffff) == SYSCALL) {
                calls++;
                if (registers.rax == SYS_capset && !capset)
                    capset = instructions;
                privileged += (unsigned long)is_privileged(pid);
            }
            instructions++;
            if (at < IMAGE)
                counts[at]++;
        } else {
            before++;
        }
        if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0) || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) {
            fprintf(stderr, "steps: %s ended before it executed a program (status %x)\n", argv[5], status);
            return 1;
        }
        if (status >> 16 == PTRACE_EVENT_EXIT) {
            fprintf(stderr, "steps: %s ends before it executes a program\n", argv[5]);
            return 1;
        }
        if (status >> 16 == PTRACE_EVENT_EXEC)
            break;
    }
    ptrace(PTRACE_DETACH, pid, 0, 0);
    waitpid(pid, &status, 0);
    FILE *out = fopen(argv[4], "w");
    if (!out)
        die(argv[4]);
    for (unsigned long at = 0; at < IMAGE; at++)
        if (counts[at])
            fprintf(out, "%lx %u\n", at, counts[at]);
    fclose(out);
    printf("%lu %lu %lu %lu %lu %lu\n", before, instructions, calls, privileged, capset, peak);
    return entry && status != 0;
}
