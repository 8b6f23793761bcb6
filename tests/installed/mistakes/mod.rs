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
//! alice$ portgrant exec -l 80 -- true
//! ```
//! * `== TITLE` begins a row. `%` begins a comment.
//! * `# COMMAND` is executed by root and `USER$ COMMAND` by that user, as if logged in, by sh.
//! * The lines below are all that it prints: standard output, then standard error. `…` stands for any characters, and a line
//!   of it alone for any lines.
//! * `status N` is its exit status. It is 0 where no such line stands.
//! * `fix` does what the last message says: it executes the command of `fix: as root: COMMAND` or `fix: run: COMMAND`, or
//!   puts the rule of `as root, add  RULE  to FILE` there. Where root has to look at a file first, that is done.
//!
//! A new subject needs a file, and its name below.

use std::fs;
use std::iter::Peekable;
use std::str::Lines;

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

/// A title, and the lines below it.
fn rows(text: &'static str) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut rows: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('%')) {
        match (line.strip_prefix("== "), rows.last_mut()) {
            (Some(title), _) => rows.push((title, Vec::new())),
            (None, Some(row)) => row.1.push(line),
            (None, None) => assert_eq!(line, "", "stands before the first row"),
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
    let mut wrong = Vec::new();
    for (title, lines) in rows(text) {
        let (told, said) = std::sync::mpsc::channel();
        World::with(Install::FileCapability, move |world| {
            let _ = told.send(session(world, &lines));
        });
        if let Err(what) = said.recv().expect("the row was played") {
            wrong.push(format!("== {title}\n{what}\n"));
        }
    }
    assert!(wrong.is_empty(), "{} of the rows do not fit:\n{}", wrong.len(), wrong.join("\n"));
}

fn session(world: &World, lines: &[&str]) -> Result<(), String> {
    let text = lines.join("\n");
    let mut lines = text.lines().peekable();
    let mut last: Option<(String, Outcome)> = None;
    while let Some(line) = lines.next() {
        if line == "fix" {
            let (user, outcome) = last.as_ref().ok_or("there was no message yet")?;
            mend(world, user, outcome)?;
            continue;
        }
        let (user, command) = prompt(line).ok_or_else(|| format!("neither a command nor its output: {line}"))?;
        let outcome = world.as_user(user).run(["sh", "-c", command]);
        compare(line, &mut lines, &outcome)?;
        last = Some((user.to_owned(), outcome));
    }
    Ok(())
}

fn prompt(line: &str) -> Option<(&str, &str)> {
    if let Some(command) = line.strip_prefix("# ") {
        return Some(("root", command));
    }
    let (user, command) = line.split_once("$ ")?;
    user.bytes().all(|byte| byte.is_ascii_lowercase()).then_some((user, command))
}

fn compare(line: &str, lines: &mut Peekable<Lines<'_>>, outcome: &Outcome) -> Result<(), String> {
    let mut expected: Vec<&str> = Vec::new();
    let mut status = "0";
    while let Some(next) = lines.next_if(|next| *next != "fix" && prompt(next).is_none()) {
        match next.strip_prefix("status ") {
            Some(number) => status = number,
            None => expected.push(next),
        }
    }
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
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

/// Does what the last fix of a message says.
fn mend(world: &World, user: &str, outcome: &Outcome) -> Result<(), String> {
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    let fix = said.lines().filter_map(|line| line.trim_start().strip_prefix("fix: ")).next_back();
    let fix = fix.ok_or_else(|| format!("it names no fix: {said}"))?;
    let add = fix.split_once("as root, add  ").and_then(|(_, words)| words.split_once("  to "));
    if let Some((rule, file)) = add {
        let folder = file.rsplit_once('/').map_or("/", |(folder, _)| folder);
        fs::create_dir_all(folder).map_err(|error| format!("mkdir {folder}: {error}"))?;
        let text = fs::read_to_string(file).unwrap_or_default();
        return fs::write(file, format!("{text}{rule}\n")).map_err(|error| format!("{file}: {error}"));
    }
    let as_root = ["as root: ", "as root, check its content, then: "];
    let as_root = as_root.into_iter().find_map(|words| fix.strip_prefix(words)).map(|command| ("root", command));
    let (user, command) = as_root
        .or_else(|| fix.strip_prefix("run: ").map(|command| (user, command)))
        .ok_or_else(|| format!("not a command: {fix}"))?;
    let done = world.as_user(user).run(["sh", "-c", command]);
    if done.status.success() { Ok(()) } else { Err(format!("the fix failed: {done}")) }
}
