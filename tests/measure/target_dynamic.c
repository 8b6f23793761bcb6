/* The dynamically linked program of the comparison with authbind, which cannot serve a static one: handed a socket it
 * checks it as target.c does, otherwise it makes, binds and listens on its own, [::]:80 as the helper does,
 * or another port that is given. */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    struct sockaddr_in6 name = { .sin6_family = AF_INET6, .sin6_port = htons(argc > 1 ? atoi(argv[1]) : 80) };
    socklen_t len = sizeof(int), name_len = sizeof name;
    int on = 1, off = 0, listens = 0;
    if (getenv("LISTEN_FDS")) {
        getsockopt(3, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len);
        getsockname(3, (struct sockaddr *)&name, &name_len);
        return !listens || ntohs(name.sin6_port) != 80;
    }
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
        bind(fd, (struct sockaddr *)&name, sizeof name) || listen(fd, 4096)) {
        perror("target_dynamic");
        return 1;
    }
    return 0;
}
