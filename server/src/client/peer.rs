//! The other end of a connection.

use std::net::{IpAddr, SocketAddr};

/// An address as people write it, and as rules and logs are to compare it: an IPv4-mapped one (`[::ffff:192.0.2.7]:80`,
/// which is how IPv4 comes to a dual-stack socket) as IPv4. Any other stays as it is, with its scope.
///
/// The addresses that this crate returns are like this already ([`Connection::peer`](crate::Connection::peer),
/// [`Arrival`](crate::Arrival)); this is for a listener of your own.
///
/// ```
/// let mapped = "[::ffff:192.0.2.7]:4711".parse()?;
/// assert_eq!(portgrant_server::canonical(mapped).to_string(), "192.0.2.7:4711");
/// let local = "[fe80::1%2]:4711".parse()?;
/// assert_eq!(portgrant_server::canonical(local), local);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}
