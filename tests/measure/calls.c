/* What one call costs: `calls [filter] bind|getpid|accept ROUNDS [PORT]` prints the median, in nanoseconds, of ROUNDS calls;
 * with `filter` under a seccomp filter of one instruction, which allows everything: the least that any filter costs.
 * bind: of a fresh stream socket to 127.0.0.1:PORT, which is closed again. getpid: of a thousand, divided. accept: of a
 * connection made, accepted, a byte each way, and closed on both sides. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void must(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void filter(void)
{
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "filter");
}

static uint64_t bind_once(const struct sockaddr_in *address)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0, "socket");
    uint64_t begin = now();
    int bound = bind(fd, (const struct sockaddr *)address, sizeof *address);
    uint64_t took = now() - begin;
    must(bound == 0, "bind");
    close(fd);
    return took;
}

static uint64_t getpid_thousand(void)
{
    uint64_t begin = now();
    for (int i = 0; i < 1000; i++)
        syscall(SYS_getpid);
    return (now() - begin) / 1000;
}

static uint64_t accept_once(int listener, const struct sockaddr_in *address)
{
    struct linger reset = {1, 0};
    char byte = 'x';
    uint64_t begin = now();
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(client >= 0 && connect(client, (const struct sockaddr *)address, sizeof *address) == 0, "connect");
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    must(server >= 0 && write(client, &byte, 1) == 1 && read(server, &byte, 1) == 1 && write(server, &byte, 1) == 1 &&
         read(client, &byte, 1) == 1, "a byte each way");
    setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(client);
    close(server);
    return now() - begin;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "filter") == 0) {
        filter();
        argc--, argv++;
    }
    if (argc < 3)
        return 64;
    int rounds = atoi(argv[2]), listener = -1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(argc > 3 ? atoi(argv[3]) : 0))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (strcmp(argv[1], "accept") == 0) {
        socklen_t length = sizeof address;
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        must(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 16) == 0 &&
             getsockname(listener, (struct sockaddr *)&address, &length) == 0, "listen");
    }
    uint64_t *took = calloc((size_t)rounds, sizeof *took);
    must(took != NULL, "memory");
    for (int i = 0; i < rounds; i++)
        took[i] = listener >= 0 ? accept_once(listener, &address)
                : argv[1][0] == 'b' ? bind_once(&address) : getpid_thousand();
    qsort(took, (size_t)rounds, sizeof *took, ascending);
    printf("%llu\n", (unsigned long long)took[rounds / 2]);
    return 0;
}
