/* What a bind answered by a broker would cost: `broker UID PROGRAM [ARG...]`, as root.
 *
 * A stub of a broker (it binds whatever it is sent) stays root and holds one connection. A supervisor and PROGRAM run as
 * UID: each bind(2) of PROGRAM's is notified (seccomp_unotify(2)), its socket copied, sent over the connection, bound,
 * answered. As `portgrant run` does it, with the helper's place taken by the connection. No policy, no error handling:
 * a lower bound, not a program to use. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void give(int to, int fd, const void *bytes, size_t length)
{
    union { struct cmsghdr head; char space[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct iovec part = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    must(sendmsg(to, &message, MSG_NOSIGNAL) >= 0, "sendmsg");
}

static int take(int from, void *bytes, size_t *length)
{
    union { struct cmsghdr head; char space[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct iovec part = {bytes, *length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
    int fd = -1;
    if (got <= 0)
        return -1;
    *length = (size_t)got;
    memcpy(&fd, CMSG_DATA(&control.head), sizeof fd);
    return fd;
}

static void broker(int connection)
{
    char address[128];
    size_t length = sizeof address;
    for (int fd; (fd = take(connection, address, &length)) >= 0; length = sizeof address) {
        int result = bind(fd, (struct sockaddr *)address, (socklen_t)length);
        close(fd);
        must(write(connection, &result, sizeof result) == sizeof result, "write");
    }
    _exit(0);
}

static void supervise(int listener, int connection)
{
    for (;;) {
        struct seccomp_notif asked = {0};
        struct seccomp_notif_resp answer = {0};
        char path[64], address[128] = {0};
        int result = -1;
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0)
            _exit(0);
        snprintf(path, sizeof path, "/proc/%d/mem", asked.pid);
        int memory = open(path, O_RDONLY | O_CLOEXEC);
        size_t length = (size_t)asked.data.args[2] & 127;
        must(pread(memory, address, length, (off_t)asked.data.args[1]) == (ssize_t)length, "pread");
        close(memory);
        must(ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &asked.id) == 0, "ID_VALID");
        int process = (int)syscall(SYS_pidfd_open, asked.pid, O_EXCL /* PIDFD_THREAD */);
        int fd = (int)syscall(SYS_pidfd_getfd, process, (int)asked.data.args[0], 0);
        must(process >= 0 && fd >= 0, "pidfd_getfd");
        close(process);
        give(connection, fd, address, length);
        must(read(connection, &result, sizeof result) == sizeof result, "read");
        close(fd);
        answer.id = asked.id;
        answer.error = result == 0 ? 0 : -13;
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

int main(int argc, char **argv)
{
    int connection[2], channel[2];
    if (argc < 3)
        return 64;
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, connection) == 0, "socketpair");
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) == 0, "socketpair");
    if (fork() == 0) {
        close(connection[0]);
        broker(connection[1]);
    }
    close(connection[1]);
    uid_t uid = (uid_t)atoi(argv[1]);
    must(setgroups(0, NULL) == 0 && setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0, "setresuid");
    prctl(PR_SET_DUMPABLE, 1);
    if (fork() == 0) {
        size_t length = 1;
        char byte;
        close(channel[0]);
        int listener = take(channel[1], &byte, &length);
        ioctl(listener, _IOW('!', 4, __u64), 1UL); /* SET_FLAGS, SYNC_WAKE_UP: Linux 6.6, newer than Debian 12's headers */
        must(write(channel[1], "1", 1) == 1, "write");
        close(channel[1]);
        supervise(listener, connection[0]);
    }
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_bind},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_USER_NOTIF},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    struct sock_fprog program = {4, code};
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    int listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    must(listener >= 0, "seccomp");
    give(channel[0], listener, "1", 1);
    char byte;
    must(read(channel[0], &byte, 1) == 1, "read");
    close(listener);
    close(connection[0]);
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    return 127;
}
