//! Adoption: how the program gets its sockets. It is decided from the command line, before anything is bound, unless
//! the number of sockets is unknown (`each`).

mod inherited;
mod placeholders;
mod places;

use std::ffi::{CStr, CString, OsStr, OsString};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use log::debug;
use portgrant_protocol::endpoint::AskedPort;
use portgrant_protocol::program::{self, Unfit};
use portgrant_protocol::service::{self, Services};
use portgrant_protocol::text::printable;
use portgrant_protocol::{Address, Endpoint, listen};
use portgrant_server::error::InvalidEndpoint;
use portgrant_server::{Message, Sockets};

use crate::servers::{self, Adoption, Descriptor, Server, Serves};
use crate::{Error, Exec};

pub(crate) use places::Places;

/// The arguments of execve(2), and the numbers of the descriptors.
#[derive(Debug)]
pub(crate) struct Image {
    /// The file
    pub(crate) path: PathBuf,
    /// argv
    pub(crate) arguments: Vec<OsString>,
    /// The numbers of the sockets
    pub(crate) places: Places,
    environment: Vec<CString>,
    announced: Option<Vec<String>>,
}

impl Image {
    /// envp for the process `pid`, which becomes the program and is named in LISTEN_PID.
    pub(crate) fn environment(&self, pid: u32) -> Vec<CString> {
        listen::environment(self.environment.clone(), pid, self.announced.as_deref())
    }

    /// The same, with other variables.
    pub(crate) fn with_environment(self, change: impl FnOnce(Vec<CString>) -> Vec<CString>) -> Image {
        Image { environment: change(self.environment), ..self }
    }
}

/// The options of the command line about adoption, parsed and free of contradictions.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// The option that decides, for messages
    option: String,
    adoption: Adoption,
    program: &'a [OsString],
    settings: Vec<Setting<'a>>,
    /// The names of descriptors that the caller announced. The program gets them before the sockets
    kept: Vec<String>,
    /// The program's argv0, if it is set
    argv0: Option<&'a OsStr>,
    /// The number of the first socket, if it is set. Such sockets are not announced
    first: Option<RawFd>,
}

/// `--setenv`: a variable for the program.
#[derive(Debug)]
struct Setting<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Wanted<'a> {
    pub(crate) fn of(asked: &'a Exec) -> Result<Wanted<'a>, Error> {
        let server = asked.server.as_deref().and_then(servers::named);
        let option = match server {
            Some(server) => format!("--as {}", server.name),
            None => "--inetd".to_owned(),
        };
        if asked.accept.accept && (server.is_some() || asked.inetd) {
            let fix = format!("leave out {option} (with --accept each connection is descriptor 0 and 1 of a program)");
            return usage(Message::new(format!("{option} cannot be used with --accept")).fix(fix));
        }
        if let Some(number) = asked.first_fd.filter(|_| asked.accept.accept || server.is_some() || asked.inetd) {
            let other = if asked.accept.accept { "--accept" } else { option.as_str() };
            let message = Message::new(format!("--first-fd cannot be used with {other}"));
            return usage(
                message
                    .why(format!("{other} says which numbers the sockets have, not {number}"))
                    .fix(format!("leave out --first-fd {number}; or leave out {other}")),
            );
        }
        let adoption = match server {
            Some(_) if asked.inetd => {
                let fix = format!("leave out --inetd (it means --as inetd); or leave out {option}");
                return usage(Message::new(format!("--inetd cannot be used with {option}")).fix(fix));
            }
            Some(server) => helped(server, &asked.listen)?,
            None if asked.accept.accept => Adoption::Connection,
            None if asked.inetd => Adoption::Standard,
            None => Adoption::ListenFds,
        };
        if let Adoption::Standard | Adoption::StandardParked = adoption {
            // inetd's convention is for one socket.
            let fix =
                format!("expected one socket, which becomes descriptor 0; without {option} they begin at descriptor 3");
            one_socket(&option, &asked.listen, &fix)?;
        }
        let settings = asked.setenv.iter().map(|word| Setting::of(word, adoption, &option));
        let settings = settings.collect::<Result<_, _>>()?;
        if asked.keep_listen {
            inherited::check(asked, adoption, &option)?;
        }
        let (argv0, first) = (asked.argv0.as_deref(), asked.first_fd.filter(|first| *first != listen::FIRST));
        let kept = Vec::new();
        let wanted = Wanted { option, adoption, program: &asked.program, settings, kept, argv0, first };
        wanted.require_placeholder()?;
        Ok(wanted)
    }

    /// Adds the descriptors that `environment` announces to this process, if `--keep-listen` is given.
    pub(crate) fn keeping(self, asked: &Exec, environment: &[CString]) -> Result<Wanted<'a>, Error> {
        let kept = if asked.keep_listen { inherited::names(environment, asked.listen.len())? } else { Vec::new() };
        Ok(Wanted { kept, ..self })
    }

    /// Checks that `count` sockets can get their numbers.
    pub(crate) fn room(&self, count: usize, environment: &[CString]) -> Result<(), Error> {
        self.places().free(count).map_err(|error| inherited::place_in_use(error, environment))
    }

    pub(crate) fn places(&self) -> Places {
        match self.adoption {
            Adoption::Standard | Adoption::Connection => Places::Standard,
            Adoption::StandardParked => Places::StandardParked,
            Adoption::ListenFds | Adoption::Variable(_) | Adoption::Argument(_) | Adoption::Never => {
                let behind = (listen::FIRST..).nth(self.kept.len()).unwrap_or(listen::FIRST);
                Places::From(self.first.unwrap_or(behind))
            }
        }
    }

    /// The program's file. It is looked up in the PATH that `--setenv` sets, if any, as in env(1).
    pub(crate) fn find(&self, environment: &[CString]) -> Result<PathBuf, Unfit> {
        let name = self.program.first().map_or(OsStr::new(""), OsString::as_os_str);
        match self.settings.iter().rev().find(|setting| setting.name == b"PATH") {
            Some(path) => program::find(name, &[entry(path.name, path.value)]),
            None => program::find(name, environment),
        }
    }

    /// The descriptors for `listen`, in order. `None` if `each` is among them, since the host decides how many sockets
    /// it has. With `--accept` there is only descriptor 0, the connection.
    pub(crate) fn descriptors(&self, listen: &[Endpoint]) -> Result<Option<Vec<Descriptor>>, Error> {
        if let Adoption::Connection = self.adoption {
            let local = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
            return Ok(Some(vec![Descriptor { name: "connection".to_owned(), number: 0, local }]));
        }
        if listen.iter().any(|endpoint| endpoint.address == Address::Each) {
            return Ok(None);
        }
        let named = listen.iter().any(|endpoint| matches!(endpoint.port, AskedPort::Service(_)));
        let services = if named { std::fs::read(service::PATH).unwrap_or_default() } else { Vec::new() };
        let services = Services::parse(&services);
        let descriptors = self.places().numbers().zip(listen).map(|(number, endpoint)| {
            let wrong = |source| portgrant_server::Error::from(InvalidEndpoint::new(endpoint.to_string(), source));
            let resolved = endpoint.clone().resolve(&services).map_err(wrong)?;
            let address = match endpoint.address {
                Address::V4(address) => IpAddr::V4(address),
                Address::V6(address) => IpAddr::V6(address),
                Address::Any | Address::Each => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let local = SocketAddr::new(address, resolved.port.get());
            Ok(Descriptor { name: resolved.name(), number, local })
        });
        descriptors.collect::<Result<_, Error>>().map(Some)
    }

    /// Whether the arguments or variables of the program depend on numbers or addresses.
    pub(crate) fn depends_on_numbers(&self) -> bool {
        let mut texts = self.arguments().chain(self.settings.iter().map(|setting| setting.value));
        matches!(self.adoption, Adoption::Variable(_)) || texts.any(placeholders::is_in)
    }

    /// The image of `path`, with its arguments and `environment`, for these sockets.
    pub(crate) fn image(
        &self,
        path: &Path,
        environment: &[CString],
        descriptors: &[Descriptor],
    ) -> Result<Image, Error> {
        let fill = |text: &[u8]| placeholders::fill(text, |name| number(name, descriptors));
        let name = self.argv0.map(OsStr::to_owned).or(self.program.first().cloned());
        let mut arguments: Vec<OsString> = name.into_iter().collect();
        for argument in self.arguments() {
            arguments.push(OsString::from_vec(fill(argument)?));
        }
        let mut environment = environment.to_vec();
        let mut announced = None;
        match self.adoption {
            Adoption::Variable(variable) => {
                environment.retain(|entry| !variable.is_named(name_of(entry)));
                for (name, value) in variable.announce(descriptors) {
                    debug!("{name}={value}");
                    environment.push(entry(name.as_bytes(), value.as_bytes()));
                }
            }
            Adoption::ListenFds if self.first.is_none() => {
                let ours = descriptors.iter().map(|descriptor| descriptor.name.clone());
                announced = Some(self.kept.iter().cloned().chain(ours).collect());
            }
            Adoption::ListenFds
            | Adoption::Argument(_)
            | Adoption::Standard
            | Adoption::StandardParked
            | Adoption::Connection
            | Adoption::Never => {}
        }
        for setting in &self.settings {
            let value = fill(setting.value)?;
            debug!("{}={}", printable(setting.name), printable(&value));
            environment.retain(|entry| name_of(entry) != setting.name);
            environment.push(entry(setting.name, &value));
        }
        Ok(Image { path: path.to_owned(), arguments, places: self.places(), environment, announced })
    }

    /// The arguments after the program's name.
    fn arguments(&self) -> impl Iterator<Item = &'a [u8]> {
        self.program.iter().skip(1).map(|argument| argument.as_bytes())
    }

    /// Fails if a server that reads the number from its arguments gets none: it would bind its default port.
    fn require_placeholder(&self) -> Result<(), Error> {
        let Adoption::Argument(sample) = self.adoption else { return Ok(()) };
        if self.arguments().any(placeholders::is_in) {
            return Ok(());
        }
        let what = format!("{} needs the descriptor's number in the program's arguments", self.option);
        usage(Message::new(what).why("none of them has {fd}").fix(format!("add {sample}")))
    }
}

impl<'a> Setting<'a> {
    fn of(word: &'a OsStr, adoption: Adoption, option: &str) -> Result<Setting<'a>, Error> {
        let word = word.as_bytes();
        let end = word.iter().position(|&byte| byte == b'=').filter(|&end| end > 0);
        let Some((name, value)) = end.and_then(|end| Some((word.get(..end)?, word.get(end + 1..)?))) else {
            let message = Message::new(format!("'{}' does not set a variable", printable(word)));
            return usage(message.fix("expected --setenv VAR=VALUE"));
        };
        let is_listen = listen::VARIABLES.iter().any(|known| known.as_bytes() == name);
        let is_row = matches!(adoption, Adoption::Variable(variable) if variable.is_named(name));
        let whose = match (is_listen, is_row) {
            (true, _) => "portgrant uses it to announce the sockets".to_owned(),
            (_, true) => format!("{option} uses it to announce the sockets"),
            (false, false) => return Ok(Setting { name, value }),
        };
        let fix = "leave it out, or set it with env(1): -- env VAR=VALUE PROGRAM";
        usage(Message::new(format!("{} cannot be set", printable(name))).why(whose).fix(fix))
    }
}

/// The adoption for `server`. Fails if it cannot serve on these sockets.
fn helped(server: &'static Server, listen: &[Endpoint]) -> Result<Adoption, Error> {
    let option = format!("--as {}", server.name);
    match server.adoption {
        Adoption::Never => {
            let message = Message::new(format!("{option} is not possible"))
                .why(format!("{} takes {}", server.name, server.takes));
            return usage(message.fix(format!("see portgrant recipe {} for what to do instead", server.name)));
        }
        Adoption::Connection => {
            let message = Message::new(format!("{option} is not needed: this server uses --accept"));
            return usage(
                message.why(format!("{} takes {}", server.name, server.takes)).fix("use --accept instead of --as"),
            );
        }
        Adoption::ListenFds
        | Adoption::Variable(_)
        | Adoption::Argument(_)
        | Adoption::Standard
        | Adoption::StandardParked => {}
    }
    let unfit = |endpoint: &&Endpoint| match server.serves {
        Serves::Any => false,
        Serves::Streams | Serves::OneStream => !endpoint.protocol.is_stream(),
        Serves::Ipv4Streams => !endpoint.protocol.is_stream() || !matches!(endpoint.address, Address::V4(_)),
    };
    let (kind, fix) = match server.serves {
        Serves::Any | Serves::Streams | Serves::OneStream => ("stream sockets", "expected tcp endpoints"),
        Serves::Ipv4Streams => ("IPv4 stream sockets", "expected tcp endpoints with an IPv4 address, as in 0.0.0.0:80"),
    };
    match listen.iter().find(unfit) {
        Some(endpoint) => usage(
            Message::new(format!("{option} cannot be used with {endpoint}"))
                .why(format!("{} serves only {kind}", server.name))
                .fix(fix),
        ),
        None if server.serves == Serves::OneStream => {
            one_socket(&option, listen, "expected one socket").map(|()| server.adoption)
        }
        None => Ok(server.adoption),
    }
}

fn one_socket(option: &str, listen: &[Endpoint], fix: &str) -> Result<(), Error> {
    let what = match listen {
        [Endpoint { address: Address::Each, .. }] => {
            format!("{option} cannot be used with 'each', which is several sockets")
        }
        [_] => return Ok(()),
        several => format!("{option} takes one -l ENDPOINT, not {}", several.len()),
    };
    usage(Message::new(what).fix(fix))
}

/// The descriptors of the sockets that were bound.
pub(crate) fn received(sockets: &Sockets, places: Places) -> Result<Vec<Descriptor>, Error> {
    let described = places.numbers().zip(sockets.iter()).map(|(number, socket)| {
        let info = socket.info()?;
        Ok(Descriptor { name: socket.name().to_owned(), number, local: info.local })
    });
    described.collect()
}

/// The number that a placeholder stands for.
fn number(name: Option<&[u8]>, descriptors: &[Descriptor]) -> Result<RawFd, Error> {
    let names: Vec<&str> = descriptors.iter().map(|descriptor| descriptor.name.as_str()).collect();
    let known = format!("the names of the sockets are {}", names.join(", "));
    let of_that_name =
        descriptors.iter().filter(|descriptor| name.is_none_or(|name| descriptor.name.as_bytes() == name));
    let (word, found) = (name.map(printable), of_that_name.collect::<Vec<_>>());
    let message = match (found.as_slice(), word) {
        ([only], _) => return Ok(only.number),
        ([], None) => Message::new("{fd} matches no socket"),
        ([], Some(name)) => Message::new(format!("{{fd:{name}}} matches no socket"))
            .why(known)
            .fix(format!("use one of these names; to pass the text itself, write {{{{fd:{name}}}}}")),
        (several, None) => Message::new(format!("{{fd}} needs exactly one socket, and there are {}", several.len()))
            .why(known)
            .fix("write {fd:NAME}; -l NAME=ENDPOINT gives a socket a name"),
        (several, Some(name)) => Message::new(format!("{{fd:{name}}} matches {} sockets", several.len()))
            .why(known)
            .fix("give each socket a different name, as in -l NAME=ENDPOINT"),
    };
    usage(message)
}

/// An entry of the environment, NAME=VALUE.
fn entry(name: &[u8], value: &[u8]) -> CString {
    // An argument of argv ends at a NUL, so it contains none.
    CString::new([name, b"=", value].concat()).unwrap_or_default()
}

fn name_of(entry: &CStr) -> &[u8] {
    entry.to_bytes().split(|&byte| byte == b'=').next().unwrap_or_default()
}

fn usage<T>(message: Message) -> Result<T, Error> {
    Err(Error::Usage(Box::new(message)))
}

#[cfg(test)]
mod tests;
