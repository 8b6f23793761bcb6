//! News, mail, remote login, and the two conventions that they share with many others.

use super::{Adoption, Server, Serves};

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "systemd",
        aliases: &["listen-fds", "socket-activation"],
        takes: "takes what LISTEN_FDS announces, as a systemd socket unit does",
        adoption: Adoption::ListenFds,
        serves: Serves::Any,
        user: None,
        command: "portgrant exec -l http=0.0.0.0:80 -- python3 announced.py",
        files: &[(
            "announced.py",
            r#"import http.server, os, socket

assert int(os.environ["LISTEN_PID"]) == os.getpid()
names = os.environ["LISTEN_FDNAMES"].split(":")
server = http.server.HTTPServer(("", 0), http.server.SimpleHTTPRequestHandler, bind_and_activate=False)
server.socket = socket.socket(fileno=3 + names.index("http"))
server.serve_forever()
"#,
        )],
        notes: &[
            "Any server with sd_listen_fds(3) is started like this: stunnel, ngircd, cupsd -l, dockerd -H fd://.",
            "unbound wants use-systemd: yes, and a folder /run/systemd/system to be there.",
            "LISTEN_PID is the program's own number: a wrapper script must end in exec, or the server ignores the \
             sockets and binds its default port instead.",
        ],
        since: "2010",
        tried: Some("python3 3.11 of Debian 12"),
    },
    Server {
        name: "inetd",
        aliases: &["inetd-wait"],
        takes: "takes the listening socket as descriptor 0, as inetd's wait services do",
        adoption: Adoption::Standard,
        serves: Serves::Any,
        user: None,
        command: "portgrant exec --inetd -l 0.0.0.0:80 -- python3 wait.py",
        files: &[(
            "wait.py",
            r#"import http.server, os, socket

server = http.server.HTTPServer(("", 0), http.server.SimpleHTTPRequestHandler, bind_and_activate=False)
server.socket = socket.socket(fileno=os.dup(0))
server.serve_forever()
"#,
        )],
        notes: &[
            "--as inetd and --inetd are the same.",
            "A program that wants one connection each (inetd's nowait) is started with --accept instead.",
            "Descriptor 1 is the socket as well: what such a program prints goes to nobody.",
        ],
        since: "4.3BSD",
        tried: Some("python3 3.11 of Debian 12"),
    },
    Server {
        name: "innd",
        aliases: &["inn", "inn2"],
        takes: "takes every stream socket that LISTEN_FDS announces; port and bindaddress of inn.conf are ignored then",
        adoption: Adoption::ListenFds,
        serves: Serves::Streams,
        user: Some("news"),
        command: "portgrant exec -l 0.0.0.0:119 -l '[::]:119,v6only' -- /usr/lib/news/bin/innd -f",
        files: &[],
        notes: &[
            "innd -p is long gone. -f: in the background it would have another process number than LISTEN_PID.",
            "The sockets survive ctlinnd xexec.",
            "Started through rc.news, innd works, but innwatch inherits descriptor 3 and holds the port after innd \
             has ended.",
        ],
        since: "2.6.4, built with libsystemd",
        tried: Some("innd 2.7.1 of Debian 12"),
    },
    Server {
        name: "nnrpd",
        aliases: &[],
        takes: "takes one connection, as inetd's nowait services do",
        adoption: Adoption::Connection,
        serves: Serves::Streams,
        user: Some("news"),
        command: "portgrant exec --accept -l 119 -- /usr/lib/news/bin/nnrpd",
        files: &[],
        notes: &[
            "Its own daemon mode (-D) binds for itself and takes no descriptor.",
            "It reads what innd has stored: without an overview, which innd makes, it answers 400.",
            "It answers 400 as well while the machine's load is above nnrpdloadlimit in inn.conf, 16.",
        ],
        since: "",
        tried: Some("INN 2.7.1 of Debian 12"),
    },
    Server {
        name: "exim",
        aliases: &["exim4"],
        takes: "takes one listening socket as descriptor 0 with -bw; ports in its configuration are ignored then",
        adoption: Adoption::StandardParked,
        serves: Serves::Streams,
        user: Some("Debian-exim"),
        command: "portgrant exec --as exim -l 25 -- exim4 -bw",
        files: &[],
        notes: &[
            "Descriptor 3 must not be free: exim moves the socket there, and where its log had just got that number \
             it closes the socket with the log, and lives on without one (seen under --no-new-privs). --inetd does \
             not see to that, --as exim does.",
            "Only its own user or root may start it; others are told 'permission denied'.",
            "It is setuid root and delivers as root or as the recipient: not with --no-new-privs, which leaves mail \
             in the queue. The queue runner is another process: exim4 -q30m.",
            "One process a connection instead: portgrant exec --accept -l 25 -- exim4 -bs",
        ],
        since: "4.80",
        tried: Some("exim 4.96 of Debian 12"),
    },
    Server {
        name: "dovecot",
        aliases: &[],
        takes: "takes what LISTEN_FDS announces, where family, address and port are those of an inet_listener",
        adoption: Adoption::ListenFds,
        serves: Serves::Streams,
        user: None,
        command: "mkdir -p /home/alice/mail\nportgrant exec -l 0.0.0.0:143 -- dovecot -F -c dovecot.conf",
        files: &[(
            "dovecot.conf",
            r"base_dir = /home/alice/mail/run
state_dir = /home/alice/mail/run
log_path = /home/alice/mail/log
protocols = imap
ssl = no
disable_plaintext_auth = no
default_internal_user = alice
default_internal_group = alice
default_login_user = alice
mail_location = maildir:~/Maildir
passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = static
  args = uid=alice gid=alice home=/home/alice/mail
}
service imap-login {
  chroot =
  inet_listener imap {
    address = 0.0.0.0
    port = 143
  }
  inet_listener imaps {
    port = 0
  }
}
service anvil {
  chroot =
}
service stats {
  chroot =
}
",
        )],
        notes: &[
            "This is a dovecot of alice's own, for a try: internal and login user are hers, and no service may chroot.",
            "A socket that no inet_listener matches is shut down by dovecot, for everybody who holds a copy of it.",
        ],
        since: "2.0",
        tried: Some("dovecot 2.3.19 of Debian 12"),
    },
    Server {
        name: "sshd",
        aliases: &["openssh"],
        takes: "takes what LISTEN_FDS announces, as Debian and Ubuntu build it",
        adoption: Adoption::ListenFds,
        serves: Serves::Streams,
        user: None,
        command: "ssh-keygen -q -t ed25519 -N '' -f host_key\n\
                  portgrant exec -l 22 -- /usr/sbin/sshd -D -f sshd_config -h \"$PWD/host_key\"",
        files: &[("sshd_config", "PidFile none\nUsePAM no\nPasswordAuthentication no\n")],
        notes: &[
            "Upstream's sshd knows no LISTEN_FDS: there, one process a connection, with portgrant exec --accept -l 22 \
             -- /usr/sbin/sshd -i.",
            "An sshd that is not root can log nobody in but its own user.",
            "It starts itself anew for each connection, from /: files are given by absolute paths.",
        ],
        since: "Debian's 1:9.1p1-1",
        tried: Some("OpenSSH 9.2 of Debian 12"),
    },
];
