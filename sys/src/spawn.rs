//! A child process that executes a file at once (vfork(2), execve(2)).

use core::ffi::CStr;

use linux_raw_sys::general::__NR_execve;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::execute::list;
use crate::strings::Word;

/// The status of a child that could not execute its file, as of a shell.
const NOT_EXECUTED: u8 = 127;

/// Starts the file at `path` as a child, which inherits everything. If the file cannot be executed, the child ends with
/// status 127.
///
/// For programs without signal handlers: one that ran in the child would write to this process's memory.
///
/// # Errors
/// If there can be no further process.
pub fn spawn(path: &CStr, arguments: &[Word<'_>], environment: &[Word<'_>]) -> Result<Pid, Errno> {
    let (arguments, environment) = (list(arguments), list(environment));
    // SAFETY: a string and two lists of strings, each list ended by a null pointer; all of it lives across the call.
    let pid = unsafe { child(path.as_ptr().cast(), arguments.as_ptr(), environment.as_ptr()) }?;
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::NOSYS)
}

/// The child shares the parent's memory and stack until execve(2), while the parent waits. So the child only uses
/// registers.
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
unsafe fn child(path: *const u8, arguments: *const *const u8, environment: *const *const u8) -> Result<usize, Errno> {
    use linux_raw_sys::general::{__NR_clone, __NR_exit};
    let pid: usize;
    // SAFETY: the kernel's calling convention (syscall(2)). Only the parent leaves this block, and the child writes nothing
    // to the memory that they share; execve(2) only reads what lives by the caller's promise.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov eax, {execve}",
            "mov rdi, r12",
            "mov rsi, r13",
            "mov rdx, r14",
            "syscall",
            "mov eax, {exit}",
            "mov edi, {status}",
            "syscall",
            "ud2",
            "2:",
            execve = const __NR_execve,
            exit = const __NR_exit,
            status = const NOT_EXECUTED,
            inlateout("rax") __NR_clone as usize => pid,
            in("rdi") FLAGS, in("rsi") 0usize, in("rdx") 0usize, in("r10") 0usize, in("r8") 0usize,
            in("r12") path, in("r13") arguments, in("r14") environment,
            lateout("rcx") _, lateout("r11") _, options(nostack),
        );
    }
    crate::call::outcome(pid)
}

/// As on x86-64.
#[cfg(target_arch = "aarch64")]
unsafe fn child(path: *const u8, arguments: *const *const u8, environment: *const *const u8) -> Result<usize, Errno> {
    use linux_raw_sys::general::{__NR_clone, __NR_exit};
    let pid: usize;
    // SAFETY: as on x86-64.
    unsafe {
        core::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x8, {execve}",
            "mov x0, x9",
            "mov x1, x10",
            "mov x2, x11",
            "svc 0",
            "mov x8, {exit}",
            "mov x0, {status}",
            "svc 0",
            "brk #1",
            "2:",
            execve = const __NR_execve,
            exit = const __NR_exit,
            status = const NOT_EXECUTED,
            inlateout("x0") FLAGS => pid,
            in("x1") 0usize, in("x2") 0usize, in("x3") 0usize, in("x4") 0usize, in("x8") __NR_clone as usize,
            in("x9") path, in("x10") arguments, in("x11") environment, options(nostack),
        );
    }
    crate::call::outcome(pid)
}

#[cfg(any(all(target_arch = "x86_64", target_pointer_width = "64"), target_arch = "aarch64"))]
const FLAGS: usize = {
    use linux_raw_sys::general::{CLONE_VFORK, CLONE_VM, SIGCHLD};
    (CLONE_VM | CLONE_VFORK | SIGCHLD) as usize
};

/// Elsewhere the child is a copy.
#[cfg(not(any(all(target_arch = "x86_64", target_pointer_width = "64"), target_arch = "aarch64")))]
unsafe fn child(path: *const u8, arguments: *const *const u8, environment: *const *const u8) -> Result<usize, Errno> {
    // SAFETY: the child only executes and ends, so no lock of another thread matters.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: by this function's contract.
        let _ = unsafe { crate::call::call!(__NR_execve, path, arguments, environment) };
        crate::exit(NOT_EXECUTED);
    }
    usize::try_from(pid).map_err(|_| Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use rustix::process::{WaitOptions, waitpid};

    use super::*;

    fn status(path: &CStr, arguments: &[&CStr]) -> Option<i32> {
        let arguments: Vec<Word<'_>> = arguments.iter().map(|word| Word::from(*word)).collect();
        let pid = spawn(path, &arguments, &[c"ONE=1".into()]).expect("a child");
        waitpid(Some(pid), WaitOptions::empty()).expect("waited for").and_then(|(_, status)| status.exit_status())
    }

    #[test]
    fn a_child_executes_its_file_with_these_words_and_variables() {
        assert_eq!(status(c"/bin/sh", &[c"sh", c"-c", c"test \"$1$ONE\" = x1 && exit 7", c"sh", c"x"]), Some(7));
        assert_eq!(status(c"/nonexistent/program", &[c"x"]), Some(127));
    }
}
