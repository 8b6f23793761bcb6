//! The system call itself: an instruction on x86-64 and aarch64, where the helper links no C library; syscall(3) elsewhere.

use core::ptr;

use rustix::io::Errno;

/// An argument as the kernel takes it: a number, or an address.
pub(crate) trait Argument {
    /// The register's value.
    fn word(self) -> usize;
}

impl Argument for usize {
    fn word(self) -> usize {
        self
    }
}

impl Argument for u32 {
    fn word(self) -> usize {
        self as usize
    }
}

impl Argument for i32 {
    #[allow(clippy::cast_sign_loss, reason = "the kernel reads the low 32 bits, sign included")]
    fn word(self) -> usize {
        self as isize as usize
    }
}

impl<T> Argument for *const T {
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

impl<T> Argument for *mut T {
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

/// A system call with up to six arguments.
///
/// # Safety
/// What the kernel reads and writes by this call must be there for it, and nothing that Rust relies on may be changed
/// by it.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        $crate::call::system_call($number, &[$($crate::call::Argument::word($argument)),*])
    };
}
pub(crate) use call;

/// See [`call!`]. At most six arguments count.
#[inline]
pub(crate) unsafe fn system_call(number: u32, arguments: &[usize]) -> Result<usize, Errno> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    let six = [argument(0), argument(1), argument(2), argument(3), argument(4), argument(5)];
    // SAFETY: by this function's contract.
    unsafe { raw(number, six) }
}

#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
#[inline]
unsafe fn raw(number: u32, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize, Errno> {
    let result: usize;
    // SAFETY: the kernel's calling convention (syscall(2)): it changes rax, rcx and r11 alone, and memory by the contract
    // of the call, which is the caller's to keep.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") number as usize => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    outcome(result)
}

#[cfg(target_arch = "aarch64")]
#[inline]
unsafe fn raw(number: u32, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize, Errno> {
    let result: usize;
    // SAFETY: the kernel's calling convention (syscall(2)): it changes x0 alone, and memory by the contract of the call,
    // which is the caller's to keep.
    unsafe {
        core::arch::asm!("svc 0", in("x8") number as usize, inlateout("x0") a => result, in("x1") b, in("x2") c,
            in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    outcome(result)
}

/// -4095 to -1 is an error number (syscall(2)).
#[cfg(any(all(target_arch = "x86_64", target_pointer_width = "64"), target_arch = "aarch64"))]
pub(crate) fn outcome(result: usize) -> Result<usize, Errno> {
    match i32::try_from(result.wrapping_neg()) {
        Ok(number @ 1..=4095) => Err(Errno::from_raw_os_error(number)),
        _ => Ok(result),
    }
}

#[cfg(not(any(all(target_arch = "x86_64", target_pointer_width = "64"), target_arch = "aarch64")))]
unsafe fn raw(number: u32, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: syscall(3) hands the words on; by this function's contract.
    let result = unsafe { libc::syscall(number.cast_signed().into(), a, b, c, d, e, f) };
    // SAFETY: the C library's own, of this thread.
    let errno = || Errno::from_raw_os_error(unsafe { *libc::__errno_location() });
    usize::try_from(result).map_err(|_| errno())
}

/// No address.
pub(crate) const NULL: *const u8 = ptr::null();

#[cfg(test)]
mod tests {
    use linux_raw_sys::general::{__NR_close, __NR_getpid};

    use super::*;

    #[test]
    fn results_and_errors_of_system_calls_are_distinguished() {
        // SAFETY: getpid(2) takes nothing, and no descriptor has the number -1.
        let (pid, closed) = unsafe { (call!(__NR_getpid), call!(__NR_close, -1)) };
        assert_eq!(pid, Ok(std::process::id() as usize));
        assert_eq!(closed, Err(Errno::BADF));
    }
}
