/* Wall time from execve of several commands to their program's first instruction, in interleaved rounds.
 *
 *   launch ROUNDS UID ::: [@PORT] COMMAND [ARG...] [::: [@PORT] COMMAND [ARG...]]...
 *
 * Each round runs every command once, in a new order (from a fixed seed), with UID for its uid, gid and one group,
 * on the CPU that this program was pinned to. The program that it leads to writes the time it has (CLOCK_MONOTONIC, in
 * nanoseconds, 8 bytes) to standard output. With @PORT the command waits for a connection first: one to 127.0.0.1 is
 * tried until it is there. Prints a line per round: nanoseconds in the order of the commands. Five rounds run first that
 * are not printed. Any status but 0 ends it. Runs as root. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_COMMANDS = 64, WARM_UP = 5, MAX_TRIES = 100000 };

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int connected(int port) {
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = { htonl(INADDR_LOOPBACK) } };
    for (int tries = 0; tries < MAX_TRIES; tries++) {
        int stream = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (!connect(stream, (struct sockaddr *)&address, sizeof address))
            return stream;
        close(stream);
        nanosleep(&(struct timespec){ .tv_nsec = 10000 }, NULL);
    }
    fprintf(stderr, "launch: nobody listens on port %d\n", port);
    exit(1);
}

/* Written by the child: vfork(2) shares the memory. */
static volatile long long began;

static pid_t started(char **command, unsigned uid, int output) {
    pid_t pid = vfork();
    if (pid)
        return pid;
    if (dup2(output, 1) != 1 || syscall(SYS_setgroups, 1, &uid) || syscall(SYS_setresgid, uid, uid, uid) ||
        syscall(SYS_setresuid, uid, uid, uid))
        _exit(126);
    began = now();
    execv(command[0], command);
    _exit(127);
}

static long long launch(char **command, unsigned uid) {
    int status, output[2], stream = -1, port = command[0][0] == '@' ? atoi(command[0] + 1) : 0;
    long long first = 0;
    command += port != 0;
    if (pipe2(output, O_CLOEXEC))
        exit(1);
    pid_t pid = started(command, uid, output[1]);
    close(output[1]);
    if (port)
        stream = connected(port);
    ssize_t length = read(output[0], &first, sizeof first);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status || length != sizeof first) {
        fprintf(stderr, "launch: %s: wait status %x\n", command[0], pid < 0 ? 0 : status);
        exit(1);
    }
    close(output[0]);
    if (stream >= 0)
        close(stream);
    return first - began;
}

int main(int argc, char **argv) {
    static char **commands[MAX_COMMANDS];
    static long long took[MAX_COMMANDS];
    int count = 0, order[MAX_COMMANDS];
    if (argc < 5)
        return 2;
    long rounds = atol(argv[1]);
    unsigned uid = (unsigned)atol(argv[2]);
    unsigned long long seed = 1;
    for (int i = 3; i < argc; i++)
        if (!strcmp(argv[i], ":::") && count < MAX_COMMANDS) {
            argv[i] = NULL;
            order[count] = count;
            commands[count++] = argv + i + 1;
        }
    /* Nothing of normal priority on this CPU gets in between. Where that is not to be had, medians must do. */
    sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 1 });
    for (long round = -WARM_UP; round < rounds; round++) {
        for (int i = count; i > 1; i--) {
            seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
            int other = (int)((seed >> 33) % (unsigned)i), last = order[i - 1];
            order[i - 1] = order[other];
            order[other] = last;
        }
        for (int i = 0; i < count; i++)
            took[order[i]] = launch(commands[order[i]], uid);
        for (int i = 0; i < count && round >= 0; i++)
            printf("%lld%c", took[i], i == count - 1 ? '\n' : ' ');
    }
    return 0;
}
