//! The error type of this crate, and what every error reports.
//!
//! Each subject has its own enum, with its messages. [`Error`] holds any of them without knowing one.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::Path;

use portgrant_protocol::text::printable;
use portgrant_protocol::{Kind, Message};

/// Why something failed: an error of one of the kinds in [`error`](crate::error).
///
/// `Display` prints one line, `what: why; fix`. `Debug` prints one line for each part; `main` prints it when it returns
/// an error:
///
/// ```text
/// Error: 80/tcp is in use
///   why: nginx (pid 812, user www-data) listens at 0.0.0.0:80
///   fix: stop it, or serve at another address or port
/// ```
/// A program checks for the kind that it can handle:
///
/// ```
/// use portgrant_server::error::BindError;
///
/// # let held = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let endpoint = held.local_addr()?.to_string();
/// let error = portgrant_server::listen(&endpoint).expect_err("in use");
/// match error.downcast_ref() {
///     Some(BindError::InUse { holders, .. }) => assert!(holders[0].is_own()),
///     _ => return Err(error.into()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Error(Box<dyn Failure>);

/// An error of one subject.
pub(crate) trait Failure: Any + std::error::Error + Send + Sync {
    /// Everything that it reports.
    fn report(&self) -> Report<'_>;
}

impl Error {
    /// The exit status for a program that ends with this error (see [`status`](crate::status)).
    pub fn status(&self) -> u8 {
        self.0.report().message.status
    }

    /// What failed, why, and what to do: each in one line of printable ASCII.
    pub fn message(&self) -> Message {
        self.0.report().message
    }

    /// The error itself, if it is of kind `E`.
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        let error: &dyn Any = &*self.0;
        error.downcast_ref()
    }

    pub(crate) fn new(error: impl Failure) -> Error {
        Error(Box::new(error))
    }

    /// The error of a system call. `what` says what it was needed for: `cannot read the list of users`. A server can
    /// use it to report its own failures in the same form.
    pub fn system(what: &'static str, source: impl Into<io::Error>) -> Error {
        SystemError { what, source: source.into() }.into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.message().fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Message { what, why, fix, .. } = self.message();
        f.write_str(&what)?;
        let rest = [("why", why), ("fix", fix)];
        rest.into_iter()
            .filter_map(|(name, text)| Some((name, text?)))
            .try_for_each(|(name, text)| write!(f, "\n  {name}: {text}"))
    }
}

impl std::error::Error for Error {
    /// The error of the operating system or of another library, if there is one.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.report().source
    }
}

/// Makes an enum the error of its subject. It prints what its `report` says, and `?` converts it into an [`Error`].
macro_rules! failure {
    ($error:ident) => {
        impl std::fmt::Display for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.report().message.fmt(f)
            }
        }

        impl std::error::Error for $error {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.report().source
            }
        }

        impl $crate::failure::Failure for $error {
            fn report(&self) -> $crate::failure::Report<'_> {
                self.report()
            }
        }

        impl From<$error> for $crate::failure::Error {
            fn from(error: $error) -> $crate::failure::Error {
                $crate::failure::Error::new(error)
            }
        }
    };
}

pub(crate) use failure;

/// Everything that an error reports: its message, and the error behind it.
pub(crate) struct Report<'a> {
    pub(crate) message: Message,
    pub(crate) source: Option<&'a (dyn std::error::Error + 'static)>,
}

impl<'a> Report<'a> {
    /// What failed. There is no error behind it, and the kind is [`Kind::System`], unless more is added.
    pub(crate) fn what(what: impl Into<String>) -> Report<'a> {
        Report { message: Message::new(what), source: None }
    }

    /// Adds the reason.
    pub(crate) fn why(self, why: impl Into<String>) -> Report<'a> {
        Report { message: self.message.why(why), ..self }
    }

    /// Adds the reason, if it is known.
    pub(crate) fn why_if_known(self, why: Option<String>) -> Report<'a> {
        Report { message: Message { why, ..self.message }, ..self }
    }

    /// Adds the error behind it, which is the reason.
    pub(crate) fn because<E: std::error::Error + 'static>(self, source: &'a E) -> Report<'a> {
        Report { source: Some(source), ..self.why(source.to_string()) }
    }

    /// Adds what to do.
    pub(crate) fn fix(self, fix: impl Into<String>) -> Report<'a> {
        Report { message: self.message.fix(fix), ..self }
    }

    /// Sets another kind, with its status.
    pub(crate) fn kind(self, kind: Kind) -> Report<'a> {
        Report { message: Message { kind, status: kind.status(), ..self.message }, ..self }
    }

    /// Sets another status.
    pub(crate) fn status(self, status: u8) -> Report<'a> {
        Report { message: Message { kind: Kind::of_status(status), status, ..self.message }, ..self }
    }
}

/// A foreign name, in quotes and printable.
pub(crate) fn quoted(name: &str) -> String {
    format!("'{}'", printable(name.as_bytes()))
}

/// A path, printable.
pub(crate) fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

/// A system call failed
#[derive(Debug)]
#[non_exhaustive]
pub struct SystemError {
    /// What it was needed for: `cannot catch signals`
    pub what: &'static str,
    /// Why it failed
    pub source: io::Error,
}

impl SystemError {
    fn report(&self) -> Report<'_> {
        Report::what(self.what).because(&self.source)
    }
}

failure!(SystemError);

#[cfg(test)]
mod tests {
    use portgrant_protocol::status;

    use super::*;

    #[test]
    fn an_error_that_leaves_main_is_printed_in_three_lines() {
        #[derive(Debug)]
        struct Full(io::Error);
        impl Full {
            fn report(&self) -> Report<'_> {
                Report::what("cannot write").because(&self.0).fix("remove something").status(status::UNAVAILABLE)
            }
        }
        failure!(Full);
        let error = Error::from(Full(io::ErrorKind::StorageFull.into()));
        assert_eq!(format!("{error:?}"), "cannot write\n  why: no storage space\n  fix: remove something");
        assert_eq!(error.to_string(), "cannot write: no storage space; remove something");
        assert_eq!(error.status(), status::UNAVAILABLE);
        assert!(std::error::Error::source(&error).is_some_and(|source| source.is::<io::Error>()));
        assert_eq!(format!("{:?}", Error::system("cannot write", io::ErrorKind::NotFound)).lines().count(), 2);
    }

    #[test]
    fn an_error_downcasts_to_exactly_one_kind() {
        let error = Error::system("cannot write", io::ErrorKind::NotFound);
        assert!(error.downcast_ref::<io::Error>().is_none());
        assert_eq!(error.downcast_ref::<SystemError>().map(|error| error.what), Some("cannot write"));
    }
}
