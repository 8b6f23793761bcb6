//! Clocks (clock_gettime(2)), by a system call. The helper reads them only a few times, so it does not use the vDSO.

use core::time::Duration;

use rustix::time::Timespec;

/// CLOCK_MONOTONIC: the time since the machine started, which cannot be set back. Time in which the machine is
/// suspended is not counted.
#[must_use]
pub fn monotonic() -> Duration {
    let Timespec { tv_sec, tv_nsec } = now(Clock::Monotonic);
    let nanoseconds = u64::try_from(tv_nsec).unwrap_or_default();
    Duration::from_secs(u64::try_from(tv_sec).unwrap_or_default()) + Duration::from_nanos(nanoseconds)
}

/// CLOCK_REALTIME.
#[must_use]
pub fn realtime() -> Timespec {
    now(Clock::Realtime)
}

/// Their numbers (time.h).
#[derive(Clone, Copy)]
enum Clock {
    Realtime = 0,
    Monotonic = 1,
}

#[cfg(target_pointer_width = "64")]
fn now(clock: Clock) -> Timespec {
    let mut time = Timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a struct timespec of two words of 64 bits, which is what a Timespec is here. It knows both
    // clocks, so it does not fail.
    let _ = unsafe { crate::call::call!(linux_raw_sys::general::__NR_clock_gettime, clock as u32, &raw mut time) };
    time
}

#[cfg(not(target_pointer_width = "64"))]
fn now(clock: Clock) -> Timespec {
    rustix::time::clock_gettime(match clock {
        Clock::Realtime => rustix::time::ClockId::Realtime,
        Clock::Monotonic => rustix::time::ClockId::Monotonic,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_clocks_are_those_of_std() {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let before = seconds(SystemTime::now());
        let found = u64::try_from(realtime().tv_sec).expect("after 1970");
        assert!((before..=seconds(SystemTime::now())).contains(&found));
        let first = monotonic();
        std::thread::sleep(Duration::from_millis(2));
        assert!(monotonic() - first >= Duration::from_millis(2));
    }
}
