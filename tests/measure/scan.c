/* The least that reading a large policy can cost: reads the file whole and looks at each line, as far as `permit uid:N PORT`,
 * for one that permits PORT to UID. What follows in a line is not looked at.
 *
 *   scan FILE UID PORT
 *
 * Exit status 0 if there is such a line, 1 if not, 78 if a line has another form. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Digits up to a blank or the end of the line; 0 if there are none. */
static unsigned long number(const char **at) {
    unsigned long value = 0;
    while (**at >= '0' && **at <= '9' && value < 1UL << 40)
        value = value * 10 + (unsigned long)(*(*at)++ - '0');
    return **at == ' ' || **at == '\n' ? value : 0;
}

int main(int argc, char **argv) {
    static const char start[] = "permit uid:";
    struct stat stat;
    int fd = argc == 4 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1, found = 0;
    if (fd < 0 || fstat(fd, &stat) || stat.st_uid != 0 || stat.st_mode & 022)
        return 78;
    size_t size = (size_t)stat.st_size, have = 0;
    char *text = mmap(NULL, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (text == MAP_FAILED)
        return 71;
    for (ssize_t got; have < size && (got = read(fd, text + have, size - have)) > 0;)
        have += (size_t)got;
    unsigned long uid = strtoul(argv[2], NULL, 10), port = strtoul(argv[3], NULL, 10);
    for (const char *line = text, *end = text + have; line < end;) {
        const char *feed = memchr(line, '\n', (size_t)(end - line)), *at = line + sizeof start - 1;
        if (!feed || at >= feed || memcmp(line, start, sizeof start - 1))
            return 78;
        unsigned long whom = number(&at);
        if (*at++ != ' ')
            return 78;
        unsigned long which = number(&at);
        if (!which || which > 65535)
            return 78;
        found |= whom == uid && which == port;
        line = feed + 1;
    }
    return !found;
}
