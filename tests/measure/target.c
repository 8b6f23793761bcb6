/* The smallest program that proves it was handed a socket: exit status 0 if descriptor 3 is a stream socket that
 * listens on port 80; built with -DALONE, if there is none. No C library, so that it adds little to what is measured.
 * x86-64 only. */
#include <linux/in6.h>
#include <sys/syscall.h>

static long call(long number, long a, long b, long c, long d, long e) {
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

/* Entered by the kernel, so the stack is aligned otherwise than at a call. */
__attribute__((force_align_arg_pointer)) void _start(void) {
    enum { SOL_SOCKET_ = 1, SO_ACCEPTCONN_ = 30, FD = 3 };
    struct sockaddr_in6 name = { 0 };
    int listens = 0, len = sizeof listens, name_len = sizeof name;
    call(SYS_getsockopt, FD, SOL_SOCKET_, SO_ACCEPTCONN_, (long)&listens, (long)&len);
    call(SYS_getsockname, FD, (long)&name, (long)&name_len, 0, 0);
#ifdef ALONE
    listens = !listens;
    name.sin6_port = 80 << 8;
#endif
    for (;;)
        call(SYS_exit_group, !listens || name.sin6_port != 80 << 8, 0, 0, 0, 0);
}
