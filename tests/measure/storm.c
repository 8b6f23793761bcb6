/* Connections one after the other, some at once, and how long they take.
 *
 *   storm PORT TEXT COUNT PARALLEL
 *
 * Connects COUNT times to 127.0.0.1:PORT, PARALLEL at once, and reads each to its end, which must have been TEXT.
 * Prints the nanoseconds from the first connect(2) to the last end. What goes otherwise ends it with status 1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PARALLEL = 256, LONGEST = 256 };

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "storm: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int connected(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int stream = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (stream < 0 || connect(stream, (struct sockaddr *)&address, sizeof address))
        fail("connect");
    return stream;
}

int main(int argc, char **argv) {
    static struct pollfd streams[MAX_PARALLEL];
    static char texts[MAX_PARALLEL][LONGEST];
    static size_t lengths[MAX_PARALLEL];
    if (argc != 5)
        return 2;
    int port = atoi(argv[1]), parallel = atoi(argv[4]), open = 0;
    long left = atol(argv[3]);
    if (parallel < 1 || parallel > MAX_PARALLEL)
        return 2;
    for (int i = 0; i < parallel; i++)
        streams[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    long long began = now();
    while (left || open) {
        for (int i = 0; i < parallel && left; i++)
            if (streams[i].fd < 0) {
                streams[i].fd = connected(port);
                lengths[i] = 0;
                open++, left--;
            }
        if (poll(streams, parallel, 10000) <= 0)
            fail("no answer");
        for (int i = 0; i < parallel; i++) {
            if (streams[i].fd < 0 || !streams[i].revents)
                continue;
            ssize_t length = read(streams[i].fd, texts[i] + lengths[i], LONGEST - lengths[i]);
            if (length < 0)
                fail("read");
            lengths[i] += length;
            if (length)
                continue;
            if (lengths[i] != strlen(argv[2]) || memcmp(texts[i], argv[2], lengths[i]))
                fail("not the answer that was expected");
            close(streams[i].fd);
            streams[i].fd = -1;
            open--;
        }
    }
    printf("%lld\n", now() - began);
}
