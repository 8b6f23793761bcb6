//! A news server for a few groups: `news HOST GROUP,GROUP… [ENDPOINT]`. Articles live in memory, and end with it.
//!
//! Anybody may read and post. Started by portgrant or by a service manager it serves on the sockets that it is handed,
//! else it asks for ENDPOINT, or for port 119. HOST is its name, in Path and in Message-IDs.
//!
//! ```text
//! $ portgrant exec -l 119 -- news news.example.test local.general,local.test &
//! $ tin -r -g 127.0.0.1 local.test
//! ```
//!
//! NNTP is RFC 3977 with its READER, POST, OVER and NEWNEWS, articles RFC 5536 as far as a server must know.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use lines::{Client, Ending};
use portgrant_server::status;

mod lines;

/// The longest line of a command and of an article, its end included.
const COMMAND: usize = 512;
const TEXT: usize = 1000;
/// The biggest article, and how much more is read of one, so that its author hears what is wrong with it.
const ARTICLE: usize = 256 << 10;
const MORE: usize = 4 * ARTICLE;
/// How much and how many are kept, the newest.
const SPOOL: usize = 64 << 20;
const ARTICLES: usize = 10_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (host, groups, endpoint) = match &arguments[..] {
        [host, groups] => (host, groups, "nntp=119"),
        [host, groups, endpoint] => (host, groups, endpoint.as_str()),
        _ => {
            eprintln!("usage: news HOST GROUP,GROUP... [ENDPOINT]");
            return ExitCode::from(status::USAGE);
        }
    };
    let server = Server::new(host, groups);
    let full = "400 too many clients, come back later";
    let served = lines::listeners(endpoint)
        .and_then(|listeners| lines::serve(listeners, full, move |client| Session::new(&server).run(client)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("news: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// Where one client is.
struct Session<'a> {
    server: &'a Server,
    group: Option<String>,
    current: Option<u64>,
}

/// A reply: a line, or a line and the text that follows it, or the last line of all.
enum Reply {
    Line(String),
    Text(String, Vec<String>),
    Article(String, Arc<Article>, Part),
    Last(&'static str),
}

/// What is sent of an article.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Whole,
    Head,
    Body,
    Nothing,
}

fn line(line: &str) -> Reply {
    Reply::Line(line.to_owned())
}

const SYNTAX: &str = "501 that is not how it is written";
const NO_GROUP: &str = "412 say GROUP first";
const NO_NUMBER: &str = "423 no article of that number";

impl<'a> Session<'a> {
    fn new(server: &'a Server) -> Session<'a> {
        Session { server, group: None, current: None }
    }

    fn run(mut self, client: &mut Client) -> io::Result<()> {
        client.reply(format_args!("200 {} is here, you may post", self.server.host))?;
        loop {
            match self.command(client) {
                Ok(Reply::Line(line)) => client.reply(line)?,
                Ok(Reply::Text(line, text)) => {
                    client.reply(line)?;
                    send(client, text.iter().map(String::as_bytes))?;
                }
                Ok(Reply::Article(line, article, part)) => {
                    client.reply(line)?;
                    send(client, article.lines(part))?;
                }
                Ok(Reply::Last(line)) => return client.reply(line),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return client.reply("400 you took too long, or the server ends");
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn command(&mut self, client: &mut Client) -> io::Result<Reply> {
        match client.read_line(COMMAND)? {
            Ending::Crlf => {}
            Ending::TooLong => return Ok(line("501 that line is too long")),
            Ending::Bare => return Ok(Reply::Last("400 a line must end in CR LF, and nothing else is an end")),
        }
        let command = String::from_utf8_lossy(&client.line).into_owned();
        let words: Vec<&str> = command.split_ascii_whitespace().collect();
        let verb = words.first().map(|verb| verb.to_ascii_uppercase()).unwrap_or_default();
        let arguments = words.get(1..).unwrap_or_default();
        let first = arguments.first().map(|word| word.to_ascii_uppercase()).unwrap_or_default();
        Ok(match (verb.as_str(), arguments) {
            ("CAPABILITIES", _) => capabilities(),
            ("MODE", [_]) if first == "READER" => line("200 you may post"),
            ("DATE", []) => Reply::Line(format!("111 {}", Timestamp::now().strftime("%Y%m%d%H%M%S"))),
            ("HELP", _) => Reply::Text("100 help follows".to_owned(), HELP.lines().map(str::to_owned).collect()),
            ("QUIT", _) => Reply::Last("205 bye"),
            ("LIST", []) => list(self.server.active("*")),
            ("LIST", [_]) if first == "ACTIVE" => list(self.server.active("*")),
            ("LIST", [_, groups]) if first == "ACTIVE" => list(self.server.active(groups)),
            ("LIST", [_]) if first == "NEWSGROUPS" => list(self.server.descriptions("*")),
            ("LIST", [_, groups]) if first == "NEWSGROUPS" => list(self.server.descriptions(groups)),
            ("LIST", [_]) if first == "OVERVIEW.FMT" => list(OVERVIEW.lines().map(str::to_owned).collect()),
            ("LIST", _) => line("503 there is no such list"),
            ("NEWGROUPS", [date, time, ..]) => self.server.new_groups(date, time),
            ("NEWNEWS", [groups, date, time, ..]) => self.server.new_news(groups, date, time),
            ("GROUP", [group]) => self.group(group, None),
            ("LISTGROUP", []) => match self.group.clone() {
                Some(group) => self.group(&group, Some(0..=u64::MAX)),
                None => line(NO_GROUP),
            },
            ("LISTGROUP", [group]) => self.group(group, Some(0..=u64::MAX)),
            ("LISTGROUP", [group, numbers]) => {
                range(numbers).map_or(line(SYNTAX), |range| self.group(group, Some(range)))
            }
            ("ARTICLE", _) => self.article(arguments, 220, Part::Whole),
            ("HEAD", _) => self.article(arguments, 221, Part::Head),
            ("BODY", _) => self.article(arguments, 222, Part::Body),
            ("STAT", _) => self.article(arguments, 223, Part::Nothing),
            ("NEXT", []) => self.step("421 that was the last", |number, current| number > current),
            ("LAST", []) => self.step("422 that was the first", |number, current| number < current),
            ("OVER" | "XOVER", _) => self.over(arguments),
            ("POST", []) => return self.post(client),
            ("MODE" | "DATE" | "GROUP" | "LISTGROUP" | "NEXT" | "LAST" | "POST" | "NEWGROUPS" | "NEWNEWS", _) => {
                line(SYNTAX)
            }
            _ => line("500 no such command"),
        })
    }

    /// Enters a group, and lists those of its numbers that are asked for.
    fn group(&mut self, name: &str, listed: Option<RangeInclusive<u64>>) -> Reply {
        let spool = self.server.spool();
        let Some(&high) = spool.groups.get(name) else { return line("411 there is no such group") };
        let numbers: Vec<u64> = spool.of_group(name).map(|(number, _)| number).collect();
        self.group = Some(name.to_owned());
        self.current = numbers.first().copied();
        let low = self.current.unwrap_or(high + 1);
        let reply = format!("211 {} {low} {high} {name}", numbers.len());
        match listed {
            Some(listed) => {
                let numbers = numbers.iter().filter(|number| listed.contains(number));
                Reply::Text(reply, numbers.map(u64::to_string).collect())
            }
            None => Reply::Line(reply),
        }
    }

    fn article(&mut self, arguments: &[&str], code: u16, part: Part) -> Reply {
        let (number, article) = match self.find(arguments) {
            Ok(found) => found,
            Err(reply) => return line(reply),
        };
        if number != 0 {
            self.current = Some(number);
        }
        let reply = format!("{code} {number} {}", article.id);
        if part == Part::Nothing { Reply::Line(reply) } else { Reply::Article(reply, article, part) }
    }

    /// The one article that is meant; by its Message-ID it has the number 0.
    fn find(&self, arguments: &[&str]) -> Result<(u64, Arc<Article>), &'static str> {
        let spool = self.server.spool();
        let (number, none) = match *arguments {
            [] => (self.current, "420 no article is current"),
            [id] if id.starts_with('<') => {
                let found = spool.articles.iter().find(|article| article.id == id);
                return found.map(|article| (0, Arc::clone(article))).ok_or("430 no article of that Message-ID");
            }
            [number] => (Some(number.parse().map_err(|_| SYNTAX)?), NO_NUMBER),
            _ => return Err(SYNTAX),
        };
        let group = self.group.as_deref().ok_or(NO_GROUP)?;
        let found = spool.of_group(group).find(|&(found, _)| Some(found) == number);
        found.map(|(number, article)| (number, Arc::clone(article))).ok_or(none)
    }

    fn step(&mut self, none: &str, is_there: impl Fn(u64, u64) -> bool) -> Reply {
        let Some(group) = &self.group else { return line(NO_GROUP) };
        let Some(current) = self.current else { return line("420 no article is current") };
        let spool = self.server.spool();
        let candidates = spool.of_group(group).filter(|&(number, _)| is_there(number, current));
        let Some((number, article)) = candidates.min_by_key(|(number, _)| number.abs_diff(current)) else {
            return line(none);
        };
        self.current = Some(number);
        Reply::Line(format!("223 {number} {}", article.id))
    }

    fn over(&self, arguments: &[&str]) -> Reply {
        let follows = "224 overview follows".to_owned();
        if let [numbers] = arguments
            && let Some(range) = range(numbers)
        {
            let Some(group) = &self.group else { return line(NO_GROUP) };
            let spool = self.server.spool();
            let articles = spool.of_group(group).filter(|(number, _)| range.contains(number));
            let lines: Vec<String> = articles.map(|(number, article)| article.overview(number)).collect();
            return if lines.is_empty() { line(NO_NUMBER) } else { Reply::Text(follows, lines) };
        }
        match self.find(arguments) {
            Ok((number, article)) => Reply::Text(follows, vec![article.overview(number)]),
            Err(reply) => line(reply),
        }
    }

    fn post(&mut self, client: &mut Client) -> io::Result<Reply> {
        client.reply("340 go on, and end with a dot")?;
        client.hold_on();
        let text = text(client)?;
        client.let_go();
        Ok(match text {
            Ok(text) => line(self.server.accept(text, client.peer)),
            Err(reply) => reply,
        })
    }
}

const HELP: &str = "CAPABILITIES  MODE READER  DATE  HELP  QUIT\nLIST [ACTIVE | NEWSGROUPS | OVERVIEW.FMT]\n\
    NEWGROUPS date time  NEWNEWS groups date time\nGROUP group  LISTGROUP [group [numbers]]  NEXT  LAST\n\
    ARTICLE  HEAD  BODY  STAT  OVER [number | <id>]\nPOST";

const OVERVIEW: &str = "Subject:\nFrom:\nDate:\nMessage-ID:\nReferences:\n:bytes\n:lines\nXref:full";

fn capabilities() -> Reply {
    let all = "VERSION 2\nREADER\nPOST\nNEWNEWS\nOVER MSGID\nLIST ACTIVE NEWSGROUPS OVERVIEW.FMT";
    Reply::Text("101 capabilities follow".to_owned(), all.lines().map(str::to_owned).collect())
}

fn list(lines: Vec<String>) -> Reply {
    Reply::Text("215 the list follows".to_owned(), lines)
}

/// `7`, `7-` or `7-9`.
fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=if last.is_empty() { u64::MAX } else { last.parse().ok()? })
}

/// `20261122 110000`, or with a year of two digits, which is not in the future.
fn moment(date: &str, time: &str) -> Option<Timestamp> {
    let this_year = Timestamp::now().strftime("%y").to_string();
    let century = match date.get(..2)? {
        _ if date.len() == 8 => "",
        year if year <= this_year.as_str() => "20",
        _ => "19",
    };
    let moment = DateTime::strptime("%Y%m%d%H%M%S", format!("{century}{date}{time}")).ok()?;
    Some(moment.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Sends a text: lines that begin with a dot get another, and a dot ends it.
fn send<'a>(client: &mut Client, lines: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    for line in lines {
        let dot: &[u8] = if line.starts_with(b".") { b"." } else { b"" };
        client.reply_bytes(&[dot, line].concat())?;
    }
    client.reply(".")
}

/// Takes lines up to the dot.
fn text(client: &mut Client) -> io::Result<Result<Vec<Vec<u8>>, Reply>> {
    let (mut lines, mut taken, mut is_wrong) = (Vec::new(), 0, false);
    loop {
        match client.read_line(TEXT)? {
            Ending::Crlf if client.line == b"." => break,
            Ending::Crlf => {}
            Ending::TooLong => is_wrong = true,
            Ending::Bare => return Ok(Err(Reply::Last("400 a line must end in CR LF, and nothing else is an end"))),
        }
        taken += client.line.len() + 2;
        is_wrong |= taken > ARTICLE;
        if taken > MORE {
            return Ok(Err(Reply::Last("400 that is much too big")));
        }
        if !is_wrong {
            lines.push(client.line.strip_prefix(b".").unwrap_or(&client.line).to_vec());
        }
    }
    Ok(if is_wrong { Err(line("441 it is too big, or a line of it is too long")) } else { Ok(lines) })
}

/// What is there to read.
struct Server {
    host: String,
    begun: Timestamp,
    spool: Mutex<Spool>,
}

/// All articles, the oldest first, and each group's highest number.
struct Spool {
    groups: BTreeMap<String, u64>,
    articles: VecDeque<Arc<Article>>,
    bytes: usize,
    number: u64,
}

struct Article {
    id: String,
    came: Timestamp,
    numbers: Vec<(String, u64)>,
    lines: Vec<Vec<u8>>,
    /// How many of them are the header
    head: usize,
    bytes: usize,
}

impl Spool {
    fn of_group(&self, group: &str) -> impl Iterator<Item = (u64, &Arc<Article>)> {
        let number = move |article: &Article| article.numbers.iter().find(|(name, _)| name == group).map(|&(_, n)| n);
        self.articles.iter().filter_map(move |article| Some((number(article)?, article)))
    }
}

impl Server {
    fn new(host: &str, groups: &str) -> Server {
        let groups = groups.split(',').map(|group| (group.to_owned(), 0)).collect();
        let spool = Spool { groups, articles: VecDeque::new(), bytes: 0, number: 0 };
        Server { host: host.to_owned(), begun: Timestamp::now(), spool: Mutex::new(spool) }
    }

    /// Never while a client is waited for.
    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn active(&self, groups: &str) -> Vec<String> {
        let spool = self.spool();
        let line = |(name, high): (&String, &u64)| {
            let low = spool.of_group(name).next().map_or(high + 1, |(number, _)| number);
            format!("{name} {high} {low} y")
        };
        let names = spool.groups.iter().filter(|(name, _)| matches(groups, name));
        names.map(line).collect()
    }

    fn descriptions(&self, groups: &str) -> Vec<String> {
        let spool = self.spool();
        let names = spool.groups.keys().filter(|name| matches(groups, name));
        names.map(|name| format!("{name}\tA group of {}", self.host)).collect()
    }

    fn new_groups(&self, date: &str, time: &str) -> Reply {
        match moment(date, time) {
            Some(since) if since <= self.begun => Reply::Text("231 groups follow".to_owned(), self.active("*")),
            Some(_) => Reply::Text("231 no group follows".to_owned(), Vec::new()),
            None => line(SYNTAX),
        }
    }

    fn new_news(&self, groups: &str, date: &str, time: &str) -> Reply {
        let Some(since) = moment(date, time) else { return line(SYNTAX) };
        let is_in = |article: &&Arc<Article>| article.numbers.iter().any(|(group, _)| matches(groups, group));
        let spool = self.spool();
        let articles = spool.articles.iter().filter(|article| article.came >= since).filter(is_in);
        Reply::Text("230 Message-IDs follow".to_owned(), articles.map(|article| article.id.clone()).collect())
    }

    /// Files an article, if it is one, and lets the oldest go where there is no room.
    fn accept(&self, mut lines: Vec<Vec<u8>>, peer: IpAddr) -> &'static str {
        let Some(head) = lines.iter().position(Vec::is_empty) else { return "441 it has no body" };
        let mut header = Header::new(&lines[..head]);
        if header.is_malformed() || ["from", "subject", "newsgroups"].iter().any(|name| header.value(name).is_none()) {
            return "441 it needs From, Subject and Newsgroups, each once, and lines of a header";
        }
        let mut spool = self.spool();
        spool.number += 1;
        let came = Timestamp::now();
        let id = header
            .value("message-id")
            .unwrap_or_else(|| format!("<{}.{}.{}@{}>", came.as_second(), std::process::id(), spool.number, self.host));
        let newsgroups = header.value("newsgroups").unwrap_or_default();
        let mut numbers: Vec<(String, u64)> = Vec::new();
        for group in newsgroups.split(',').map(str::trim) {
            if let Some(&high) = spool.groups.get(group)
                && numbers.iter().all(|(name, _)| name != group)
            {
                numbers.push((group.to_owned(), high + 1));
            }
        }
        if numbers.is_empty() {
            return "441 there is no such group";
        }
        if !is_id(&id) || spool.articles.iter().any(|article| article.id == id) {
            return "441 its Message-ID is none, or is here already";
        }
        header.drop_fields(&["path", "injection-info", "xref"]);
        let mut own = vec![
            format!("Path: {}!not-for-mail", self.host),
            format!("Injection-Info: {}; posting-host=\"{peer}\"", self.host),
        ];
        own.extend(header.value("message-id").is_none().then(|| format!("Message-ID: {id}")));
        let places: String = numbers.iter().map(|(group, number)| format!(" {group}:{number}")).collect();
        own.push(format!("Xref: {}{places}", self.host));
        let date = came.strftime("%a, %d %b %Y %H:%M:%S +0000");
        own.extend(header.value("date").is_none().then(|| format!("Date: {date}")));
        let mut all: Vec<Vec<u8>> = own.into_iter().map(String::into_bytes).collect();
        all.extend(header.lines());
        let head_length = all.len();
        all.extend(lines.drain(head..));
        let bytes = all.iter().map(|line| line.len() + 2).sum();
        for (group, number) in &numbers {
            spool.groups.insert(group.clone(), *number);
        }
        spool.bytes += bytes;
        spool.articles.push_back(Arc::new(Article { id, came, numbers, lines: all, head: head_length, bytes }));
        while spool.bytes > SPOOL || spool.articles.len() > ARTICLES {
            spool.bytes -= spool.articles.pop_front().map_or(0, |article| article.bytes);
        }
        "240 it is here"
    }
}

/// The fields of a header: each a line, and those that go on with white space.
struct Header(Vec<Vec<Vec<u8>>>);

impl Header {
    fn new(lines: &[Vec<u8>]) -> Header {
        let mut fields: Vec<Vec<Vec<u8>>> = Vec::new();
        for line in lines {
            match fields.last_mut() {
                Some(field) if line.starts_with(b" ") || line.starts_with(b"\t") => field.push(line.clone()),
                _ => fields.push(vec![line.clone()]),
            }
        }
        Header(fields)
    }

    fn is_malformed(&self) -> bool {
        let names: Option<Vec<String>> = self.0.iter().map(|field| name(&field[0])).collect();
        let Some(names) = names else { return true };
        let once = ["from", "subject", "newsgroups", "message-id", "date", "references", "path"];
        once.iter().any(|once| names.iter().filter(|name| name == once).count() > 1)
    }

    /// Of the field of that name, in lower case: its value, in one line.
    fn value(&self, wanted: &str) -> Option<String> {
        let field = self.0.iter().find(|field| name(&field[0]).as_deref() == Some(wanted))?;
        let text = String::from_utf8_lossy(&field.concat()).replace(char::is_control, " ");
        Some(text.split_once(':')?.1.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn drop_fields(&mut self, unwanted: &[&str]) {
        self.0.retain(|field| name(&field[0]).is_none_or(|name| !unwanted.contains(&name.as_str())));
    }

    fn lines(self) -> impl Iterator<Item = Vec<u8>> {
        self.0.into_iter().flatten()
    }
}

/// The name that stands before the colon, in lower case.
fn name(line: &[u8]) -> Option<String> {
    let length = line.iter().position(|&byte| byte == b':')?;
    let is_name = length > 0 && line[..length].iter().all(u8::is_ascii_graphic);
    is_name.then(|| String::from_utf8_lossy(&line[..length]).to_ascii_lowercase())
}

fn is_id(id: &str) -> bool {
    let inner = id.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or_default();
    let is_plain = inner.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'<' && byte != b'>');
    id.len() <= 250
        && is_plain
        && inner.split_once('@').is_some_and(|(left, right)| !left.is_empty() && !right.is_empty())
}

impl Article {
    fn lines(&self, part: Part) -> impl Iterator<Item = &[u8]> {
        let lines = match part {
            Part::Whole => &self.lines[..],
            Part::Head => &self.lines[..self.head],
            Part::Body => &self.lines[self.head + 1..],
            Part::Nothing => &[],
        };
        lines.iter().map(Vec::as_slice)
    }

    fn overview(&self, number: u64) -> String {
        let header = Header::new(&self.lines[..self.head]);
        let value = |name| header.value(name).unwrap_or_default();
        let [subject, from, date, references, xref] = ["subject", "from", "date", "references", "xref"].map(value);
        let (id, bytes, lines) = (&self.id, self.bytes, self.lines.len() - self.head - 1);
        format!("{number}\t{subject}\t{from}\t{date}\t{id}\t{references}\t{bytes}\t{lines}\tXref: {xref}")
    }
}

/// RFC 3977's wildmat: patterns with `*` and `?`, the last that fits counts, and one with `!` says no.
fn matches(wildmat: &str, name: &str) -> bool {
    let fitting = wildmat.rsplit(',').find(|pattern| fits(pattern.trim_start_matches('!'), name));
    fitting.is_some_and(|pattern| !pattern.starts_with('!'))
}

/// Which parts of `name` the pattern can have matched so far, one bit of its characters at a time: no pattern is slow.
fn fits(pattern: &str, name: &str) -> bool {
    let mut ends = vec![false; name.len() + 1];
    ends[0] = true;
    for wanted in pattern.bytes() {
        if wanted == b'*' {
            let first = ends.iter().position(|&end| end).unwrap_or(ends.len());
            ends[first..].fill(true);
            continue;
        }
        for (at, byte) in name.bytes().enumerate().rev() {
            ends[at + 1] = ends[at] && (wanted == b'?' || wanted == byte);
        }
        ends[0] = false;
    }
    ends[name.len()]
}
