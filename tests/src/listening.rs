//! Which sockets listen, and whose they are: what ss(8) says.

use crate::world::World;

/// A stream socket that listens, or a datagram socket that is bound. They sort by protocol, port and address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listening {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The port.
    pub port: u16,
    /// The address as ss writes it: `0.0.0.0`, `[::]`, `*` for both families, `127.0.0.1%lo` when bound to a device.
    pub address: String,
    /// The user whose socket it is.
    pub uid: u32,
    /// The processes that hold it.
    pub holders: Vec<u32>,
}

impl Listening {
    /// Protocol, address and port in one word: `tcp 0.0.0.0:119`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{} {}:{}", self.protocol, self.address, self.port)
    }
}

pub(crate) fn all(world: &World) -> Vec<Listening> {
    let outcome = world.as_root().run(["ss", "-Hltunpe"]);
    outcome.succeeds();
    let mut all: Vec<Listening> = outcome.stdout.lines().map(entry).collect();
    all.sort();
    all
}

/// Reads `tcp LISTEN 0 128 0.0.0.0:119 0.0.0.0:* users:(("innd",pid=12,fd=3)) uid:9 ino:1 sk:1 <->`; no uid is root's.
fn entry(line: &str) -> Listening {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = words[4].rsplit_once(':').unwrap_or_else(|| panic!("ss wrote {line}"));
    let uid = words.iter().find_map(|word| word.strip_prefix("uid:"));
    let holders = line.split("pid=").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
    Listening {
        protocol: words[0].to_owned(),
        address: address.to_owned(),
        port: port.parse().unwrap_or_else(|_| panic!("ss wrote {line}")),
        uid: uid.map_or(0, |uid| uid.parse().expect("a uid")),
        holders: holders.collect(),
    }
}
