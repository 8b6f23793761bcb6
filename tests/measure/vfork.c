/* The least that a server can do for each connection: accept it, and start a program that has it as descriptors 0 and 1.
 *
 *   vfork PORT PROGRAM
 *
 * No bound, no variables, no log, and the kernel forgets how programs end. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv, char **environment) {
    if (argc != 3)
        return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        return 1;
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int stream = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (stream < 0)
            return 1;
        pid_t pid = vfork();
        if (!pid) {
            dup2(stream, 0);
            dup2(stream, 1);
            execve(argv[2], argv + 2, environment);
            _exit(127);
        }
        if (pid < 0)
            return 1;
        close(stream);
    }
}
