//! `portgrant import systemd` beside systemd: the same requests to a socket unit with its service, and to what is made of
//! them by the commands that import prints, get the same answers.

use std::fs;

use portgrant_tests::World;

use crate::{eventually, run, systemctl};

/// Says who it is, and which sockets it got by which names.
const SERVER: &str = "\
import os, select, socket, sys
count = int(os.environ.get('LISTEN_FDS', 0))
mine = os.environ.get('LISTEN_PID') == str(os.getpid())
sockets = {3 + n: socket.socket(fileno=3 + n) for n in range(count)}
poll = select.poll()
for number in sockets: poll.register(number, select.POLLIN)
privileges = [line.split()[1] for line in open('/proc/self/status') if line.startswith('NoNewPrivs')]
while True:
    for number, _ in poll.poll():
        text = repr((os.getuid(), os.environ['LISTEN_FDNAMES'], mine, number, sys.argv[1:], privileges))
        if sockets[number].type == socket.SOCK_DGRAM:
            data, peer = sockets[number].recvfrom(99)
            sockets[number].sendto(text.encode() + data, peer)
        else:
            client, _ = sockets[number].accept()
            client.sendall(text.encode())
            client.close()
";

/// For a connection, and for a listening socket or one of datagrams, as its standard input.
const SAYS: &str =
    "#!/bin/sh\nread line; echo \"$(id -u) $(nice) $(umask) $* $line ${REMOTE_ADDR-none} ${LISTEN_FDS-none}\"\n";
const ANSWERS: &str = "\
import os, socket, sys
mine = socket.socket(fileno=0)
if sys.argv[1] == 'udp':
    data, peer = mine.recvfrom(99)
    mine.sendto(b'heard ' + data, peer)
else:
    client, _ = mine.accept()
    client.sendall(b'as %d' % os.getuid())
";

/// Asks as each line of its standard input says.
const ASK: &str = "\
import socket, sys
for line in sys.stdin:
    kind, address, port = line.split()
    try:
        s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET,
                          socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
        s.settimeout(30)
        s.connect((address, int(port)))
        s.send(b'asked\\n')
        answer = s.recv(999)
    except OSError as error:
        answer = type(error).__name__
    print(line.strip(), answer)
";

/// Units, and the port of each socket unit.
const PAIRS: [(&str, &str, &str); 5] = [
    (
        "several",
        "ListenStream=80\nListenStream=127.0.0.1:443\nListenDatagram=127.0.0.1:53\nBacklog=9",
        "User=www-data\nNoNewPrivileges=yes\nExecStart=/usr/bin/python3 /tmp/server.py 'a b' \\\n  c",
    ),
    (
        "six",
        "ListenStream=81\nBindIPv6Only=ipv6-only\nFileDescriptorName=six",
        "User=games\nCapabilityBoundingSet=\nExecStart=-/usr/bin/python3 /tmp/server.py",
    ),
    (
        "each",
        "ListenStream=79\nAccept=yes\nMaxConnectionsPerSource=9",
        "User=games\nNice=5\nUMask=0027\nStandardInput=socket\nStandardError=journal\nExecStart=-/tmp/says one 'two three'",
    ),
    (
        "stream",
        "ListenStream=[::1]:77",
        "User=games\nStandardInput=socket\nExecStart=/usr/bin/python3 /tmp/answers.py tcp",
    ),
    (
        "datagram",
        "ListenDatagram=69",
        "User=games\nStandardInput=socket\nExecStart=/usr/bin/python3 /tmp/answers.py udp",
    ),
];

const REQUESTS: &str = "\
tcp 127.0.0.1 80\ntcp 127.0.0.2 80\ntcp ::1 80\n\
tcp 127.0.0.1 443\ntcp 127.0.0.2 443\ntcp ::1 443\n\
udp 127.0.0.1 53\nudp 127.0.0.2 53\nudp ::1 53\n\
tcp 127.0.0.1 81\ntcp ::1 81\n\
tcp 127.0.0.1 79\ntcp ::1 79\ntcp 127.0.0.1 79\n\
tcp ::1 77\ntcp 127.0.0.1 77\n\
udp 127.0.0.1 69\nudp ::1 69\nudp 127.0.0.1 69\n";

/// The lines of what a command printed that are commands themselves.
fn commands<'a>(told: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    told.lines().filter_map(move |line| line.split_once(mark).map(|(_, command)| command))
}

#[test]
fn a_socket_unit_and_what_is_imported_of_it_answer_alike() {
    let world = World::here();
    world.policy("# the rules are in the folder\n");
    world.folder("/run/imported", "root", 0o755);
    for (path, content) in [("server.py", SERVER), ("answers.py", ANSWERS), ("ask.py", ASK), ("says", SAYS)] {
        world.file(&format!("/tmp/{path}"), content);
    }
    run(&["chmod", "0755", "/tmp/says"]).succeeds();
    let sockets: Vec<String> = PAIRS.iter().map(|(name, ..)| format!("{name}.socket")).collect();
    for (name, socket, service) in PAIRS {
        let template = if name == "each" { "@" } else { "" };
        world.file(&format!("/etc/systemd/system/{name}.socket"), &format!("[Socket]\n{socket}\n"));
        world.file(&format!("/etc/systemd/system/{name}{template}.service"), &format!("[Service]\n{service}\n"));
    }
    systemctl(&["daemon-reload"]).succeeds();
    world.file("/tmp/requests", REQUESTS);
    let ask = || run(&["sh", "-c", "exec python3 /tmp/ask.py </tmp/requests"]).succeeds().stdout.clone();
    let names: Vec<&str> = sockets.iter().map(String::as_str).collect();
    systemctl(&[&["start"], &names[..]].concat()).succeeds();
    let theirs = ask();

    for (name, ..) in PAIRS {
        let (folder, unit) = (format!("/run/imported/{name}"), format!("/etc/systemd/system/{name}.socket"));
        let told = run(&["portgrant", "import", "systemd", "--write", &folder, &unit]).succeeds().stdout.clone();
        let stop = commands(&told, "stop the socket unit before the service starts: ");
        for command in stop.chain(commands(&told, "    ")) {
            // The rules of all are one file's.
            let command = command.replace("/etc/portgrant.d/", &format!("/etc/portgrant.d/{name}.conf"));
            run(&["sh", "-c", &command]).succeeds();
        }
        systemctl(&["stop", name]).succeeds();
        systemctl(&["start", name]).succeeds();
    }
    // A service has started before its program has bound.
    let all_listen =
        || run(&["ss", "-Hltun"]).succeeds().stdout.lines().filter(|line| !line.contains(":88 ")).count() == 7;
    eventually("all listen", all_listen);
    let ours = ask();
    let (theirs, ours): (Vec<&str>, Vec<&str>) = (theirs.lines().collect(), ours.lines().collect());
    assert_eq!((ours.len(), ours), (REQUESTS.lines().count(), theirs.clone()));
    assert_eq!(theirs.iter().filter(|line| line.contains("b'") || line.contains("b\"")).count(), 13, "{theirs:#?}");
    // A service that ends is there again for the next connection.
    world.file("/tmp/requests", "tcp ::1 77\n");
    eventually("it is started again", || ask() == "tcp ::1 77 b'as 5'\n");

    for (name, ..) in PAIRS {
        systemctl(&["stop", name]).succeeds();
        for unit in [format!("{name}.socket"), format!("{name}.service"), format!("{name}@.service")] {
            let _ = fs::remove_file(format!("/etc/systemd/system/{unit}"));
        }
        let _ = fs::remove_dir_all(format!("/etc/systemd/system/{name}.service.d"));
        fs::remove_file(format!("/etc/portgrant.d/{name}.conf")).expect("removed");
    }
    systemctl(&["daemon-reload"]).succeeds();
}
