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

pub(super) const SERVERS: &[Server] = &[
    insisting(
        "apache2",
        &["httpd"],
        "takes no inherited socket (in all of 2.4), and binds the ports of its Listen lines itself",
        &[
            "portgrant run starts it unchanged, and the helper binds its port: portgrant run -- apache2 -X -f FILE, where FILE \
             names a PidFile and logs that the user may write to.",
            HIGH_PORT,
        ],
    ),
    insisting(
        "redis",
        &["redis-server", "valkey"],
        "takes no inherited socket, and binds its port itself",
        &[
            "portgrant run starts it unchanged, and the helper binds its port: portgrant run -- redis-server --port 100",
            "Its usual port, 6379, needs no privilege. haproxy (mode tcp) can serve a low port and connect to it.",
        ],
    ),
    insisting(
        "varnish",
        &["varnishd"],
        "takes no inherited socket, and binds the address of -a itself",
        &[
            "portgrant run starts it unchanged, and the helper binds its port: portgrant run -- varnishd -F -a :80 ...",
            HIGH_PORT,
            "Between the two servers, -a can be a Unix socket: varnishd -a /run/web.sock.",
        ],
    ),
    insisting(
        "postfix",
        &[],
        "takes no inherited listening socket, and its master must be started as root",
        &["Use exim on port 25 instead: see portgrant recipe exim."],
    ),
    insisting(
        "opensmtpd",
        &["smtpd"],
        "takes no inherited socket, and must be started as root",
        &["Use exim on port 25 instead: see portgrant recipe exim."],
    ),
];

/// What helps if only the port matters.
const HIGH_PORT: &str = "Or let it serve a port from 1024 on, which needs no privilege. A server that takes a socket \
     (haproxy, nginx) serves the low port and connects to it.";
