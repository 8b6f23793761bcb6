//! The fixes that messages name, and how a reader does them.

use std::collections::VecDeque;
use std::fs;
use std::ops::Range;

use portgrant_tests::World;

/// Fixes that no test does, by how they begin, and why.
const LEFT_TO_THE_READER: &[(&str, &[&str])] = &[
    (
        "only the reader knows which value is meant",
        &[
            "expected ",
            "name ",
            "try portgrant run if the server",
            "use the socket that exists",
            "stop it, or serve at another",
            "portgrant-kernel(8), under which",
            "correct the variable",
            "correct that line",
        ],
    ),
    (
        "an administrator decides who may do what",
        &[
            "as root, change that rule",
            "as root, put it where",
            "as root, put the file itself",
            "let this user ",
            "run this as root",
            "run it as ",
        ],
    ),
    (
        "it is about another program, or about its configuration",
        &[
            "set SO_REUSEADDR",
            "set it in the program's configuration",
            "wait a minute",
            "configure the server",
            "see in the server's manual",
            "use portgrant run",
            "begin a script with #!",
            "put web.service beside it",
            "put timeout before portgrant",
            "have the wrapper",
            "in the script that starts portgrant",
        ],
    ),
    (
        "it is about what starts the program: a session, a unit, a container, a namespace",
        &[
            "log in again",
            "as root, make an account",
            "in this shell, run: newgrp",
            "in a unit of systemd",
            "start it with",
            "start portgrant as the main process",
            "start the container",
            "start the server first",
            "run it outside of",
            "check the interface",
        ],
    ),
    ("it installs or starts something", &["install ", "as root, install ", "as root, start a log daemon"]),
];

/// Words of fixes that stand for something that the reader chooses, and what the rows choose.
const CHOSEN: &[(&str, &str)] = &[
    ("a space", " "),
    ("PROGRAM [ARG...]", "true"),
    ("PROGRAM", "true"),
    ("PORT", "80"),
    ("PATH", "/run/server.socket"),
    ("SERVER", "lighttpd"),
];

/// A command, and the fixes in what it printed that were not done yet.
pub(super) struct Message {
    pub(super) user: String,
    command: String,
    pub(super) fixes: VecDeque<Fix>,
}

pub(super) struct Fix {
    pub(super) text: String,
    form: Form,
}

/// What a reader does.
enum Form {
    /// Root executes a command
    Root(String),
    /// The caller executes a command
    Run(String),
    /// This is the command to try next
    Try(String),
    /// Root adds a rule to a file
    Rule(String, String),
    /// The command is changed
    Command(Edit),
    /// A line of a file is changed
    Line(Place, Edit),
}

enum Edit {
    /// Words stand instead of others; of those that are underlined if none are named
    Write {
        old: String,
        new: String,
    },
    /// Words follow the name of the command
    Insert(String),
    Append(String),
    /// Another program
    Program(String),
    /// A rule for each name of the subject
    Divide,
    /// The rule without a word, and the same for another subject
    Share(String, String),
}

/// What a message underlines in a file.
struct Place {
    file: String,
    line: usize,
    column: usize,
    width: usize,
}

impl Message {
    /// Fails if a fix is of no known form.
    pub(super) fn of(user: String, command: String, said: &str) -> Result<Message, String> {
        let mut fixes: VecDeque<Fix> = VecDeque::new();
        let lines: Vec<&str> = said.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let found = match line.trim_start().strip_prefix("fix: ") {
                Some(all) => all.split("; or").map(|fix| (fix.trim_start_matches([',', ' ']), None)).collect(),
                None => Vec::from_iter(finding(line, &lines[at + 1..]).map(|(fix, place)| (fix, Some(place)))),
            };
            for (text, place) in found {
                let form = form(text, place, said);
                let is_left = |(_, begins): &(_, &[&str])| begins.iter().any(|begin| text.starts_with(begin));
                if form.is_none() && LEFT_TO_THE_READER.iter().any(is_left) {
                    continue;
                }
                let form = form.ok_or_else(|| format!("no rule says how to do this fix: {text}"))?;
                if fixes.iter().all(|fix| fix.text != text) {
                    fixes.push_back(Fix { text: text.to_owned(), form });
                }
            }
        }
        Ok(Message { user, command, fixes })
    }
}

/// The fix in a finding of `check`, `FILE:LINE:COLUMN: error: WHAT; FIX`, and what the lines below it underline.
fn finding<'a>(line: &'a str, below: &[&str]) -> Option<(&'a str, Place)> {
    const FIXES: [&str; 6] = ["as root: ", "write ", "did you mean ", "add ", "remove ", "expected "];
    let (place, what) = line.split_once(": error: ").or_else(|| line.split_once(": warning: "))?;
    let mut place = place.rsplitn(3, ':');
    let (column, line, file) = (place.next()?.parse().ok()?, place.next()?.parse().ok()?, place.next()?.to_owned());
    let starts = ["; ", ": ", " ("].iter().flat_map(|mark| what.match_indices(mark).map(|(at, _)| at + mark.len()));
    let tails: Vec<&str> = starts.map(|start| &what[start..]).collect();
    let fix = FIXES.iter().find_map(|fix| tails.iter().find(|tail| tail.starts_with(fix)))?;
    let (text, carets) = (below.first()?, below.get(1)?);
    let shown = text.get(carets.find('^')?..carets.len()).unwrap_or_default();
    // A byte that cannot be printed is shown as four.
    let width = shown.len() - 3 * shown.matches("\\x").count();
    Some((fix, Place { file, line, column, width }))
}

/// How a fix is done, if a test can do it.
fn form(fix: &str, place: Option<Place>, said: &str) -> Option<Form> {
    if let Some((_, command)) = fix.split_once("as root: ") {
        return Some(Form::Root(command.to_owned()));
    }
    if let Some((_, command)) = fix.split_once("run: ").filter(|(before, _)| *before != "in this shell, ") {
        let form = if command.starts_with("portgrant ") { Form::Try } else { Form::Run };
        return Some(form(chosen(command)));
    }
    if let Some((rule, file)) = fix.strip_prefix("as root, add  ").and_then(|words| words.split_once("  to ")) {
        return Some(Form::Rule(rule.to_owned(), file.to_owned()));
    }
    let fix = fix.split(" (").next()?; // what follows explains
    if let Some(command) = fix.strip_prefix("see ").filter(|words| !words.starts_with("in ")) {
        return Some(Form::Try(command.split(", ").next()?.split(" for ").next()?.to_owned()));
    }
    let of_rule = [" in that rule", " to that rule", " from that rule", " from the rule", " in its place"];
    if let Some(change) = fix.strip_prefix("as root, ") {
        if let Some((change, subject)) = change.split_once(" from that rule, and add the same rule for ") {
            let word = change.strip_prefix("remove ")?.to_owned();
            return Some(Form::Line(rule(said), Edit::Share(word, subject.to_owned())));
        }
        let change = of_rule.iter().find_map(|ending| change.strip_suffix(ending))?;
        return Some(Form::Line(rule(said), edit(change, None, "")?));
    }
    if let Some(place) = place {
        return Some(Form::Line(place, edit(fix.trim_end_matches(')'), Some(""), "")?));
    }
    let message = said.lines().find_map(|line| line.strip_prefix("portgrant: ")).or(said.lines().next())?;
    edit(fix, message.split('\'').nth(1), message.split(' ').next()?).map(Form::Command)
}

/// The place of the rule that a message cites.
fn rule(said: &str) -> Place {
    let cited = said.split_once("the rule at ").and_then(|(_, rule)| rule.split_once("  ")?.0.rsplit_once(':'));
    let (file, line) = cited.unwrap_or(("/etc/portgrant.conf", "1"));
    Place { file: file.to_owned(), line: line.parse().unwrap_or(1), column: 1, width: 0 }
}

/// What is written instead of what. `quoted` is what the message quotes or underlines, `first` its first word.
fn edit(fix: &str, quoted: Option<&str>, first: &str) -> Option<Edit> {
    let (verb, words) = fix.split_once(' ')?;
    let write = |old: &str, new: &str| Some(Edit::Write { old: old.to_owned(), new: chosen(new) });
    match (verb, words) {
        ("write", words) if words.contains(" for each of ") => Some(Edit::Divide),
        ("write", words) => match words.split_once(" instead") {
            Some((new, old)) if !old.is_empty() => write(old.strip_prefix(" of ")?, new),
            Some((new, _)) => write(quoted?, new),
            None => write(quoted?, words),
        },
        ("did", words) => write(quoted?, words.strip_prefix("you mean ")?.trim_end_matches('?')),
        ("remove", "it" | "one of the two") => write(quoted?, ""),
        ("remove", words) => write(words, ""),
        ("leave", words) => write(words.strip_prefix("out ")?.trim_start_matches("one "), ""),
        ("add", words) => Some(match words.strip_suffix(" at the end").or(words.strip_prefix("the word ")) {
            Some(words) => Edit::Append(chosen(words)),
            None => Edit::Insert(chosen(words)),
        }),
        ("ask", words) => match words.strip_prefix("without ") {
            Some(option) => write(&format!(",{option}"), ""),
            None => write(first, words.strip_prefix("for ")?),
        },
        ("start", words) => {
            Some(Edit::Program(words.strip_prefix("that program with portgrant exec: -- ")?.to_owned()))
        }
        ("expected", words) => {
            let (_, sample) = words.split_once(", as in ")?;
            let sample = sample.split(", ").next()?.split(" or ").next()?;
            match quoted {
                None => Some(Edit::Insert(sample.to_owned())),
                Some("") => None,
                Some(quoted) => write(quoted, sample),
            }
        }
        _ => None,
    }
}

fn chosen(words: &str) -> String {
    CHOSEN.iter().fold(words.to_owned(), |words, (word, choice)| words.replace(word, choice))
}

impl Fix {
    /// Does it, and returns the command to try next.
    pub(super) fn apply(&self, world: &World, message: &Message) -> Result<String, String> {
        let shell = |user: &str, command: &str| {
            let done = world.as_user(user).run(["sh", "-c", command]);
            if done.status.success() { Ok(message.command.clone()) } else { Err(format!("it failed: {done}")) }
        };
        match &self.form {
            Form::Root(command) => shell("root", command),
            Form::Run(command) => shell(&message.user, command),
            Form::Try(command) => Ok(command.clone()),
            Form::Rule(rule, file) => shell("root", &format!("mkdir -p $(dirname {file}); echo '{rule}' >>{file}")),
            Form::Command(edit) => {
                edit.of(&message.command, 0..0).ok_or_else(|| format!("not for {}", message.command))
            }
            Form::Line(Place { file, line, column, width }, edit) => {
                let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                let text = lines.get(line - 1).ok_or("it has no such line")?;
                let changed = edit.of(text, column - 1..column - 1 + width);
                lines[line - 1] = changed.ok_or_else(|| format!("not for {text}"))?;
                fs::write(file, lines.join("\n") + "\n").map_err(|error| format!("{file}: {error}"))?;
                Ok(message.command.clone())
            }
        }
    }
}

impl Edit {
    /// A command or a rule as this changes it.
    fn of(&self, line: &str, underlined: Range<usize>) -> Option<String> {
        let mut words: Vec<&str> = line.split(' ').collect();
        match self {
            Edit::Append(new) => words.push(new),
            Edit::Insert(new) => {
                let command = words.iter().rposition(|word| *word == "portgrant")?;
                words.insert(command + 2, new);
            }
            Edit::Program(program) => return Some(format!("{} -- {program}", line.split_once(" -- ")?.0)),
            Edit::Divide => {
                let rules = words.get(1)?.split(',').map(|subject| line.replacen(words[1], subject, 1));
                return Some(rules.collect::<Vec<_>>().join("\n"));
            }
            Edit::Share(word, subject) => {
                let rule = line.replacen(&format!(" {word}"), "", 1);
                return Some(format!("{rule}\n{}", rule.replacen(words.get(1)?, subject, 1)));
            }
            Edit::Write { old, new } if old.is_empty() => {
                return Some([&line[..underlined.start], new, &line[underlined.end..]].concat());
            }
            Edit::Write { old, new } if old.starts_with(',') => return Some(line.replacen(old, new, 1)),
            Edit::Write { old, new } => {
                let plain = |word: &str| word.trim_matches('\'').trim_end_matches("/tcp").to_owned();
                let is_it = |word: &str, old: &str| plain(word) == plain(old) || word.starts_with(&format!("{old}="));
                let old: Vec<&str> = old.split(' ').collect();
                let fits = |found: &[&str]| found.iter().zip(&old).all(|(word, old)| is_it(word, old));
                let mut start = words.windows(old.len()).rposition(fits)?;
                let mut end = start + old.len();
                // An option goes with its value, and a word with the option that is written before it.
                if new.is_empty() && (old[0].starts_with("--") || old[0] == "exec") {
                    end += words[end..].iter().take_while(|word| !word.starts_with('-')).count();
                }
                let first = new.split([' ', '=']).next();
                start -= usize::from(start > 0 && words.get(start - 1).copied() == first);
                words.splice(start..end, Some(new.as_str()).filter(|new| !new.is_empty()));
            }
        }
        Some(words.join(" "))
    }
}
