//! Descriptors that this process inherited across execve(2): a number becomes an owned descriptor, once.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::vec::Vec;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// All numbers that were ever taken: two owners would close each other's descriptor.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Why a number cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// It is not open, or it was not inherited
    Missing(RawFd),
    /// It was already taken
    Taken(RawFd),
}

/// Takes all of `numbers` or none, and makes them close-on-exec.
pub fn take(numbers: &[RawFd]) -> Result<Vec<OwnedFd>, Unavailable> {
    // Locked until the end: only one thread checks and takes a number.
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut asked = BTreeSet::new();
    for &number in numbers {
        if taken.contains(&number) || !asked.insert(number) {
            return Err(Unavailable::Taken(number));
        }
        if !is_inherited(number) {
            return Err(Unavailable::Missing(number));
        }
    }
    taken.append(&mut asked);
    Ok(numbers.iter().map(|&number| own(number)).collect())
}

/// Whether `number` was inherited across execve(2): it is open and not close-on-exec. So this process has not taken it yet.
///
/// Descriptors that this process opened are close-on-exec (std and careful libraries see to that). So a number that was
/// announced but closed, and that this process reused since, is not mistaken for an inherited one.
pub fn is_inherited(number: RawFd) -> bool {
    if number < 0 {
        return false;
    }
    // SAFETY: borrowed for one fcntl(F_GETFD), which reads a flag. A number that is not open returns EBADF. The value
    // -1, which a BorrowedFd must not have, is excluded above.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_getfd(descriptor).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
}

/// `number` as an owned descriptor. Only [`take`] calls this, once for each number in the life of the process.
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the number is open (checked just before). It was passed to this process explicitly (by LISTEN_FDS, or by
    // a variable that the server names), and it is taken once. It is not close-on-exec, so no value that this process
    // made owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // This cannot fail for an open number. If it did, the descriptor would stay inheritable, as it was.
    let _ = fcntl_setfd(&descriptor, FdFlags::CLOEXEC);
    descriptor
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

    use rustix::io::fcntl_dupfd_cloexec;

    use super::*;

    /// Puts `descriptor` at `number` as if it had been inherited: without an owner, and not close-on-exec.
    fn leave_at(number: RawFd, descriptor: impl AsFd) {
        let copy: OwnedFd = fcntl_dupfd_cloexec(descriptor, number).expect("a duplicate");
        assert_eq!(copy.as_raw_fd(), number, "each test uses numbers that no other test uses");
        fcntl_setfd(&copy, FdFlags::empty()).expect("open");
        let _ = copy.into_raw_fd();
    }

    #[test]
    fn inherited_descriptors_are_taken_all_or_none_and_once() {
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        leave_at(600, &null);
        leave_at(601, &null);
        assert_eq!(take(&[600, 602]).expect_err("602 is closed"), Unavailable::Missing(602));
        assert_eq!(take(&[600, 601, 600]).expect_err("600 is there twice"), Unavailable::Taken(600));
        assert!(is_inherited(600) && is_inherited(601), "none was taken");
        assert_eq!(take(&[601, 600]).expect("both").len(), 2);
        leave_at(600, &null);
        assert_eq!(take(&[600]).expect_err("though it is open again"), Unavailable::Taken(600));
        assert_eq!(take(&[-1]).expect_err("no number"), Unavailable::Missing(-1));
    }
}
