/* Wall time from spawn to reaped exit of several commands, in interleaved rounds.
 *
 *   timing ROUNDS UID LOG ::: COMMAND [ARG...] [::: COMMAND [ARG...]]...
 *
 * Each round runs every command once, in a new order (from a fixed seed), with UID for its uid, gid and one
 * group, on the CPU that this program was pinned to. LOG is the descriptor of a datagram socket, emptied between two
 * commands, so that none finds it full and no reader wakes up beside it. Prints a line per round: nanoseconds in the
 * order of the commands. Five rounds run first that are not printed. Any status but 0 ends it. Runs as root. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_COMMANDS = 64, WARM_UP = 5 };

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long spawn(char **command, unsigned uid) {
    int status;
    long long began = now();
    pid_t pid = vfork();
    if (!pid) {
        if (syscall(SYS_setgroups, 1, &uid) || syscall(SYS_setresgid, uid, uid, uid) ||
            syscall(SYS_setresuid, uid, uid, uid))
            _exit(126);
        execv(command[0], command);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
        fprintf(stderr, "timing: %s: wait status %x\n", command[0], pid < 0 ? 0 : status);
        exit(1);
    }
    return now() - began;
}

int main(int argc, char **argv) {
    static char **commands[MAX_COMMANDS];
    static long long took[MAX_COMMANDS];
    int count = 0, order[MAX_COMMANDS];
    if (argc < 6)
        return 2;
    long rounds = atol(argv[1]);
    unsigned uid = (unsigned)atol(argv[2]);
    int log = atoi(argv[3]);
    unsigned long long seed = 1;
    for (int i = 4; i < argc; i++)
        if (!strcmp(argv[i], ":::") && count < MAX_COMMANDS) {
            argv[i] = NULL;
            order[count] = count;
            commands[count++] = argv + i + 1;
        }
    fcntl(log, F_SETFD, FD_CLOEXEC);
    /* Nothing of normal priority on this CPU gets in between. Where that is not to be had, medians must do. */
    sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 1 });
    for (long round = -WARM_UP; round < rounds; round++) {
        for (int i = count; i > 1; i--) {
            seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
            int other = (int)((seed >> 33) % (unsigned)i), last = order[i - 1];
            order[i - 1] = order[other];
            order[other] = last;
        }
        for (int i = 0; i < count; i++) {
            char line[4096];
            took[order[i]] = spawn(commands[order[i]], uid);
            while (recv(log, line, sizeof line, MSG_DONTWAIT) > 0)
                continue;
        }
        for (int i = 0; i < count && round >= 0; i++)
            printf("%lld%c", took[i], i == count - 1 ? '\n' : ' ');
    }
    return 0;
}
