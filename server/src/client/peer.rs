//! Addresses of clients.

use std::net::{IpAddr, SocketAddr};

/// The address as people write it and as logs and rules compare it. An IPv4-mapped address (`[::ffff:192.0.2.7]:80`, as
/// an IPv4 client has it at a dual-stack socket) becomes IPv4. Every other address is unchanged, with its scope.
///
/// This crate returns all addresses in this form ([`Connection::peer`](crate::Connection::peer),
/// [`Arrival`](crate::Arrival)). Use this function with listeners of your own.
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
