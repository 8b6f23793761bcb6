//! Reads the grants and writes the audit lines: the same lines as the helper's, with the verb `kernel`.
//!
//! A record stays in the kernel until the log has accepted its line. If the buffer was full, only the number of lost
//! grants is reported.

use portgrant_protocol::{Port, unprivileged_ports};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::thread::sleep;
use std::time::Duration;

use crate::projection::{Bind, Transport};
use portgrant_policy::audit::{Line, Outcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::Error;
use crate::description::Description;
use crate::entry::Verdict;
use crate::layout::record;
use crate::loaded::Loaded;

/// LOG_AUTHPRIV with LOG_NOTICE (syslog(3)).
const LOST: u32 = (10 << 3) | 5;
/// How often it checks whether the policy is still loaded, and whether grants were lost; and after how many grants in a flood.
const PACE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
const TURN: usize = 1000;

/// A grant, as the program in the kernel records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The request and its caller
    pub bind: Bind,
    /// The process
    pub pid: u32,
    /// The generation that decided
    pub generation: u32,
    /// The rule that permits
    pub verdict: Verdict,
}

/// Writes a line for each grant, until the policy is unloaded.
pub fn follow(loaded: &Loaded) -> Result<(), Error> {
    let _reader = loaded.become_reader()?;
    let mut grants = loaded.grants()?;
    let mut log = Log::default();
    let mut generations = HashMap::new();
    let mut reported = loaded.reported()?;
    loop {
        let gone = loaded.is_gone();
        let mut all_read = false;
        for _ in 0..TURN {
            let Some(bytes) = grants.peek() else {
                all_read = true;
                break;
            };
            if let Some(grant) = Grant::parse(&bytes).filter(needed_privilege) {
                log.write(&grant.line(generation(loaded, &mut generations, grant.generation)?));
            }
            grants.advance();
        }
        let unlogged = loaded.counts()?.unlogged;
        if unlogged > reported {
            let pid = std::process::id();
            log.write(&format!("<{LOST}>portgrant-kernel[{pid}]: lost grants={} verb=kernel", unlogged - reported));
            reported = unlogged;
            loaded.set_reported(reported)?;
        }
        if !all_read {
            continue;
        }
        if gone {
            return Ok(());
        }
        match poll(&mut [PollFd::from_borrowed_fd(grants.as_fd(), PollFlags::IN)], Some(&PACE)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::Call { call: "poll", errno }),
        }
    }
}

/// The description of a generation, if it still exists. One generation at a time is enough: they come in order.
fn generation<'a>(
    loaded: &Loaded,
    known: &'a mut HashMap<u32, Option<Description>>,
    generation: u32,
) -> Result<Option<&'a Description>, Error> {
    if !known.contains_key(&generation) {
        known.clear();
        known.insert(generation, loaded.description_of(generation)?);
    }
    Ok(known.get(&generation).and_then(Option::as_ref))
}

/// Whether the kernel requires privilege for the port in this network; other ports need no grant.
fn needed_privilege(grant: &Grant) -> bool {
    let first_free = unprivileged_ports::read_start().unwrap_or(u32::MAX);
    u32::from(grant.bind.port.get()) < first_free
}

impl Grant {
    /// Reads a record; `None` if the bytes are not a record.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Grant> {
        fn at<const N: usize>(bytes: &[u8], offset: i16) -> Option<[u8; N]> {
            bytes.get(usize::try_from(offset).ok()?..)?.first_chunk().copied()
        }
        let word = |offset| at(bytes, offset).map(u32::from_ne_bytes);
        let transport = match at::<1>(bytes, record::PROTOCOL)? {
            [6] => Transport::Tcp,
            [17] => Transport::Udp,
            _ => return None,
        };
        let bind = Bind {
            uid: word(record::UID)?,
            gid: word(record::GID)?,
            transport,
            address: IpAddr::from(Ipv6Addr::from(at::<16>(bytes, record::ADDRESS)?)).to_canonical(),
            port: Port::new(u16::from_ne_bytes(at(bytes, record::PORT)?))?,
        };
        Some(Grant {
            bind,
            pid: word(record::PID)?,
            generation: word(record::GENERATION)?,
            verdict: Verdict(i64::from_ne_bytes(at(bytes, record::VERDICT)?)),
        })
    }

    fn line(&self, description: Option<&Description>) -> String {
        let place = self.verdict.permits();
        let file = place.and_then(|place| description?.files.get(place.file));
        let rule = match (place, file) {
            (Some(place), Some(file)) => format!("{file}:{}", place.line),
            // Granted at least two reloads ago, while nobody read.
            (Some(place), None) => format!("generation-{}:file-{}:{}", self.generation, place.file + 1, place.line),
            (None, _) => "none".to_owned(),
        };
        let line = Line {
            outcome: Outcome::Grant,
            uid: self.bind.uid,
            gid: self.bind.gid,
            verb: "kernel",
            endpoint: self.bind.endpoint().to_string(),
            rule: Some(rule),
            // The record has only the pid.
            program: None,
        };
        line.as_of("portgrant-kernel", self.pid)
    }
}

/// /dev/log, opened again if the log daemon was restarted.
#[derive(Default)]
struct Log(Option<UnixDatagram>);

impl Log {
    /// Sends `line`, and waits until the log accepts it. No bind waits for this; the kernel keeps later records.
    fn write(&mut self, line: &str) {
        loop {
            if self.0.is_none() {
                self.0 = UnixDatagram::unbound().and_then(|log| log.connect("/dev/log").map(|()| log)).ok();
            }
            match self.0.as_ref().map(|log| log.send(line.as_bytes())) {
                Some(Ok(_)) => return,
                Some(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Some(Err(_)) | None => {
                    self.0 = None;
                    sleep(Duration::from_millis(200));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_becomes_the_helpers_line() {
        let mut bytes = vec![0; record::SIZE.cast_unsigned().into()];
        let mut put = |offset: i16, field: &[u8]| {
            let offset = usize::try_from(offset).expect("an offset");
            bytes[offset..offset + field.len()].copy_from_slice(field);
        };
        put(record::VERDICT, &(1i64 << 32 | 7).to_ne_bytes());
        put(record::UID, &1000u32.to_ne_bytes());
        put(record::GID, &100u32.to_ne_bytes());
        put(record::PID, &4321u32.to_ne_bytes());
        put(record::GENERATION, &3u32.to_ne_bytes());
        put(record::PORT, &80u16.to_ne_bytes());
        put(record::PROTOCOL, &[6]);
        put(record::ADDRESS, &"::ffff:127.0.0.1".parse::<Ipv6Addr>().expect("an address").octets());
        let grant = Grant::parse(&bytes).expect("a record");
        let expected = "<86>portgrant-kernel[4321]: grant uid=1000 gid=100 verb=kernel endpoint=127.0.0.1:80/tcp \
            rule=generation-3:file-2:7";
        assert_eq!(grant.line(None), expected);
        assert_eq!(Grant::parse(&bytes[..40]), None);
    }
}
