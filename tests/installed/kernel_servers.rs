//! The kernel mode with programs that know nothing of portgrant: Debian's own, each as an ordinary user on a low port, a
//! request answered; and refused a port that nobody gave them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use portgrant_tests::{Cgroup, Install, KERNEL, World, http_get, skip};

/// How long a server may take to start, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(90);

/// Starts `words` as www-data, who has port 80 on 127.0.0.1, and hands over to `client` once something listens there.
fn served(words: &'static [&'static str], files: &'static [(&'static str, &'static str)], client: fn()) {
    in_kernel_mode(move |world, cgroup| {
        for (path, content) in files {
            world.file(path, content);
        }
        let www_data = world.uid("www-data");
        let mut server = world.as_user("www-data").in_cgroup(cgroup).folder("/run/web").spawn(words);
        let deadline = Instant::now() + PATIENCE;
        while !world.listening().iter().any(|socket| socket.port == 80 && socket.uid == www_data) {
            assert!(server.is_alive() && Instant::now() < deadline, "nothing of www-data's listens on port 80");
            std::thread::sleep(Duration::from_millis(50));
        }
        client();
        let process = world.process(server.pid());
        assert_eq!(process.uids, [www_data; 4]);
        assert!(process.is_powerless(), "{process:?}");
    });
}

fn in_kernel_mode(test: impl FnOnce(&World, &Cgroup) + Send + 'static) {
    World::with(Install::FileCapability, |world| {
        let Some(cgroup) = world.cgroup() else {
            return skip("BPF programs are loaded by root of the first user namespace alone");
        };
        world.policy("permit www-data 80 on 127.0.0.1\n");
        world.folder("/run/web", "www-data", 0o755);
        let path = cgroup.path().to_str().expect("a plain path");
        world.as_root().run([KERNEL, "load", "--cgroup", path]).succeeds();
        test(world, &cgroup);
    });
}

fn get() {
    let reply = http_get("127.0.0.1:80", "/");
    assert!(reply.starts_with("HTTP/1.") && reply.split(' ').nth(1) == Some("200"), "{reply}");
}

/// PG-21
#[test]
fn pythons_http_server_answers_on_80() {
    served(&["python3", "-m", "http.server", "--bind", "127.0.0.1", "80"], &[], get);
}

/// PG-21
#[test]
fn node_answers_on_80() {
    const SCRIPT: &str = "require('http').createServer((_, reply) => reply.end('hello')).listen(80, '127.0.0.1')";
    served(&["node", "-e", SCRIPT], &[], get);
}

/// PG-21
#[test]
fn openjdk_answers_on_80() {
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
    served(words, &[("/run/web/Server.java", SERVER)], get);
}

/// PG-21
#[test]
fn redis_answers_on_80() {
    let words = &["redis-server", "--bind", "127.0.0.1", "--port", "80", "--save", "", "--dir", "/run/web"];
    served(words, &[], || {
        let mut redis = TcpStream::connect("127.0.0.1:80").expect("a connection");
        redis.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        redis.write_all(b"PING\r\n").expect("write");
        let mut reply = [0; 7];
        redis.read_exact(&mut reply).expect("read");
        assert_eq!(&reply, b"+PONG\r\n");
    });
}

/// PG-21
#[test]
fn apache_answers_on_80() {
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
    served(&["apache2", "-f", "/run/web/apache.conf", "-DFOREGROUND"], files, get);
}

/// PG-21
#[test]
fn varnish_answers_on_80() {
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
    served(words, &[("/run/web/a.vcl", VCL)], get);
}

/// PG-21
#[test]
fn nginx_binds_for_itself_on_80() {
    const CONFIGURATION: &str = "
        daemon off;
        pid /run/web/nginx.pid;
        error_log stderr;
        events {}
        http {
            access_log off;
            client_body_temp_path /run/web/body;
            proxy_temp_path /run/web/proxy;
            fastcgi_temp_path /run/web/fastcgi;
            uwsgi_temp_path /run/web/uwsgi;
            scgi_temp_path /run/web/scgi;
            server { listen 127.0.0.1:80; location / { return 200 'hello'; } }
        }";
    served(&["nginx", "-c", "/run/web/nginx.conf"], &[("/run/web/nginx.conf", CONFIGURATION)], get);
}

/// A static program, where an LD_PRELOAD is never seen, without the C library's bind(3): the system call itself.
/// PG-21
#[test]
fn a_static_program_with_raw_system_calls_answers_on_80_and_not_on_81() {
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
    in_kernel_mode(|world, cgroup| {
        world.file("/run/web/server.c", SOURCE);
        let build = ["gcc", "-static", "-o", "/run/web/server", "/run/web/server.c"];
        world.as_root().within(PATIENCE).run(build).succeeds();
        let www_data = || world.as_user("www-data").in_cgroup(cgroup).no_new_privs();
        www_data().run(["/run/web/server", "81"]).exits(13);
        world.as_user("alice").in_cgroup(cgroup).run(["/run/web/server", "80"]).exits(13);
        let _server = www_data().spawn(["/run/web/server", "80"]);
        get();
    });
}
