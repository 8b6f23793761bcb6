//! A server's own Unix socket, and who comes to it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::shown;
use super::told::Told;

/// Why a mailbox received nothing
#[derive(Debug)]
#[non_exhaustive]
pub enum MailboxError {
    /// Its file could not be made or used
    Unusable {
        /// Where
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// There is something at its path that is not to be replaced
    Occupied {
        /// Where
        path: PathBuf,
        /// What it is
        by: &'static str,
    },
    /// A peer of another user came
    ForeignPeer {
        /// Its effective uid
        uid: u32,
        /// This server's effective uid
        own: u32,
    },
    /// A peer came and said nothing
    SilentPeer {
        /// How long it was waited for
        patience: Duration,
    },
}

impl MailboxError {
    pub(super) fn told(&self) -> Told<'_> {
        match self {
            MailboxError::Unusable { path, source } => Told::what(format!("cannot use {} as a mailbox", shown(path)))
                .because(source)
                .fix("see that the folder is there and that this user may write to it"),
            MailboxError::Occupied { path, by } => Told::what(format!("cannot make a mailbox at {}", shown(path)))
                .why(format!("there is {by}"))
                .fix("choose another path, or stop what holds this one"),
            MailboxError::ForeignPeer { uid, own } => {
                Told::what(format!("uid {uid} came to the mailbox, and was turned away"))
                    .why(format!("only uid {own} and root may send sockets"))
                    .fix("send as the user that the server runs as")
            }
            MailboxError::SilentPeer { patience } => Told::what(format!(
                "a peer came to the mailbox and said nothing for {} seconds",
                patience.as_secs_f32()
            )),
        }
    }
}
