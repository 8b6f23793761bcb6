//! Words as they are typed: in a shell, and in ExecStart= of a unit.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `words` for a shell.
pub(super) fn shell(words: &[String]) -> String {
    words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
}

fn shell_word(word: &str) -> Cow<'_, str> {
    // A comma has a meaning only within braces.
    if !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.,:=@+".contains(c)) {
        return Cow::Borrowed(word);
    }
    // No word that was read from a file holds a NUL.
    shlex::try_quote(word).unwrap_or_default()
}

/// `words` for ExecStart=, where % and $ are expanded also within quotes (systemd.service(5), "Command lines").
pub(super) fn unit(words: &[String]) -> String {
    words.iter().map(|word| unit_word(word)).collect::<Vec<_>>().join(" ")
}

fn unit_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_-.,:=@+[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' | '$' => quoted.extend([c, c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_reaches_the_program_unchanged() {
        let words = ["a b", "it's", "$HOME", "50%", "\"", "\\", "", "plain-1.0", "[::]:80,v6only"].map(str::to_owned);
        assert_eq!(shlex::split(&shell(&words)).expect("words"), words);
        assert_eq!(unit(&words), r#""a b" "it's" "$$HOME" "50%%" "\"" "\\" "" plain-1.0 [::]:80,v6only"#);
    }
}
