//! A news server for a few groups: `news HOST GROUP,GROUP… [ENDPOINT]`. Articles are kept in memory only.
//!
//! Anybody may read and post. If portgrant or a service manager starts it, it serves on the sockets that it gets;
//! otherwise it asks for ENDPOINT, or for port 119. HOST is its name in Path and in Message-IDs.
//!
//! ```text
//! $ portgrant exec -l 119 -- news news.example.test local.general,local.test &
//! $ tin -r -g 127.0.0.1 local.test
//! ```
//!
//! It implements NNTP (RFC 3977) with READER, POST, OVER and NEWNEWS, and the parts of RFC 5536 that a server needs.

use std::io;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use lines::{Client, Ending};
use portgrant_server::status;
use spool::{Article, Part, Spool};

mod lines;
mod spool;

/// The longest line of a command and of an article, its end included.
const COMMAND: usize = 512;
const TEXT: usize = 1000;
/// The largest article, and how much more is read of a larger one, so that its author gets the error.
const ARTICLE: usize = 256 << 10;
const MORE: usize = 4 * ARTICLE;

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
    let spool = Spool::new(host, groups);
    let full = "400 too many clients, come back later";
    let served = lines::listeners(endpoint)
        .and_then(|listeners| lines::serve(listeners, full, move |client| Session::new(&spool).run(client)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("news: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// The state of one client.
struct Session<'a> {
    spool: &'a Spool,
    group: Option<String>,
    current: Option<u64>,
}

/// A reply: a line, a line with a text, or the last line of the connection.
enum Reply {
    Line(String),
    Text(String, Vec<String>),
    Article(String, Arc<Article>, Part),
    Last(&'static str),
}

fn line(line: &str) -> Reply {
    Reply::Line(line.to_owned())
}

const SYNTAX: &str = "501 that is not how it is written";
const NO_GROUP: &str = "412 say GROUP first";
const NO_NUMBER: &str = "423 no article of that number";

impl<'a> Session<'a> {
    fn new(spool: &'a Spool) -> Session<'a> {
        Session { spool, group: None, current: None }
    }

    fn run(mut self, client: &mut Client) -> io::Result<()> {
        client.reply(format_args!("200 {} is here, you may post", self.spool.host))?;
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
            ("LIST", []) => list(self.spool.active("*")),
            ("LIST", [_]) if first == "ACTIVE" => list(self.spool.active("*")),
            ("LIST", [_, groups]) if first == "ACTIVE" => list(self.spool.active(groups)),
            ("LIST", [_]) if first == "NEWSGROUPS" => list(self.spool.descriptions("*")),
            ("LIST", [_, groups]) if first == "NEWSGROUPS" => list(self.spool.descriptions(groups)),
            ("LIST", [_]) if first == "OVERVIEW.FMT" => list(OVERVIEW.lines().map(str::to_owned).collect()),
            ("LIST", _) => line("503 there is no such list"),
            ("NEWGROUPS", [date, time, ..]) => since(date, time, "231", |since| self.spool.groups_since(since)),
            ("NEWNEWS", [groups, date, time, ..]) => {
                since(date, time, "230", |since| self.spool.news_since(groups, since))
            }
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

    /// Enters a group, and lists its numbers in the requested range.
    fn group(&mut self, name: &str, listed: Option<RangeInclusive<u64>>) -> Reply {
        let Some(high) = self.spool.highest(name) else { return line("411 there is no such group") };
        let articles = self.spool.by_number(name, &(0..=high));
        self.group = Some(name.to_owned());
        self.current = articles.first().map(|&(number, _)| number);
        let low = self.current.unwrap_or(high + 1);
        let reply = format!("211 {} {low} {high} {name}", articles.len());
        let Some(listed) = listed else { return Reply::Line(reply) };
        let numbers = articles.iter().map(|(number, _)| number).filter(|number| listed.contains(number));
        Reply::Text(reply, numbers.map(u64::to_string).collect())
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

    /// The requested article. If it is named by Message-ID, its number is 0.
    fn find(&self, arguments: &[&str]) -> Result<(u64, Arc<Article>), &'static str> {
        let (number, none) = match *arguments {
            [] => (self.current, "420 no article is current"),
            [id] if id.starts_with('<') => {
                return self.spool.by_id(id).map(|article| (0, article)).ok_or("430 no article of that Message-ID");
            }
            [number] => (Some(number.parse().map_err(|_| SYNTAX)?), NO_NUMBER),
            _ => return Err(SYNTAX),
        };
        let group = self.group.as_deref().ok_or(NO_GROUP)?;
        number.and_then(|number| self.spool.by_number(group, &(number..=number)).pop()).ok_or(none)
    }

    fn step(&mut self, none: &str, is_there: impl Fn(u64, u64) -> bool) -> Reply {
        let Some(group) = &self.group else { return line(NO_GROUP) };
        let Some(current) = self.current else { return line("420 no article is current") };
        let mut articles = self.spool.by_number(group, &(0..=u64::MAX));
        articles.retain(|&(number, _)| is_there(number, current));
        let nearest = articles.iter().min_by_key(|(number, _)| number.abs_diff(current));
        let Some((number, article)) = nearest else { return line(none) };
        self.current = Some(*number);
        Reply::Line(format!("223 {number} {}", article.id))
    }

    fn over(&self, arguments: &[&str]) -> Reply {
        let numbers = arguments.first().and_then(|word| range(word));
        let found = match (numbers, &self.group) {
            (Some(_), None) => Err(NO_GROUP),
            (Some(numbers), Some(group)) => Ok(self.spool.by_number(group, &numbers)),
            (None, _) => self.find(arguments).map(|found| vec![found]),
        };
        match found {
            Ok(articles) if articles.is_empty() => line(NO_NUMBER),
            Ok(articles) => {
                let lines = articles.iter().map(|(number, article)| article.overview(*number));
                Reply::Text("224 the overview follows".to_owned(), lines.collect())
            }
            Err(reply) => line(reply),
        }
    }

    fn post(&mut self, client: &mut Client) -> io::Result<Reply> {
        client.reply("340 go on, and end with a dot")?;
        client.begin_transaction();
        let text = text(client)?;
        client.end_transaction();
        Ok(match text {
            Ok(text) => line(self.spool.accept(&text, client.peer)),
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

/// `20261122 110000`. A year of two digits is never in the future.
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

fn since(date: &str, time: &str, code: &str, lines: impl Fn(Timestamp) -> Vec<String>) -> Reply {
    moment(date, time).map_or(line(SYNTAX), |since| Reply::Text(format!("{code} the list follows"), lines(since)))
}

/// Sends a text: lines that begin with a dot get another, and a dot ends it.
fn send<'a>(client: &mut Client, lines: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    for line in lines {
        let dot: &[u8] = if line.starts_with(b".") { b"." } else { b"" };
        client.reply_bytes(&[dot, line].concat())?;
    }
    client.reply(".")
}

/// Reads lines up to the dot.
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
