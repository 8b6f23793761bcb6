use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Endpoint {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn every_endpoint_form_of_the_manual_parses() {
    assert_eq!(parse("80").port, AskedPort::Number(Port::new(80).expect("a port")));
    assert_eq!(parse("80").address, Address::Any);
    assert_eq!(parse("*:80"), parse("80"));
    assert_eq!(parse("443/udp").protocol, Protocol::Udp);
    assert_eq!(parse("nntp").port, AskedPort::Service("nntp".into()));
    assert_eq!(parse("127.0.0.1:25").address, Address::V4(Ipv4Addr::LOCALHOST));
    assert_eq!(parse("each:520/udp").address, Address::Each);
    let https = parse("https=[::]:443,v6only");
    assert_eq!((https.name.as_deref(), https.address), (Some("https"), Address::V6(Ipv6Addr::UNSPECIFIED)));
    assert!(https.options.v6only);
    assert_eq!(parse("a=b").port, AskedPort::Service("b".into()));
}

#[test]
fn an_ipv4_mapped_address_is_ipv4() {
    assert_eq!(parse("[::ffff:10.0.0.1]:80").address, Address::V4(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(parse("[::ffff:0:0]:80").address, Address::V4(Ipv4Addr::UNSPECIFIED));
}

/// Input, and what its message must contain.
const REFUSED: &[(&str, &str)] = &[
    ("", "is empty"),
    ("0", "'0' is not a valid port"),
    ("65536", "'65536' is not a valid port"),
    ("65616", "'65616' is not a valid port"),
    ("-1", "'-1' is not a valid port"),
    ("+80", "'+80' is not a valid port"),
    ("080", "'080' is not a valid port"),
    ("0x50", "'0x50' is not a valid port"),
    ("80 ", "'80 ' is not a valid port"),
    ("8\u{660}", "is not a valid port"),
    ("99999999999999999999", "is not a valid port"),
    ("127.0.0.1:", "'' is not a valid port"),
    ("[::1]80", "'80' is not a valid port"),
    ("[::1]", "'' is not a valid port"),
    ("80/tcp/udp", "'tcp/udp' is not a valid protocol"),
    ("80/TCP", "'TCP' is not a valid protocol"),
    ("80/", "'' is not a valid protocol"),
    ("localhost:80", "'localhost' is not a valid address"),
    ("1.2.3:80", "'1.2.3' is not a valid address"),
    ("01.2.3.4:80", "'01.2.3.4' is not a valid address"),
    ("[1.2.3.4]:80", "'1.2.3.4' is not a valid address"),
    ("[fe80::1%eth0]:80", "'fe80::1%eth0' is not a valid address"),
    ("[::1:80", "is not a valid address"),
    ("::1:80", "in brackets"),
    ("=80", "'' is not a valid name"),
    ("1a=80", "'1a' is not a valid name"),
    ("a b=80", "'a b' is not a valid name"),
    ("\u{1b}[2J=80", "is not a valid port"),
    ("80,", "'' is not a valid option"),
    ("80,nodelay", "'nodelay' is not a valid option"),
    ("80,reuseport=1", "'1' does not fit 'reuseport'; expected no value"),
    ("80,reuseport,reuseport", "'reuseport' is given twice"),
    ("80,backlog=1,backlog=1", "'backlog' is given twice"),
    ("80,backlog", "'' does not fit 'backlog'"),
    ("80,backlog=0", "'0' does not fit 'backlog'"),
    ("80,backlog=2147483648", "does not fit"),
    ("80,backlog=+5", "does not fit"),
    ("80,backlog=05", "does not fit"),
    ("80,tos=256", "'256' does not fit 'tos'"),
    ("80,dev=", "'' does not fit 'dev'"),
    ("80,dev=abcdefghijklmnop", "does not fit 'dev'"),
    ("80,dev=a/b", "does not fit 'dev'"),
    ("80,keepalive=1:2", "does not fit 'keepalive'"),
    ("80,keepalive=1:2:128", "does not fit 'keepalive'"),
    ("80,keepalive=1:2:3:4", "does not fit 'keepalive'"),
    ("80,transparent", "needs a capability"),
    ("80,mark=1", "needs a capability"),
    ("80/udp,backlog=5", "'backlog' is not for udp"),
    ("80/udp,keepalive", "'keepalive' is not for udp"),
    ("80/sctp,fastopen=5", "'fastopen' is not for sctp"),
    ("0.0.0.0:80,v6only", "'v6only' is not for an address that is not IPv6"),
    ("each:80", "'each' is for udp"),
    ("each:80/udp,freebind", "'freebind' is not for each"),
];

#[test]
fn a_wrong_endpoint_is_reported_with_what_was_expected() {
    for (text, expected) in REFUSED {
        let message = text.parse::<Endpoint>().expect_err(text).to_string();
        assert!(message.contains(expected), "{text:?}: {message}");
        assert!(message.is_ascii() && !message.contains('\u{1b}'), "{message:?}");
    }
    let long = format!("80,dev={}", "a".repeat(600));
    assert_eq!(long.parse::<Endpoint>(), Err(EndpointError::TooLong(607)));
}

#[test]
fn lengths_are_exact() {
    assert!(is_name(&"n".repeat(64)) && !is_name(&"n".repeat(65)) && !is_name(""));
    assert!(is_service(&"s".repeat(64)) && !is_service(&"s".repeat(65)) && !is_service(""));
    assert!(is_interface("l") && is_interface(&"l".repeat(15)) && !is_interface(&"l".repeat(16)) && !is_interface(""));
    let error = |length: usize| "1".repeat(length).parse::<Endpoint>().expect_err("not a port");
    assert!(matches!(error(MAX_LEN), EndpointError::Port(_)));
    assert_eq!(error(MAX_LEN + 1), EndpointError::TooLong(MAX_LEN + 1));
}

#[test]
fn the_numbers_of_options_are_exact() {
    for (option, least, most) in [
        ("backlog", 1, 0x7fff_ffff),
        ("linger", 0, 65_535),
        ("defer_accept", 1, 65_535),
        ("fastopen", 1, 65_535),
        ("rcvbuf", 1, 0x3fff_ffff_u64),
        ("sndbuf", 1, 0x3fff_ffff),
        ("tos", 0, 255),
    ] {
        let fits = |number: u64| format!("80,{option}={number}").parse::<Endpoint>().is_ok();
        assert!(fits(least) && fits(most) && !fits(most + 1) && (least == 0 || !fits(0)), "{option}");
    }
    for (times, fits) in [
        ("1:1:1", true),
        ("32767:32767:127", true),
        ("0:1:1", false),
        ("1:0:1", false),
        ("1:1:0", false),
        ("32768:1:1", false),
        ("1:32768:1", false),
        ("1:1:128", false),
    ] {
        assert_eq!(format!("80,keepalive={times}").parse::<Endpoint>().is_ok(), fits, "{times}");
    }
}

#[test]
fn what_will_be_bound_is_displayed_without_name_and_options() {
    let resolved = |text: &str| parse(text).resolve(&Services::default()).expect(text).to_string();
    assert_eq!(resolved("web=127.0.0.1:80,backlog=5"), "127.0.0.1:80/tcp");
    assert_eq!(resolved("[::1]:53/udp"), "[::1]:53/udp");
    assert_eq!(resolved("80"), "80/tcp");
}

#[test]
fn a_service_is_looked_up_for_its_protocol() {
    let services = Services::parse(b"nntp 119/tcp\ntftp 69/udp\n");
    assert_eq!(parse("nntp").resolve(&services).map(|r| (r.port.get(), r.name())), Ok((119, "119/tcp".into())));
    assert_eq!(parse("news=nntp/mptcp").resolve(&services).map(|r| r.name()), Ok("news".into()));
    let error = parse("tftp").resolve(&services).expect_err("no tcp entry").to_string();
    assert!(error.contains("expected tftp/udp"), "{error}");
    assert_eq!(parse("gopherd").resolve(&services), Err(EndpointError::Service("gopherd".into())));
}

fn endpoints() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just(String::new()), "[A-Za-z_][A-Za-z0-9_.-]{0,63}=".prop_map(|name| name)];
    let address = prop_oneof![
        Just(String::new()),
        Just("*:".into()),
        any::<Ipv4Addr>().prop_map(|address| format!("{address}:")),
        any::<Ipv6Addr>().prop_map(|address| format!("[{address}]:")),
    ];
    let port = prop_oneof![(1u16..).prop_map(|port| port.to_string()), "[a-z][a-z0-9-]{0,15}"];
    let protocol = prop_oneof![Just(""), Just("/tcp"), Just("/mptcp")];
    let option = prop_oneof![
        Just(",reuseport".to_owned()),
        Just(",freebind".into()),
        Just(",keepalive".into()),
        (1u16..32768, 1u16..32768, 1u8..128).prop_map(|(i, v, c)| format!(",keepalive={i}:{v}:{c}")),
        (1u32..0x7fff_ffff).prop_map(|n| format!(",backlog={n}")),
        any::<u16>().prop_map(|n| format!(",linger={n}")),
        "[a-z][a-z0-9]{0,14}".prop_map(|dev| format!(",dev={dev}")),
        any::<u8>().prop_map(|n| format!(",tos={n}")),
    ];
    let options = proptest::collection::vec(option, 0..4).prop_map(|all| all.concat());
    (name, address, port, protocol, options)
        .prop_map(|(name, address, port, protocol, options)| format!("{name}{address}{port}{protocol}{options}"))
}

proptest! {
    #[test]
    fn a_displayed_endpoint_parses_to_the_same_value(text in endpoints()) {
        match text.parse::<Endpoint>() {
            Ok(endpoint) => prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint)),
            Err(error) => prop_assert!(matches!(error, EndpointError::OptionTwice(_)), "{}: {}", text, error),
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        if let Ok(endpoint) = text.parse::<Endpoint>() {
            prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
        }
    }
}
