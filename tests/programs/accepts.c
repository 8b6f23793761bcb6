/* A server for containers: it accepts on descriptor 3, or on the port that is its argument, and prints what it was given. */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    int at = 3;
    if (argc > 1) {
        struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[1]))};
        at = socket(AF_INET6, SOCK_STREAM, 0);
        if (bind(at, (struct sockaddr *)&any, sizeof any) || listen(at, 9)) return perror("bind"), 1;
    }
    for (;;) {
        int to = accept(at, 0, 0);
        if (to < 0) return perror("accept"), 1;
        dprintf(to, "served by uid %d, LISTEN_FDS=%s, pid %d, LISTEN_PID=%s\n", getuid(), getenv("LISTEN_FDS"), getpid(), getenv("LISTEN_PID"));
        close(to);
    }
}
