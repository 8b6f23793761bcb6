//! `portgrant import` beside the real authbind, inetd, xinetd and tcpserver: the same requests, the same answers.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use portgrant_tests::{LAUNCHER, Running, World, both_installs};

both_installs![
    imported_authbind_rules_permit_what_authbind_permits,
    imported_inetd_commands_serve_as_inetd_does,
    imported_xinetd_commands_serve_as_xinetd_does,
    an_imported_tcpserver_command_serves_as_tcpserver_does,
    import_writes_only_with_write_and_replaces_nothing,
];

const PATIENCE: Duration = Duration::from_secs(20);

/// Tries each bind, and says how it went.
const BINDS: &str = "\
import errno, socket, sys
for line in open(sys.argv[1]):
    kind, address, port = line.split()
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    try:
        s.bind((address, int(port)))
        print(line.strip(), 'yes')
    except OSError:
        print(line.strip(), 'no')
    s.close()
";

/// A file that `owner` may execute, or others, by its mode.
fn flag(path: &str, owner: u32, group: u32, mode: u32) {
    fs::write(path, "").unwrap_or_else(|error| panic!("{path}: {error}"));
    chown(path, Some(owner), Some(group)).expect("chown");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Installs what `portgrant import` writes as the policy, and returns its standard output.
fn import(world: &World, words: &[&str]) -> String {
    let _ = fs::remove_dir_all("/root/imported");
    let told = world.as_root().run([&[LAUNCHER, "import"], words].concat());
    let written = world.as_root().run([&[LAUNCHER, "import", "--write", "/root/imported"], words].concat());
    assert_eq!(told.status.code(), written.status.code(), "{told}{written}");
    world.folder("/etc/portgrant.d", "root", 0o755);
    world.policy("# the rules are in the folder\n");
    let policy = format!("/root/imported/{}.conf", words.first().expect("a word"));
    let rules = fs::read_to_string(&policy).unwrap_or_else(|error| panic!("{policy}: {error}: {written}"));
    world.policy_file("imported.conf", &rules);
    world.as_root().run([LAUNCHER, "check"]).succeeds();
    told.stdout
}

/// The commands that it prints, each running.
fn commands(world: &World, told: &str) -> Vec<Running> {
    let lines = told.lines().filter_map(|line| line.strip_prefix("    portgrant "));
    lines.map(|line| world.as_root().spawn(["sh", "-c", &format!("exec portgrant {line}")])).collect()
}

fn imported_authbind_rules_permit_what_authbind_permits(world: &World) {
    let (alice, web) = (world.uid("alice"), 2000);
    for folder in ["byport", "byaddr", "byuid"] {
        world.folder(&format!("/etc/authbind/{folder}"), "root", 0o755);
    }
    let file = |name: &str| format!("/etc/authbind/{name}");
    for (name, owner, group, mode) in [
        ("byport/80", alice, 0, 0o500),
        ("byport/81", 0, 0, 0o755),
        ("byport/82", 0, web, 0o750),
        ("byport/83", alice, 0, 0o644),
        ("byport/84", alice, 0, 0o077),
        ("byport/!600", alice, 0, 0o500),
        ("byport/601", alice, 0, 0o755),
        ("byaddr/127.0.0.1:90", 1001, 0, 0o500),
        ("byaddr/127.0.0.1,90", alice, 0, 0o500),
        ("byaddr/::1,91", alice, 0, 0o500),
        ("byaddr/0:0:0:0:0:0:0:1,92", alice, 0, 0o500),
        ("byaddr/0.0.0.0,93", alice, 0, 0o500),
        ("byaddr/::,94", 1001, 0, 0o500),
    ] {
        flag(&file(name), owner, group, mode);
    }
    let lines = "127.0.0.0/8,90-110\n0.0.0.0/0:111,112\n::/0,113\n127.0.0.1/8,114\n127.0.0.1-127.0.0.2,115\n::1,116\n\
                 0.0.0.0/0,79-84\n0.0.0.0/32:117,118\n 127.0.0.1,119\n127.0.0.1,600-700\n0.0.0.0/1,120\n";
    fs::write(file("byuid/1000"), lines).expect("written");
    fs::write(file("byuid/!1000"), "127.0.0.1,100-700\n::/0,701\n").expect("written");
    fs::write(file("byuid/1001"), "::,121\n").expect("written");

    let mut requests = String::new();
    for port in [
        79, 80, 81, 82, 83, 84, 90, 91, 92, 93, 94, 95, 100, 111, 113, 114, 115, 116, 117, 119, 120, 121, 600, 601,
        650, 701,
    ] {
        for address in ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"] {
            requests += &format!("tcp {address} {port}\nudp {address} {port}\n");
        }
    }
    world.file("/tmp/requests", &requests);
    world.file("/tmp/binds.py", BINDS);
    import(world, &["authbind"]);

    for user in ["alice", "bob"] {
        let binds = ["python3", "/tmp/binds.py", "/tmp/requests"];
        let theirs = world.as_user(user).run([&["authbind", "--deep"], &binds[..]].concat());
        let ours = world.as_user(user).run([&[LAUNCHER, "run", "--"], &binds[..]].concat());
        let (theirs, ours) = (theirs.succeeds().stdout.clone(), ours.succeeds().stdout.clone());
        let differ: Vec<&str> =
            ours.lines().zip(theirs.lines()).filter(|(ours, theirs)| ours != theirs).map(|(ours, _)| ours).collect();
        // A socket on [::] is one for IPv4 as well, so the rule for it is one for 0.0.0.0.
        let dual: &[u16] = if user == "alice" { &[113, 701] } else { &[94, 121] };
        let expected: Vec<String> =
            dual.iter().flat_map(|port| ["tcp", "udp"].map(|kind| format!("{kind} 0.0.0.0 {port} yes"))).collect();
        assert_eq!(differ, expected, "{user}");
        assert!(theirs.matches(" yes\n").count() > 10 && theirs.matches(" no\n").count() > 100, "{theirs}");
    }
}

/// What a client hears: everything up to the end, or that it is refused. `source` is its address.
fn hear(source: &str, target: &str) -> String {
    let target: SocketAddr = target.parse().expect("an address");
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let stream = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    if !source.is_empty() {
        let source = SockaddrStorage::from(SocketAddr::new(source.parse().expect("an address"), 0));
        bind(stream.as_raw_fd(), &source).expect("bound");
    }
    if let Err(errno) = connect(stream.as_raw_fd(), &SockaddrStorage::from(target)) {
        return format!("{errno}");
    }
    let mut stream = TcpStream::from(stream);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Ok(_) => text,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => String::new(),
        Err(error) => panic!("{target}: {error}"),
    }
}

#[track_caller]
fn listens(world: &World, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while world.listening().len() < count {
        assert!(Instant::now() < deadline, "only {:?}", world.listening());
        thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
fn is_free(world: &World) {
    let deadline = Instant::now() + PATIENCE;
    while !world.listening().is_empty() {
        assert!(Instant::now() < deadline, "still {:?}", world.listening());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Says who it is and how it was started.
const SAY: &str = "#!/bin/sh\necho $(id -u) $(tr '\\0' ' ' </proc/$$/cmdline | sed 's:^[^ ]*/::') ${RELAYCLIENT-none} ${EXTRA-none}\n";

fn imported_inetd_commands_serve_as_inetd_does(world: &World) {
    world.file("/tmp/say", SAY);
    world.file(
        "/tmp/answer.py",
        "import socket\ns = socket.socket(fileno=0)\nd, a = s.recvfrom(99)\ns.sendto(b'heard ' + d, a)\n",
    );
    let lines = "#telnet stream tcp nowait root /bin/sh sh /tmp/say telnet\n\
                 finger\tstream\ttcp\tnowait\tnobody\t/bin/sh\tsh /tmp/say finger\n\
                 127.0.0.1:daytime stream tcp4 nowait alice /bin/sh odd /tmp/say daytime\n\
                 gopher stream tcp6 nowait bob /bin/sh sh /tmp/say gopher it's\n\
                 tftp dgram udp4 wait nobody /usr/bin/python3 python3 /tmp/answer.py\n\
                 echo stream tcp nowait root internal\n";
    world.file(
        "/etc/services",
        "finger 79/tcp\ndaytime 13/tcp\ngopher 70/tcp\ntftp 69/udp\necho 7/tcp\ntelnet 23/tcp\n",
    );
    world.file("/etc/inetd.conf", lines);
    let answers = || {
        let streams = [
            "127.0.0.1:79",
            "[::1]:79",
            "127.0.0.1:13",
            "127.0.0.2:13",
            "[::1]:13",
            "[::1]:70",
            "127.0.0.1:70",
            "127.0.0.1:23",
        ];
        let mut answers: Vec<String> = streams.iter().map(|target| format!("{target} {}", hear("", target))).collect();
        for word in ["one", "two"] {
            let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            client.send_to(word.as_bytes(), "127.0.0.1:69").expect("sent");
            let mut buffer = [0; 99];
            let (length, _) = client.recv_from(&mut buffer).expect("an answer");
            answers.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        answers
    };

    let inetd = world.as_root().spawn(["/usr/sbin/inetd", "-i", "/etc/inetd.conf"]);
    listens(world, 7);
    let theirs = answers();
    drop(inetd);
    is_free(world);
    let told = import(world, &["inetd"]);
    let _launchers = commands(world, &told);
    listens(world, 4);
    assert_eq!(answers(), theirs);
    assert!(theirs.contains(&"127.0.0.1:13 1000 odd /tmp/say daytime none none\n".to_owned()), "{theirs:?}");
    assert!(told.contains("left out: /etc/inetd.conf:6: inetd answers echo itself"), "{told}");
}

fn imported_xinetd_commands_serve_as_xinetd_does(world: &World) {
    world.file("/tmp/say", SAY);
    world.file("/etc/services", "finger 79/tcp\ndaytime 13/tcp\ngopher 70/tcp\n");
    world.file("/etc/hosts.allow", "# nothing\n");
    world.file("/etc/hosts.deny", "");
    world.folder("/etc/xinetd.d", "root", 0o755);
    world.file(
        "/etc/xinetd.conf",
        "defaults\n{\n\tonly_from = 127.0.0.0 ::1\n\tno_access = 127.0.0.3\n}\nincludedir /etc/xinetd.d\n",
    );
    let service = |name: &str, more: &str| {
        let text = format!(
            "service {name}\n{{\n\tsocket_type = stream\n\twait = no\n\tuser = nobody\n\tgroups = yes\n\tserver = /bin/sh\n\
             \tserver_args = /tmp/say {name}\n\tdisable = no\n{more}}}\n"
        );
        world.file(&format!("/etc/xinetd.d/{name}"), &text);
    };
    service("finger", "");
    service("daytime", "\tno_access = 127.0.0.2\n\tenv = EXTRA=set\n\tbind = 127.0.0.1\n");
    service("gopher", "\tonly_from -= ::1\n\tonly_from += 127.0.0.4\n\tinstances = 5\n\tflags = IPv4\n");
    world.file("/etc/xinetd.d/ignored.bak", "service gopher\n{\n");
    let answers = || {
        let mut answers = Vec::new();
        for port in [79, 13, 70] {
            for source in ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"] {
                answers.push(format!("{source} {port} {}", hear(source, &format!("127.0.0.1:{port}"))));
            }
            answers.push(format!("::1 {port} {}", hear("", &format!("[::1]:{port}"))));
        }
        answers
    };

    let xinetd = world.as_root().spawn(["/usr/sbin/xinetd", "-dontfork", "-f", "/etc/xinetd.conf"]);
    listens(world, 3);
    let theirs = answers();
    drop(xinetd);
    is_free(world);
    let told = import(world, &["xinetd"]);
    let _launchers = commands(world, &told);
    listens(world, 3);
    assert_eq!(answers(), theirs, "{told}");
    assert!(theirs.iter().any(|answer| answer.ends_with("none set\n")), "{theirs:?}");
    assert!(theirs.contains(&"127.0.0.3 79 ".to_owned()), "{theirs:?}");
}

fn an_imported_tcpserver_command_serves_as_tcpserver_does(world: &World) {
    world.file("/tmp/say", SAY);
    let rules = "# who may connect\n127.0.0.2:deny\n127.0.0.3:allow,RELAYCLIENT=\"yes\",EXTRA=/b c/\n127.0.1-2.:deny\n127.:allow\n:deny\n";
    world.file("/etc/finger.rules", rules);
    world
        .as_root()
        .run(["sh", "-c", "tcprules /etc/finger.rules.cdb /etc/finger.rules.tmp </etc/finger.rules"])
        .succeeds();
    let script = "#!/bin/sh\nID=`id -u alice`\nexec tcpserver -HR -l 0 -c 10 -x /etc/finger.rules.cdb \\\n\t-u \"$ID\" -g 1000 0 79 /bin/sh /tmp/say 2>&1\n";
    world.folder("/service/finger", "root", 0o755);
    world.file("/service/finger/run", script);
    let answers = || {
        let sources = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.1.9", "127.0.2.9", "127.0.3.9"];
        sources.map(|source| format!("{source} {}", hear(source, "127.0.0.1:79")))
    };

    let tcpserver = world.as_root().spawn(["sh", "/service/finger/run"]);
    listens(world, 1);
    let theirs = answers();
    drop(tcpserver);
    is_free(world);
    let told = import(world, &["tcpserver", "/service/finger/run"]);
    let _launchers = commands(world, &told);
    listens(world, 1);
    assert_eq!(answers(), theirs, "{told}");
    assert!(theirs[2].ends_with(" yes b c\n") && theirs[1] == "127.0.0.2 ", "{theirs:?}");

    // A change counts at once, and one that is wrong does not count.
    world.file("/etc/finger.rules", "127.0.0.2:allow\n:deny\n");
    let changed = hear("127.0.0.2", "127.0.0.1:79");
    assert!(changed.starts_with("1000 sh /tmp/say none none"), "{changed}");
    assert_eq!(hear("127.0.0.1", "127.0.0.1:79"), "");
    world.file("/etc/finger.rules", "nonsense\n");
    assert_eq!(hear("127.0.0.1", "127.0.0.1:79"), "");
    assert_eq!(hear("127.0.0.2", "127.0.0.1:79"), changed);
}

fn import_writes_only_with_write_and_replaces_nothing(world: &World) {
    world.file("/etc/services", "finger 79/tcp\n");
    world.file("/tmp/inetd.conf", "finger stream tcp nowait alice /bin/sh sh\n");
    let before = fs::read_dir("/root").expect("a folder").count();
    let told = world.as_root().folder("/root").run([LAUNCHER, "import", "inetd", "/tmp/inetd.conf"]);
    told.succeeds()
        .prints("    permit alice 79 on [::]\n")
        .prints("    portgrant exec --user alice -l 79 --accept -- /bin/sh\n");
    assert_eq!(fs::read_dir("/root").expect("a folder").count(), before);

    let write = || world.as_root().run([LAUNCHER, "import", "--write", "/root/new", "inetd", "/tmp/inetd.conf"]);
    write().succeeds().prints("/root/new/inetd.conf\n/root/new/finger.service\n/root/new/REMARKS\n");
    let unit = fs::read_to_string("/root/new/finger.service").expect("a unit");
    assert!(
        unit.contains("User=alice\nExecStart=portgrant exec -l 79 --accept -- /bin/sh\nRestart=on-failure\n"),
        "{unit}"
    );
    fs::write("/root/new/finger.service", "mine").expect("written");
    fs::remove_file("/root/new/inetd.conf").expect("removed");
    write().exits(64).complains("/root/new/finger.service exists already");
    assert_eq!(fs::read_to_string("/root/new/finger.service").expect("a unit"), "mine");
    assert!(!fs::exists("/root/new/inetd.conf").expect("a folder"), "all or nothing");
}
