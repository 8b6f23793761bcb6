//! The articles of `news`, in memory: their header (RFC 5536) and their overview (RFC 3977, 8.1).

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

/// How many bytes and articles are kept; the oldest are removed.
const BYTES: usize = 64 << 20;
const ARTICLES: usize = 10_000;

/// All groups and articles. Answers are copies, so that no client waits for another.
pub(crate) struct Spool {
    pub(crate) host: String,
    begun: Timestamp,
    kept: Mutex<Kept>,
}

/// All articles, the oldest first, and each group's highest number.
struct Kept {
    groups: BTreeMap<String, u64>,
    articles: VecDeque<Arc<Article>>,
    bytes: usize,
    count: u64,
}

pub(crate) struct Article {
    pub(crate) id: String,
    came: Timestamp,
    /// Its number in each of its groups
    numbers: Vec<(String, u64)>,
    lines: Vec<Vec<u8>>,
    /// How many of them are the header
    head: usize,
    bytes: usize,
}

/// The part of an article that is sent.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Part {
    Whole,
    Head,
    Body,
    Nothing,
}

impl Kept {
    fn of_group(&self, group: &str) -> impl Iterator<Item = (u64, &Arc<Article>)> {
        let number = move |article: &Article| article.numbers.iter().find(|(name, _)| name == group).map(|&(_, n)| n);
        self.articles.iter().filter_map(move |article| Some((number(article)?, article)))
    }
}

impl Spool {
    pub(crate) fn new(host: &str, groups: &str) -> Spool {
        let groups = groups.split(',').map(|group| (group.to_owned(), 0)).collect();
        let kept = Kept { groups, articles: VecDeque::new(), bytes: 0, count: 0 };
        Spool { host: host.to_owned(), begun: Timestamp::now(), kept: Mutex::new(kept) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// LIST ACTIVE: name, highest and lowest number, and whether posting is allowed.
    pub(crate) fn active(&self, wildmat: &str) -> Vec<String> {
        let kept = self.kept();
        let line = |(name, high): (&String, &u64)| {
            let low = kept.of_group(name).next().map_or(high + 1, |(number, _)| number);
            format!("{name} {high} {low} y")
        };
        kept.groups.iter().filter(|(name, _)| matches(wildmat, name)).map(line).collect()
    }

    pub(crate) fn descriptions(&self, wildmat: &str) -> Vec<String> {
        let kept = self.kept();
        let names = kept.groups.keys().filter(|name| matches(wildmat, name));
        names.map(|name| format!("{name}\tA group of {}", self.host)).collect()
    }

    pub(crate) fn groups_since(&self, since: Timestamp) -> Vec<String> {
        if since <= self.begun { self.active("*") } else { Vec::new() }
    }

    /// The Message-IDs of articles since `since`.
    pub(crate) fn news_since(&self, wildmat: &str, since: Timestamp) -> Vec<String> {
        let is_in = |article: &&Arc<Article>| article.numbers.iter().any(|(group, _)| matches(wildmat, group));
        let kept = self.kept();
        let articles = kept.articles.iter().filter(|article| article.came >= since).filter(is_in);
        articles.map(|article| article.id.clone()).collect()
    }

    /// The highest number of a group so far.
    pub(crate) fn highest(&self, group: &str) -> Option<u64> {
        self.kept().groups.get(group).copied()
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<Arc<Article>> {
        self.kept().articles.iter().find(|article| article.id == id).cloned()
    }

    /// The articles of a group with these numbers.
    pub(crate) fn by_number(&self, group: &str, numbers: &RangeInclusive<u64>) -> Vec<(u64, Arc<Article>)> {
        let kept = self.kept();
        let articles = kept.of_group(group).filter(|(number, _)| numbers.contains(number));
        articles.map(|(number, article)| (number, Arc::clone(article))).collect()
    }

    /// Stores a valid article, and removes the oldest if there is no room. Returns the reply.
    pub(crate) fn accept(&self, lines: &[Vec<u8>], peer: IpAddr) -> &'static str {
        let Some(head) = lines.iter().position(Vec::is_empty) else { return "441 it has no body" };
        let header = Header::new(&lines[..head]);
        if header.is_malformed() {
            return "441 it needs From, Subject and Newsgroups, each once, in a header";
        }
        let mut kept = self.kept();
        let Some(article) = self.injected(&kept, &header, &lines[head..], peer) else {
            return "441 there is no such group, or its Message-ID is none, or is here already";
        };
        for (group, number) in &article.numbers {
            kept.groups.insert(group.clone(), *number);
        }
        kept.count += 1;
        kept.bytes += article.bytes;
        kept.articles.push_back(Arc::new(article));
        while kept.bytes > BYTES || kept.articles.len() > ARTICLES {
            kept.bytes -= kept.articles.pop_front().map_or(0, |article| article.bytes);
        }
        "240 it is here"
    }

    /// The article with its numbers, and with the headers that a server adds.
    fn injected(&self, kept: &Kept, header: &Header, body: &[Vec<u8>], peer: IpAddr) -> Option<Article> {
        let (came, host) = (Timestamp::now(), &self.host);
        let value = |name| header.value(name);
        let made = || format!("<{}.{}.{}@{host}>", came.as_second(), std::process::id(), kept.count);
        let id = value("message-id").unwrap_or_else(made);
        let newsgroups = value("newsgroups")?;
        let wanted: Vec<&str> = newsgroups.split(',').map(str::trim).collect();
        let groups = kept.groups.iter().filter(|(name, _)| wanted.contains(&name.as_str()));
        let numbers: Vec<(String, u64)> = groups.map(|(name, high)| (name.clone(), high + 1)).collect();
        if numbers.is_empty() || !is_id(&id) || kept.articles.iter().any(|article| article.id == id) {
            return None;
        }
        let places: String = numbers.iter().map(|(group, number)| format!(" {group}:{number}")).collect();
        let mut own = vec![
            format!("Path: {host}!not-for-mail"),
            format!("Injection-Info: {host}; posting-host=\"{peer}\""),
            format!("Xref: {host}{places}"),
        ];
        own.extend(value("message-id").is_none().then(|| format!("Message-ID: {id}")));
        let date = came.strftime("%a, %d %b %Y %H:%M:%S +0000");
        own.extend(value("date").is_none().then(|| format!("Date: {date}")));
        let mut lines: Vec<Vec<u8>> = own.into_iter().map(String::into_bytes).collect();
        lines.extend(header.without(&["path", "injection-info", "xref"]).cloned());
        let head = lines.len();
        lines.extend_from_slice(body);
        let bytes = lines.iter().map(|line| line.len() + 2).sum();
        Some(Article { id, came, numbers, lines, head, bytes })
    }
}

/// The fields of a header, each with its folded lines.
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
        let is_twice = once.iter().any(|once| names.iter().filter(|name| name == once).count() > 1);
        is_twice || once[..3].iter().any(|name| self.value(name).is_none())
    }

    /// The value of the field `wanted` (in lower case), in one line.
    fn value(&self, wanted: &str) -> Option<String> {
        let field = self.0.iter().find(|field| name(&field[0]).as_deref() == Some(wanted))?;
        let text = String::from_utf8_lossy(&field.concat()).replace(char::is_control, " ");
        Some(text.split_once(':')?.1.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn without(&self, unwanted: &[&str]) -> impl Iterator<Item = &Vec<u8>> {
        let stays = move |field: &&Vec<Vec<u8>>| name(&field[0]).is_none_or(|name| !unwanted.contains(&name.as_str()));
        self.0.iter().filter(stays).flatten()
    }
}

/// The name before the colon, in lower case.
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
    pub(crate) fn lines(&self, part: Part) -> impl Iterator<Item = &[u8]> {
        let lines = match part {
            Part::Whole => &self.lines[..],
            Part::Head => &self.lines[..self.head],
            Part::Body => &self.lines[self.head + 1..],
            Part::Nothing => &[],
        };
        lines.iter().map(Vec::as_slice)
    }

    /// Its line of OVER.
    pub(crate) fn overview(&self, number: u64) -> String {
        let header = Header::new(&self.lines[..self.head]);
        let value = |name| header.value(name).unwrap_or_default();
        let [subject, from, date, references, xref] = ["subject", "from", "date", "references", "xref"].map(value);
        let (id, bytes, lines) = (&self.id, self.bytes, self.lines.len() - self.head - 1);
        format!("{number}\t{subject}\t{from}\t{date}\t{id}\t{references}\t{bytes}\t{lines}\tXref: {xref}")
    }
}

/// RFC 3977's wildmat: patterns with `*` and `?`. The last one that matches decides; with `!` it means no.
fn matches(wildmat: &str, name: &str) -> bool {
    let fitting = wildmat.rsplit(',').find(|pattern| fits(pattern.trim_start_matches('!'), name));
    fitting.is_some_and(|pattern| !pattern.starts_with('!'))
}

/// `ends[n]`: whether the pattern so far matches the first n bytes of `name`. The time is bounded for every pattern.
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
