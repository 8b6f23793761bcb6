//! Lookups with a DNS server that each test provides.

mod server;

use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, PTR};
use hickory_resolver::proto::rr::{Name, RData, Record};

use self::server::{Reply, Server};
use super::*;

const TTL: u32 = 300;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const CLIENT_PTR: &str = "PTR 7.2.0.192.in-addr.arpa.";
const NOW: Duration = Duration::ZERO;

fn host(name: &str) -> RData {
    RData::PTR(PTR(Name::from_ascii(name).expect(name)))
}

/// A PTR record with exactly these labels.
fn labels(labels: &[&[u8]]) -> RData {
    RData::PTR(PTR(Name::from_labels(labels.iter().copied()).expect("labels")))
}

fn at(address: &str) -> RData {
    match address.parse().expect(address) {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

/// The client, whose name is confirmed.
fn honest(question: &str) -> Reply {
    match question {
        CLIENT_PTR => Reply::Of(vec![host("Client.Example.")]),
        "A client.example." => Reply::Of(vec![at("192.0.2.1"), at("192.0.2.7")]),
        "PTR 7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa." => {
            Reply::Of(vec![host("six.example.")])
        }
        "AAAA six.example." => Reply::Of(vec![at("2001:db8::7")]),
        _ => Reply::Code(ResponseCode::NXDomain),
    }
}

fn unconfirmed(claim: &str) -> ReverseName {
    ReverseName::Unconfirmed { claim: claim.to_owned() }
}

fn confirmed(name: &str) -> ReverseName {
    ReverseName::Confirmed(HostName::new(name).expect(name))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

#[test]
fn a_name_that_resolves_to_the_address_is_accepted() {
    let server = Server::start(honest);
    assert_eq!(server.name_of(CLIENT), confirmed("client.example"));
    assert_eq!(server.asked(), [CLIENT_PTR, "A client.example."]);
    assert_eq!(server.name_of(ip("2001:db8::7")), confirmed("six.example"));
    assert_eq!(server.name_of(ip("::ffff:192.0.2.7")), confirmed("client.example"), "IPv4-mapped is IPv4");
    assert_eq!(server.name_of(CLIENT).name().expect("one").to_string(), "client.example");
}

#[test]
fn unusual_letters_are_sent_unchanged() {
    for name in ["xn--bcher-kva.example", "xn--a.example", "xn---0.example", "_a__b.example", "a", "0x.example"] {
        let expected = HostName::new(name).expect(name);
        let server = Server::start(move |question| match question.split_once(' ') {
            Some(("PTR", _)) => Reply::Of(vec![host(&format!("{name}."))]),
            Some(("A", asked)) if asked == format!("{name}.") => Reply::Of(vec![at("192.0.2.7")]),
            _ => Reply::Code(ResponseCode::NXDomain),
        });
        assert_eq!(server.name_of(CLIENT), ReverseName::Confirmed(expected), "{:?}", server.asked());
    }
}

#[test]
fn an_address_without_ptr_has_no_name() {
    let server = Server::start(|question| match question {
        CLIENT_PTR => Reply::Of(Vec::new()),
        _ => Reply::Code(ResponseCode::NXDomain),
    });
    for address in [CLIENT, ip("192.0.2.8"), ip("2001:db8::8")] {
        assert_eq!(server.name_of(address), ReverseName::Missing);
    }
}

#[test]
fn a_name_that_resolves_elsewhere_is_rejected() {
    for forwards in [
        Reply::Of(vec![at("192.0.2.8"), at("203.0.113.1")]),
        Reply::Of(Vec::new()),
        Reply::Code(ResponseCode::NXDomain),
        // The address of another name beside its own.
        Reply::Records(vec![
            Record::from_rdata(Name::from_ascii("bank.example.").expect("a name"), TTL, at("192.0.2.8")),
            Record::from_rdata(Name::from_ascii("client.example.").expect("a name"), TTL, at("192.0.2.7")),
        ]),
    ] {
        let server = Server::start(move |question| match question {
            CLIENT_PTR => Reply::Of(vec![host("bank.example.")]),
            "A bank.example." => forwards.clone(),
            _ => Reply::Code(ResponseCode::ServFail),
        });
        let name = server.name_of(CLIENT);
        assert_eq!(name, unconfirmed("bank.example"));
        assert_eq!(name.name(), None);
        assert_eq!(name.to_string(), "unconfirmed name 'bank.example'");
        assert_eq!(server.asked(), [CLIENT_PTR, "A bank.example."]);
    }
}

#[test]
fn an_invalid_name_is_not_looked_up() {
    for (claim, shown) in [
        (labels(&[b"\x1b[2J", b"example"]), "\\x1b[2J.example"),
        (labels(&[b"a\nroot logged in", b"example"]), "a\\x0aroot logged in.example"),
        (labels(&[b"$(reboot)", b"example"]), "$(reboot).example"),
        (labels(&[b"bank.example", b"x"]), "bank.example.x"),
        (labels(&[b"10", b"0", b"0", b"1"]), "10.0.0.1"),
        (labels(&[b"0x7f000001"]), "0x7f000001"),
        (labels(&[b"-oProxyCommand=x", b"example"]), "-oProxyCommand=x.example"),
        (labels(&[]), ""),
    ] {
        let server = Server::start(move |_| Reply::Of(vec![claim.clone()]));
        assert_eq!(server.name_of(CLIENT), unconfirmed(shown));
        assert_eq!(server.asked(), [CLIENT_PTR], "{shown}");
    }
}

#[test]
fn of_several_names_the_first_confirmed_one_is_used() {
    let server = Server::start(|question| match question {
        CLIENT_PTR => Reply::Of(vec![host("lie."), labels(&[b"a b"]), host("client.example."), host("bank.example.")]),
        "A lie." => Reply::Code(ResponseCode::ServFail),
        other => honest(other),
    });
    assert_eq!(server.name_of(CLIENT), confirmed("client.example"));
    let server = Server::start(|question| match question {
        CLIENT_PTR => Reply::TooLong((0..100).map(|number| host(&format!("lie{number:02}.example."))).collect()),
        _ => Reply::Code(ResponseCode::NXDomain),
    });
    assert_eq!(server.name_of(CLIENT), unconfirmed("lie00.example"));
    assert_eq!(server.asked().len(), 1 + 4, "{:?}", server.asked());
}

#[test]
fn an_address_with_several_names_always_gets_the_same_name() {
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |question| {
        let mut names = ["a.example.", "b.example.", "c.example."];
        names.rotate_left(turn.fetch_add(1, Ordering::Relaxed) % 3);
        match question {
            CLIENT_PTR => Reply::Of(names.map(host).into()),
            _ => Reply::Of(vec![at("192.0.2.7")]),
        }
    });
    let names = server.names().found(NOW..=NOW).build().expect("names");
    for _ in 0..6 {
        assert_eq!(names.of(CLIENT), confirmed("a.example"));
    }
}

#[test]
fn a_delegated_reverse_zone_and_a_name_with_an_alias_are_followed() {
    let alias = |from: &str, to: &str| {
        let to = RData::CNAME(CNAME(Name::from_ascii(to).expect("a name")));
        Record::from_rdata(Name::from_ascii(from).expect("a name"), TTL, to)
    };
    let of = |name: &str, data| Record::from_rdata(Name::from_ascii(name).expect("a name"), TTL, data);
    let server = Server::start(move |question| match question {
        CLIENT_PTR => Reply::Records(vec![
            alias("7.2.0.192.in-addr.arpa.", "7.0-63.2.0.192.in-addr.arpa."),
            of("7.0-63.2.0.192.in-addr.arpa.", host("client.example.")),
        ]),
        "A client.example." => Reply::Records(vec![alias("client.example.", "real.example.")]),
        "A real.example." => Reply::Of(vec![at("192.0.2.7")]),
        _ => Reply::Code(ResponseCode::NXDomain),
    });
    assert_eq!(server.name_of(CLIENT), confirmed("client.example"));
}

#[test]
fn a_failing_name_server_differs_from_a_missing_name() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let server = Server::start(move |_| Reply::Code(code));
        let name = server.name_of(CLIENT);
        assert!(matches!(&name, ReverseName::Failed { .. }) && name.is_passing(), "{name}");
        let server = Server::start(move |question| match question {
            CLIENT_PTR => honest(CLIENT_PTR),
            _ => Reply::Code(code),
        });
        let name = server.name_of(CLIENT);
        assert!(matches!(&name, ReverseName::Failed { .. }), "not a lie for that: {name}");
        assert!(name.to_string().starts_with("name unknown: "), "{name}");
    }
}

#[test]
fn the_time_limit_is_for_the_whole_lookup_and_silence_is_remembered() {
    let limit = Duration::from_millis(400);
    let late = move |question: &str| Reply::Late(limit * 2 / 3, Box::new(honest(question)));
    for server in [Server::start(|_| Reply::Silence), Server::start(late)] {
        let names = server.names().limit(limit).build().expect("names");
        let start = Instant::now();
        assert_eq!(names.of(CLIENT), ReverseName::TimedOut);
        let took = start.elapsed();
        assert!(took >= limit && took < limit + Duration::from_secs(2), "{took:?}");
        let start = Instant::now();
        assert_eq!(names.of(CLIENT), ReverseName::TimedOut);
        assert!(start.elapsed() < limit, "{:?}", start.elapsed());
    }
}

#[test]
fn an_answer_by_tcp_is_read_where_udp_has_no_room() {
    let server = Server::start(|question| match question {
        CLIENT_PTR => Reply::TooLong(vec![host("client.example.")]),
        other => honest(other),
    });
    assert_eq!(server.name_of(CLIENT), confirmed("client.example"));
    assert_eq!(server.count(CLIENT_PTR), 2, "once by each");
}

#[test]
fn garbage_is_ignored_as_an_answer() {
    let kinds: [fn([u8; 2]) -> Vec<u8>; 5] = [
        |_| Vec::new(),
        |_| vec![0xff; 4096],
        |id| [&id[..], &[0x81, 0x80, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]].concat(),
        // A name that points to itself.
        |id| [&id[..], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 0xc0, 0x0c, 0, 12, 0, 1]].concat(),
        |id| [&id[..], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 1]].concat(),
    ];
    for bytes in kinds {
        let server = Server::start(move |_| Reply::Bytes(bytes));
        let names = server.names().limit(Duration::from_millis(500)).build().expect("names");
        let start = Instant::now();
        let name = names.of(CLIENT);
        assert!(matches!(name, ReverseName::Failed { .. } | ReverseName::TimedOut), "{name}");
        assert!(start.elapsed() < Duration::from_secs(3));
    }
}

#[test]
fn loopback_and_link_local_addresses_are_never_sent_to_dns() {
    let server = Server::start(|_| Reply::Of(vec![host("bank.example.")]));
    for address in ["127.0.0.1", "127.9.9.9", "::1", "169.254.3.4", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"]
    {
        assert_eq!(server.name_of(ip(address)), ReverseName::Missing, "{address}");
    }
    assert_eq!(server.asked(), Vec::<String>::new());
}

#[test]
fn the_hosts_file_comes_first_and_is_read_again() {
    let folder = std::env::temp_dir().join(format!("portgrant-names-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let hosts = folder.join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n192.0.2.9 box.example box\nfe80::1 router\n").expect("written");
    let server = Server::start(|question| match question {
        // According to DNS it is the box, which has another address in the file.
        CLIENT_PTR => Reply::Of(vec![host("box.example.")]),
        "A box.example." => Reply::Of(vec![at("192.0.2.7")]),
        _ => Reply::Code(ResponseCode::NXDomain),
    });
    let builder = server.names().found(NOW..=NOW).not_found(NOW..=NOW);
    let names = NamesBuilder { hosts: hosts.clone(), ..builder }.build().expect("names");
    assert_eq!(names.of(ip("127.0.0.1")), confirmed("localhost"));
    assert_eq!(names.of(ip("192.0.2.9")), confirmed("box.example"));
    assert_eq!(names.of(ip("fe80::1")), confirmed("router"));
    assert_eq!(server.asked(), Vec::<String>::new());
    assert_eq!(names.of(CLIENT), unconfirmed("box.example"));

    std::fs::write(&hosts, "192.0.2.7 renamed\n").expect("written");
    assert_eq!(names.of(CLIENT), confirmed("renamed"));
    std::fs::remove_file(&hosts).expect("removed");
    assert_eq!(names.of(CLIENT), confirmed("box.example"));

    let builder = server.names();
    let names = NamesBuilder { hosts: hosts.clone(), ..builder }.build().expect("names");
    assert_eq!(names.of(CLIENT), confirmed("box.example"));
    std::fs::write(&hosts, "192.0.2.7 renamed\n").expect("written");
    assert_eq!(names.of(CLIENT), confirmed("box.example"), "remembered");
    assert_eq!(names.of(ip("192.0.2.99")), ReverseName::Missing);
    assert_eq!(names.of(CLIENT), confirmed("renamed"), "what others said is forgotten once the change is seen");
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn a_changed_hosts_file_is_read_again_once() {
    let folder = std::env::temp_dir().join(format!("portgrant-news-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let hosts = folder.join("hosts");
    let server = Server::start(|_| Reply::Silence);
    let sources = Sources {
        resolv_conf: folder.join("resolv.conf"),
        hosts: hosts.clone(),
        servers: vec![server.address],
        limit: Duration::from_secs(1),
        questions: 1,
    };
    let system = System::read(sources).expect("read");
    let name = |service: &Service| service.hosts.name(CLIENT).map(ToString::to_string);
    assert!(system.news().is_none());
    std::fs::write(&hosts, "192.0.2.7 one\n").expect("written");
    assert_eq!(name(&system.news().expect("news")).as_deref(), Some("one"));
    assert!(system.news().is_none());
    std::fs::remove_file(&hosts).expect("removed");
    std::fs::create_dir(&hosts).expect("a folder in place of the file");
    assert!(system.news().is_none());
    assert_eq!(name(&system.service()).as_deref(), Some("one"));
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn a_hosts_file_that_cannot_be_read_is_an_error_that_names_it() {
    let server = Server::start(|_| Reply::Silence);
    let error = NamesBuilder { hosts: "/proc".into(), ..server.names() }.build().expect_err("a folder");
    assert_eq!(error.message().what, "cannot read /proc");
}

#[test]
fn simultaneous_lookups_of_one_address_are_one_lookup() {
    let server = Server::start(|question| Reply::Late(Duration::from_millis(200), Box::new(honest(question))));
    let names = server.names().build().expect("names");
    let (together, askers) = (Barrier::new(40), 40);
    thread::scope(|scope| {
        for asker in 0..askers {
            let (names, together) = (names.clone(), &together);
            scope.spawn(move || {
                together.wait();
                let address = if asker % 2 == 0 { CLIENT } else { ip("::ffff:192.0.2.7") };
                assert_eq!(names.of(address), confirmed("client.example"));
            });
        }
    });
    assert_eq!(server.asked.lock().expect("no panic").len(), 2, "one PTR, one A");
}

#[test]
fn many_lookups_at_once_are_bounded() {
    let server = Server::start(|question| match question {
        CLIENT_PTR | "A client.example." => honest(question),
        _ => Reply::Silence,
    });
    let builder = server.names().limit(Duration::from_millis(600)).at_once(4).in_wait(8).failed(NOW);
    let names = builder.build().expect("names");
    let lookups: Vec<_> = (0..5000u32).map(|n| names.0.ask(Ipv4Addr::from(0x0a00_0000 + n).into())).collect();
    let busy = |asked: &Asked| matches!(asked, Asked::Known(ReverseName::Busy));
    assert_eq!(lookups.iter().filter(|asked| !busy(asked)).count(), 4 + 8);
    assert_eq!(names.0.book.under_way().len(), 4 + 8);
    assert_eq!(names.of(CLIENT), ReverseName::Busy);
    for lookup in lookups {
        if let Asked::UnderWay(answer) = lookup {
            assert_eq!(pollster::block_on(outcome(answer)), ReverseName::TimedOut);
        }
    }
    assert_eq!(names.0.book.under_way().len(), 0);
    assert_eq!(server.asked().len(), 4, "who waited in vain asked nobody");
    assert_eq!(names.of(CLIENT), confirmed("client.example"));
}

#[test]
fn a_future_that_is_dropped_leaves_a_lookup_that_others_share() {
    let server = Server::start(|question| Reply::Late(Duration::from_millis(100), Box::new(honest(question))));
    let names = server.names().build().expect("names");
    {
        let mut future = pin!(names.of_async(CLIENT));
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    assert_eq!(pollster::block_on(names.of_async(CLIENT)), confirmed("client.example"));
    assert_eq!(names.remembered(CLIENT), Some(confirmed("client.example")));
    assert_eq!(server.count(CLIENT_PTR), 1);
    assert_eq!(names.0.book.under_way().len(), 0);
}

#[test]
fn lookups_work_inside_and_outside_of_a_runtime() {
    let server = Server::start(honest);
    let names = server.names().found(NOW..=NOW).build().expect("names");
    let runtime = Builder::new_current_thread().build().expect("a runtime without a driver");
    runtime.block_on(async {
        assert_eq!(names.of_async(CLIENT).await, confirmed("client.example"));
        assert_eq!(names.of(CLIENT), confirmed("client.example"));
    });
    assert_eq!(pollster::block_on(names.of_async(CLIENT)), confirmed("client.example"));
}

#[test]
fn the_name_cache_is_bounded_in_time_and_size() {
    let server = Server::start(|question| match question.strip_prefix("PTR ") {
        Some("1.2.0.192.in-addr.arpa.") => Reply::Code(ResponseCode::NXDomain),
        _ => honest(question),
    });
    let unnamed = "PTR 1.2.0.192.in-addr.arpa.";
    // DNS says 300 seconds for a name, and nothing for a missing one.
    let names = server.names().found(NOW..=NOW).not_found(NOW..=Duration::from_secs(9)).build().expect("names");
    for expected in [1, 2] {
        assert_eq!(names.of(CLIENT), confirmed("client.example"));
        assert_eq!(names.of(ip("192.0.2.1")), ReverseName::Missing);
        assert_eq!((server.count(CLIENT_PTR), server.count(unnamed)), (expected, expected));
    }
    let names = server.names().build().expect("names");
    for _ in 0..3 {
        assert_eq!(names.of(CLIENT), confirmed("client.example"));
        assert_eq!(names.of(ip("192.0.2.1")), ReverseName::Missing);
        assert_eq!((server.count(CLIENT_PTR), server.count(unnamed)), (3, 3));
    }
    let found = |seconds| Found { name: confirmed("x"), lives: Some(Duration::from_secs(seconds)) };
    let book = &server.names().remember(10).build().expect("names").0.book.clone();
    for number in 0..1000u32 {
        book.keep(Ipv4Addr::from(number).into(), &found(300));
    }
    book.cache.run_pending_tasks();
    assert!(book.cache.entry_count() <= 10, "{}", book.cache.entry_count());
}

#[test]
fn the_thread_ends_with_the_last_clone() {
    let server = Server::start(|_| Reply::Silence);
    let names = server.names().limit(Duration::from_secs(600)).build().expect("names");
    let (other, book) = (names.clone(), Arc::downgrade(&names.0.book));
    drop(other.0.ask(CLIENT));
    drop(names);
    assert!(book.strong_count() > 1, "it is being asked for");
    drop(other);
    let deadline = Instant::now() + Duration::from_secs(10);
    while book.strong_count() > 0 {
        assert!(Instant::now() < deadline, "it goes on");
        thread::sleep(Duration::from_millis(1));
    }
}
