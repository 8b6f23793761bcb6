//! Servers that insist on binding for themselves, and what to do instead.

use super::{Adoption, Server, Serves};

const fn insisting(
    name: &'static str,
    aliases: &'static [&'static str],
    takes: &'static str,
    notes: &'static [&'static str],
) -> Server {
    Server {
        name,
        aliases,
        takes,
        adoption: Adoption::Never,
        serves: Serves::Any,
        user: None,
        command: "",
        files: &[],
        notes,
        since: "",
        tried: None,
    }
}

/// What helps those that only need the port.
const ON_A_HIGH_PORT: &str = "It needs no privilege on a port from 1024 on: let it listen there, and a server that takes a \
     socket (haproxy, nginx) on the low one, before it.";

pub(super) const SERVERS: &[Server] = &[
    insisting(
        "apache2",
        &["httpd"],
        "takes no socket from anybody in any 2.4; it binds what Listen says",
        &[ON_A_HIGH_PORT],
    ),
    insisting(
        "redis",
        &["redis-server", "valkey"],
        "takes no socket from anybody; it binds what port says",
        &["Its own port, 6379, needs no privilege; haproxy (mode tcp) can stand on a low one before it."],
    ),
    insisting(
        "varnish",
        &["varnishd"],
        "takes no socket from anybody; it binds what -a says",
        &[ON_A_HIGH_PORT, "Between the two, -a can be a Unix socket: varnishd -a /run/web.sock."],
    ),
    insisting(
        "postfix",
        &[],
        "takes no listening socket from anybody, and its master insists on being root",
        &["exim can stand on 25 in its place: see portgrant recipe exim."],
    ),
    insisting(
        "opensmtpd",
        &["smtpd"],
        "takes no socket from anybody, and insists on being root",
        &["exim can stand on 25 in its place: see portgrant recipe exim."],
    ),
];
