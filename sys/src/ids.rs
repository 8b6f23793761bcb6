//! getresuid(2) and getresgid(2): real, effective and saved ids.

use rustix::io::Errno;

use crate::call::call;

#[cfg(not(any(target_arch = "arm", target_arch = "x86")))]
use linux_raw_sys::general::{__NR_getresgid as GETRESGID, __NR_getresuid as GETRESUID};
#[cfg(any(target_arch = "arm", target_arch = "x86"))]
use linux_raw_sys::general::{__NR_getresgid32 as GETRESGID, __NR_getresuid32 as GETRESUID};

/// The real, the effective and the saved uid.
pub fn getresuid() -> Result<[u32; 3], Errno> {
    get_three(GETRESUID)
}

/// The real, the effective and the saved gid.
pub fn getresgid() -> Result<[u32; 3], Errno> {
    get_three(GETRESGID)
}

fn get_three(number: u32) -> Result<[u32; 3], Errno> {
    let [mut real, mut effective, mut saved] = [0u32; 3];
    // SAFETY: both calls write one id of 32 bits to each of the three places, which live across the call.
    unsafe { call!(number, &raw mut real, &raw mut effective, &raw mut saved) }?;
    Ok([real, effective, saved])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_ids_are_those_that_proc_shows() {
        let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
        let ids = |label| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(label)).expect(label);
            line.split_whitespace().take(3).map(|id| id.parse().expect("a number")).collect()
        };
        assert_eq!(getresuid().expect("getresuid").to_vec(), ids("Uid:"));
        assert_eq!(getresgid().expect("getresgid").to_vec(), ids("Gid:"));
    }
}
