//! The clauses of a rule: their words, and their order.

/// The clause that a word after the ports begins.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(crate) enum Clause {
    On,
    Dev,
    Reserved,
    Reuseport,
    Freebind,
    Exec,
}

impl Clause {
    /// The clause of this word, if it is one.
    pub(crate) fn of(word: &str) -> Option<Clause> {
        Some(match word {
            "on" => Clause::On,
            "dev" => Clause::Dev,
            "reserved" => Clause::Reserved,
            "reuseport" => Clause::Reuseport,
            "freebind" => Clause::Freebind,
            "exec" => Clause::Exec,
            _ => return None,
        })
    }

    /// Its word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Clause::On => "on",
            Clause::Dev => "dev",
            Clause::Reserved => "reserved",
            Clause::Reuseport => "reuseport",
            Clause::Freebind => "freebind",
            Clause::Exec => "exec",
        }
    }

    /// Its place after the ports; the words share that of the first.
    pub(crate) fn place(self) -> Clause {
        match self {
            Clause::Reuseport | Clause::Freebind => Clause::Reserved,
            Clause::On | Clause::Dev | Clause::Reserved | Clause::Exec => self,
        }
    }
}
