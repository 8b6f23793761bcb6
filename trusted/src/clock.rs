//! Time as a duration since the machine started, which nobody sets back.

use core::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// CLOCK_MONOTONIC: it counts no time that the machine is suspended.
#[must_use]
pub fn monotonic() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
    let nanoseconds = u64::try_from(tv_nsec).unwrap_or_default();
    Duration::from_secs(u64::try_from(tv_sec).unwrap_or_default()) + Duration::from_nanos(nanoseconds)
}
