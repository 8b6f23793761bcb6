//! Asking for sockets: what comes, and what happens where the helper is missing, broken or against it.

mod stand_in;

use std::path::Path;

use portgrant_server::error::{Refused, RequestError, SocketError};
use portgrant_server::{Error, Kind, Mismatch, Request, status};

use stand_in::{Folder, free_port};

fn ask(helper: &Path, endpoints: &[&str]) -> Result<portgrant_server::Sockets, Error> {
    let request = Request::new().helper(helper);
    endpoints.iter().try_fold(request, |request, endpoint| request.listen(endpoint))?.send()
}

#[test]
fn requested_sockets_come_in_order_with_their_names() {
    let folder = Folder::new("granted");
    let (tcp, udp) = (free_port(), free_port());
    let endpoints = [format!("web=127.0.0.1:{tcp}"), format!("127.0.0.1:{udp}/udp")];
    let mut sockets = ask(&folder.granting_helper(), &[&endpoints[0], &endpoints[1]]).expect("granted");
    assert_eq!(sockets.names().collect::<Vec<_>>(), ["web".to_owned(), format!("{udp}/udp")]);
    let listener = sockets.tcp_at("web", &format!("127.0.0.1:{tcp}")).expect("there");
    assert_eq!(listener.local_addr().expect("bound").port(), tcp);
    let client = std::net::TcpStream::connect(("127.0.0.1", tcp)).expect("it is listened on");
    let (_, from) = listener.accept().expect("a client");
    assert_eq!(from, client.local_addr().expect("bound"));
    assert_eq!(sockets.udp(&format!("{udp}/udp")).expect("there").local_addr().expect("bound").port(), udp);
    assert!(sockets.is_empty());
}

#[test]
fn a_helper_is_never_left_behind_as_a_zombie() {
    let folder = Folder::new("zombie");
    let refused = folder.script("refusing", "exit 77");
    assert!(ask(&refused, &["80"]).is_err());
    assert!(ask(&folder.granting_helper(), &[&format!("127.0.0.1:{}", free_port())]).is_ok());
    // Other tests of this program have children too, but with other names.
    let zombies: Vec<String> = children().into_iter().filter(|stat| stat.contains(" Z ")).collect();
    let ours = |stat: &&String| stat.contains("(refusing)") || stat.contains("(granting)");
    assert_eq!(zombies.iter().find(ours), None);
}

/// The lines of proc_pid_stat(5) of this process's children: `pid (name) state …`.
fn children() -> Vec<String> {
    let own = format!(" {} ", std::process::id());
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let stats = processes.filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
    stats.filter(|stat| stat.split(' ').nth(3).is_some_and(|parent| own.trim() == parent)).collect()
}

#[test]
fn a_refusal_by_an_earlier_or_a_later_helper_is_understood() {
    let folder = Folder::new("versions");
    let refusal = |record: &str| {
        let error = ask(&folder.answering_helper(record, 0), &["80"]).expect_err("refused");
        (error.status(), error.message().kind, error.message().what.clone())
    };
    let later = "PORTGRANT=1\nSTATUS=69\nKIND=frozen\nWHAT=80/tcp is frozen\nSINCE=noon\n";
    assert_eq!(refusal(later), (69, Kind::System, "80/tcp is frozen".to_owned()));
    let earlier = "PORTGRANT=1\nSTATUS=77\nWHY=80/tcp is refused for alice\nFIX=ask\n";
    assert_eq!(refusal(earlier), (77, Kind::Refused, "80/tcp is refused for alice".to_owned()));
}

#[test]
fn a_refusal_carries_its_parts() {
    let folder = Folder::new("refused");
    let record = "PORTGRANT=1\nSTATUS=77\nKIND=refused\nWHAT=80/tcp is refused for alice (uid 1000)\n\
                  WHY=no rule permits it\nFIX=as root, add  permit alice 80\nRULE=/etc/portgrant.conf:3\nPROGRAM=/usr/sbin/innd\n";
    let error = ask(&folder.answering_helper(record, 0), &["80"]).expect_err("refused");
    assert_eq!(error.status(), status::REFUSED);
    let message = error.message();
    assert_eq!(message.what, "80/tcp is refused for alice (uid 1000)");
    assert_eq!(message.why.as_deref(), Some("no rule permits it"));
    assert_eq!(message.fix.as_deref(), Some("as root, add  permit alice 80"));
    let Some(Refused(refusal)) = error.downcast_ref() else { panic!("{error}") };
    assert_eq!(refusal.rule.as_deref(), Some("/etc/portgrant.conf:3"));
    assert_eq!(refusal.program.as_deref(), Some("/usr/sbin/innd"));
}

#[test]
fn an_answer_that_does_not_match_the_request_is_an_error() {
    /// A record, how many descriptors come with it, and what the error says.
    const WRONG: &[(&str, usize, &str)] = &[
        ("PORTGRANT=1\nSTATUS=0\nNAMES=80/tcp\n", 0, "received 1 names and 0 descriptors"),
        ("PORTGRANT=1\nSTATUS=0\nNAMES=80/tcp\n", 2, "received 1 names and 2 descriptors"),
        ("PORTGRANT=1\nSTATUS=0\nNAMES=81/tcp\n", 1, "'81/tcp' was received, but was not requested"),
        ("PORTGRANT=1\nSTATUS=0\nNAMES=80/tcp\n", 1, "'80/tcp' is of the wrong kind: it is not a socket"),
        ("PORTGRANT=2\nSTATUS=0\nNAMES=80/tcp\n", 1, "PORTGRANT=1 here"),
        ("hello", 0, "not a line of the form"),
    ];
    let folder = Folder::new("not-believed");
    for (record, descriptors, expected) in WRONG {
        let error = ask(&folder.answering_helper(record, *descriptors), &["80"]).expect_err(record).to_string();
        assert!(error.contains(expected), "{record:?} with {descriptors}: {error}");
    }
}

#[test]
fn a_socket_at_another_address_and_a_surplus_one_are_refused() {
    let folder = Folder::new("elsewhere");
    let port = free_port();
    // Asks for one thing and has another bound: the script changes what is asked for.
    let granting = folder.granting_helper();
    let changing = |change: &str| folder.script("changing", &format!("exec '{}' {change}", granting.display()));
    let asked = format!("web=127.0.0.1:{port}");

    let other = changing(&format!("pass -l web=127.0.0.2:{port} --to 0"));
    let error = ask(&other, &[&asked]).expect_err("another address");
    let Some(SocketError::WrongAddress { found, .. }) = error.downcast_ref() else { panic!("{error}") };
    assert_eq!(found.to_string(), format!("127.0.0.2:{port}"));

    let datagrams = changing(&format!("pass -l web=127.0.0.1:{port}/udp --to 0"));
    let error = ask(&datagrams, &[&asked]).expect_err("another protocol");
    assert!(matches!(error.downcast_ref(), Some(SocketError::WrongKind { mismatch: Mismatch::Protocol { .. }, .. })));

    let surplus = changing(&format!("pass -l {asked} -l 127.0.0.2:{port} --to 0"));
    let error = ask(&surplus, &[&asked]).expect_err("one more");
    assert!(
        matches!(error.downcast_ref(), Some(RequestError::NotAskedFor { name }) if *name == format!("{port}/tcp")),
        "{error}"
    );

    let fewer = changing(&format!("pass -l {asked} --to 0"));
    let error = ask(&fewer, &[&asked, &format!("127.0.0.2:{port}")]).expect_err("one less");
    assert!(
        matches!(error.downcast_ref(), Some(RequestError::NotReceived { name }) if *name == format!("{port}/tcp")),
        "{error}"
    );
}

#[test]
fn a_missing_or_broken_helper_is_reported_by_path() {
    let folder = Folder::new("cannot-run");
    let absent = folder.join("absent");
    let error = ask(&absent, &["80"]).expect_err("missing");
    assert!(matches!(error.downcast_ref(), Some(RequestError::Helper { helper, .. }) if *helper == absent));
    assert_eq!(error.status(), status::BROKEN);
    assert!(error.to_string().contains("No such file"), "{error}");

    let plain = folder.script("plain", "exit 0");
    std::fs::set_permissions(&plain, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("chmod");
    let error = ask(&plain, &["80"]).expect_err("not executable");
    assert!(error.to_string().contains("Permission denied"), "{error}");
    assert!(error.message().fix.expect("what to do").contains("execute it"));
}

#[test]
fn a_helper_that_ends_without_an_answer_does_not_block_its_caller() {
    let folder = Folder::new("without-a-word");
    let exits = |status: u8| ask(&folder.script("exits", &format!("exit {status}")), &["80"]).expect_err("no answer");
    let error = exits(78);
    assert!(error.to_string().contains("ended without an answer: it ended with exit status: 78"), "{error}");
    assert_eq!(error.status(), status::BROKEN, "a status that says something is kept");
    assert_eq!(exits(3).status(), status::SYSTEM, "and any other is not passed off as one");
    let error = ask(&folder.script("ended", "kill -TERM $$"), &["80"]).expect_err("no answer");
    assert!(error.to_string().contains("signal: 15"), "{error}");
}

#[test]
fn a_killed_helper_is_reported_differently_from_one_that_fails() {
    let folder = Folder::new("killed");
    let killed = folder.script("killed", "kill -KILL $$");
    let error = ask(&killed, &["80"]).expect_err("no answer");
    let is_killed = |error: &RequestError| matches!(error, RequestError::HelperKilled { helper } if *helper == killed);
    assert!(error.downcast_ref().is_some_and(is_killed), "{error}");
    assert_eq!(error.status(), status::SYSTEM);
    let message = error.message();
    assert_eq!(message.what, format!("the helper {} was killed", killed.display()));
    let why = "its time limit of 10 s was over: it was stopped, or the machine is overloaded";
    assert_eq!((message.why.as_deref(), message.fix.as_deref()), (Some(why), Some("try again")));
}

#[test]
fn an_invalid_endpoint_is_refused_before_the_helper_is_asked() {
    let absent = Path::new("/nonexistent");
    for (endpoint, expected) in
        [("080", "is not a valid port"), ("no-such-service", "not a service"), ("80/icmp", "is not a valid protocol")]
    {
        let error = ask(absent, &[endpoint]).expect_err(endpoint);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.status(), status::USAGE);
    }
    assert!(matches!(
        ask(absent, &[]).as_ref().map_err(Error::downcast_ref),
        Err(Some(RequestError::Endpoints { count: 0 }))
    ));
    assert!(matches!(
        ask(absent, &["80"; 254]).as_ref().map_err(Error::downcast_ref),
        Err(Some(RequestError::Endpoints { count: 254 }))
    ));
}
