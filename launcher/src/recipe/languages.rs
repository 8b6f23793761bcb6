//! What somebody writes who writes the server.

use super::{Adoption, Server, Serves};

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "node",
        aliases: &["nodejs"],
        takes: "takes a number in its program: server.listen({ fd: 3 })",
        adoption: Adoption::ListenFds,
        serves: Serves::Streams,
        user: None,
        command: "portgrant exec -l 80 -- node server.js",
        files: &[(
            "server.js",
            "const { createServer } = require(\"http\");\n\
             createServer((request, response) => response.end(\"served by node\\n\")).listen({ fd: 3 });\n",
        )],
        notes: &["It works in workers of the cluster module too.", "It replaces the backlog of the endpoint with 511."],
        since: "",
        tried: Some("node 18.20 of Debian 12"),
    },
    Server {
        name: "jvm",
        aliases: &["java", "jetty"],
        takes: "takes descriptor 0: System.inheritedChannel()",
        adoption: Adoption::Standard,
        serves: Serves::Any,
        user: None,
        command: "portgrant exec --as jvm -l 80 -- java Server.java",
        files: &[(
            "Server.java",
            r#"import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;

class Server {
    public static void main(String[] arguments) throws Exception {
        var listening = (ServerSocketChannel) System.inheritedChannel();
        while (true) {
            try (var connection = listening.accept()) {
                connection.read(ByteBuffer.allocate(4096));
                var answer = "HTTP/1.0 200 OK\r\n\r\nserved by the JVM\n";
                connection.write(ByteBuffer.wrap(answer.getBytes()));
            }
        }
    }
}
"#,
        )],
        notes: &[
            "A udp socket comes as a DatagramChannel, one connection (--accept) as a SocketChannel.",
            "Jetty: ServerConnector.setInheritChannel(true).",
            "Descriptor 1 is the socket as well: log to standard error or to a file.",
        ],
        since: "5",
        tried: Some("OpenJDK 17 of Debian 12"),
    },
    Server {
        name: "go",
        aliases: &["golang"],
        takes: "takes a number in its program: net.FileListener(os.NewFile(3, \"\"))",
        adoption: Adoption::ListenFds,
        serves: Serves::Any,
        user: None,
        command: "go build -o server server.go\nportgrant exec -l 80 -- ./server",
        files: &[(
            "server.go",
            r#"package main

import (
	"io"
	"net"
	"net/http"
	"os"
)

func main() {
	listening, err := net.FileListener(os.NewFile(3, "http"))
	if err != nil {
		panic(err)
	}
	panic(http.Serve(listening, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "served by go\n")
	})))
}
"#,
        )],
        notes: &[
            "Static programs too: nothing is preloaded. A udp socket: net.FilePacketConn.",
            "By name: activation.ListenersWithNames() of github.com/coreos/go-systemd.",
        ],
        since: "",
        tried: Some("Go 1.19 of Debian 12"),
    },
    Server {
        name: "python",
        aliases: &["python3"],
        takes: "takes a number in its program: socket.socket(fileno=3)",
        adoption: Adoption::ListenFds,
        serves: Serves::Any,
        user: None,
        command: "portgrant exec -l 80 -- python3 server.py",
        files: &[(
            "server.py",
            r#"import http.server, socket

server = http.server.HTTPServer(("", 0), http.server.SimpleHTTPRequestHandler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
server.serve_forever()
"#,
        )],
        notes: &[
            "asyncio: loop.create_server(..., sock=socket.socket(fileno=3)). It replaces the backlog of the endpoint with 100, unless \
             backlog= is one of the arguments.",
            "A number from the command line (server.py {fd}) is int(sys.argv[1]).",
        ],
        since: "",
        tried: Some("python 3.11 of Debian 12"),
    },
    Server {
        name: "rust",
        aliases: &["portgrant-server"],
        takes: "takes what LISTEN_FDS announces, with the crate portgrant-server or listenfd",
        adoption: Adoption::ListenFds,
        serves: Serves::Any,
        user: None,
        command: "portgrant exec -l 80 -- ./server 80",
        files: &[(
            "server.rs",
            "let listening: std::net::TcpListener = portgrant_server::listen(\"80\")?.into_tcp()?;\n",
        )],
        notes: &[
            "portgrant_server::listen adopts, binds, or asks the helper by itself: ./server 80 works without portgrant \
             exec as well.",
            "listenfd: ListenFd::from_env().take_tcp_listener(0). For tokio set_nonblocking(true) first.",
        ],
        since: "",
        tried: Some("portgrant-server's example hello"),
    },
];
