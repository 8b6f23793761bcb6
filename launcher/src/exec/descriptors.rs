//! The descriptors that the caller passed across execve(2). They are for the program; the launcher's own are
//! close-on-exec.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{major, minor};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

/// Closes the inherited descriptors above 2, in a process that runs beside the program.
pub(crate) fn close_inherited() {
    for number in inherited().into_iter().filter(|&number| number > 2) {
        let _ = nix::unistd::close(number);
    }
}

/// The inherited descriptors that are terminals, by device number: nothing is opened, and no name is trusted.
pub(crate) fn terminals() -> Vec<RawFd> {
    let drivers = Drivers::read();
    inherited().into_iter().filter(|&number| drivers.have(number)).collect()
}

/// An inherited io_uring instance, if any: it can keep the credentials of the process that made it
/// (io_uring_register(2)).
pub(crate) fn io_uring() -> Option<RawFd> {
    let is_ring =
        |number: &RawFd| fs::read_link(link(*number)).is_ok_and(|to| to.as_os_str() == "anon_inode:[io_uring]");
    inherited().into_iter().find(is_ring)
}

/// Puts `with` at `number`, to be inherited. Only while this process has a single thread: the number is free for a moment.
pub(crate) fn replace(number: RawFd, with: impl AsFd) -> Result<(), Errno> {
    let _ = nix::unistd::close(number);
    let copy = fcntl_dupfd_cloexec(with, number)?;
    if copy.as_raw_fd() != number {
        return Err(Errno::BADF);
    }
    fcntl_setfd(&copy, FdFlags::empty())?;
    let _inherited = copy.into_raw_fd();
    Ok(())
}

fn inherited() -> Vec<RawFd> {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    open.filter(|&number| is_inherited(number)).collect()
}

fn is_inherited(number: RawFd) -> bool {
    fs::read_to_string(format!("/proc/self/fdinfo/{number}")).is_ok_and(|info| {
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & 0o2_000_000 == 0)
    })
}

fn link(number: RawFd) -> String {
    format!("/proc/self/fd/{number}")
}

/// The device numbers of terminals, as /proc/tty/drivers lists them: a major number, the first and the last minor one.
struct Drivers(Vec<[u32; 3]>);

impl Drivers {
    fn read() -> Drivers {
        match fs::read_to_string("/proc/tty/drivers") {
            Ok(text) => Drivers(text.lines().filter_map(driver).collect()),
            // The file is hidden (subset=pid): assume consoles, serial lines, /dev/tty and both ends of
            // pseudo-terminals.
            Err(_) => Drivers([4, 5].into_iter().chain(128..=143).map(|major| [major, 0, u32::MAX]).collect()),
        }
    }

    fn have(&self, number: RawFd) -> bool {
        // This follows the link to the open file.
        let Ok(file) = fs::metadata(link(number)) else { return false };
        let (major, minor) = (major(file.rdev()), minor(file.rdev()));
        file.file_type().is_char_device()
            && self.0.iter().any(|&[driver, first, last]| major == driver && (first..=last).contains(&minor))
    }
}

/// A line like `serial /dev/ttyS 4 64-95 serial`, or with a single minor number.
fn driver(line: &str) -> Option<[u32; 3]> {
    let mut fields = line.split_ascii_whitespace().skip(2);
    let (major, minors) = (fields.next()?.parse().ok()?, fields.next()?);
    let (first, last) = minors.split_once('-').unwrap_or((minors, minors));
    Some([major, first.parse().ok()?, last.parse().ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tty_driver_has_one_device_or_a_range() {
        assert_eq!(driver("pty_slave            /dev/pts      136 0-1048575 pty:slave"), Some([136, 0, 1_048_575]));
        assert_eq!(driver("/dev/tty             /dev/tty        5       0 system:/dev/tty"), Some([5, 0, 0]));
        assert_eq!(driver("unknown              /dev/x"), None);
    }
}
