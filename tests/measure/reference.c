/* The yardstick for portgrant-binder: the same job by hand in C, as somebody would write it who wants it short and fast
 * but skips no check.
 *
 *   reference exec -l ENDPOINT... -- PROGRAM [ARG...]
 *
 * Like the helper it is installed setuid root or with cap_net_bind_service=p, gives up all else first and proves it,
 * judges the policy's files and folders by their descriptors, decides, makes its sockets as the caller, raises the
 * capability around each bind(2) alone, writes the audit line, renounces with proof and executes PROGRAM with LISTEN_*.
 * It does every step of that and no step twice. Of the policy's language it has what the measured policies hold:
 * permit and deny, USER, uid:N, gid:N and any, ports, ranges, protocols; whatever else stands in a rule refuses
 * everything. Of an endpoint it has name, address, port and protocol.
 * For measuring only: never install it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { USAGE = 64, UNAVAILABLE = 69, SYSTEM = 71, REFUSED = 77, BROKEN = 78, NOT_EXECUTABLE = 126, NOT_FOUND = 127 };
enum { TCP = 1, UDP = 2, ALL = 7 };
enum { MAX_LISTEN = 253, MAX_FILE = 16 << 20, MAX_FILES = 256, MAX_GROUPS = 65536, FIRST = 3 };

struct capabilities { uint64_t effective, permitted, inheritable; };

struct endpoint {
    const char *name;
    size_t name_len;
    const char *address; /* as it was written, brackets and colon included; for the audit line */
    size_t address_len;
    bool v4, v6;
    struct in_addr in;
    struct in6_addr in6;
    uint16_t port;
    int protocol;
    const char *rule_file;
    int rule_line;
    int fd;
};

struct file { char path[PATH_MAX]; char *text; size_t len; };

struct caller { uid_t uid; gid_t gid; gid_t *groups; int group_count; };

static struct endpoint endpoints[MAX_LISTEN];
static int endpoint_count;
static struct file files[MAX_FILES];
static int file_count;
static struct file passwd;
static int etc = -1;

static _Noreturn void fail(int status, const char *what, const char *which) {
    dprintf(2, "reference: %s: %s\n", what, which);
    exit(status);
}

static _Noreturn void fail_errno(int status, const char *what) {
    fail(status, what, strerror(errno));
}

/* --- privilege --- */

#define BIT(capability) (UINT64_C(1) << (capability))
#define BIND BIT(CAP_NET_BIND_SERVICE)

static struct capabilities capabilities(void) {
    struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct low_high[2];
    if (syscall(SYS_capget, &head, low_high))
        fail_errno(BROKEN, "capget");
    return (struct capabilities){ low_high[0].effective | (uint64_t)low_high[1].effective << 32,
                                  low_high[0].permitted | (uint64_t)low_high[1].permitted << 32,
                                  low_high[0].inheritable | (uint64_t)low_high[1].inheritable << 32 };
}

static long set_capabilities(struct capabilities to) {
    struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct low_high[2] = {
        { (uint32_t)to.effective, (uint32_t)to.permitted, (uint32_t)to.inheritable },
        { (uint32_t)(to.effective >> 32), (uint32_t)(to.permitted >> 32), (uint32_t)(to.inheritable >> 32) },
    };
    return syscall(SYS_capset, &head, low_high);
}

static void prove(uid_t uid, gid_t gid, struct capabilities kept) {
    uid_t ruid, euid, suid;
    gid_t rgid, egid, sgid;
    if (getresuid(&ruid, &euid, &suid) || getresgid(&rgid, &egid, &sgid))
        fail_errno(BROKEN, "getresuid");
    if (ruid != uid || euid != uid || suid != uid || rgid != gid || egid != gid || sgid != gid)
        fail(BROKEN, "ids", "not dropped");
    struct capabilities now = capabilities();
    if (now.effective || now.permitted != kept.permitted || now.inheritable != kept.inheritable)
        fail(BROKEN, "capabilities", "not dropped");
    if (uid && !setuid(0))
        fail(BROKEN, "uid 0", "regained");
    if (gid && !setgid(0))
        fail(BROKEN, "gid 0", "regained");
    struct capabilities more = { 0, kept.permitted | BIT(CAP_SETUID), kept.inheritable };
    struct capabilities last = { 0, BIND, kept.inheritable };
    if (!set_capabilities(more))
        fail(BROKEN, "a capability", "regained");
    if (!kept.permitted && !set_capabilities(last))
        fail(BROKEN, "the capability", "regained");
}

static struct capabilities drop(struct caller *caller) {
    if (prctl(PR_SET_DUMPABLE, 0))
        fail_errno(BROKEN, "prctl");
    struct capabilities kept = capabilities();
    caller->uid = getuid();
    caller->gid = getgid();
    if (prctl(PR_SET_KEEPCAPS, 1))
        fail_errno(BROKEN, "prctl");
    if (setresgid(caller->gid, caller->gid, caller->gid) || setresuid(caller->uid, caller->uid, caller->uid))
        fail_errno(BROKEN, "setresuid");
    kept.effective = 0;
    kept.permitted &= BIND;
    if (set_capabilities(kept))
        fail_errno(BROKEN, "capset");
    prove(caller->uid, caller->gid, kept);
    return kept;
}

static void renounce(const struct caller *caller, struct capabilities kept) {
    kept.permitted = 0;
    if (set_capabilities(kept))
        fail_errno(BROKEN, "capset");
    prove(caller->uid, caller->gid, kept);
}

/* --- what is asked --- */

/* The environment as execve(2) got it: a static glibc unlinks what is unsafe under AT_SECURE from envp. */
static char **environment(int argc, char **argv, char **envp) {
    if (!argc)
        return envp;
    char *at = argv[argc - 1] + strlen(argv[argc - 1]) + 1, *end = (char *)getauxval(AT_EXECFN);
    if (end < at || end - at > 6 << 20)
        return envp;
    size_t count = 0;
    for (char *next = at; next < end; next += strlen(next) + 1)
        count++;
    char **entries = malloc((count + 4) * sizeof *entries); /* room for LISTEN_* */
    if (!entries)
        fail_errno(SYSTEM, "malloc");
    for (size_t i = 0; i < count; i++, at += strlen(at) + 1)
        entries[i] = at;
    entries[count] = NULL;
    return entries;
}

static void occupy_standard_descriptors(void) {
    int fd;
    while ((fd = open("/", O_PATH | O_CLOEXEC)) >= 0)
        if (fd > 2) {
            close(fd);
            return;
        }
}

static bool number(const char *word, size_t len, uint32_t most, uint32_t *value) {
    uint64_t sum = 0;
    if (!len || len > 10)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (word[i] < '0' || word[i] > '9')
            return false;
        sum = sum * 10 + (uint64_t)(word[i] - '0');
    }
    *value = (uint32_t)sum;
    return sum <= most;
}

static bool port_number(const char *word, size_t len, uint16_t *port) {
    uint32_t value;
    if (!len || word[0] == '0' || !number(word, len, 65535, &value))
        return false;
    *port = (uint16_t)value;
    return true;
}

static bool protocol_word(const char *word, size_t len, int *protocol) {
    if (len == 3 && !memcmp(word, "tcp", 3))
        *protocol = TCP;
    else if (len == 3 && !memcmp(word, "udp", 3))
        *protocol = UDP;
    else
        return false;
    return true;
}

static bool is_name(const char *word, size_t len) {
    for (size_t i = 0; i < len; i++) {
        char c = word[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        bool other = (c >= '0' && c <= '9') || c == '.' || c == '-';
        if (!letter && !(i && other))
            return false;
    }
    return len && len <= 64;
}

static void parse_endpoint(char *word) {
    struct endpoint *e = &endpoints[endpoint_count++];
    size_t stop = strcspn(word, "=,:[/");
    char *rest = word;
    if (word[stop] == '=') {
        if (!is_name(word, stop))
            fail(USAGE, "no name", word);
        e->name = word;
        e->name_len = stop;
        rest = word + stop + 1;
    }
    if (strchr(rest, ','))
        fail(USAGE, "options are not in this reference", word);
    e->address = rest;
    char *slash = strchr(rest, '/'), *colon = strrchr(rest, ':');
    if (colon) {
        char text[INET6_ADDRSTRLEN];
        bool bracketed = *rest == '[' && colon[-1] == ']';
        size_t len = (size_t)(colon - rest) - (bracketed ? 2 : 0);
        if (len >= sizeof text)
            fail(USAGE, "no address", word);
        memcpy(text, rest + bracketed, len);
        text[len] = 0;
        e->v4 = !bracketed && inet_pton(AF_INET, text, &e->in) == 1;
        e->v6 = bracketed && inet_pton(AF_INET6, text, &e->in6) == 1;
        if (!e->v4 && !e->v6 && strcmp(text, "*"))
            fail(USAGE, "no address", word);
        e->address_len = e->v4 || e->v6 ? (size_t)(colon + 1 - rest) : 0;
        rest = colon + 1;
    }
    e->protocol = TCP;
    if (slash && !protocol_word(slash + 1, strlen(slash + 1), &e->protocol))
        fail(USAGE, "no protocol", word);
    if (!port_number(rest, slash ? (size_t)(slash - rest) : strlen(rest), &e->port))
        fail(USAGE, "no port", word);
}

static char **parse_arguments(int argc, char **argv) {
    if (argc < 2 || strcmp(argv[1], "exec"))
        fail(USAGE, "no such verb", argc < 2 ? "" : argv[1]);
    int i = 2;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (!strcmp(argv[i], "--")) {
            i++;
            break;
        }
        if (strcmp(argv[i], "-l") && strcmp(argv[i], "--listen"))
            fail(USAGE, "no such option", argv[i]);
        if (++i == argc || endpoint_count == MAX_LISTEN)
            fail(USAGE, "no endpoint, or too many", argv[i - 1]);
        parse_endpoint(argv[i]);
    }
    if (!endpoint_count || i >= argc)
        fail(USAGE, "nothing to do", "expected -l ENDPOINT... -- PROGRAM");
    return argv + i;
}

static int examine(const char *path) {
    struct stat st;
    if (stat(path, &st))
        return -1;
    if (S_ISDIR(st.st_mode)) {
        errno = EISDIR;
        return -1;
    }
    return access(path, X_OK);
}

static const char *find_program(const char *program, char **env) {
    static char path[PATH_MAX];
    if (strchr(program, '/')) {
        if (examine(program))
            fail_errno(errno == ENOENT || errno == ENOTDIR ? NOT_FOUND : NOT_EXECUTABLE, program);
        return program;
    }
    const char *search = "/usr/local/bin:/usr/bin:/bin";
    for (char **entry = env; *entry; entry++)
        if (!strncmp(*entry, "PATH=", 5)) {
            search = *entry + 5;
            break;
        }
    for (;;) {
        size_t len = strcspn(search, ":");
        int n = snprintf(path, sizeof path, "%.*s/%s", len ? (int)len : 1, len ? search : ".", program);
        if (n > 0 && (size_t)n < sizeof path && !examine(path))
            return path;
        if (!search[len])
            fail(NOT_FOUND, program, "not found");
        search += len + 1;
    }
}

/* --- descriptors from 3 on --- */

static void duplicate_at(int fd, int at) {
    int got = fcntl(fd, F_DUPFD_CLOEXEC, at);
    if (got < 0)
        fail_errno(SYSTEM, "fcntl");
    if (got != at)
        fail(USAGE, "a descriptor that a socket needs", "is open already");
}

static void check_free(void) {
    int fd = open("/", O_PATH | O_CLOEXEC);
    int probe = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, FIRST + endpoint_count);
    if (probe < 0)
        fail_errno(SYSTEM, "fcntl");
    close(fd);
    for (int i = 0; i < endpoint_count; i++) {
        duplicate_at(probe, FIRST + i);
        close(FIRST + i);
    }
    close(probe);
}

static void place(void) {
    bool at_home = true;
    for (int i = 0; i < endpoint_count; i++)
        at_home = at_home && endpoints[i].fd == FIRST + i;
    if (!at_home) {
        for (int i = 0; i < endpoint_count; i++) {
            int high = fcntl(endpoints[i].fd, F_DUPFD_CLOEXEC, FIRST + endpoint_count);
            if (high < 0)
                fail_errno(SYSTEM, "fcntl");
            close(endpoints[i].fd);
            endpoints[i].fd = high;
        }
        for (int i = 0; i < endpoint_count; i++)
            duplicate_at(endpoints[i].fd, FIRST + i);
    }
    for (int i = 0; i < endpoint_count; i++)
        if (fcntl(FIRST + i, F_SETFD, 0))
            fail_errno(SYSTEM, "fcntl");
}

/* --- files that are root's --- */

static void judge(int fd, struct stat *st, const char *path) {
    if (fstat(fd, st))
        fail_errno(SYSTEM, path);
    if (st->st_uid || st->st_mode & 022)
        fail(BROKEN, path, "is not root's alone");
}

/* The folder `name` in `at`, judged; -1 if it is not there. One that is listed must be readable, others need not. */
static int open_folder(int at, const char *name, const char *path, int flags) {
    struct stat st;
    int fd = openat(at, name, flags | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0)
        judge(fd, &st, path);
    else if (errno != ENOENT)
        fail_errno(BROKEN, path);
    return fd;
}

static bool read_file(int folder, const char *name, struct file *file) {
    struct stat st;
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return false;
    if (fd < 0)
        fail_errno(BROKEN, file->path);
    judge(fd, &st, file->path);
    if (!S_ISREG(st.st_mode) || st.st_size < 1 || st.st_size > MAX_FILE)
        fail(BROKEN, file->path, "is no file, empty or too large");
    size_t room = (size_t)st.st_size + 1; /* one more, to see its end in the same call */
    if (!(file->text = malloc(room)))
        fail_errno(SYSTEM, "malloc");
    for (;;) {
        ssize_t got = read(fd, file->text + file->len, room - file->len);
        if (got < 0)
            fail_errno(SYSTEM, file->path);
        if (!got)
            break;
        file->len += (size_t)got;
        if (file->len == room) { /* it grew meanwhile */
            if (room > MAX_FILE || !(file->text = realloc(file->text, room *= 2)))
                fail(BROKEN, file->path, "is too large");
        }
    }
    close(fd);
    return true;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void read_folder(int folder) {
    DIR *dir = fdopendir(folder);
    char *names[MAX_FILES];
    int count = 0;
    if (!dir)
        fail_errno(SYSTEM, "/etc/portgrant.d");
    struct dirent *entry;
    while (errno = 0, (entry = readdir(dir))) {
        size_t len = strlen(entry->d_name);
        if (entry->d_name[0] == '.' || len < 5 || strcmp(entry->d_name + len - 5, ".conf"))
            continue;
        if (count == MAX_FILES - 1 || !(names[count++] = strdup(entry->d_name)))
            fail(BROKEN, "/etc/portgrant.d", "holds too many files");
    }
    if (errno)
        fail_errno(SYSTEM, "/etc/portgrant.d");
    qsort(names, (size_t)count, sizeof *names, by_name);
    for (int i = 0; i < count; i++) {
        struct file *file = &files[file_count++];
        snprintf(file->path, sizeof file->path, "/etc/portgrant.d/%s", names[i]);
        if (!read_file(folder, names[i], file))
            fail_errno(BROKEN, file->path);
    }
    closedir(dir);
}

static void read_policy(void) {
    int root = open_folder(AT_FDCWD, "/", "/", O_PATH);
    etc = root < 0 ? -1 : open_folder(root, "etc", "/etc", O_PATH);
    if (etc < 0)
        fail_errno(BROKEN, "/etc");
    close(root);
    struct file *file = &files[file_count++];
    strcpy(file->path, "/etc/portgrant.conf");
    if (!read_file(etc, "portgrant.conf", file))
        fail_errno(BROKEN, file->path);
    int more = open_folder(etc, "portgrant.d", "/etc/portgrant.d", O_RDONLY);
    if (more >= 0)
        read_folder(more);
}

/* --- the policy --- */

static bool user_id(const char *name, size_t len, uid_t *uid) {
    if (!passwd.path[0]) {
        strcpy(passwd.path, "/etc/passwd");
        read_file(etc, "passwd", &passwd);
    }
    for (const char *line = passwd.text, *end = line + passwd.len, *next; line && line < end; line = next) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        stop = stop ? stop : end;
        next = stop + 1;
        if ((size_t)(stop - line) <= len || line[len] != ':' || memcmp(line, name, len))
            continue;
        const char *password = line + len + 1;
        const char *id = memchr(password, ':', (size_t)(stop - password));
        const char *colon = id ? memchr(id + 1, ':', (size_t)(stop - id - 1)) : NULL;
        if (colon && number(id + 1, (size_t)(colon - id - 1), UINT32_MAX - 1, uid))
            return true;
    }
    return false;
}

struct words { const char *at, *end; };

static bool next_word(struct words *words, const char **word, size_t *len) {
    while (words->at < words->end && (*words->at == ' ' || *words->at == '\t'))
        words->at++;
    if (words->at == words->end || *words->at == '#')
        return false;
    *word = words->at;
    while (words->at < words->end && *words->at != ' ' && *words->at != '\t') {
        if (*words->at <= ' ' || *words->at > '~')
            fail(BROKEN, "the policy", "holds a byte that has no place in a rule");
        words->at++;
    }
    *len = (size_t)(words->at - *word);
    return true;
}

static bool is(const char *word, size_t len, const char *text) {
    return len == strlen(text) && !memcmp(word, text, len);
}

/* Whether the word names the caller. An unknown user is nobody in a permit and breaks a deny. */
static bool subject(const char *word, size_t len, bool deny, const struct caller *caller, const char *place) {
    uint32_t id;
    if (len > 4 && (!memcmp(word, "uid:", 4) || !memcmp(word, "gid:", 4))) {
        if (!number(word + 4, len - 4, UINT32_MAX - 1, &id))
            fail(BROKEN, place, "no id");
        if (*word == 'u')
            return caller->uid == id;
        bool member = caller->gid == id;
        for (int i = 0; i < caller->group_count; i++)
            member = member || caller->groups[i] == id;
        return member;
    }
    if (is(word, len, "any"))
        return true;
    if (*word == ':' || number(word, len, UINT32_MAX, &id))
        fail(BROKEN, place, "groups by name are not in this reference, and a bare number is none");
    if (user_id(word, len, &id))
        return caller->uid == id;
    if (deny)
        fail(BROKEN, place, "unknown user");
    return false;
}

static void ports(const char *word, size_t len, bool deny, uint16_t *first, uint16_t *last, int *protocols) {
    *protocols = deny ? ALL : TCP;
    const char *slash = memchr(word, '/', len);
    if (slash && !protocol_word(slash + 1, (size_t)(word + len - slash - 1), protocols))
        fail(BROKEN, "the policy", "no protocol");
    const char *end = slash ? slash : word + len, *dash = memchr(word, '-', (size_t)(end - word));
    if (!slash && is(word, len, "any")) {
        *first = 1;
        *last = 65535;
    } else if (!port_number(word, (size_t)((dash ? dash : end) - word), first) ||
               !port_number(dash ? dash + 1 : word, (size_t)(end - (dash ? dash + 1 : word)), last) || *first > *last) {
        fail(BROKEN, "the policy", "no port");
    }
    if (!deny && *first <= 1023 && *last >= 512)
        fail(BROKEN, "the policy", "overlaps 512-1023");
}

/* Applies one line to every endpoint: notes the first permit of each, and refuses at a deny. */
static void apply(const char *line, size_t len, const struct file *file, int number, const struct caller *caller) {
    struct words words = { line, line + len };
    const char *word;
    size_t word_len;
    if (!next_word(&words, &word, &word_len))
        return;
    bool deny = is(word, word_len, "deny");
    if (!deny && !is(word, word_len, "permit"))
        fail(BROKEN, file->path, "no rule");
    if (!next_word(&words, &word, &word_len))
        fail(BROKEN, file->path, "no subject");
    bool concerned = subject(word, word_len, deny, caller, file->path), any = false;
    while (next_word(&words, &word, &word_len)) {
        uint16_t first, last;
        int protocols;
        any = true;
        ports(word, word_len, deny, &first, &last, &protocols);
        for (int i = 0; i < endpoint_count && concerned; i++) {
            struct endpoint *e = &endpoints[i];
            if (!(protocols & e->protocol) || e->port < first || e->port > last)
                continue;
            if (deny)
                fail(REFUSED, "denied", file->path);
            if (!e->rule_file) {
                e->rule_file = file->path;
                e->rule_line = number;
            }
        }
    }
    if (!any)
        fail(BROKEN, file->path, "no ports");
}

static void decide(const struct caller *caller) {
    for (int i = 0; i < file_count; i++) {
        const char *line = files[i].text, *end = line + files[i].len;
        for (int number = 1; line <= end; number++) {
            const char *stop = memchr(line, '\n', (size_t)(end - line));
            stop = stop ? stop : end;
            apply(line, (size_t)(stop - line), &files[i], number, caller);
            line = stop + 1;
        }
    }
    for (int i = 0; i < endpoint_count; i++)
        if (!endpoints[i].rule_file)
            fail(REFUSED, "no rule permits it", "");
}

/* --- sockets --- */

static void bind_endpoint(struct endpoint *e, struct capabilities kept) {
    union { struct sockaddr any; struct sockaddr_in in; struct sockaddr_in6 in6; } to = { 0 };
    socklen_t len = e->v4 ? sizeof to.in : sizeof to.in6;
    bool stream = e->protocol == TCP;
    int on = 1, off = 0;
    if (e->v4)
        to.in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(e->port), .sin_addr = e->in };
    else
        to.in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(e->port), .sin6_addr = e->in6 };
    int dual = e->v4 || !IN6_IS_ADDR_UNSPECIFIED(&e->in6) ? on : off;
    e->fd = socket(e->v4 ? AF_INET : AF_INET6, (stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC,
                   stream ? IPPROTO_TCP : IPPROTO_UDP);
    if (e->fd < 0)
        fail_errno(SYSTEM, "socket");
    if (!e->v4 && setsockopt(e->fd, IPPROTO_IPV6, IPV6_V6ONLY, &dual, sizeof dual))
        fail_errno(SYSTEM, "IPV6_V6ONLY");
    if (stream && setsockopt(e->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on))
        fail_errno(SYSTEM, "SO_REUSEADDR");
    struct capabilities raised = { BIND, kept.permitted, kept.inheritable };
    if (kept.permitted && set_capabilities(raised))
        fail_errno(BROKEN, "capset");
    int failed = bind(e->fd, &to.any, len) ? errno : 0;
    if (kept.permitted && set_capabilities(kept))
        fail_errno(BROKEN, "capset");
    if (failed)
        fail(failed == EACCES ? BROKEN : UNAVAILABLE, "bind", strerror(failed));
    if (stream && listen(e->fd, 4096))
        fail_errno(UNAVAILABLE, "listen");
}

static const char *word_of(int protocol) {
    return protocol == TCP ? "tcp" : "udp";
}

/* `text` in printable ASCII, without quotation marks and backslashes. */
static void printable(const char *text, char *out, size_t room) {
    size_t at = 0;
    for (; *text && at + 5 < room; text++) {
        if (*text >= ' ' && *text <= '~' && *text != '\\' && *text != '"')
            out[at++] = *text;
        else
            at += (size_t)sprintf(out + at, "\\x%02x", (unsigned char)*text);
    }
    out[at] = 0;
}

static void audit(const struct caller *caller, const char *program) {
    static const struct sockaddr_un log = { AF_UNIX, "/dev/log" };
    char shown[1024], text[2 * PATH_MAX];
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), pid = getpid();
    if (fd < 0)
        return;
    printable(program, shown, sizeof shown);
    for (int i = 0; i < endpoint_count; i++) {
        struct endpoint *e = &endpoints[i];
        int len = snprintf(text, sizeof text,
                           "<86>portgrant-binder[%d]: grant uid=%u gid=%u verb=exec endpoint=%.*s%u/%s rule=%s:%d "
                           "program=\"%s\"",
                           pid, caller->uid, caller->gid, (int)e->address_len, e->address, e->port,
                           word_of(e->protocol), e->rule_file, e->rule_line, shown);
        if (len > 0 && (size_t)len < sizeof text)
            (void)!sendto(fd, text, (size_t)len, MSG_NOSIGNAL, (const struct sockaddr *)&log,
                          offsetof(struct sockaddr_un, sun_path) + sizeof "/dev/log");
    }
    close(fd);
}

/* --- the program --- */

static void announce(char **env) {
    static const char *const stale[] = { "LISTEN_FDS=", "LISTEN_PID=", "LISTEN_FDNAMES=", "LISTEN_PIDFDID=" };
    static char fds[32], pid[32], names[16 + MAX_LISTEN * 72];
    char **to = env;
    for (char **from = env; *from; from++) {
        bool keep = true;
        for (size_t i = 0; i < sizeof stale / sizeof *stale; i++)
            keep = keep && strncmp(*from, stale[i], strlen(stale[i]));
        if (keep)
            *to++ = *from;
    }
    snprintf(fds, sizeof fds, "LISTEN_FDS=%d", endpoint_count);
    snprintf(pid, sizeof pid, "LISTEN_PID=%d", getpid());
    int at = snprintf(names, sizeof names, "LISTEN_FDNAMES=");
    for (int i = 0; i < endpoint_count; i++) {
        struct endpoint *e = &endpoints[i];
        const char *colon = i ? ":" : "";
        if (e->name)
            at += snprintf(names + at, sizeof names - (size_t)at, "%s%.*s", colon, (int)e->name_len, e->name);
        else
            at += snprintf(names + at, sizeof names - (size_t)at, "%s%u/%s", colon, e->port, word_of(e->protocol));
    }
    *to++ = fds;
    *to++ = pid;
    *to++ = names;
    *to = NULL;
}

int main(int argc, char **argv, char **envp) {
    struct caller caller = { 0 };
    struct capabilities kept = drop(&caller);
    char **env = environment(argc, argv, envp);
    occupy_standard_descriptors();
    char **program = parse_arguments(argc, argv);
    const char *path = find_program(program[0], env);
    check_free();
    read_policy();
    caller.group_count = getgroups(0, NULL);
    if (caller.group_count > 0 && (caller.groups = malloc((size_t)caller.group_count * sizeof *caller.groups)))
        caller.group_count = getgroups(caller.group_count, caller.groups);
    if (caller.group_count < 0)
        fail_errno(SYSTEM, "getgroups");
    decide(&caller);
    close(etc);
    for (int i = 0; i < endpoint_count; i++)
        bind_endpoint(&endpoints[i], kept);
    audit(&caller, path);
    renounce(&caller, kept);
    place();
    announce(env);
    execve(path, program, env);
    fail_errno(errno == ENOENT ? NOT_FOUND : NOT_EXECUTABLE, path);
}
