//! services(5): the names of ports, as `/etc/services` lists them. This module only parses; the caller reads and judges
//! the file.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;

use crate::port::{Port, Protocol};

/// The file with the names of ports.
pub const PATH: &str = "/etc/services";

/// One name of a line: where it begins and ends in the text.
#[derive(Debug, Clone, Copy)]
struct Entry {
    start: usize,
    end: usize,
    protocol: Protocol,
    port: Port,
}

/// The entries of a services(5) file, ordered by name.
#[derive(Debug, Default, Clone)]
pub struct Services {
    text: Box<[u8]>,
    entries: Vec<Entry>,
}

impl Services {
    /// The entries of `text`: `NAME PORT/PROTOCOL [ALIAS…]`; `#` begins a comment. Other lines, and protocols that
    /// portgrant does not support, are skipped.
    pub fn parse(text: &[u8]) -> Services {
        // Of two entries for one name, the first in the file wins, as in getservbyname(3). (A heap needs a tenth of the
        // code of a sort.)
        let mut named = BinaryHeap::new();
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
            let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let (Some(name), Some((port, protocol))) = (words.next(), words.next().and_then(port_and_protocol)) else {
                continue;
            };
            for name in core::iter::once(name).chain(words) {
                named.push((name, name.as_ptr().addr() - text.as_ptr().addr(), protocol, port));
            }
        }
        let entry = |(name, start, protocol, port): (&[u8], usize, _, _)| {
            let end = start + name.len();
            Entry { start, end, protocol, port }
        };
        Services { text: text.into(), entries: named.into_sorted_vec().into_iter().map(entry).collect() }
    }

    /// The port of service `name` for `protocol` (for mptcp that of tcp).
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<Port> {
        self.named(name).find(|entry| entry.protocol == protocol.transport()).map(|entry| entry.port)
    }

    /// The name of `port` for `protocol`, not an alias: the first in the file, as in getservbyport(3). `None` if it is
    /// not UTF-8.
    pub fn name(&self, port: Port, protocol: Protocol) -> Option<&str> {
        let here = |entry: &&Entry| entry.port == port && entry.protocol == protocol.transport();
        let first = self.entries.iter().filter(here).min_by_key(|entry| entry.start)?;
        core::str::from_utf8(self.name_of(first)).ok()
    }

    /// Every protocol and port that `name` stands for.
    pub fn ports(&self, name: &str) -> impl Iterator<Item = (Protocol, Port)> {
        self.named(name).map(|entry| (entry.protocol, entry.port))
    }

    /// Every name and alias, in order; one that is not UTF-8 is skipped.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| core::str::from_utf8(self.name_of(entry)).ok())
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Entry> {
        let name = name.as_bytes();
        let start = self.entries.partition_point(|entry| self.name_of(entry) < name);
        let len = self.entries.get(start..).unwrap_or_default().partition_point(|entry| self.name_of(entry) == name);
        self.entries.iter().skip(start).take(len)
    }

    fn name_of(&self, entry: &Entry) -> &[u8] {
        self.text.get(entry.start..entry.end).unwrap_or_default()
    }
}

fn port_and_protocol(word: &[u8]) -> Option<(Port, Protocol)> {
    let (port, protocol) = core::str::from_utf8(word).ok()?.split_once('/')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    let port = Port::new(port.parse().ok()?)?;
    Some((port, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u16) -> Port {
        Port::new(number).expect("a port")
    }

    const FILE: &[u8] = b"# names\nnntp\t119/tcp\treadnews untp\t# USENET\ntftp 69/udp\n\
        domain 53/tcp\ndomain 53/udp\nddp 1/ddp\nbroken\nzero 0/tcp\nnntp 999/tcp\nlast 7/sctp";

    #[test]
    fn names_and_aliases_are_found_by_protocol() {
        let services = Services::parse(FILE);
        assert_eq!(services.port("nntp", Protocol::Tcp), Port::new(119));
        assert_eq!(services.port("untp", Protocol::Mptcp), Port::new(119));
        assert_eq!(services.port("nntp", Protocol::Udp), None);
        assert_eq!(services.port("tftp", Protocol::Udp), Port::new(69));
        assert_eq!(services.port("last", Protocol::Sctp), Port::new(7));
        for absent in ["ddp", "broken", "zero", "", "#", "NNTP", "nnt", "nntpx"] {
            assert_eq!(services.ports(absent).count(), 0, "{absent:?}");
        }
        assert_eq!(services.names().next(), Some("domain"));
        let domain: Vec<_> = services.ports("domain").map(|(protocol, port)| (protocol, port.get())).collect();
        assert_eq!(domain, [(Protocol::Tcp, 53), (Protocol::Udp, 53)]);
    }

    #[test]
    fn a_port_has_the_files_first_name_and_no_alias() {
        let services = Services::parse(b"webcache 8080/tcp http-alt\nalt 8080/tcp\na\xff 9/tcp\ndomain 53/udp");
        assert_eq!(services.name(port(8080), Protocol::Tcp), Some("webcache"));
        assert_eq!(services.name(port(8080), Protocol::Mptcp), Some("webcache"));
        assert_eq!(services.name(port(53), Protocol::Udp), Some("domain"));
        for (number, protocol) in [(53, Protocol::Tcp), (9, Protocol::Tcp), (80, Protocol::Tcp)] {
            assert_eq!(services.name(port(number), protocol), None, "{number}");
        }
    }
}
