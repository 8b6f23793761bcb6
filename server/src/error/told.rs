//! What one error tells.

use std::error::Error;

use portgrant_protocol::{Kind, Message};

/// All that an error tells, in one place: its message, and the error behind it.
pub(super) struct Told<'a> {
    pub(super) message: Message,
    pub(super) source: Option<&'a (dyn Error + 'static)>,
}

impl<'a> Told<'a> {
    /// What happened. Nothing stands behind it, and the kind is [`Kind::System`], until more is said.
    pub(super) fn what(what: impl Into<String>) -> Told<'a> {
        Told { message: Message::new(what), source: None }
    }

    /// The same, with the reason.
    pub(super) fn why(self, why: impl Into<String>) -> Told<'a> {
        Told { message: self.message.why(why), ..self }
    }

    /// The same, with the reason where it is known.
    pub(super) fn why_if_known(self, why: Option<String>) -> Told<'a> {
        Told { message: Message { why, ..self.message }, ..self }
    }

    /// The same, with the error behind it, which is the reason.
    pub(super) fn because<E: Error + 'static>(self, source: &'a E) -> Told<'a> {
        Told { source: Some(source), ..self.why(source.to_string()) }
    }

    /// The same, with what to do.
    pub(super) fn fix(self, fix: impl Into<String>) -> Told<'a> {
        Told { message: self.message.fix(fix), ..self }
    }

    /// The same, with another status.
    pub(super) fn status(self, status: u8) -> Told<'a> {
        Told { message: Message { kind: Kind::of_status(status), status, ..self.message }, ..self }
    }
}
