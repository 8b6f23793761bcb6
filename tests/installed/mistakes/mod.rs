//! What portgrant says when something is wrong: mistakes and circumstances, each with the whole message and the status.
//!
//! Each file here is a subject, and a list of rows. A row is a shell session in a world of its own:
//!
//! ```text
//! == a policy that only root can read
//! # echo 'permit alice 80' >/etc/portgrant.conf; chmod 0600 /etc/portgrant.conf
//! alice$ portgrant exec -l 80 -- true
//! portgrant: the policy cannot be used
//! …
//!   fix: as root: chmod 0644 /etc/portgrant.conf
//! status 78
//! fix
//! ```
//! * `== TITLE` begins a row. `%` begins a comment.
//! * `# COMMAND` is executed by root and `USER$ COMMAND` by that user, as if logged in, by sh.
//! * The lines below are all that it prints: standard output, then standard error. `…` stands for any characters, and a line
//!   of it alone for any lines.
//! * `status N` is its exit status. It is 0 where no such line stands.
//! * `fix` does what the last message with a fix says, and then tries again: the same command, or the one that the fix leads to.
//!   The lines below are what that prints. `or` does the next fix of the same message.
//!
//! A row does every fix that it shows. `fix.rs` knows how, and which fixes no test can do. A fix of another form fails the test.
//! A new subject needs a file, and its name below.

mod fix;

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Lines;

use fix::Message;
use portgrant_tests::{Install, Outcome, World};

/// How many rows there are at least, in all.
const FEWEST: usize = 200;

macro_rules! subjects {
    ($($name:ident),+ $(,)?) => {
        const SUBJECTS: &[(&str, &str)] = &[$((stringify!($name), include_str!(concat!(stringify!($name), ".txt")))),+];
        $(#[test]
        fn $name() {
            play(include_str!(concat!(stringify!($name), ".txt")));
        })+
    };
}

subjects![asking, installation, judging, moving, policy, verifying];

#[test]
fn no_row_was_lost() {
    let rows = SUBJECTS.iter().map(|(_, text)| rows(text).len()).sum::<usize>();
    assert!(rows >= FEWEST, "only {rows} rows are left");
}

/// A title, and the lines below it. What stands before the first row begins each row.
fn rows(text: &'static str) -> Vec<(&'static str, Vec<&'static str>)> {
    let (mut start, mut rows) = (Vec::new(), Vec::<(&str, Vec<&str>)>::new());
    for line in text.lines().filter(|line| !line.starts_with('%')) {
        match (line.strip_prefix("== "), rows.last_mut()) {
            (Some(title), _) => rows.push((title, start.clone())),
            (None, Some(row)) => row.1.push(line),
            (None, None) if line.is_empty() => {}
            (None, None) => start.push(line),
        }
    }
    for row in &mut rows {
        let end = row.1.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
        row.1.truncate(end);
    }
    rows
}

/// Each row in a world of its own. All rows are played, and then all that are wrong are shown.
fn play(text: &'static str) {
    let (mut wrong, mut fixes) = (Vec::new(), 0);
    for (title, lines) in rows(text) {
        let (told, said) = std::sync::mpsc::channel();
        World::with(Install::FileCapability, move |world| {
            let _ = told.send(session(world, &lines));
        });
        match said.recv().expect("the row was played") {
            Ok(done) => fixes += done,
            Err(what) => wrong.push(format!("== {title}\n{what}\n")),
        }
    }
    println!("{fixes} fixes were done");
    assert!(wrong.is_empty(), "{} of the rows do not fit:\n{}", wrong.len(), wrong.join("\n"));
}

/// Plays a row, and returns how many fixes it did.
fn session(world: &World, lines: &[&str]) -> Result<usize, String> {
    let text = lines.join("\n");
    let mut lines = text.lines().peekable();
    let (mut last, mut mended) = (None, None);
    let (mut shown, mut done) = (BTreeSet::new(), BTreeSet::new());
    while let Some(line) = lines.next() {
        let (user, command) = if let "fix" | "or" = line {
            let mut message: Message =
                if line == "fix" { last.take() } else { mended.take() }.ok_or("no message has a fix")?;
            let fix = message.fixes.pop_front().ok_or("the message has no other fix")?;
            let command = fix.apply(world, &message).map_err(|why| format!("{}: {why}", fix.text))?;
            done.insert(fix.text);
            let user = message.user.clone();
            mended = Some(message);
            (user, command)
        } else {
            let (user, command) = prompt(line).ok_or_else(|| format!("neither a command nor its output: {line}"))?;
            (user.to_owned(), command.to_owned())
        };
        let outcome = world.as_user(&user).run(["sh", "-c", &command]);
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        compare(&format!("{line}: {user}$ {command}"), &mut lines, &outcome, &said)?;
        let message = Message::of(user, command, &said)?;
        if !["fix", "or"].contains(&line) {
            shown.extend(message.fixes.iter().map(|fix| fix.text.clone()));
        }
        if !message.fixes.is_empty() {
            last = Some(message);
        }
    }
    match shown.difference(&done).next() {
        Some(fix) => Err(format!("the row shows this fix and does not do it: {fix}")),
        None => Ok(done.len()),
    }
}

fn prompt(line: &str) -> Option<(&str, &str)> {
    if let Some(command) = line.strip_prefix("# ") {
        return Some(("root", command));
    }
    let (user, command) = line.split_once("$ ")?;
    user.bytes().all(|byte| byte.is_ascii_lowercase()).then_some((user, command))
}

fn compare(line: &str, lines: &mut Peekable<Lines<'_>>, outcome: &Outcome, said: &str) -> Result<(), String> {
    let mut expected: Vec<&str> = Vec::new();
    let mut status = "0";
    while let Some(next) = lines.next_if(|next| !["fix", "or"].contains(next) && prompt(next).is_none()) {
        match next.strip_prefix("status ") {
            Some(number) => status = number,
            None => expected.push(next),
        }
    }
    let said: Vec<&str> = said.lines().collect();
    let ended = outcome.status.code().map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    if ended == status && fits(&expected, &said) {
        return Ok(());
    }
    Err(format!("{line}\n{}\nstatus {ended}\n-- and not\n{}\nstatus {status}", said.join("\n"), expected.join("\n")))
}

/// Whether the lines are as expected.
fn fits(expected: &[&str], said: &[&str]) -> bool {
    match expected.split_first() {
        None => said.is_empty(),
        Some((&"…", rest)) => (0..=said.len()).any(|skipped| fits(rest, &said[skipped..])),
        Some((line, rest)) => {
            said.split_first().is_some_and(|(first, others)| line_fits(line, first) && fits(rest, others))
        }
    }
}

fn line_fits(expected: &str, said: &str) -> bool {
    match expected.split_once('…') {
        None => expected == said,
        Some((before, after)) => said.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| line_fits(after, &rest[at..]))
        }),
    }
}
