//! The errors that end the launcher, and their messages.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::Group;
use portgrant_protocol::listen::PlaceError;
use portgrant_protocol::program::{Unfit, Why};
use portgrant_protocol::text::printable;
use portgrant_protocol::{AskedPort, Endpoint, EndpointError, status};
use portgrant_server::error::InvalidEndpoint;
use portgrant_server::{Kind, Message};

use crate::delivery::DeliveryError;
use crate::nearest;

/// Everything that ends the launcher instead of executing a program.
#[derive(Debug)]
pub enum Error {
    /// Not an error: the text to print, such as help or the version
    Answered(String),
    /// The answer was printed; this is the exit status
    Printed(u8),
    /// The answer could not be printed
    Output(std::io::Error),
    /// portgrant-explain is not installed
    PolicyMissing {
        /// The places where it may be
        places: Vec<PathBuf>,
    },
    /// portgrant-explain could not be executed
    Policy {
        /// Its path
        path: PathBuf,
        /// Why not
        source: std::io::Error,
    },
    /// The command line is wrong
    Usage(Box<Message>),
    /// The program does not exist, or cannot be executed
    Program(Unfit),
    /// A socket could not get its descriptor number
    Place(PlaceError),
    /// no_new_privs could not be set
    NoNewPrivileges(std::io::Error),
    /// The user of `--user` does not exist
    NoSuchUser {
        /// The user's name or number
        user: String,
    },
    /// `--user` is a number without an account
    NoAccount {
        /// The number
        uid: u32,
    },
    /// The accounts could not be read
    Accounts {
        /// The user
        user: String,
        /// Why not
        source: std::io::Error,
    },
    /// `--user` names another user, but the caller is not root
    NotRoot {
        /// The other user
        user: String,
        /// The caller's uid
        own: u32,
    },
    /// The ids could not be changed
    Become {
        /// Whose they should be
        user: String,
        /// Why not
        source: std::io::Error,
    },
    /// The ids or capabilities are not what they were set to
    StillAnother {
        /// Whose they should be
        user: String,
    },
    /// The user's program cannot have a separate terminal
    Terminal {
        /// What could not be done for it
        doing: &'static str,
        /// Why not
        source: std::io::Error,
    },
    /// The user would inherit the caller's keys
    Keyring {
        /// The user who should have a keyring
        user: String,
        /// Why not
        source: std::io::Error,
    },
    /// `--chdir` could not be entered
    Folder {
        /// The folder
        folder: PathBuf,
        /// Why not
        source: std::io::Error,
    },
    /// The first connection could not be waited for
    Wait(std::io::Error),
    /// The awaited process has ended and printed its own messages
    Ended {
        /// Its exit status
        status: u8,
    },
    /// Another process failed: the helper, or the process that should become the program
    Failed(Box<Message>),
    /// The guard of a daemon failed
    Guard {
        /// What it could not do
        doing: &'static str,
        /// Why not
        source: std::io::Error,
    },
    /// The program ended before it was ready
    EndedEarly {
        /// The program
        program: String,
        /// Its exit status
        status: u8,
    },
    /// The program did not report that it is ready
    NotNotified {
        /// The program
        program: String,
        /// The time limit
        time_limit: std::time::Duration,
    },
    /// The program does not accept on its sockets
    Ignored(Box<Message>),
    /// The watching process of --verify could not be started
    Watcher(std::io::Error),
    /// Only the helper may execute the program, but the helper does not have this option
    NotWithTheHelper {
        /// The option
        option: &'static str,
        /// The program
        program: PathBuf,
    },
    /// The rule is for another program
    ForAnother {
        /// The refusal, which names that program
        refusal: Box<Message>,
        /// The program that should be executed
        program: PathBuf,
    },
    /// The rule needs the helper to execute the program, which it cannot do for each connection
    OnlyByHelper(Box<Message>),
    /// The rule needs the helper to execute the program, but then the launcher cannot add sockets that it has bound
    NotBeside {
        /// The refusal
        refusal: Box<Message>,
        /// The endpoints that need no rule
        free: Vec<String>,
    },
    /// Connections cannot be served
    Accepting(std::io::Error),
    /// The supervisor does not exist, or cannot be executed
    Supervisor {
        /// Its path
        path: PathBuf,
        /// Why
        source: std::io::Error,
    },
    /// A supervisor cannot work here
    Unsupervised(Box<Message>),
    /// The server did not accept the sockets
    NotPassed {
        /// The server's Unix socket
        to: PathBuf,
        /// Why not
        source: DeliveryError,
    },
    /// The caller's uid is not mapped in this user namespace, so the helper cannot act for the caller
    Unmapped,
    /// The sockets could not be bound
    Sockets(portgrant_server::Error),
}

impl Error {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Error::Answered(_) => status::OK,
            Error::Printed(status) => *status,
            Error::Output(_) => status::SYSTEM,
            Error::PolicyMissing { .. } | Error::Policy { .. } | Error::Unmapped => status::BROKEN,
            Error::Usage(_)
            | Error::Place(PlaceError::Occupied(_))
            | Error::NoSuchUser { .. }
            | Error::NoAccount { .. }
            | Error::Folder { .. }
            | Error::NotWithTheHelper { .. } => status::USAGE,
            Error::Program(unfit) => unfit.status(),
            Error::NotRoot { .. } => status::REFUSED,
            Error::NotPassed { source, .. } => source.status(),
            Error::Ended { status } => *status,
            Error::Failed(message) => message.status,
            Error::EndedEarly { status, .. } if *status != status::OK => *status,
            Error::EndedEarly { .. } | Error::NotNotified { .. } | Error::Ignored(_) => status::UNAVAILABLE,
            Error::Place(PlaceError::System(_))
            | Error::NoNewPrivileges(_)
            | Error::Accounts { .. }
            | Error::Become { .. }
            | Error::StillAnother { .. }
            | Error::Terminal { .. }
            | Error::Keyring { .. }
            | Error::Guard { .. }
            | Error::Watcher(_)
            | Error::Wait(_)
            | Error::Accepting(_) => status::SYSTEM,
            Error::ForAnother { refusal, .. } | Error::NotBeside { refusal, .. } | Error::OnlyByHelper(refusal) => {
                refusal.status
            }
            Error::Supervisor { .. } | Error::Unsupervised(_) => status::BROKEN,
            Error::Sockets(error) => error.status(),
        }
    }

    /// What failed, why, and what to do, with the kind and the status that go with it.
    pub fn message(&self) -> Message {
        let message = self.text();
        // A message from another process has its own kind, which says more than a status.
        let has_a_kind = matches!(self, Error::Failed(_) | Error::Sockets(_));
        let status = self.status();
        if has_a_kind { message } else { Message { kind: Kind::of_status(status), status, ..message } }
    }

    fn text(&self) -> Message {
        match self {
            Error::Answered(text) => Message::new(text.as_str()),
            Error::Printed(_) => Message::new("printed"),
            Error::Output(error) => Message::new("the answer could not be written").why(error.to_string()),
            Error::PolicyMissing { places } => {
                let places: Vec<String> = places.iter().map(|place| shown(place)).collect();
                Message::new("portgrant-explain, which reads the policy, was not found")
                    .why(format!("none of these exists: {}", places.join(", ")))
                    .fix("install all of portgrant: packaging/install puts portgrant-explain beside the helper")
            }
            Error::Policy { path, source } => Message::new(format!("cannot run {}", shown(path)))
                .why(source.to_string())
                .fix(format!("as root: chmod 0755 {}", shown(path))),
            Error::Usage(message) => message.as_ref().clone(),
            Error::Program(unfit) => {
                let endpoint = Endpoint::from_os(OsStr::from_bytes(&unfit.program))
                    .ok()
                    .filter(|_| unfit.why == Why::NotAlongPath);
                let is_number = |endpoint: &Endpoint| matches!(endpoint.port, AskedPort::Number(_));
                let fix = match endpoint.filter(is_number) {
                    Some(endpoint) => format!("write -l {endpoint} (-l stands before each endpoint)"),
                    None => unfit.fix(),
                };
                Message::new(unfit.to_string()).why(unfit.why.to_string()).fix(fix)
            }
            Error::Place(PlaceError::Occupied(number)) => Message::new(format!("descriptor {number} is open already"))
                .why("a socket must have this number, and portgrant does not close the caller's descriptors")
                .fix(format!("add {number}>&- at the end (a shell closes it so, for this command)")),
            Error::Place(PlaceError::System(errno)) => Message::new("the sockets could not be put in their places")
                .why(errno.to_string())
                .fix("raise the limit of open files (ulimit -n)"),
            Error::NoNewPrivileges(error) => Message::new("no_new_privs could not be set").why(error.to_string()),
            Error::NoSuchUser { user } => {
                let is_group = matches!(Group::from_name(user), Ok(Some(_)));
                let (why, fix) = match is_group {
                    true => (format!("'{user}' is a group"), "name a user of that group"),
                    false => {
                        ("neither /etc/passwd nor a directory service knows it".to_owned(), "name a user, or write uid:N")
                    }
                };
                Message::new(format!("there is no user '{user}'")).why(why).fix(fix)
            }
            Error::NoAccount { uid } => Message::new(format!("uid {uid} has no account"))
                .why("nothing says which groups it has, so portgrant exec --user cannot become it")
                .fix(format!(
                    "as root, make an account (useradd), or: setpriv --reuid={uid} --regid=GID --clear-groups portgrant exec ..."
                )),
            Error::Accounts { user, source } => {
                Message::new(format!("the account of '{user}' could not be read")).why(source.to_string())
            }
            Error::NotRoot { user, own } => Message::new(format!("only root can use --user {user}"))
                .why(format!("this is uid {own}, which cannot become another user"))
                .fix(format!("run this as root; or run it as {user}, without --user")),
            Error::Become { user, source } => Message::new(format!("could not become {user}"))
                .why(source.to_string())
                .fix(
                    "in a user namespace, map that user's ids; in a unit of systemd, let CapabilityBoundingSet= have CAP_SETUID \
                     and CAP_SETGID, and SystemCallFilter= @setuid; elsewhere, start it as root with all capabilities",
                ),
            Error::StillAnother { user } => Message::new(format!("could not become {user}"))
                .why("the ids, groups or capabilities differ from what portgrant set")
                .fix("check whether a seccomp filter or a tracer intercepts setresuid(2)"),
            Error::Terminal { doing, source } => Message::new("the program cannot be given a terminal of its own")
                .why(format!("could not {doing}: {source}"))
                .fix("mount /proc and /dev/pts; or start it without a terminal: setsid, and no terminal as 0, 1 and 2"),
            Error::Keyring { user, source } => Message::new(format!("{user} cannot be given a session keyring"))
                .why(format!("{source}; without one, {user} could use your keys"))
                .fix(format!("see /proc/key-users: {user} may have no room for another key")),
            Error::Folder { folder, source } => {
                let folder = printable(folder.as_os_str().as_encoded_bytes());
                Message::new(format!("--chdir {folder} could not be entered"))
                    .why(source.to_string())
                    .fix("name a folder that the program's user may enter")
            }
            Error::Wait(source) => Message::new("the first connection could not be waited for").why(source.to_string()),
            Error::Ended { status } => Message::new(format!("it ended with status {status}")),
            Error::Failed(message) | Error::Ignored(message) => message.as_ref().clone(),
            Error::Guard { doing, source } => Message::new("the program cannot be guarded in the background")
                .why(format!("could not {doing}: {source}"))
                .fix("start it without --daemon, or see what limits this user (ulimit -a)"),
            Error::EndedEarly { program, status } => Message::new(format!("{program} ended before it was ready"))
                .why(format!("its exit status is {status}"))
                .fix(match *status {
                    status::OK => {
                        "keep it in the foreground, as with nginx -g 'daemon off;': --daemon puts it in the background"
                    }
                    _ => "see its output above, and in the log",
                }),
            Error::NotNotified { program, time_limit } => Message::new(format!(
                "{program} did not report that it is ready"
            ))
            .why(format!("it did not send READY=1 to NOTIFY_SOCKET within {} seconds", time_limit.as_secs()))
            .fix("leave out --notify if the program does not use sd_notify(3), or allow more time: --notify=SECONDS"),
            Error::Watcher(source) => Message::new("--verify could not start its checking process")
                .why(source.to_string())
                .fix("leave out --verify, or raise this user's limit of processes (ulimit -u)"),
            Error::NotWithTheHelper { option, program } => {
                let program = printable(program.as_os_str().as_encoded_bytes());
                Message::new(format!("{option} cannot be used with this grant"))
                    .why(format!("the rule is for {program}, which the helper must execute at once"))
                    .fix(match *option {
                        // Without it what was passed is in the way.
                        "--keep-listen" => "as root, remove exec from the rule".to_owned(),
                        option => format!("leave out {option}; or as root, remove exec from the rule"),
                    })
            }
            Error::NotPassed { to, source } => {
                let to = printable(to.as_os_str().as_encoded_bytes());
                Message::new(format!("nothing was passed to {to}")).why(source.to_string()).fix(source.fix())
            }
            Error::ForAnother { refusal, program, .. } => {
                let message = refusal.as_ref().clone();
                let instead = format!("PROGRAM is {}", printable(program.as_os_str().as_encoded_bytes()));
                let why = message.why.map(|why| format!("{why}; {instead}"));
                Message { why: why.or(Some(instead)), ..message }
            }
            Error::OnlyByHelper(refusal) => {
                let message = refusal.as_ref().clone();
                let program = refusal.program.as_deref().unwrap_or_default();
                let why =
                    format!("the rule is for {program}, which the helper executes once; --accept starts it many times");
                message.why(why).fix("leave out --accept; or as root, remove exec from the rule")
            }
            Error::NotBeside { refusal, free } => {
                let program = refusal.program.as_deref().unwrap_or_default();
                let free = free.join(" and ");
                let why = format!(
                    "the rule is for {program}, which the helper executes with what it binds; {free} needs no rule, so \
                     portgrant binds that itself"
                );
                let fix = format!("leave out -l {free} (the program can bind it); or as root, remove exec from the rule");
                refusal.as_ref().clone().why(why).fix(fix)
            }
            Error::Accepting(error) => Message::new("connections cannot be accepted")
                .why(error.to_string())
                .fix("raise the limit that is reached (ulimit -n), or free memory"),
            Error::Supervisor { path, source } => Message::new(format!("{} cannot be executed", path.display()))
                .why(source.to_string())
                .fix("install portgrant again: the supervisor is beside the helper"),
            Error::Unsupervised(message) => message.as_ref().clone(),
            Error::Unmapped => Message::new("your uid is not mapped in this user namespace")
                .why("the helper cannot act for a user who does not exist here")
                .fix("run it outside of the user namespace, or install portgrant inside as that namespace's root"),
            Error::Sockets(error) => match error.downcast_ref() {
                Some(InvalidEndpoint { source: EndpointError::Service(name), .. }) => {
                    error.message().fix(nearest::service(name))
                }
                _ => error.message(),
            },
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.message().fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Sockets(error) => Some(error),
            Error::NoNewPrivileges(error)
            | Error::Output(error)
            | Error::Policy { source: error, .. }
            | Error::Wait(error)
            | Error::Accepting(error)
            | Error::Watcher(error) => Some(error),
            Error::Guard { source, .. }
            | Error::Supervisor { source, .. }
            | Error::Terminal { source, .. }
            | Error::Keyring { source, .. } => Some(source),
            Error::Accounts { source, .. } | Error::Become { source, .. } | Error::Folder { source, .. } => {
                Some(source)
            }
            Error::Program(unfit) => Some(unfit),
            Error::Answered(_)
            | Error::Printed(_)
            | Error::PolicyMissing { .. }
            | Error::Failed(_)
            | Error::Unsupervised(_)
            | Error::Unmapped
            | Error::Usage(_)
            | Error::Place(_)
            | Error::NoSuchUser { .. }
            | Error::NoAccount { .. }
            | Error::NotRoot { .. }
            | Error::StillAnother { .. }
            | Error::Ended { .. }
            | Error::EndedEarly { .. }
            | Error::NotNotified { .. }
            | Error::Ignored(_)
            | Error::NotPassed { .. }
            | Error::NotWithTheHelper { .. }
            | Error::OnlyByHelper(_)
            | Error::NotBeside { .. }
            | Error::ForAnother { .. } => None,
        }
    }
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

impl From<portgrant_server::Error> for Error {
    fn from(error: portgrant_server::Error) -> Error {
        Error::Sockets(error)
    }
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Error {
        Error::Program(unfit)
    }
}
