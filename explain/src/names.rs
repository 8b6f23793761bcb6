//! Names in rules that /etc/passwd and /etc/group do not have: what was probably meant, and what to write.

use std::cell::Cell;

use nix::unistd::{Group, User};
use portgrant_policy::{Form, Listed, Names, Wrong, is_everybody, is_near};

/// How many names are compared with all others. Such a comparison costs time in proportion to the tables.
const MOST_COMPARED: usize = 100;

/// The tables, and how often they were searched.
pub(crate) struct Hints<'a> {
    names: &'a Names,
    compared: Cell<usize>,
}

impl<'a> Hints<'a> {
    pub(crate) fn of(names: &'a Names) -> Hints<'a> {
        Hints { names, compared: Cell::new(0) }
    }

    /// What to write instead of the name that `wrong` is about.
    pub(crate) fn hint(&self, wrong: &Wrong) -> Option<String> {
        let (word, subject) = if let Wrong::UnknownUser(word) = wrong {
            (word, word.clone())
        } else if let Wrong::UnknownGroup(word) = wrong {
            (word, format!(":{word}"))
        } else if let Wrong::UnknownService(word) = wrong {
            return self.not_a_port(word);
        } else {
            return None;
        };
        by_directory(wrong, word).or_else(|| self.meant(&subject))
    }

    /// What was meant by a word in the place of a port.
    fn not_a_port(&self, word: &str) -> Option<String> {
        match Listed::of(word, self.names) {
            Some(Listed::User) => {
                Some(format!("{word} is a user: a rule has one subject, so write one rule for each user"))
            }
            Some(Listed::Group) => {
                Some(format!("{word} is a group: a rule has one subject, so write a rule for :{word}"))
            }
            Some(Listed::EveryPort) => Some("did you mean any?".to_owned()),
            None => self.near(word, self.names.services().ok()?.names()).map(|near| format!("did you mean {near}?")),
        }
    }

    fn meant(&self, subject: &str) -> Option<String> {
        let did_you_mean = |name: String| Some(format!("did you mean {name}?"));
        let is_user = |word: &str| self.names.user(word).is_ok_and(|user| user.is_some());
        let group = |word: &str| self.names.group(word).ok().flatten().map(|_| format!(":{word}"));
        match Form::of(subject) {
            Form::Everybody => Some("did you mean any?".to_owned()),
            Form::Several(parts) => {
                Some(format!("a rule has one subject: write a rule for each of {}", parts.join(" and ")))
            }
            Form::Group(word) => group(word).or_else(|| is_user(word).then(|| word.to_owned())).map_or_else(
                || {
                    if is_everybody(word) {
                        return Some("did you mean any?".to_owned());
                    }
                    let near = self.near(word, self.names.group_names().ok()?)?;
                    did_you_mean(format!(":{near}"))
                },
                did_you_mean,
            ),
            Form::User(word) if is_user(word) => did_you_mean(word.to_owned()),
            Form::User(word) => match group(word) {
                Some(group) => Some(format!("{word} is a group: did you mean {group}?")),
                None => did_you_mean(self.near(word, self.names.user_names().ok()?)?.to_owned()),
            },
        }
    }

    fn near<'n>(&self, word: &str, mut names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
        self.compared.set(self.compared.get() + 1);
        if self.compared.get() > MOST_COMPARED { None } else { names.find(|name| is_near(word, name)) }
    }
}

/// The helper is static, so it asks no directory service. This program can ask, and suggests what to write instead.
fn by_directory(wrong: &Wrong, name: &str) -> Option<String> {
    let number = if let Wrong::UnknownUser(_) = wrong {
        format!("uid:{}", User::from_name(name).ok()??.uid)
    } else {
        format!("gid:{}", Group::from_name(name).ok()??.gid)
    };
    Some(format!("a directory service knows it: write {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_directory_service_gets_its_number_as_a_hint() {
        // The tables are empty, so getpwnam(3) is asked; root stands for a name of a directory service.
        let names = Names::of(b"", b"", b"");
        let hint = |wrong| Hints::of(&names).hint(&wrong);
        let message = hint(Wrong::UnknownUser("root".to_owned()));
        assert_eq!(message.as_deref(), Some("a directory service knows it: write uid:0"));
        let message = hint(Wrong::UnknownGroup("root".to_owned()));
        assert_eq!(message.as_deref(), Some("a directory service knows it: write gid:0"));
        assert_eq!(hint(Wrong::UnknownUser("no-such-user-here".to_owned())), None);
        assert_eq!(hint(Wrong::NoPorts), None);
    }

    #[test]
    fn a_misspelt_subject_gets_a_hint() {
        let names = Names::of(b"alyce:x:1000:1000:::\nwebmastr:x:1001:1001:::\n", b"wheelers:x:33:\n", b"");
        let hints = Hints::of(&names);
        for (subject, expected) in [
            ("alcye", Some("did you mean alyce?")),
            ("user:alyce", Some("did you mean alyce?")),
            (":alyce", Some("did you mean alyce?")),
            ("wheelers", Some("wheelers is a group: did you mean :wheelers?")),
            ("@wheelers", Some("did you mean :wheelers?")),
            ("%wheelers", Some("did you mean :wheelers?")),
            (":wheleers", Some("did you mean :wheelers?")),
            ("*", Some("did you mean any?")),
            ("all", Some("did you mean any?")),
            ("@all", Some("did you mean any?")),
            ("ALYCE", Some("did you mean alyce?")),
            (":alyce,", Some("did you mean alyce?")),
            ("alyce,", Some("did you mean alyce?")),
            ("alyce,webmastr", Some("a rule has one subject: write a rule for each of alyce and webmastr")),
            ("someone-else", None),
        ] {
            assert_eq!(hints.meant(subject).as_deref(), expected, "{subject}");
        }
        for _ in 0..MOST_COMPARED {
            let _ = hints.meant("someone-else");
        }
        assert_eq!(hints.meant("alcye"), None, "no more are compared");
    }
}
