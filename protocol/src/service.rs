//! services(5): names for ports, as `/etc/services` lists them. Parses bytes; who reads the file judges it.

use crate::endpoint::Protocol;

/// Where the system keeps the names of ports.
pub const PATH: &str = "/etc/services";

/// The entries of a services(5) file, ordered by name.
#[derive(Debug, Default, Clone)]
pub struct Services {
    entries: Vec<(Box<[u8]>, Protocol, u16)>,
}

impl Services {
    /// The entries of `text`: `NAME PORT/PROTOCOL [ALIAS…]`, a `#` beginning a comment. Lines of another form, and
    /// protocols that portgrant does not speak, name nothing here.
    pub fn parse(text: &[u8]) -> Services {
        let mut entries: Vec<(Box<[u8]>, Protocol, u16)> = Vec::new();
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
            let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let (Some(name), Some(port)) = (words.next(), words.next().and_then(port_and_protocol)) else { continue };
            for name in std::iter::once(name).chain(words) {
                entries.push((Box::from(name), port.1, port.0));
            }
        }
        // Stable: of two entries for one name the file's first wins, as in getservbyname(3).
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Services { entries }
    }

    /// The port of service `name` for `protocol` (mptcp has tcp's).
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        self.named(name).find(|entry| entry.1 == protocol.transport()).map(|entry| entry.2)
    }

    /// Every protocol and port that `name` stands for.
    pub fn ports(&self, name: &str) -> impl Iterator<Item = (Protocol, u16)> {
        self.named(name).map(|entry| (entry.1, entry.2))
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &(Box<[u8]>, Protocol, u16)> {
        let name = name.as_bytes();
        let start = self.entries.partition_point(|entry| *entry.0 < *name);
        let len = self.entries.get(start..).unwrap_or_default().partition_point(|entry| *entry.0 == *name);
        self.entries.iter().skip(start).take(len)
    }
}

fn port_and_protocol(word: &[u8]) -> Option<(u16, Protocol)> {
    let (port, protocol) = std::str::from_utf8(word).ok()?.split_once('/')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    let port = port.parse().ok().filter(|&port| port != 0)?;
    Some((port, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"# names\nnntp\t119/tcp\treadnews untp\t# USENET\ntftp 69/udp\n\
        domain 53/tcp\ndomain 53/udp\nddp 1/ddp\nbroken\nzero 0/tcp\nnntp 999/tcp\nlast 7/sctp";

    #[test]
    fn names_and_aliases_are_found_by_protocol() {
        let services = Services::parse(FILE);
        assert_eq!(services.port("nntp", Protocol::Tcp), Some(119));
        assert_eq!(services.port("untp", Protocol::Mptcp), Some(119));
        assert_eq!(services.port("nntp", Protocol::Udp), None);
        assert_eq!(services.port("tftp", Protocol::Udp), Some(69));
        assert_eq!(services.port("last", Protocol::Sctp), Some(7));
        for absent in ["ddp", "broken", "zero", "", "#", "NNTP", "nnt", "nntpx"] {
            assert_eq!(services.ports(absent).count(), 0, "{absent:?}");
        }
        let domain: Vec<_> = services.ports("domain").collect();
        assert_eq!(domain, [(Protocol::Tcp, 53), (Protocol::Udp, 53)]);
    }
}
