//! `portgrant completions`: what bash, zsh and fish need, from the description that the command line is parsed by.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Arguments;

/// Behind what is generated for bash: after `--` another command's words are completed, and services where an endpoint
/// is wanted.
const FOR_BASH: &str = include_str!("completions.bash");
/// The same for fish.
const FOR_FISH: &str = include_str!("completions.fish");

/// The same, in what is generated for zsh.
const IN_ZSH: [(&str, &str); 2] = [
    ("and its arguments:_default'", "and its arguments:_normal'"),
    (":ENDPOINT:_default'", r#":ENDPOINT:{compadd -- $(grep -oE "^[a-z][a-z0-9_.+-]*" /etc/services)}'"#),
];

/// The script for the shell of that name; none for another.
pub(crate) fn script(shell: &str) -> String {
    let (shell, more) = match shell {
        "bash" => (Shell::Bash, FOR_BASH),
        "zsh" => (Shell::Zsh, ""),
        "fish" => (Shell::Fish, FOR_FISH),
        _ => return String::new(),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "portgrant", &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    for (generated, better) in IN_ZSH {
        script = script.replace(generated, better);
    }
    script + more
}
