//! `portgrant explain --why-denied`: prints recent refusals that the supervisors of `portgrant run` have kept.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use portgrant_supervisor::refusals::{Kept, path, read};
use serde_json::{Value, json};

use crate::{Error, Format, Writing, environment as variables};

/// How many refusals are printed.
const LATEST: usize = 20;

/// Prints the latest refusals, the oldest first.
pub(crate) fn print(format: Format, environment: &[CString]) -> Result<Infallible, Error> {
    let kept = match path(|name| variables::set(environment, name).map(PathBuf::from)).map(|path| read(&path)) {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(Error::Output(error)),
        Some(Ok(kept)) => kept,
        Some(Err(_)) | None => Vec::new(),
    };
    let latest = &kept[kept.len().saturating_sub(LATEST)..];
    let text = match format.writing() {
        Writing::Json => format!("{}\n", latest.iter().map(object).collect::<Value>()),
        Writing::Text if latest.is_empty() => {
            "nothing was refused lately to a program under portgrant run\n".to_owned()
        }
        Writing::Text => {
            let now = SystemTime::now();
            latest.iter().map(|kept| paragraph(kept, now)).collect::<Vec<_>>().join("\n")
        }
    };
    Err(Error::Answered(text))
}

fn paragraph(kept: &Kept, now: SystemTime) -> String {
    format!("{}, {} (process {})\n{}", ago(kept.at, now), kept.program, kept.pid, kept.message)
}

fn object(kept: &Kept) -> Value {
    let at = kept.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    json!({ "at": at, "program": kept.program, "pid": kept.pid, "message": kept.message })
}

fn ago(at: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(at).map_or(0, |since| since.as_secs());
    match (seconds, seconds / 60, seconds / 3600, seconds / 86_400) {
        (0 | 1, ..) => "just now".to_owned(),
        (_, 0, ..) => format!("{seconds} seconds ago"),
        (_, 1, ..) => "a minute ago".to_owned(),
        (_, minutes, 0, _) => format!("{minutes} minutes ago"),
        (_, _, 1, _) => "an hour ago".to_owned(),
        (_, _, hours, 0) => format!("{hours} hours ago"),
        (_, _, _, 1) => "a day ago".to_owned(),
        (.., days) => format!("{days} days ago"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ages_are_shown_in_the_largest_unit() {
        let cases = [
            (1, "just now"),
            (59, "59 seconds ago"),
            (61, "a minute ago"),
            (3599, "59 minutes ago"),
            (3600, "an hour ago"),
            (7200, "2 hours ago"),
            (90_000, "a day ago"),
            (200_000, "2 days ago"),
        ];
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (seconds, text) in cases {
            assert_eq!(ago(now - Duration::from_secs(seconds), now), text);
        }
        assert_eq!(ago(now + Duration::from_secs(9), now), "just now", "a clock that was set back");
    }
}
