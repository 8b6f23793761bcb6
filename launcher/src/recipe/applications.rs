//! Application servers of Python, Ruby and Perl.

use super::{Adoption, Joined, Server, Serves, Variable};

const WSGI: &str = r#"def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served by gunicorn\n"]
"#;
const ASGI: &str = r#"async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served by asgi\n"})
"#;
const RACK: &str = "run ->(env) { [200, {}, [\"served by rack\\n\"]] }\n";

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "gunicorn",
        aliases: &[],
        takes: "takes what LISTEN_FDS announces",
        adoption: Adoption::ListenFds,
        serves: Serves::Streams,
        user: None,
        command: "portgrant exec -l 80 -- gunicorn app:app",
        files: &[("app.py", WSGI)],
        notes: &[
            "Do not add --bind fd://3: if a socket is announced twice, gunicorn fails ('Bad file descriptor').",
            "It replaces the backlog of the endpoint with 2048 (--backlog).",
            "If a wrapper starts it without exec, LISTEN_PID is wrong, and it binds port 8000 without a message.",
            "gunicorn uses GUNICORN_FD only for its own restart. Do not set it.",
        ],
        since: "",
        tried: Some("gunicorn 20.1.0 of Debian 12"),
    },
    Server {
        name: "uvicorn",
        aliases: &[],
        takes: "takes one number among its arguments: --fd 3",
        adoption: Adoption::Argument("--fd {fd}"),
        serves: Serves::OneStream,
        user: None,
        command: "portgrant exec --as uvicorn -l 80 -- python3 -m uvicorn --fd {fd} app:app",
        files: &[("app.py", ASGI)],
        notes: &[
            "LISTEN_FDS is ignored. Do not use --fd 0: with several workers it counts as not given.",
            "It replaces the backlog of the endpoint with 2048 (--backlog).",
        ],
        since: "",
        tried: Some("uvicorn 0.17.6 of Debian 12"),
    },
    Server {
        name: "hypercorn",
        aliases: &[],
        takes: "takes numbers among its arguments: --bind fd://3",
        adoption: Adoption::Argument("--bind fd://{fd}"),
        serves: Serves::Streams,
        user: None,
        command: "portgrant exec --as hypercorn -l 80 -- hypercorn --bind fd://{fd} app:app",
        files: &[("app.py", ASGI)],
        notes: &[
            "LISTEN_FDS is ignored. /dev/shm must be writable.",
            "It replaces the backlog of the endpoint with 100 (--backlog).",
        ],
        since: "",
        tried: Some("hypercorn 0.13.2 of Debian 12"),
    },
    Server {
        name: "unicorn",
        aliases: &["rainbows"],
        takes: "takes the numbers in UNICORN_FD",
        adoption: Adoption::Variable(Variable { name: "UNICORN_FD", entry: "FD", joined: Joined::By(",") }),
        serves: Serves::Streams,
        user: None,
        command: "portgrant exec --as unicorn -l 80 -- unicorn config.ru",
        files: &[("config.ru", RACK)],
        notes: &[
            "It listens on port 8080 only if it gets no socket.",
            "Since 5.0 it also reads LISTEN_FDS, so --as is not needed.",
        ],
        since: "",
        tried: Some("unicorn 6.0.0 of Debian 12"),
    },
    Server {
        name: "puma",
        aliases: &[],
        takes: "takes numbers with addresses in PUMA_INHERIT_0, PUMA_INHERIT_1, ..., if an address is exactly that of a bind",
        adoption: Adoption::Variable(Variable {
            name: "PUMA_INHERIT_",
            entry: "FD:tcp://ADDRESS:PORT",
            joined: Joined::Numbered,
        }),
        serves: Serves::Streams,
        user: None,
        command: "portgrant exec --as puma -l 0.0.0.0:80 -- puma -b tcp://0.0.0.0:80 config.ru",
        files: &[("config.ru", RACK)],
        notes: &[
            "A socket that no bind names is closed ('Closing unused inherited connection'). -l 80 is -b 'tcp://[::]:80'.",
            "Since 5.1 another way needs no --as and fits all addresses: puma --bind-to-activated-sockets=only config.ru",
        ],
        since: "",
        tried: Some("puma 5.6.5 of Debian 12"),
    },
    Server {
        name: "server-starter",
        aliases: &["start_server", "start-server"],
        takes: "takes addresses with numbers in SERVER_STARTER_PORT, as start_server(1) gives them",
        adoption: Adoption::Variable(SERVER_STARTER),
        serves: Serves::Streams,
        user: None,
        command: "portgrant exec --as server-starter -l 80 -- perl server.pl",
        files: &[(
            "server.pl",
            r#"use IO::Handle;
use Server::Starter qw(server_ports);

my ($descriptor) = values %{ server_ports() };
open(my $listening, "+<&=", $descriptor) or die $!;
while (accept(my $connection, $listening)) {
    sysread($connection, my $request, 4096);
    print $connection "HTTP/1.0 200 OK\r\n\r\nserved by perl\n";
    close($connection);
}
"#,
        )],
        notes: &["Starman, Gazelle and Starlet read it too. start_server(1), which restarts them gracefully, takes \
             no socket: it binds itself."],
        since: "",
        tried: Some("libserver-starter-perl 0.35 of Debian 12"),
    },
    Server {
        name: "starlet",
        aliases: &["plack"],
        takes: "takes addresses with numbers in SERVER_STARTER_PORT, IPv4 only",
        adoption: Adoption::Variable(SERVER_STARTER),
        serves: Serves::Ipv4Streams,
        user: None,
        command: "portgrant exec --as starlet -l 0.0.0.0:80 -- plackup -s Starlet app.psgi",
        files: &[("app.psgi", "sub { [200, [], [\"served by starlet\\n\"]] }\n")],
        notes: &["With an IPv6 socket (such as -l 80), each worker crashes at its first connection."],
        since: "",
        tried: Some("starlet 0.31 of Debian 12"),
    },
];

const SERVER_STARTER: Variable =
    Variable { name: "SERVER_STARTER_PORT", entry: "ADDRESS:PORT=FD", joined: Joined::By(";") };
