//! A mail server that only stores mail: `sink FOLDER DOMAIN [ENDPOINT]`. Each message becomes a file in FOLDER/new.
//!
//! It accepts mail from anybody for any address at DOMAIN, and never sends mail. If portgrant or a service manager
//! starts it, it serves on the sockets that it gets; otherwise it asks for ENDPOINT, or for port 25.
//!
//! ```text
//! $ portgrant exec -l 25 -- sink ~/Maildir example.test &
//! $ swaks --server 127.0.0.1 --to alice@example.test
//! ```
//!
//! It implements SMTP (RFC 5321) with SIZE, 8BITMIME and PIPELINING. A line must end in CR LF: a server that also
//! accepts a bare LF lets a client smuggle one message inside another.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use lines::{Client, Ending};
use portgrant_server::status;

mod lines;

/// The longest line of a command and of a message, its end included (RFC 5321, 4.5.3.1).
const COMMAND: usize = 512;
const TEXT: usize = 1000;
/// The largest message, and how much more is read of a larger one, so that its client gets the error.
const MESSAGE: usize = 10 << 20;
const MORE: usize = 4 * MESSAGE;
const RECIPIENTS: usize = 100;
/// How many wrong commands one client may send.
const ERRORS: usize = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, domain, endpoint) = match &arguments[..] {
        [folder, domain] if is_name(domain) => (folder, domain, "smtp=25"),
        [folder, domain, endpoint] if is_name(domain) => (folder, domain, endpoint.as_str()),
        _ => {
            eprintln!("usage: sink FOLDER DOMAIN [ENDPOINT]");
            return ExitCode::from(status::USAGE);
        }
    };
    let mailbox = match Mailbox::new(folder, domain) {
        Ok(mailbox) => mailbox,
        Err(error) => {
            eprintln!("sink: cannot make folders in {folder}: {error}");
            return ExitCode::from(status::SYSTEM);
        }
    };
    let served = lines::listeners(endpoint).and_then(|listeners| {
        let full = "421 4.3.2 too many clients, come back later";
        lines::serve(listeners, full, move |client| Session::new(&mailbox, client.peer).run(client))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sink: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// Whether `text` is safe in a header. (Quoted local parts are not accepted.)
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>()\"\\".contains(&byte))
}

/// Whether `text` is a host name. It becomes a part of file names.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}

/// The state of one client.
struct Session<'a> {
    mailbox: &'a Mailbox,
    peer: IpAddr,
    hello: Option<String>,
    from: Option<String>,
    to: Vec<String>,
}

/// A reply, and whether the connection ends after it.
enum Reply {
    Line(&'static str),
    Last(&'static str),
}

const BARE: Reply = Reply::Last("521 5.5.2 a line must end in CR LF, and nothing else is an end");

impl<'a> Session<'a> {
    fn new(mailbox: &'a Mailbox, peer: IpAddr) -> Session<'a> {
        Session { mailbox, peer, hello: None, from: None, to: Vec::new() }
    }

    fn run(mut self, client: &mut Client) -> io::Result<()> {
        client.reply(format_args!("220 {} ESMTP", self.mailbox.domain))?;
        let mut wrong = 0;
        while wrong < ERRORS {
            let line = match self.command(client) {
                Ok(Reply::Line(line)) => line,
                Ok(Reply::Last(line)) => return client.reply(line),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return client.reply("421 4.4.2 you took too long, or the server ends");
                }
                Err(error) => return Err(error),
            };
            wrong += usize::from(line.starts_with('5'));
            client.reply(line)?;
        }
        client.reply("421 4.7.0 too many errors")
    }

    fn command(&mut self, client: &mut Client) -> io::Result<Reply> {
        match client.read_line(COMMAND)? {
            Ending::Crlf => {}
            Ending::TooLong => return Ok(Reply::Line("500 5.5.2 that line is too long")),
            Ending::Bare => return Ok(BARE),
        }
        let line = String::from_utf8_lossy(&client.line).into_owned();
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let verb = verb.to_ascii_uppercase();
        Ok(Reply::Line(match verb.as_str() {
            "HELO" | "EHLO" if !is_plain(rest) => "501 5.5.4 who are you?",
            "HELO" => self.hello(rest),
            "EHLO" => {
                client.reply(format_args!("250-{}\r\n250-PIPELINING\r\n250-8BITMIME", self.mailbox.domain))?;
                client.reply(format_args!("250-SIZE {MESSAGE}"))?;
                self.hello(rest)
            }
            "MAIL" if self.hello.is_none() => "503 5.5.1 say EHLO first",
            "MAIL" if self.from.is_some() => "503 5.5.1 one message at a time",
            "MAIL" => self.mail(rest),
            "RCPT" | "DATA" if self.from.is_none() => "503 5.5.1 say MAIL first",
            "RCPT" if self.to.len() >= RECIPIENTS => "452 4.5.3 too many recipients",
            "RCPT" => self.recipient(rest),
            "DATA" if !rest.is_empty() => "501 5.5.4 DATA has no parameter",
            "DATA" if self.to.is_empty() => "554 5.5.1 no valid recipients",
            "DATA" => return self.data(client),
            "RSET" => self.reset(),
            "NOOP" => "250 2.0.0 nothing done",
            "VRFY" => "252 2.1.5 send it, and see",
            "HELP" => "214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT",
            "QUIT" => return Ok(Reply::Last("221 2.0.0 bye")),
            _ => "500 5.5.1 no such command",
        }))
    }

    fn hello(&mut self, name: &str) -> &'static str {
        self.reset();
        self.hello = Some(name.to_owned());
        "250 ENHANCEDSTATUSCODES"
    }

    fn reset(&mut self) -> &'static str {
        self.from = None;
        self.to.clear();
        "250 2.0.0 forgotten"
    }

    fn mail(&mut self, rest: &str) -> &'static str {
        let Some((address, parameters)) = path(rest, "FROM:") else { return "501 5.1.7 expected MAIL FROM:<address>" };
        for parameter in parameters.split_ascii_whitespace() {
            let parameter = parameter.to_ascii_uppercase();
            match parameter.split_once('=').map(|(name, value)| (name, value, value.parse::<usize>())) {
                Some(("BODY", "7BIT" | "8BITMIME", _)) => {}
                Some(("SIZE", _, Ok(size))) if size > MESSAGE => return "552 5.3.4 that is too big",
                Some(("SIZE", _, Ok(_))) => {}
                _ => return "555 5.5.4 no such parameter",
            }
        }
        self.from = Some(address.to_owned());
        "250 2.1.0 go on"
    }

    fn recipient(&mut self, rest: &str) -> &'static str {
        let Some((address, parameters)) = path(rest, "TO:") else { return "501 5.1.3 expected RCPT TO:<address>" };
        let is_ours = match address.rsplit_once('@') {
            Some((local, domain)) => !local.is_empty() && domain.eq_ignore_ascii_case(&self.mailbox.domain),
            None => address.eq_ignore_ascii_case("postmaster"),
        };
        if !parameters.is_empty() {
            return "555 5.5.4 no such parameter";
        }
        if !is_ours || address.starts_with('@') {
            return "550 5.7.1 that is nobody here";
        }
        self.to.push(address.to_owned());
        "250 2.1.5 go on"
    }

    fn data(&mut self, client: &mut Client) -> io::Result<Reply> {
        let failed = |error: io::Error| {
            eprintln!("sink: {error}");
            Ok(Reply::Line("451 4.3.0 it cannot be written down"))
        };
        let mut message = match self.mailbox.begin(self) {
            Ok(message) => message,
            Err(error) => return failed(error),
        };
        self.reset();
        client.reply("354 go on, and end with a dot")?;
        client.begin_transaction();
        let wrong = text(client, &mut message)?;
        client.end_transaction();
        match wrong {
            Some(wrong) => Ok(wrong),
            None => message.keep().map_or_else(failed, |()| Ok(Reply::Line("250 2.0.0 kept"))),
        }
    }
}

/// `FROM:<address> parameters`. The address is empty in a message that must not be answered (a bounce).
fn path<'a>(text: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let (start, rest) = text.split_at_checked(word.len())?;
    let (address, parameters) = rest.trim_start().strip_prefix('<')?.split_once('>')?;
    let may_be_empty = word == "FROM:";
    let fits = start.eq_ignore_ascii_case(word) && (is_plain(address) || may_be_empty && address.is_empty());
    fits.then_some((address, parameters))
}

/// Reads the lines of a message up to the dot. Returns the reply if something is wrong with it.
fn text(client: &mut Client, message: &mut Message) -> io::Result<Option<Reply>> {
    let mut wrong = None;
    let mut taken = 0;
    loop {
        match client.read_line(TEXT)? {
            Ending::Crlf if client.line == b"." => return Ok(wrong.map(Reply::Line)),
            Ending::Crlf => {}
            Ending::TooLong => wrong = Some("554 5.6.0 a line of it is too long"),
            // The client and this server may disagree where the message ends, so nothing more is read.
            Ending::Bare => return Ok(Some(BARE)),
        }
        taken += client.line.len();
        if taken > MORE {
            return Ok(Some(Reply::Last("552 5.3.4 that is much too big")));
        }
        if wrong.is_none() {
            wrong = message.line(client.line.strip_prefix(b".").unwrap_or(&client.line)).err();
        }
    }
}

/// The folder for messages, and the domain.
struct Mailbox {
    folder: PathBuf,
    domain: String,
    number: AtomicU64,
}

/// An incoming message in FOLDER/tmp. It is removed when dropped, unless it was kept.
struct Message {
    path: PathBuf,
    kept: PathBuf,
    file: BufWriter<File>,
    room: usize,
}

impl Mailbox {
    fn new(folder: &str, domain: &str) -> io::Result<Mailbox> {
        let folder = PathBuf::from(folder);
        for name in ["tmp", "new", "cur"] {
            fs::create_dir_all(folder.join(name))?;
        }
        Ok(Mailbox { folder, domain: domain.to_owned(), number: AtomicU64::new(0) })
    }

    /// Begins a message with its trace headers (RFC 5321, 4.4), in a file named as in maildir(5).
    fn begin(&self, session: &Session) -> io::Result<Message> {
        let (now, number) = (Timestamp::now(), self.number.fetch_add(1, Ordering::Relaxed));
        let unique = format!("M{:06}P{}Q{number}", now.subsec_microsecond(), std::process::id());
        let name = format!("{}.{unique}.{}", now.as_second(), self.domain);
        let (path, kept) = (self.folder.join("tmp").join(&name), self.folder.join("new").join(&name));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut message = Message { path, kept, file: BufWriter::new(file), room: MESSAGE };
        let (from, hello) = (session.from.as_deref().unwrap_or_default(), session.hello.as_deref().unwrap_or_default());
        let to: String = session.to.iter().map(|to| format!("Delivered-To: {to}\n")).collect();
        let date = now.strftime("%a, %d %b %Y %H:%M:%S +0000");
        let by = format!("\tby {} with SMTP id {unique}; {date}", self.domain);
        write!(message.file, "Return-Path: <{from}>\n{to}Received: from {hello} ([{}])\n{by}\n", session.peer)?;
        Ok(message)
    }
}

impl Message {
    fn line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        self.room = self.room.checked_sub(line.len() + 2).ok_or("552 5.3.4 that is too big")?;
        self.file.write_all(line).and_then(|()| self.file.write_all(b"\n")).map_err(|_| "452 4.3.1 no room for it")
    }

    /// Moves the message to FOLDER/new. Readers see only complete messages, and no message is overwritten.
    fn keep(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::hard_link(&self.path, &self.kept)?; // it takes the place of no other
        File::open(self.kept.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
