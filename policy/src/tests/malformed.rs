//! Malformed lines, and lines with a warning, each with its place.

use super::*;

/// A malformed line, the column, and what the message says.
const MALFORMED: &[(&str, usize, &str)] = &[
    ("allow alice 80", 1, "'allow' is not the start of a rule; write permit"),
    ("permit", 7, "has no subject"),
    ("permit # alice", 15, "has no subject"),
    ("permit 1000 80", 8, "expected uid:1000"),
    ("permit uid:+5 80", 8, "is not a valid id"),
    ("permit uid:4294967295 80", 8, "is not a valid id"),
    ("permit gid: 80", 8, "is not a valid id"),
    ("permit alice", 13, "has no ports"),
    ("permit alice on 127.0.0.1", 14, "has no ports"),
    ("permit alice exec /bin/x", 14, "has no ports"),
    ("permit alice 0", 14, "'0' is not a valid port"),
    ("permit alice 65536", 14, "'65536' is not a valid port"),
    ("permit alice 080", 14, "'080' is not a valid port; write 80"),
    ("permit alice 80,443", 14, "'80,443' is not a valid port; write 80 443"),
    ("permit alice 80-", 17, "'80-' is not a valid port"),
    ("permit alice 80-http", 17, "'80-http' is not a valid port"),
    ("permit alice 90-80", 14, "is not a valid range"),
    ("permit alice 80/TCP", 17, "'TCP' is not a valid protocol; write tcp"),
    ("permit alice 80 90-65536", 20, "'90-65536' is not a valid port"),
    ("permit alice 99999-80", 14, "'99999-80' is not a valid port"),
    ("permit alice tcp/80", 14, "'tcp/80' is not a valid port; write 80/tcp"),
    ("permit alice 80:90", 14, "'80:90' is not a valid port; write 80-90"),
    ("permit alice 80..90", 14, "'80..90' is not a valid port; write 80-90"),
    ("permit alice 127.0.0.1:80", 14, "write 80 on 127.0.0.1"),
    ("permit alice 10.0.0.0/8", 14, "write PORT on 10.0.0.0/8"),
    ("permit alice 80/icmp", 17, "expected tcp (which is mptcp too)"),
    ("permit alice 80/mptcp", 17, "tcp (which is mptcp too)"),
    ("permit alice any 80", 18, "is not a valid port"),
    ("permit alice 80 any", 17, "is not a valid port"),
    ("permit alice tftp", 14, "write tftp/udp"),
    ("permit alice 53 udp", 17, "'udp' is a protocol, not a port; expected both in one word, as in 53/udp"),
    ("permit alice tcp 53", 14, "'tcp 53' is in the wrong order; write 53/tcp"),
    ("permit alice tcp  53", 14, "'tcp' is a protocol, not a port; expected both in one word, as in 53/tcp"),
    ("permit alice 22 10.0.0.0/8 80", 17, "write 80 on 10.0.0.0/8"),
    ("permit alice 22 10.0.0.0/8 on", 17, "write PORT on 10.0.0.0/8"),
    ("permit alice sctp", 14, "'sctp' is a protocol"),
    ("permit alice 80 mptcp", 17, "'mptcp' is a protocol"),
    ("permit alice udp/tcp", 14, "'udp/tcp' is a protocol"),
    ("deny alice udp", 12, "'udp' is a protocol"),
    ("deny alice tftp/tcp", 12, "is not a service"),
    ("permit alice 600", 14, "add the word reserved"),
    ("permit alice 80 500-512", 17, "add the word reserved"),
    ("permit alice 1023-2000", 14, "add the word reserved"),
    ("permit alice any", 14, "add the word reserved"),
    ("permit alice 587", 14, "add the word reserved"),
    ("permit alice login", 14, "add the word reserved"),
    ("permit alice syslog/udp", 14, "add the word reserved"),
    ("permit alice 80 on", 19, "has no address"),
    ("permit alice 80 on reserved", 20, "has no address"),
    ("permit alice 80 on localhost", 20, "write 127.0.0.1 [::1]"),
    ("permit alice 80 on ::1", 20, "'::1' is not a valid address; write [::1]"),
    ("permit alice 80 on [127.0.0.1]", 20, "is not a valid address"),
    ("permit alice 80 on 10.0.0.0/33", 20, "invalid prefix length"),
    ("permit alice 80 on 10.0.0.0/08", 20, "invalid prefix length"),
    ("permit alice 80 on [::ffff:10.0.0.0]/95", 20, "invalid prefix length"),
    ("permit alice 80 on 10.0.0.1/8", 20, "write 10.0.0.0/8"),
    ("permit alice 80 on [::1]/64", 20, "write [::]/64"),
    ("permit alice 80 dev", 20, "is not a valid interface"),
    ("permit alice 80 dev abcdefghijklmnop", 21, "is not a valid interface"),
    ("permit alice 80 freebind freebind", 26, "given twice"),
    ("permit alice 80 on 1.2.3.4 on 1.2.3.4", 28, "given twice"),
    ("permit alice 80 reuseport on 1.2.3.4", 27, "in the wrong place"),
    ("permit alice 80 dev eth0 on 1.2.3.4", 26, "in the wrong place"),
    ("permit alice 80 reuseport 81", 27, "is not a valid port"),
    ("permit alice 80 exec", 21, "is not a valid path"),
    ("permit alice 80 exec sh", 22, "is not a valid path"),
    ("deny alice 80 exec /bin/x", 15, "is for permit"),
    ("deny alice 80 reuseport", 15, "is for permit"),
    ("deny nobody-here 80", 6, "not in /etc/passwd"),
    ("deny :nogroup 80", 6, "not in /etc/group"),
    ("deny alice gopher", 12, "is not a service"),
    ("deny alice 80 gopher", 15, "is not a service"),
    ("permit alice 80\r", 16, "the line ends in a carriage return; as root: sed -i 's/\\r$//' /etc/portgrant.conf"),
    ("permit alice\r 80", 13, "\\x0d"),
    ("permit\u{a0}alice 80", 7, "a no-break space stands here; write a space"),
    ("permit alice 80\u{2013}90", 16, "a long dash stands here; write -"),
    ("permit al\u{e9}ce 80", 10, "\\xc3"),
    ("permit alice 8\0", 15, "\\x00"),
];

#[test]
fn a_malformed_line_is_reported_with_its_column() {
    for (text, column, expected) in MALFORMED {
        let text = format!("# first\n{text}\npermit alice 80\n");
        let found = problems(text.as_bytes());
        let [problem] = found.as_slice() else { panic!("{text}: {found:?}") };
        assert_eq!((problem.line, problem.column), (2, *column), "{text}: {}", problem.wrong);
        let message = problem.wrong.to_string();
        assert!(message.contains(expected) && message.is_ascii(), "{text}: {message}");
    }
}

#[test]
fn a_byte_order_mark_is_reported_with_the_command_that_removes_it() {
    for text in ["\u{feff}permit alice 80\n", "\u{feff}# a comment\npermit alice 80\n"] {
        let found = problems(text.as_bytes());
        let [problem] = found.as_slice() else { panic!("{text}: {found:?}") };
        let told =
            "the file begins with a byte order mark; as root: sed -i '1s/^\\xEF\\xBB\\xBF//' /etc/portgrant.conf";
        assert_eq!((problem.line, problem.column, problem.wrong.to_string().as_str()), (1, 1, told));
    }
    for elsewhere in ["# first\n\u{feff}permit alice 80\n", "permit \u{feff}alice 80\n", "\u{ff}permit alice 80\n"] {
        let found = problems(elsewhere.as_bytes());
        let is_mark = |problem: &Problem| matches!(problem.wrong, Wrong::ByteOrderMark { .. });
        assert!(found.len() == 1 && !is_mark(&found[0]), "{elsewhere}: {found:?}");
    }
}

#[test]
fn the_words_of_a_permit_stand_in_any_order() {
    const WORDS: [&str; 3] = ["reserved", "reuseport", "freebind"];
    for (first, second) in WORDS.iter().flat_map(|first| WORDS.map(|second| (first, second))) {
        let found = problems(format!("permit alice 80 dev lo {first} {second}\n").as_bytes());
        assert_eq!(found.is_empty(), *first != second, "{first} {second}: {found:?}");
    }
}

#[test]
fn a_range_within_512_to_1023_needs_the_word_reserved() {
    for good in [
        "permit alice 600-699 reserved",
        "permit alice any reserved",
        "permit alice submission nntps",
        "permit alice login reserved",
        "deny alice 600",
        "deny alice any",
        "permit alice 511 1024-65535",
    ] {
        assert_eq!(problems(format!("{good}\n").as_bytes()), [], "{good}");
    }
}

#[test]
fn a_last_line_without_a_line_feed_may_be_cut_off_and_is_malformed() {
    for (text, line, column, quoted) in [
        ("permit alice 80", 1, 16, "'permit alice 80' has no line feed"),
        ("# fine\n\n permit alice 80 # web \t", 3, 25, "'permit alice 80 # web' has no line feed"),
        ("permit alice 80\ndeny mallory any", 2, 17, "'deny mallory any'"),
        ("permit alice 80 exec /bin/x", 1, 28, "'permit alice 80 exec /bin/x'"),
        ("permit al\x1b 80", 1, 14, "'permit al\\x1b 80'"),
    ] {
        let first = problems(text.as_bytes()).into_iter().next().unwrap_or_else(|| panic!("{text}"));
        assert_eq!((first.line, first.column), (line, column), "{text}");
        let message = first.wrong.to_string();
        assert!(message.contains(quoted) && message.contains("may be cut off"), "{message}");
    }
    for whole in
        ["permit alice 80\n", "permit alice 80\n# the end", "permit alice 80\n \t", "#", " ", "permit alice 80\n\n"]
    {
        assert_eq!(problems(whole.as_bytes()), [], "{whole:?}");
    }
}

#[test]
fn an_unknown_name_in_a_permit_is_a_warning() {
    let policy = policy("permit nobody-here 80\npermit :nogroup 80\npermit alice gopher quic/tcp\n");
    assert_eq!(warned(&policy), [(1, 8), (2, 8), (3, 14), (3, 21)]);
}

#[test]
fn an_address_in_a_permit_of_udp_is_a_warning() {
    let text = "permit alice 53 on 10.0.0.1\npermit alice 53 53/udp on 0.0.0.0 10.0.0.1 [::1]\ndeny alice 53 on 10.0.0.1\n\
        permit alice 53/udp on 0.0.0.0/0 [::] [::]/0\npermit alice 53/udp on [fd00::]/8\n";
    assert_eq!(warned(&policy(text)), [(2, 35), (5, 24)]);
}

#[test]
fn an_interface_in_a_permit_of_udp_is_a_warning() {
    assert_eq!(
        warned(&policy("permit alice 53 dev eth0\npermit alice 53/udp dev eth0\ndeny alice 53/udp dev eth0")),
        [(2, 25)]
    );
}

fn warned(policy: &Policy) -> Vec<(usize, usize)> {
    policy.warnings.iter().map(|problem| (problem.line, problem.column)).collect()
}
