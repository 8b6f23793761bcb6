//! Completions, in the shells that are installed.

use std::process::{Command, Output};

const PORTGRANT: &str = env!("CARGO_BIN_EXE_portgrant");

fn completions(shell: &str) -> Output {
    Command::new(PORTGRANT).args(["completions", shell]).output().expect("it runs")
}

/// The output of `shell` for `script`, in which $PORTGRANT is the launcher. `None` if the shell is not installed.
fn said(shell: &str, script: &str) -> Option<String> {
    let ended = Command::new(shell).args(["-c", script]).env("PORTGRANT", PORTGRANT).output();
    let Ok(Output { status, stdout, stderr }) = ended else {
        eprintln!("SKIPPED {shell} is not installed");
        return None;
    };
    let complaint = String::from_utf8_lossy(&stderr);
    assert!(status.success() && complaint.is_empty(), "{script}: {status}: {complaint}");
    Some(String::from_utf8_lossy(&stdout).into_owned())
}

/// The completions that bash offers for the last of `words`, asked as readline does.
fn offered(words: &str) -> Vec<String> {
    let script = format!(
        r#"source <("$PORTGRANT" completions bash); COMP_WORDS=(portgrant {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        set -- $(complete -p portgrant); [ "$*" = "complete -o bashdefault -o default -F _portgrant_words portgrant" ] || exit
        _portgrant_words portgrant "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
        printf '%s\n' "${{COMPREPLY[@]}}""#
    );
    said("bash", &script).expect("bash is there").lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_servers_and_services() {
    assert_eq!(offered("ex"), ["exec", "explain"]);
    assert_eq!(offered("exec --max-"), ["--max-conns", "--max-per-source", "--max-rate"]);
    assert_eq!(offered("exec -l 80 --as ngin"), ["nginx"]);
    assert_eq!(offered("recipe gun"), ["gunicorn"]);
    assert_eq!(offered("completions f"), ["fish"]);
    assert!(offered("exec -l doma").contains(&"domain".to_owned()), "a service of /etc/services");
    assert!(offered("who doma").contains(&"domain".to_owned()));
    for option in ["explain --as-user", "list --as-user", "exec -l 80 --user"] {
        assert!(
            offered(&format!("{option} daem")).contains(&"daemon".to_owned()),
            "{option}: an account of /etc/passwd"
        );
    }
    // Servers that accept no socket have a recipe, but are not offered for --as.
    assert_eq!(offered("recipe postf"), ["postfix"]);
    assert!(!offered("exec -l 80 --as postf").contains(&"postfix".to_owned()));
}

#[test]
fn bash_completes_the_programs_own_arguments() {
    assert!(offered("exec -l 80 -- mkf").contains(&"mkfifo".to_owned()));
    assert!(!offered("exec -l 80 -- --max-").contains(&"--max-conns".to_owned()));
    // Without "--" the program is the first word that is neither an option nor an option's value.
    for before in ["exec -l 80", "exec --verify -l 127.0.0.1 : 80 --setenv A = B", "run", "run -l 80"] {
        assert!(offered(&format!("{before} mkf")).contains(&"mkfifo".to_owned()), "{before}");
        assert!(!offered(&format!("{before} cat --max-")).contains(&"--max-conns".to_owned()), "{before}");
    }
    assert!(offered("exec -l 80 --max-").contains(&"--max-conns".to_owned()));
    assert_eq!(offered("exec -l 80 --as ngin"), ["nginx"]);
    assert!(!offered("exec --pid-file mkf").contains(&"mkfifo".to_owned()), "the option's value");
}

#[test]
fn zsh_and_fish_load_their_completions() {
    said("zsh", r#""$PORTGRANT" completions zsh | zsh -n"#);
    if let Some(offered) = said(
        "fish",
        r#""$PORTGRANT" completions fish | source; complete -C"portgrant exec --as ngin"; complete -C"portgrant exec -l 80 -- mkfif""#,
    ) {
        let words: Vec<&str> = offered.lines().map(|line| line.split('\t').next().unwrap_or_default()).collect();
        assert_eq!(words, ["nginx", "mkfifo", "mkfifo"]);
    }
}

#[test]
fn an_unknown_shell_is_an_error_that_lists_the_known_shells() {
    let Output { status, stdout, stderr } = completions("tcsh");
    let complaint = String::from_utf8_lossy(&stderr);
    assert_eq!((status.code(), stdout.len()), (Some(64), 0));
    assert!(complaint.contains("'tcsh'") && complaint.contains("bash, zsh or fish"), "{complaint}");
}
