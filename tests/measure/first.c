/* The smallest program that tells when it began: its first instructions write the time to standard output, as launch.c
 * reads it. No C library, so that nothing runs before. x86-64 only. */
#include <sys/syscall.h>
#include <time.h>

static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

/* Entered by the kernel, so the stack is aligned otherwise than at a call. */
__attribute__((force_align_arg_pointer)) void _start(void) {
    struct timespec t;
    call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&t, 0);
    long long ns = t.tv_sec * 1000000000LL + t.tv_nsec;
    long written = call(SYS_write, 1, (long)&ns, sizeof ns);
    for (;;)
        call(SYS_exit_group, written != sizeof ns, 0, 0);
}
