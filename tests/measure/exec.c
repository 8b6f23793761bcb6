/* What starting a program of this C library costs, before it does anything: executes its arguments at once. */
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
    if (argc > 1)
        execve(argv[1], argv + 1, environ);
    return 127;
}
