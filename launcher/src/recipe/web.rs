//! Web servers and proxies.

use super::{Adoption, Joined, Server, Serves, Variable};

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "nginx",
        aliases: &[],
        takes: "takes the numbers in NGINX, if an address is exactly that of a listen line",
        adoption: Adoption::Variable(Variable { name: "NGINX", entry: "FD;", joined: Joined::By("") }),
        serves: Serves::Any,
        user: None,
        command: "portgrant exec --as nginx -l 0.0.0.0:80 -l '[::]:80,v6only' -- nginx -p . -c nginx.conf",
        files: &[(
            "nginx.conf",
            r#"daemon off;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path tmp-body;
    proxy_temp_path tmp-proxy;
    fastcgi_temp_path tmp-fastcgi;
    uwsgi_temp_path tmp-uwsgi;
    scgi_temp_path tmp-scgi;
    server {
        listen 0.0.0.0:80;
        listen [::]:80;
        location / { return 200 "served by nginx\n"; }
    }
}
"#,
        )],
        notes: &[
            "listen 80 is -l 0.0.0.0:80 and listen [::]:80 is -l '[::]:80,v6only'. If an address differs, \
             nginx binds it itself, and that fails with EACCES.",
            "LISTEN_FDS is ignored. The sockets survive SIGHUP, and an upgrade by SIGUSR2.",
            "With NGINX in its environment it stays in the foreground, even with daemon on.",
        ],
        since: "2004",
        tried: Some("nginx 1.22.1 of Debian 12"),
    },
    Server {
        name: "haproxy",
        aliases: &[],
        takes: "takes numbers in its configuration: bind fd@3",
        adoption: Adoption::ListenFds,
        serves: Serves::Streams,
        user: None,
        command: "portgrant exec --setenv FD_WEB={fd} -l 80 -- haproxy -db -f haproxy.cfg",
        files: &[(
            "haproxy.cfg",
            r#"defaults
    mode http
    timeout client 30s
    timeout connect 5s
    timeout server 30s
frontend web
    bind "fd@${FD_WEB}"
    http-request return status 200 content-type text/plain string "served by haproxy\n"
"#,
        )],
        notes: &[
            "You can also write bind fd@3 for the first -l, and fd@4 for the second. FD_WEB={fd:NAME} finds a socket by its name.",
            "-W -db works too. LISTEN_FDS is ignored.",
        ],
        since: "1.5",
        tried: Some("haproxy 2.6.12 of Debian 12"),
    },
    Server {
        name: "lighttpd",
        aliases: &[],
        takes: "takes what LISTEN_FDS announces, if its configuration says so",
        adoption: Adoption::ListenFds,
        serves: Serves::Streams,
        user: None,
        command: "portgrant exec -l 0.0.0.0:80 -- lighttpd -D -f lighttpd.conf",
        files: &[
            (
                "lighttpd.conf",
                r#"server.systemd-socket-activation = "enable"
server.document-root = var.CWD
server.bind = "0.0.0.0"
server.port = 80
mimetype.assign = ( ".txt" => "text/plain" )
"#,
            ),
            ("hello.txt", "served by lighttpd\n"),
        ],
        notes: &["Another way: server.bind = \"/dev/stdin\", started with --inetd (since 1.4.46)."],
        since: "1.4.53",
        tried: Some("lighttpd 1.4.69 of Debian 12"),
    },
    Server {
        name: "php-fpm",
        aliases: &["fpm", "php"],
        takes: "takes addresses with numbers in FPM_SOCKETS, if an address is exactly that of a pool's listen line",
        adoption: Adoption::Variable(Variable { name: "FPM_SOCKETS", entry: "BARE:PORT=FD", joined: Joined::By(",") }),
        serves: Serves::Streams,
        user: None,
        command: "portgrant exec --as php-fpm -l 127.0.0.1:90 -- php-fpm8.2 -F -p . -y php-fpm.conf",
        files: &[
            (
                "php-fpm.conf",
                "[global]\nerror_log = php-fpm.log\n[www]\nlisten = 127.0.0.1:90\npm = static\npm.max_children = 2\n",
            ),
            ("hello.php", "served by <?= 'php-fpm' ?>\n"),
        ],
        notes: &[
            "If no pool has the address of a socket, the socket is closed, and the pool binds its own. LISTEN_FDS is ignored.",
            "Clients speak FastCGI: fastcgi_pass 127.0.0.1:90; in nginx.",
        ],
        since: "5.3.3",
        tried: Some("PHP 8.2 of Debian 12"),
    },
    Server {
        name: "caddy",
        aliases: &[],
        takes: "takes numbers in its configuration: bind fd/3",
        adoption: Adoption::ListenFds,
        serves: Serves::Any,
        user: None,
        command: "portgrant exec -l 80 -- caddy run --config Caddyfile",
        files: &[(
            "Caddyfile",
            r#"{
    admin off
}
http://:80 {
    bind fd/3 {
        protocols h1
    }
    respond "served by caddy"
}
"#,
        )],
        notes: &[
            "caddy 2.6.2 of Debian 12 and 13 is too old ('unsupported network type: fd'). Remove the bind line and use \
             portgrant run -- caddy run --config Caddyfile.",
            "For HTTP/3 add a udp socket: -l 443/udp, and bind fdgram/4.",
        ],
        since: "2.9.0",
        tried: None,
    },
];
