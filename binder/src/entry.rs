//! The program's first instructions, the C entry point, and the rest of what needs unsafe code in the helper: the arguments
//! and the environment as execve(2) left them, descriptors that the caller names by number.
//!
//! Runs with privilege until [`crate::main`]'s first step is done. Why not `fn main`: Rust's runtime sets SIGPIPE to
//! ignored first, and what the caller had can then not be told any more. Nothing here is changed that a program executed
//! later would notice.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};

use portgrant_sys::{Word, words};
use rustix::fd::{FromRawFd, OwnedFd, RawFd};

// Before the C library starts: each standard descriptor that is closed gets a folder that can be neither read nor written,
// close-on-exec. So no file and no socket lands there, the C library does not put its own files there (as it does in a
// setuid program, and crashes where it cannot), and the program that is executed finds closed what its caller had closed.
// Without a descriptor to be had: exit status 71. The registers that the C library's _start reads are left as they were.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl portgrant_start",
    "portgrant_start:",
    "mov r12, rdx",
    "xor ebx, ebx",
    "2: mov eax, {fcntl}",
    "mov edi, ebx",
    "mov esi, {getfd}",
    "syscall",
    "cmp rax, -{badf}",
    "jne 3f",
    "mov eax, {openat}",
    "mov edi, {cwd}",
    "lea rsi, [rip + 5f]",
    "mov edx, {folder}",
    "xor r10d, r10d",
    "syscall",
    "test rax, rax",
    "js 4f",
    "3: inc ebx",
    "cmp ebx, 3",
    "jb 2b",
    "mov rdx, r12",
    "jmp _start",
    "4: mov eax, {exit}",
    "mov edi, {failed}",
    "syscall",
    "5: .asciz \"/\"",
    fcntl = const libc::SYS_fcntl, getfd = const libc::F_GETFD, badf = const libc::EBADF,
    openat = const libc::SYS_openat, cwd = const libc::AT_FDCWD,
    folder = const libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC,
    exit = const libc::SYS_exit_group, failed = const portgrant_protocol::status::SYSTEM,
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".globl portgrant_start",
    "portgrant_start:",
    "mov x20, x0",
    "mov w19, #0",
    "2: mov x8, #{fcntl}",
    "mov w0, w19",
    "mov x1, #{getfd}",
    "svc #0",
    "cmn x0, #{badf}",
    "b.ne 3f",
    "mov x8, #{openat}",
    "mov x0, #{cwd}",
    "adr x1, 5f",
    "movz w2, #({folder} & 0xffff)",
    "movk w2, #({folder} >> 16), lsl #16",
    "mov x3, #0",
    "svc #0",
    "tbnz x0, #63, 4f",
    "3: add w19, w19, #1",
    "cmp w19, #3",
    "b.lo 2b",
    "mov x0, x20",
    "b _start",
    "4: mov x8, #{exit}",
    "mov x0, #{failed}",
    "svc #0",
    "5: .asciz \"/\"",
    ".balign 4",
    fcntl = const libc::SYS_fcntl, getfd = const libc::F_GETFD, badf = const libc::EBADF,
    openat = const libc::SYS_openat, cwd = const libc::AT_FDCWD,
    folder = const libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC,
    exit = const libc::SYS_exit_group, failed = const portgrant_protocol::status::SYSTEM,
);

/// What execve(2) handed over.
pub(crate) struct Start {
    /// argv
    pub(crate) arguments: Vec<&'static CStr>,
    /// envp, byte for byte
    pub(crate) environment: &'static [Word<'static>],
}

/// Where the helper starts, called by the C library.
// SAFETY: the one `main` of this program, with the signature that the C library calls.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn main(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    crate::run(uid.as_raw(), gid.as_raw(), || {
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        portgrant_protocol::listen::occupy_standard_descriptors();
        // SAFETY: the C library passes argv and envp as execve(2) laid them out: pointers to strings that live as long
        // as the process, ended by a null pointer. Nothing has written to them since.
        let (arguments, pointed) = unsafe { (words(argv), words(envp)) };
        let arguments = arguments.iter().take(usize::try_from(argc).unwrap_or(0));
        let arguments: Vec<&'static CStr> = arguments.map(|word| word.to_c_str()).collect();
        // SAFETY: as above.
        let environment = unsafe { original_environment(arguments.last().copied()) };
        Start { arguments, environment: environment.unwrap_or(pointed) }
    })
    .into()
}

/// The environment as the caller gave it to execve(2).
///
/// A static glibc unlinks TMPDIR, LD_LIBRARY_PATH and others from `envp` in a program with AT_SECURE (ld.so(8)), but
/// the program that is executed next runs without privilege and must have them. The kernel lays the strings out in
/// one piece: arguments, environment, the file's name (AT_EXECFN; see fs/exec.c), and the bytes are still there.
///
/// # Safety
/// `last` is the last of argv's strings, in the place where execve(2) put it.
unsafe fn original_environment(last: Option<&'static CStr>) -> Option<&'static [Word<'static>]> {
    let start = last?.to_bytes_with_nul().as_ptr_range().end;
    // SAFETY: getauxval(3) takes any number and touches nothing of ours.
    let end = unsafe { libc::getauxval(libc::AT_EXECFN) };
    let len = usize::try_from(end).ok()?.checked_sub(start.addr())?;
    // The kernel's bound for all strings together is a quarter of the stack limit, and at most 6 MiB.
    if len > 6 << 20 {
        return None;
    }
    // SAFETY: both ends lie in the one area of the strings, which stays mapped and unwritten while the process lives.
    let bytes = unsafe { std::slice::from_raw_parts(start, len) };
    let entries =
        bytes.split_inclusive(|&byte| byte == 0).map(|entry| CStr::from_bytes_with_nul(entry).ok().map(Word::from));
    entries.collect::<Option<Vec<_>>>().map(|entries| &*entries.leak())
}

/// The caller's descriptor `number`, which they name on the command line; `None` where it is not open.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD with any number only asks about it.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and it was open when this program started (nothing of ours is but the folders on closed
    // standard descriptors, whose owner is nobody); called once, for one number.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
