/* The smallest server that is a program for each connection: a line to descriptor 1, and the end. Linked statically. */
#include <unistd.h>

int main(void) {
    return write(1, "ok\n", 3) != 3;
}
