//! Output in a terminal, and output elsewhere.

use std::io::Read;
use std::process::Stdio;

use pty_process::blocking::{Command, open};

const PORTGRANT: &str = env!("CARGO_BIN_EXE_portgrant");
const ESCAPE: char = '\u{1b}';

/// The output of the launcher in a terminal, started with `words` and `variables`, and TERM.
fn in_a_terminal(words: &[&str], variables: &[(&str, &str)]) -> String {
    let (mut terminal, inside) = open().expect("a terminal");
    let command = Command::new(PORTGRANT).args(words).env_clear().env("TERM", "xterm");
    let mut child = command.envs(variables.iter().copied()).spawn(inside).expect("it runs");
    let mut seen = Vec::new();
    // At the end read(2) fails with EIO; the output before it was read.
    let _ = terminal.read_to_end(&mut seen);
    child.wait().expect("it ends");
    String::from_utf8(seen).expect("text").replace('\r', "")
}

/// The same words without a terminal: standard output and error.
fn elsewhere(words: &[&str]) -> String {
    let mut command = std::process::Command::new(PORTGRANT);
    let output = command.args(words).env_clear().env("TERM", "xterm").stdin(Stdio::null()).output().expect("it runs");
    String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
}

const WORDS: [&[&str]; 5] =
    [&["--help"], &["exec", "--help"], &["serve"], &["exec", "-l", "80", "--", "/nonexistent"], &["who", "1"]];

#[test]
fn only_a_terminal_gets_colour() {
    for words in WORDS {
        let (seen, plain) = (in_a_terminal(words, &[]), elsewhere(words));
        assert!(seen.contains(ESCAPE), "{words:?}: {seen:?}");
        assert!(!plain.is_empty() && !plain.contains(ESCAPE), "{words:?}: {plain:?}");
    }
    assert_eq!(
        in_a_terminal(&["serve"], &[]).lines().next(),
        Some("\u{1b}[1m\u{1b}[31mportgrant:\u{1b}[0m \u{1b}[1m'serve' is not a command\u{1b}[0m")
    );
}

#[test]
fn no_color_and_a_dumb_terminal_turn_colour_off() {
    for words in WORDS {
        for variable in [("NO_COLOR", "1"), ("TERM", "dumb"), ("CLICOLOR", "0")] {
            let seen = in_a_terminal(words, &[variable]);
            assert_eq!(seen.find(ESCAPE), None, "{words:?}, {variable:?}: {seen:?}");
        }
    }
}

#[test]
fn output_for_programs_is_never_coloured() {
    for words in [&["who", "1", "--format", "json"][..], &["completions", "bash"], &["recipe", "nginx"]] {
        assert_eq!(in_a_terminal(words, &[]).find(ESCAPE), None, "{words:?}");
    }
}
