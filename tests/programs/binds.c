/* Binds 127.0.0.1:PORT by a way of asking that no C library takes: `binds WAY PORT`, exit status 0 or the errno.
 * Without any library, for 64 and for 32 bits of x86 and of Arm: tests/stage builds it.
 *   direct      bind(2) as this ABI has it
 *   socketcall  i386: socketcall(2), the arguments in memory
 *   x32         x86_64: with the number of the x32 ABI
 *   tagged      aarch64: the address of the address has a tag in its top byte, as of allocators that check memory
 *   vfork       a child that shares this process's memory, which waits for it */
#if defined __x86_64__
enum { SOCKET = 41, BIND = 49, EXIT = 60, WAIT4 = 61, VFORK = 58, X32 = 0x40000000 };
static long call(long number, long a, long b, long c)
{
    long result;
    register long d __asm__("r10") = 0;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(d) : "rcx", "r11", "memory");
    return result;
}
#elif defined __i386__
enum { SOCKET = 359, BIND = 361, EXIT = 1, WAIT4 = 114, VFORK = 190, SOCKETCALL = 102 };
static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(0) : "memory");
    return result;
}
#elif defined __aarch64__
enum { SOCKET = 198, BIND = 200, EXIT = 93, WAIT4 = 260, CLONE = 220, PRCTL = 167 };
static inline __attribute__((always_inline)) long call(long number, long a, long b, long c)
{
    register long n __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = 0, x4 __asm__("x4") = 0;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(n), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}
#elif defined __arm__
enum { SOCKET = 281, BIND = 282, EXIT = 1, WAIT4 = 114, VFORK = 190 };
static inline __attribute__((always_inline)) long call(long number, long a, long b, long c)
{
    register long n __asm__("r7") = number, r0 __asm__("r0") = a, r1 __asm__("r1") = b, r2 __asm__("r2") = c;
    register long r3 __asm__("r3") = 0;
    __asm__ volatile("svc 0" : "+r"(r0) : "r"(n), "r"(r1), "r"(r2), "r"(r3) : "memory");
    return r0;
}
#endif

struct address {
    unsigned short family;
    unsigned char port[2], ip[4], zero[8];
};

static int equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* In one function that never returns, as vfork(2) wants it: the child uses this very stack, so that nothing may return
 * between the two either. */
__attribute__((noreturn)) static void vforked(long fd, struct address *address)
{
    int status = 0;
    long child;
#if defined __x86_64__
    __asm__ volatile("syscall" : "=a"(child) : "a"((long)VFORK) : "rcx", "r11", "memory");
#elif defined __i386__
    __asm__ volatile("int $0x80" : "=a"(child) : "a"((long)VFORK) : "memory");
#elif defined __aarch64__
    child = call(CLONE, 0x4111, 0, 0); /* CLONE_VFORK | CLONE_VM | SIGCHLD, on this stack */
#else
    child = call(VFORK, 0, 0, 0);
#endif
    if (child == 0)
        call(EXIT, -call(BIND, fd, (long)address, sizeof *address), 0, 0);
    call(WAIT4, child, (long)&status, 0);
    for (;;)
        call(EXIT, status >> 8 & 255, 0, 0);
}

__attribute__((noreturn, used)) void begin(long *stack)
{
    const char *way = (const char *)stack[2];
    const char *digits = stack[0] > 2 ? (const char *)stack[3] : "0";
    unsigned port = 0;
    while (*digits)
        port = port * 10 + (unsigned)(*digits++ - '0');
    struct address address = {2, {(unsigned char)(port >> 8), (unsigned char)port}, {127, 0, 0, 1}, {0}};
    long fd = call(SOCKET, 2, 1, 0), result = -38;
    if (equal(way, "direct"))
        result = call(BIND, fd, (long)&address, sizeof address);
    else if (equal(way, "vfork"))
        vforked(fd, &address);
#if defined __x86_64__
    else if (equal(way, "x32"))
        result = call(X32 | BIND, fd, (long)&address, sizeof address);
#elif defined __i386__
    else if (equal(way, "socketcall")) {
        long words[3] = {fd, (long)&address, sizeof address};
        result = call(SOCKETCALL, 2, (long)words, 0);
    }
#elif defined __aarch64__
    else if (equal(way, "tagged")) {
        call(PRCTL, 55, 1, 0); /* PR_SET_TAGGED_ADDR_CTRL, PR_TAGGED_ADDR_ENABLE */
        result = call(BIND, fd, (long)&address | 0x5AL << 56, sizeof address);
    }
#endif
    for (;;)
        call(EXIT, -result, 0, 0);
}

#if defined __x86_64__
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin");
#elif defined __i386__
__asm__(".globl _start\n_start: mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call begin");
#elif defined __aarch64__
__asm__(".globl _start\n_start: mov x0, sp\n b begin");
#else
__asm__(".globl _start\n.type _start, %function\n_start: mov r0, sp\n b begin");
#endif
