//! Output for people: coloured on a terminal, unless NO_COLOR is set.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use portgrant_policy::Error;
use portgrant_protocol::{Message, status};
use rustix::io::Errno;
use serde_json::Value;

/// For good results.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// For refusals and errors.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// For warnings.
pub(crate) const DOUBTFUL: Style = AnsiColor::Yellow.on_default().bold();
/// For headings.
pub(crate) const STRONG: Style = Style::new().bold();

/// The status that a shell shows for SIGPIPE: 128 + 13.
const BROKEN_PIPE: i32 = 141;

/// For labels.
const LABEL: Style = Style::new().dimmed();

/// `text` in `style`.
pub(crate) fn in_style(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Writes `text`, styled or not, to standard output.
pub(crate) fn print(text: &str) -> Result<u8, Box<Message>> {
    write(&mut anstream::stdout().lock(), text)
}

/// Writes `value` and a line feed to standard output.
pub(crate) fn print_json(value: &Value) -> Result<u8, Box<Message>> {
    write(&mut io::stdout().lock(), &format!("{value:#}\n"))
}

fn write(output: &mut impl Write, text: &str) -> Result<u8, Box<Message>> {
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => Ok(status::OK),
        // Rust ignores SIGPIPE. If nobody reads the pipe, end silently, as that signal would.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
        Err(error) => {
            let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
            Err(Error::Call { call: "write", errno }.into())
        }
    }
}

/// Writes `message` to standard error in the launcher's form, and gives its status.
pub(crate) fn complain(message: &Message) -> u8 {
    let mut styled = format!("{} {}\n", in_style(BAD, "portgrant:"), in_style(STRONG, &message.what));
    for (label, part) in [("why:", &message.why), ("fix:", &message.fix)] {
        if let Some(part) = part {
            styled.extend(["  ", &in_style(LABEL, label), " ", part, "\n"]);
        }
    }
    // In one write, so that other output cannot divide it.
    let text = match anstream::AutoStream::choice(&io::stderr()) {
        anstream::ColorChoice::Never => anstream::adapter::strip_str(&styled).to_string(),
        anstream::ColorChoice::Auto | anstream::ColorChoice::Always | anstream::ColorChoice::AlwaysAnsi => styled,
    };
    let _ = io::stderr().write_all(text.as_bytes());
    message.status
}
