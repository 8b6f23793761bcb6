//! The launcher's own output: coloured on a terminal, unless NO_COLOR is set.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use portgrant_protocol::status;
use portgrant_server::Message;
use serde_json::Value;

use crate::{Error, stderr};

/// For good results.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// For errors.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// For warnings.
pub(crate) const DOUBTFUL: Style = AnsiColor::Yellow.on_default().bold();
/// For headings.
pub(crate) const STRONG: Style = Style::new().bold();

/// The status that a shell shows for SIGPIPE: 128 + 13.
const BROKEN_PIPE: u8 = 141;

/// For labels.
const LABEL: Style = Style::new().dimmed();

/// `text` in `style`.
pub(crate) fn in_style(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// `message`, with a style for each part.
pub(crate) fn message(message: &Message) -> String {
    let mut text = format!("{} {}\n", in_style(BAD, "portgrant:"), in_style(STRONG, &message.what));
    for (label, part) in [("why:", &message.why), ("fix:", &message.fix)] {
        if let Some(part) = part {
            text.extend(["  ", &in_style(LABEL, label), " ", part, "\n"]);
        }
    }
    text
}

/// `text` for standard error, styled or not, in one write.
fn for_stderr(text: String) -> String {
    match anstream::AutoStream::choice(&io::stderr()) {
        anstream::ColorChoice::Never => anstream::adapter::strip_str(&text).to_string(),
        anstream::ColorChoice::Auto | anstream::ColorChoice::Always | anstream::ColorChoice::AlwaysAnsi => text,
    }
}

/// Reports `message` on standard error.
pub(crate) fn say(message: &Message) {
    report(message, "");
}

/// Reports `message` and further lines on standard error, in one write, so that other output cannot divide it.
pub(crate) fn report(message: &Message, further: &str) {
    let text = format!("{}{further}", self::message(message));
    stderr::print(&for_stderr(text));
}

/// Writes `text`, styled or not, to standard output.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    write(&mut anstream::stdout().lock(), text)
}

/// Writes `value` and a line feed to standard output.
pub(crate) fn print_json(value: &Value) -> Result<(), Error> {
    write(&mut io::stdout().lock(), &format!("{value:#}\n"))
}

fn write(output: &mut impl Write, text: &str) -> Result<(), Error> {
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        // SIGPIPE would have ended this process, but the caller ignores it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::Printed(BROKEN_PIPE)),
        written => written.map_err(Error::Output),
    }
}

/// The end of a command that has printed its answer.
pub(crate) fn answered(is_well: bool, otherwise: u8) -> Error {
    Error::Printed(if is_well { status::OK } else { otherwise })
}
