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
        "takes no socket from anybody in any 2.4; it binds what Listen says",
        &[
            "portgrant run starts it as it is, and answers its bind(2): portgrant run -- apache2 -X -f FILE, where FILE \
             names a PidFile and logs that the user may write.",
            HIGH_PORT,
        ],
    ),
    insisting(
        "redis",
        &["redis-server", "valkey"],
        "takes no socket from anybody; it binds what port says",
        &[
            "portgrant run starts it as it is, and answers its bind(2): portgrant run -- redis-server --port 100",
            "Its own port, 6379, needs no privilege; haproxy (mode tcp) can stand on a low one before it.",
        ],
    ),
    insisting(
        "varnish",
        &["varnishd"],
        "takes no socket from anybody; it binds what -a says",
        &[
            "portgrant run starts it as it is, and answers its bind(2): portgrant run -- varnishd -F -a :80 ...",
            HIGH_PORT,
            "Between the two, -a can be a Unix socket: varnishd -a /run/web.sock.",
        ],
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

/// What helps everybody who only needs the port.
const HIGH_PORT: &str = "Or without portgrant: on a port from 1024 on it needs no privilege, with a server that takes a \
     socket (haproxy, nginx) on the low one, before it.";
