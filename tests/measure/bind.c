/* What one bind(2) costs, in several ways that take turns: `bind TURNS WAY...`, where WAY is UID:PORT[:CGROUP]. Prints a line a
 * way: the median in ns a bind, and the median of its ratios to the first way's in the same turn.
 *
 * In each turn each way, a separate process, makes 64 fresh tcp sockets, and then binds each to another port from
 * PORT on, so that no bind meets another. UID - stays what it is. All of them run on one processor, and what disturbs it
 * for longer than a turn, some 200 us a way, disturbs all ways alike. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { SOCKETS = 64, WAYS = 8 };

static void must(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static long long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

static double median(double *values, int count) {
    qsort(values, count, sizeof *values, ascending);
    return values[count / 2];
}

/* One turn's, in ns a bind. */
static double batch(int first) {
    int sockets[SOCKETS];
    for (int at = 0; at < SOCKETS; at++)
        must((sockets[at] = socket(AF_INET, SOCK_STREAM, 0)) >= 0, "socket");
    long long before = now();
    for (int at = 0; at < SOCKETS; at++) {
        struct sockaddr_in address = {
            .sin_family = AF_INET, .sin_port = htons(first + at), .sin_addr = {htonl(INADDR_LOOPBACK)}};
        must(bind(sockets[at], (struct sockaddr *)&address, sizeof address) == 0, "bind");
    }
    double took = (now() - before) / (double)SOCKETS;
    for (int at = 0; at < SOCKETS; at++)
        close(sockets[at]);
    return took;
}

/* Becomes who WAY says; answers each byte with a turn. */
static void serve(char *way, int turns) {
    char *uid = strtok(way, ":"), *port = strtok(NULL, ":"), *cgroup = strtok(NULL, ""), turn;
    must(uid && port, "UID:PORT[:CGROUP]");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (cgroup) {
        char path[4096];
        snprintf(path, sizeof path, "%s/cgroup.procs", cgroup);
        int procs = open(path, O_WRONLY);
        must(procs >= 0 && write(procs, "0", 1) == 1, path);
        close(procs);
    }
    if (strcmp(uid, "-") != 0) {
        uid_t id = atoi(uid);
        must(setgroups(0, NULL) == 0 && setresgid(id, id, id) == 0 && setresuid(id, id, id) == 0, "ids");
    }
    while (read(turns, &turn, 1) == 1) {
        double took = batch(atoi(port));
        must(write(turns, &took, sizeof took) == sizeof took, "write");
    }
    exit(0);
}

int main(int argc, char **argv) {
    int turns = argc > 1 ? atoi(argv[1]) : 0, ways = argc - 2, ends[WAYS];
    if (turns < 1 || ways < 1 || ways > WAYS)
        return 64;
    cpu_set_t processor;
    CPU_ZERO(&processor);
    CPU_SET(0, &processor);
    sched_setaffinity(0, sizeof processor, &processor);
    for (int way = 0; way < ways; way++) {
        int pair[2];
        must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
        int child = fork();
        must(child >= 0, "fork");
        if (child == 0) {
            close(pair[0]);
            serve(argv[2 + way], pair[1]);
        }
        close(pair[1]);
        ends[way] = pair[0];
    }
    double *times = calloc((size_t)ways * turns, sizeof *times), *ratios = calloc((size_t)ways * turns, sizeof *ratios);
    must(times && ratios, "memory");
    for (int turn = 0; turn < turns; turn++) {
        for (int way = 0; way < ways; way++) {
            double took;
            if (write(ends[way], "t", 1) != 1 || read(ends[way], &took, sizeof took) != sizeof took)
                return 1;
            times[way * turns + turn] = took;
            ratios[way * turns + turn] = took / times[turn];
        }
    }
    for (int way = 0; way < ways; way++)
        printf("%.1f %.4f\n", median(times + way * turns, turns), median(ratios + way * turns, turns));
    return 0;
}
