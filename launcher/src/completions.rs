//! `portgrant completions`: scripts for bash, zsh and fish, generated from the grammar of the command line.

use std::collections::BTreeSet;

use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;

use crate::Arguments;

/// Appended to the generated script for bash: completes the program's words as a command, and endpoints by service
/// names. VALUED stands for the options that take the next word.
const FOR_BASH: &str = include_str!("completions.bash");
/// The same for fish.
const FOR_FISH: &str = include_str!("completions.fish");

/// The same for zsh, as replacements in the generated script.
const IN_ZSH: [(&str, &str); 3] = [
    ("may be left out:_default'", "may be left out:_normal'"),
    ("a rule may be for one program:_default'", "a rule may be for one program:_normal'"),
    (":ENDPOINT:_default'", r#":ENDPOINT:{compadd -- $(grep -oE "^[a-z][a-z0-9_.+-]*" /etc/services)}'"#),
];

/// The script for `shell`; empty for an unknown shell.
pub(crate) fn script(shell: &str) -> String {
    let mut grammar = Arguments::command();
    let (shell, more) = match shell {
        "bash" => (Shell::Bash, FOR_BASH.replace("VALUED", &valued(&grammar).join(" | "))),
        "zsh" => (Shell::Zsh, String::new()),
        "fish" => (Shell::Fish, FOR_FISH.replace("VALUED", &valued(&grammar).join(" "))),
        _ => return String::new(),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut grammar, "portgrant", &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    for (generated, better) in IN_ZSH {
        script = script.replace(generated, better);
    }
    script + &more
}

/// The options of `exec` and `run` whose value is the next word.
fn valued(grammar: &Command) -> Vec<String> {
    let takes_next = |option: &&Arg| {
        option.get_action().takes_values() && !option.is_require_equals_set() && !option.is_positional()
    };
    let commands = ["exec", "run"].into_iter().filter_map(|name| grammar.find_subcommand(name));
    let mut words = BTreeSet::new();
    for option in commands.flat_map(Command::get_arguments).filter(takes_next) {
        words.extend(option.get_long().map(|long| format!("--{long}")));
        words.extend(option.get_short().map(|short| format!("-{short}")));
    }
    words.into_iter().collect()
}
