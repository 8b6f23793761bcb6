//! A timer of the kernel's that ends this process (timer_create(2)).

use core::ffi::c_long;
use core::time::Duration;

use linux_raw_sys::general::{
    __NR_timer_create, __NR_timer_delete, __NR_timer_settime, CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGKILL,
};
use rustix::io::Errno;

use crate::call::{NULL, call};

/// Sends SIGKILL to this process after its time, unless it is dropped before.
#[derive(Debug)]
pub struct KillTimer(i32);

/// struct sigevent (sigevent(3type)), of which a signal needs these. The kernel reads 64 bytes.
#[repr(C)]
struct Event {
    value: *const u8,
    signal: i32,
    notify: i32,
    rest: [u8; 56],
}

/// struct itimerspec with the kernel's `long` times.
#[repr(C)]
struct Times {
    interval: [c_long; 2],
    value: [c_long; 2],
}

impl KillTimer {
    /// Starts now. Time in which the machine is suspended is not counted.
    ///
    /// # Errors
    /// Those of timer_create(2): the limit of pending signals, say.
    #[allow(clippy::unnecessary_fallible_conversions, reason = "a long has 32 bits on some processors")]
    pub fn after(time: Duration) -> Result<KillTimer, Errno> {
        let event =
            Event { value: NULL, signal: SIGKILL.cast_signed(), notify: SIGEV_SIGNAL.cast_signed(), rest: [0; 56] };
        let mut id = 0i32;
        // SAFETY: the kernel reads 64 bytes of `event`, which are there, and writes one timer_t, an int to the kernel.
        unsafe { call!(__NR_timer_create, CLOCK_MONOTONIC, &raw const event, &raw mut id) }?;
        let timer = KillTimer(id);
        let seconds = c_long::try_from(time.as_secs()).unwrap_or(c_long::MAX);
        let nanoseconds = c_long::try_from(time.subsec_nanos()).unwrap_or(0);
        let times = Times { interval: [0, 0], value: [seconds, nanoseconds] };
        // SAFETY: the kernel reads `times`, which lives across the call, and returns no old value through a null pointer.
        unsafe { call!(__NR_timer_settime, timer.0, 0u32, &raw const times, NULL) }?;
        Ok(timer)
    }
}

impl Drop for KillTimer {
    fn drop(&mut self) {
        // SAFETY: timer_delete(2) takes a number alone.
        let _ = unsafe { call!(__NR_timer_delete, self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_timer_does_not_fire() {
        let timer = KillTimer::after(Duration::from_millis(20)).expect("a timer");
        drop(timer);
        std::thread::sleep(Duration::from_millis(60));
    }

    #[test]
    fn a_timer_ends_the_process_even_if_it_only_waits() {
        // The test starts itself; the second process has a timer of a moment and waits for an hour.
        if std::env::var_os("PORTGRANT_SYS_TIMER").is_some() {
            let _timer = KillTimer::after(Duration::from_millis(1)).expect("a timer");
            std::thread::sleep(Duration::from_secs(3600));
        }
        let this = std::env::current_exe().expect("its own file");
        let mut child = std::process::Command::new(this);
        child.args(["--exact", "timer::tests::a_timer_ends_the_process_even_if_it_only_waits"]);
        let status =
            child.env("PORTGRANT_SYS_TIMER", "1").stdout(std::process::Stdio::null()).status().expect("started");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }
}
