//! The audit line: one for each grant and each refusal, to syslog (authpriv), whatever the verb.
//!
//! The text proves nothing, since anybody may log such a line. The log daemon reads the sender's ids from the kernel.
//! Bytes from the caller are escaped.

use alloc::format;
use alloc::string::String;

use portgrant_protocol::text::printable;

/// LOG_AUTHPRIV with LOG_INFO and LOG_NOTICE (syslog(3)).
const GRANT: u32 = (10 << 3) | 6;
const REFUSAL: u32 = (10 << 3) | 5;

/// The outcome for one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is about to be bound for the caller
    Grant,
    /// The policy refused it
    Refuse,
    /// It was granted, but not all of the request could be bound
    Fail,
}

/// A line before it is written.
#[derive(Debug)]
pub struct Line<'a> {
    /// The outcome
    pub outcome: Outcome,
    /// The caller's real uid
    pub uid: u32,
    /// The caller's real gid
    pub gid: u32,
    /// How it was asked for: `exec`, `bind`, `pass` or `kernel`
    pub verb: &'static str,
    /// The endpoint
    pub endpoint: String,
    /// The rule that decided, `file:line`
    pub rule: Option<String>,
    /// The program that is executed
    pub program: Option<&'a [u8]>,
}

impl Line<'_> {
    /// The line as process `pid` of program `tag` logs it.
    #[must_use]
    pub fn as_of(&self, tag: &str, pid: u32) -> String {
        let (priority, word) = match self.outcome {
            Outcome::Grant => (GRANT, "grant"),
            Outcome::Refuse => (REFUSAL, "refuse"),
            Outcome::Fail => (REFUSAL, "fail"),
        };
        let Line { uid, gid, verb, endpoint, .. } = self;
        let rule = self.rule.as_deref().unwrap_or("none");
        let mut text =
            format!("<{priority}>{tag}[{pid}]: {word} uid={uid} gid={gid} verb={verb} endpoint={endpoint} rule={rule}");
        if let Some(program) = self.program {
            text.extend([" program=\"", &printable(program).replace('"', "\\x22"), "\""]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_bytes_cannot_end_an_audit_line_or_a_field() {
        let line = Line {
            outcome: Outcome::Grant,
            uid: 1000,
            gid: 100,
            verb: "exec",
            endpoint: "80/tcp".into(),
            rule: Some("/etc/portgrant.conf:1".into()),
            program: Some(b"/tmp/a\n<0>b\" uid=0"),
        };
        let text = line.as_of("portgrant-binder", 1);
        assert!(text.starts_with("<86>portgrant-binder["), "{text}");
        let grant = "]: grant uid=1000 gid=100 verb=exec endpoint=80/tcp rule=/etc/portgrant.conf:1";
        assert!(text.ends_with(&format!(r#"{grant} program="/tmp/a\x0a<0>b\x22 uid=0""#)), "{text}");
    }
}
