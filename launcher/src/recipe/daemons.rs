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
            "unbound needs use-systemd: yes, and the folder /run/systemd/system.",
            "LISTEN_PID is the program's process id. A wrapper script must start the server with exec. If not, the \
             server ignores the sockets and binds its default port.",
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
            "If a program takes one connection (inetd's nowait), use --accept instead.",
            "Descriptor 1 is the socket too, so the standard output of the program is lost.",
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
            "innd -p does not exist any more. Use -f: in the background innd would have another process id than LISTEN_PID.",
            "The sockets survive ctlinnd xexec.",
            "If rc.news starts innd, it works, but innwatch inherits descriptor 3 and keeps the port open after innd \
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
            "It reads the articles that innd has stored. Without the overview of innd it answers 400.",
            "It also answers 400 while the load of the machine is above nnrpdloadlimit in inn.conf (16).",
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
            "Use --as exim, not --inetd: descriptor 3 must be in use. exim moves the socket to 3. If its log already has \
             this number, exim closes the socket together with the log (seen under --no-new-privs).",
            "Only its own user or root can start it. Others get 'permission denied'.",
            "It is setuid root and delivers as root or as the recipient. With --no-new-privs mail stays in the queue. \
             The queue runner is a separate process: exim4 -q30m.",
            "For a process for each connection: portgrant exec --accept -l 25 -- exim4 -bs",
        ],
        since: "4.80",
        tried: Some("exim 4.96 of Debian 12"),
    },
    Server {
        name: "dovecot",
        aliases: &[],
        takes: "takes what LISTEN_FDS announces, if family, address and port are those of an inet_listener",
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
            "This is a dovecot for alice alone, to try it: alice is the internal user and the login user, and no service uses chroot.",
            "If no inet_listener matches a socket, dovecot shuts the socket down, also for other processes that have it.",
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
            "The sshd of OpenSSH itself does not read LISTEN_FDS. Start it for each connection: portgrant exec --accept \
             -l 22 -- /usr/sbin/sshd -i.",
            "An sshd that is not root can only log in its own user.",
            "It executes itself for each connection, in the folder /. Give the paths of files from / on.",
        ],
        since: "Debian's 1:9.1p1-1",
        tried: Some("OpenSSH 9.2 of Debian 12"),
    },
];
