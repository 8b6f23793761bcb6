/* The dynamically linked program of the comparison with authbind, which only serves such: it tells, as launch.c reads it,
 * when it has a socket that listens on port 80, which it was handed, or else binds on its own. */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int main(void) {
    struct sockaddr_in6 name = { .sin6_family = AF_INET6, .sin6_port = htons(80) };
    struct timespec t;
    int on = 1, off = 0;
    if (!getenv("LISTEN_FDS")) {
        int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) ||
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
            bind(fd, (struct sockaddr *)&name, sizeof name) || listen(fd, 4096)) {
            perror("first_dynamic");
            return 1;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &t);
    long long ns = t.tv_sec * 1000000000LL + t.tv_nsec;
    return write(1, &ns, sizeof ns) != sizeof ns;
}
