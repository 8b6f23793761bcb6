//! A telnet client, played by hand, against the filter and against programs on terminals.
#![cfg(feature = "telnet")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portgrant_server::error::TelnetError;
use portgrant_server::telnet::{ECHO, SUPPRESS_GO_AHEAD, Telnet, Terminal};

const DO_ECHO: [u8; 3] = [255, 253, 1];
const DO_SGA: [u8; 3] = [255, 253, 3];
const WILL_SGA: [u8; 3] = [255, 251, 3];
const WILL_NAWS: [u8; 3] = [255, 251, 31];
const WONT_NAWS: [u8; 3] = [255, 252, 31];
const WILL_TERMINAL: [u8; 3] = [255, 251, 24];
const WONT_TERMINAL: [u8; 3] = [255, 252, 24];

/// Both ends of a connection: the client's, and the server's.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    (client, listener.accept().expect("accepted").0)
}

fn size(columns: u8, rows: u8) -> [u8; 9] {
    [255, 250, 31, 0, columns, 0, rows, 255, 240]
}

/// A client that agrees to all, with a window of 100 by 30, and a terminal of that type.
fn agreeable(terminal: &str) -> Vec<u8> {
    let is = [&[255, 250, 24, 0], terminal.as_bytes(), &[255, 240]].concat();
    [&DO_ECHO[..], &DO_SGA, &WILL_SGA, &WILL_NAWS, &size(100, 30), &WILL_TERMINAL, &is].concat()
}

fn serve(script: &str, greeting: &[u8]) -> (TcpStream, JoinHandle<Option<ExitStatus>>) {
    let (mut client, server) = connection();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env("LISTEN_FDS", "1");
    client.write_all(greeting).expect("sent");
    (client, thread::spawn(move || Terminal::new(command).serve(server).expect("started")))
}

/// What the client gets up to `text`, or to the end.
fn up_to(client: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&all).ends_with(text) {
        match client.read(&mut byte) {
            Ok(0) => panic!("the server hung up after {:?}", String::from_utf8_lossy(&all)),
            Ok(_) => all.push(byte[0]),
            Err(error) => panic!("{error} after {:?}, waiting for {text:?}", String::from_utf8_lossy(&all)),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn the_filter_reads_keys_and_answers_while_it_reads() {
    let (mut client, server) = connection();
    let mut telnet = Telnet::by_character(server).expect("asked");
    client.write_all(&agreeable("XTERM")).expect("sent");
    client.write_all(b"a\xff\xff\r\0\r\n\xff\xf4z").expect("sent");
    let mut keys = [0; 6];
    telnet.read_exact(&mut keys).expect("keys");
    assert_eq!(keys, *b"a\xff\r\n\x03z");
    assert!(telnet.does(ECHO) && telnet.does(SUPPRESS_GO_AHEAD) && telnet.peer_does(SUPPRESS_GO_AHEAD));
    assert_eq!(telnet.window().map(|window| (window.columns, window.rows)), Some((100, 30)));
    assert_eq!(telnet.terminal_type(), Some("xterm"));

    telnet.offer(ECHO, false).expect("sent");
    client.write_all(&[255, 254, 1, b'p']).expect("sent");
    telnet.read_exact(&mut keys[..1]).expect("a key");
    assert!(!telnet.does(ECHO), "a password is not shown");
    writeln!(telnet, "bye\u{ff}").expect("sent");
    drop(telnet);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).expect("to its end");
    assert!(heard.starts_with(&[255, 251, 1, 255, 251, 3, 255, 253, 3, 255, 253, 31, 255, 253, 24]), "{heard:?}");
    assert!(heard.ends_with("bye\u{ff}\r\n".as_bytes()), "{heard:?}");
    assert!(heard.windows(3).any(|said| said == [255, 252, 1]), "WONT ECHO");
}

#[test]
fn urgent_data_takes_no_byte_out_of_the_stream() {
    let (mut client, server) = connection();
    let mut telnet = Telnet::by_character(server).expect("asked");
    client.write_all(&[b'a', 255]).expect("sent");
    // Telnet's Synch: IAC, and DM as urgent data.
    rustix::net::send(&client, &[242], rustix::net::SendFlags::OOB).expect("sent");
    client.write_all(b"bc").expect("sent");
    let mut keys = [0; 3];
    telnet.read_exact(&mut keys).expect("keys");
    assert_eq!(keys, *b"abc");
}

#[test]
fn a_program_has_a_terminal_of_the_clients_size_and_type() {
    let script = "stty size; tty; echo \"$TERM ${LISTEN_FDS-clean}\"; ps -o stat= -p $$ 2>/dev/null; exit 7";
    let (mut client, session) = serve(script, &agreeable("VT220"));
    let mut all = Vec::new();
    client.read_to_end(&mut all).expect("to its end");
    let text = String::from_utf8_lossy(&all);
    assert!(text.contains("30 100\r\n/dev/pts/") && text.contains("vt220 clean\r\n"), "{text}");
    assert_eq!(session.join().expect("ended").and_then(|status| status.code()), Some(7));
}

#[test]
fn the_window_is_followed_and_keys_are_keys() {
    let script = "trap 'stty size' WINCH; stty raw -echo; echo up; while :; do k=$(dd bs=1 count=1 2>/dev/null); \
        [ \"$k\" = q ] && exit; echo \"<$k>\"; done";
    let (mut client, session) = serve(script, &agreeable("vt100"));
    up_to(&mut client, "up\n");
    client.write_all(b"x").expect("sent");
    up_to(&mut client, "<x>\n");
    client.write_all(&size(120, 40)).expect("sent");
    client.write_all(b"y").expect("sent");
    assert!(up_to(&mut client, "<y>\n").contains("40 120"));
    client.write_all(b"q").expect("sent");
    let ended = session.join().expect("ended");
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
}

#[test]
fn a_client_that_says_nothing_and_one_that_refuses_all_get_a_plain_terminal() {
    let refusals: [&[u8]; 2] = [&[], &[&WONT_NAWS[..], &WONT_TERMINAL, &DO_ECHO, &DO_SGA, &WILL_SGA].concat()];
    for greeting in refusals {
        let begun = Instant::now();
        let (mut client, session) = serve("stty size; echo $TERM; read line; echo got $line", greeting);
        up_to(&mut client, "24 80\r\ndumb\r\n");
        assert_eq!(
            begun.elapsed() < Duration::from_millis(900),
            !greeting.is_empty(),
            "who answers is not kept waiting"
        );
        client.write_all(b"hi\r\n").expect("sent");
        let text = up_to(&mut client, "got hi\r\n");
        assert!(text.starts_with("hi\r\n"), "it echoes: {text:?}");
        assert!(session.join().expect("ended").is_some());
    }
}

#[test]
fn a_client_that_hangs_up_ends_its_program() {
    for script in ["echo up; sleep 60", "trap '' HUP; echo up; sleep 60 & wait; sleep 60"] {
        let (mut client, session) = serve(script, &agreeable("vt100"));
        up_to(&mut client, "up\r\n");
        let begun = Instant::now();
        drop(client);
        let ended = session.join().expect("ended").expect("a status");
        let signal = if script.starts_with("trap") { 9 } else { 1 };
        assert_eq!(ended.signal(), Some(signal), "{script}: {ended}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn a_long_paste_and_a_long_answer_do_not_wait_for_each_other() {
    let (mut client, session) = serve("stty raw -echo; echo up; exec head -c 3000000", &agreeable("vt100"));
    up_to(&mut client, "up\n");
    let mut writer = client.try_clone().expect("a copy");
    let paste = thread::spawn(move || writer.write_all(&vec![b'x'; 3_000_000]));
    let mut all = Vec::new();
    client.read_to_end(&mut all).expect("to its end");
    assert_eq!(all.iter().filter(|&&byte| byte == b'x').count(), 3_000_000);
    paste.join().expect("no panic").expect("sent");
    let ended = session.join().expect("ended");
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
}

#[test]
fn a_missing_program_is_reported_by_name() {
    let (mut client, server) = connection();
    client.write_all(&agreeable("vt100")).expect("sent");
    let error = Terminal::new(Command::new("/no/such/game")).serve(server).expect_err("not there");
    assert!(
        matches!(error.downcast_ref(), Some(TelnetError::Program { .. }))
            && error.to_string().contains("/no/such/game"),
        "{error}"
    );
}
