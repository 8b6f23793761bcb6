/* What one bind(2) costs: `bind BATCHES [FIRST]` prints the median of its batches, in ns a bind.
 *
 * A batch is 64 fresh tcp sockets, made before the clock starts, each bound to a port of its own from FIRST on, so that no
 * bind meets another. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SOCKETS = 64 };

static long long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

int main(int argc, char **argv) {
    int batches = argc > 1 ? atoi(argv[1]) : 0, first = argc > 2 ? atoi(argv[2]) : 100, sockets[SOCKETS];
    double *times = calloc(batches, sizeof *times);
    if (batches < 1 || !times)
        return 64;
    for (int batch = 0; batch < batches; batch++) {
        for (int at = 0; at < SOCKETS; at++)
            sockets[at] = socket(AF_INET, SOCK_STREAM, 0);
        long long before = now();
        for (int at = 0; at < SOCKETS; at++) {
            struct sockaddr_in address = {
                .sin_family = AF_INET, .sin_port = htons(first + at), .sin_addr = {htonl(INADDR_LOOPBACK)}};
            if (bind(sockets[at], (struct sockaddr *)&address, sizeof address)) {
                perror("bind");
                return 1;
            }
        }
        times[batch] = (now() - before) / (double)SOCKETS;
        for (int at = 0; at < SOCKETS; at++)
            close(sockets[at]);
    }
    qsort(times, batches, sizeof *times, ascending);
    printf("%.1f\n", times[batches / 2]);
    return 0;
}
