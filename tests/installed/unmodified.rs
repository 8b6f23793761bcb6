//! Programs that know nothing of portgrant, and bind for themselves: Debian's own, each as an ordinary user on a low port,
//! a request answered, both ways: with the policy in the kernel, and started by `portgrant run`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::nginx;
use portgrant_tests::{Caller, Cgroup, Install, KERNEL, LAUNCHER, World, http_get, ptrace_scope, skip};

/// How long a server may take to start, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(90);

/// How a program comes to its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The policy is in the kernel
    Kernel,
    /// `portgrant run` starts it
    Run,
}

/// Makes two tests of each function that takes a [`Way`].
macro_rules! both_ways {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            /// PG-21
            #[test]
            fn in_kernel_mode() {
                super::$name(super::Way::Kernel);
            }
            #[test]
            fn by_portgrant_run() {
                super::$name(super::Way::Run);
            }
        }
    )+};
}

both_ways![
    pythons_http_server_answers_on_80,
    node_answers_on_80,
    openjdk_answers_on_80,
    redis_answers_on_80,
    apache_answers_on_80,
    varnish_answers_on_80,
    nginx_binds_for_itself_on_80,
    a_static_program_with_raw_system_calls_answers_on_80_and_not_on_81,
    a_static_program_of_go_answers_on_80,
];

/// A world where www-data has port 80 on 127.0.0.1, one way or the other.
struct Place<'a> {
    world: &'a World,
    cgroup: Option<Cgroup>,
}

fn prepared(way: Way, test: impl FnOnce(&Place<'_>) + Send + 'static) {
    World::with(Install::FileCapability, move |world| {
        world.policy("permit www-data 80 on 127.0.0.1\n");
        world.folder("/run/web", "www-data", 0o755);
        if way == Way::Run {
            return test(&Place { world, cgroup: None });
        }
        let Some(cgroup) = world.cgroup() else {
            return skip("BPF programs are loaded by root of the first user namespace alone");
        };
        let path = cgroup.path().to_str().expect("a plain path");
        world.as_root().run([KERNEL, "load", "--cgroup", path]).succeeds();
        test(&Place { world, cgroup: Some(cgroup) });
    });
}

impl Place<'_> {
    fn caller(&self, user: &str) -> Caller {
        let caller = self.world.as_user(user).folder("/run/web").env("HOME", "/run/web");
        match &self.cgroup {
            Some(cgroup) => caller.in_cgroup(cgroup),
            None => caller,
        }
    }

    fn words<'a>(&self, words: &[&'a str]) -> Vec<&'a str> {
        let start: &[&str] = if self.cgroup.is_some() { &[] } else { &[LAUNCHER, "run", "--"] };
        [start, words].concat()
    }

    /// Starts `words` as www-data, and hands over to `client` once something listens there.
    fn serve(&self, words: &[&str], client: fn()) {
        let www_data = self.world.uid("www-data");
        let mut server = self.caller("www-data").spawn(self.words(words));
        let deadline = Instant::now() + PATIENCE;
        while !self.world.listening().iter().any(|socket| socket.port == 80 && socket.uid == www_data) {
            assert!(server.is_alive() && Instant::now() < deadline, "nothing of www-data's listens on port 80");
            std::thread::sleep(Duration::from_millis(50));
        }
        client();
        // The very process that was started is the server. (Where Yama wants it so, a child of its child.)
        let is_child = self.cgroup.is_none() && ptrace_scope() == Some(1);
        let server = if is_child { self.world.listening()[0].holders[0] } else { server.pid() };
        let process = self.world.process(server);
        assert_eq!(process.uids, [www_data; 4]);
        assert!(process.is_powerless(), "{process:?}");
        assert!(!process.program.ends_with("portgrant-supervisor"), "{process:?}");
    }
}

fn served(way: Way, words: &'static [&'static str], files: &'static [(&'static str, &'static str)], client: fn()) {
    prepared(way, move |place| {
        for (path, content) in files {
            place.world.file(path, content);
        }
        place.serve(words, client);
    });
}

fn get() {
    let reply = http_get("127.0.0.1:80", "/");
    assert!(reply.starts_with("HTTP/1.") && reply.split(' ').nth(1) == Some("200"), "{reply}");
}

fn pythons_http_server_answers_on_80(way: Way) {
    served(way, &["python3", "-m", "http.server", "--bind", "127.0.0.1", "80"], &[], get);
}

fn node_answers_on_80(way: Way) {
    const SCRIPT: &str = "require('http').createServer((_, reply) => reply.end('hello')).listen(80, '127.0.0.1')";
    served(way, &["node", "-e", SCRIPT], &[], get);
}

fn openjdk_answers_on_80(way: Way) {
    const SERVER: &str = "
        import com.sun.net.httpserver.HttpServer;
        import java.net.InetSocketAddress;
        public class Server {
            public static void main(String[] words) throws Exception {
                HttpServer server = HttpServer.create(new InetSocketAddress(\"127.0.0.1\", 80), 0);
                server.createContext(\"/\", exchange -> {
                    exchange.sendResponseHeaders(200, -1);
                    exchange.close();
                });
                server.start();
            }
        }";
    let words = &["java", "-Djava.net.preferIPv4Stack=true", "-Xshare:auto", "/run/web/Server.java"];
    served(way, words, &[("/run/web/Server.java", SERVER)], get);
}

fn redis_answers_on_80(way: Way) {
    let words = &["redis-server", "--bind", "127.0.0.1", "--port", "80", "--save", "", "--dir", "/run/web"];
    served(way, words, &[], || {
        let mut redis = TcpStream::connect("127.0.0.1:80").expect("a connection");
        redis.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        redis.write_all(b"PING\r\n").expect("write");
        let mut reply = [0; 7];
        redis.read_exact(&mut reply).expect("read");
        assert_eq!(&reply, b"+PONG\r\n");
    });
}

fn apache_answers_on_80(way: Way) {
    const CONFIGURATION: &str = "
        LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
        LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
        LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
        ServerName localhost
        DefaultRuntimeDir /run/web
        PidFile /run/web/apache.pid
        ErrorLog /run/web/error.log
        DocumentRoot /run/web
        Listen 127.0.0.1:80
        ";
    let files = &[("/run/web/apache.conf", CONFIGURATION), ("/run/web/index.html", "hello\n")];
    served(way, &["apache2", "-f", "/run/web/apache.conf", "-DFOREGROUND"], files, get);
}

fn varnish_answers_on_80(way: Way) {
    const VCL: &str = "vcl 4.1;\nbackend default none;\nsub vcl_recv { return (synth(200)); }\n";
    let words = &[
        "varnishd",
        "-F",
        "-j",
        "none",
        "-n",
        "/run/web/varnish",
        "-s",
        "malloc,16m",
        "-a",
        "127.0.0.1:80",
        "-f",
        "/run/web/a.vcl",
    ];
    served(way, words, &[("/run/web/a.vcl", VCL)], get);
}

fn nginx_binds_for_itself_on_80(way: Way) {
    prepared(way, |place| {
        let server = "server { listen 127.0.0.1:80; location / { return 200 'hello'; } }";
        place.world.file("/run/web/nginx.conf", &nginx::configuration(server));
        place.serve(&["nginx", "-c", "/run/web/nginx.conf"], get);
    });
}

/// Where an LD_PRELOAD is never seen, and without the C library's bind(3): the system call itself.
fn a_static_program_with_raw_system_calls_answers_on_80_and_not_on_81(way: Way) {
    const SOURCE: &str = r#"
        #include <arpa/inet.h>
        #include <netinet/in.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/socket.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                                     .sin_addr = {htonl(INADDR_LOOPBACK)}};
            int server = socket(AF_INET, SOCK_STREAM, 0);
            if (argc != 2 || syscall(SYS_bind, server, &at, sizeof at) || listen(server, 8))
                return 13;
            for (;;) {
                int client = accept(server, 0, 0);
                char request[4096], reply[] = "HTTP/1.0 200 OK\r\n\r\nhello";
                if (read(client, request, sizeof request) > 0)
                    (void)!write(client, reply, strlen(reply));
                close(client);
            }
        }"#;
    prepared(way, move |place| {
        place.world.file("/run/web/server.c", SOURCE);
        let build = ["gcc", "-static", "-o", "/run/web/server", "/run/web/server.c"];
        place.world.as_root().within(PATIENCE).run(build).succeeds();
        place.caller("www-data").run(place.words(&["/run/web/server", "81"])).exits(13);
        place.caller("alice").run(place.words(&["/run/web/server", "80"])).exits(13);
        // no_new_privs is what no setuid helper gets past; portgrant run sets it itself, later.
        let www_data = place.caller("www-data");
        let www_data = if way == Way::Kernel { www_data.no_new_privs() } else { www_data };
        let _server = www_data.spawn(place.words(&["/run/web/server", "80"]));
        get();
    });
}

/// One file of Go's own: no C library, no loader, threads from the start, and a signal to them every 10 ms.
fn a_static_program_of_go_answers_on_80(way: Way) {
    const SOURCE: &str = r#"
        package main
        import "net/http"
        func main() {
            http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("hello\n")) })
            panic(http.ListenAndServe("127.0.0.1:80", nil))
        }"#;
    prepared(way, move |place| {
        place.world.file("/run/web/server.go", SOURCE);
        let go = place.world.as_root().env("CGO_ENABLED", "0").env("GOCACHE", "/tmp/go").env("HOME", "/root");
        go.within(PATIENCE).run(["go", "build", "-o", "/run/web/server", "/run/web/server.go"]).succeeds();
        let static_one = place.world.as_root().run(["readelf", "-l", "/run/web/server"]).stdout;
        assert!(!static_one.contains("INTERP"), "{static_one}");
        place.serve(&["/run/web/server"], get);
    });
}
