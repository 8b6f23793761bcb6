//! Adoption of descriptors whose numbers are in a variable of another convention: `UNICORN_FD=3`, `NGINX=3;4;`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, RawFd};

use portgrant_protocol::decimal;
use portgrant_protocol::listen::{FIRST, MAX};
use portgrant_protocol::text::printable;

use super::error::AdoptionError;
use super::socket::Socket;
use super::sockets::Sockets;
use crate::failure::Error;
use portgrant_protocol::socket_info::SocketInfo;
use portgrant_sys::inherited::{self, Unavailable};

impl Sockets {
    /// Adopts the descriptors whose numbers are in the environment variable `variable`, as in `UNICORN_FD=3`,
    /// `GUNICORN_FD=3,4` or `NGINX=3;4;`. Returns `None` if the variable is not set.
    ///
    /// Each socket is named `PORT/PROTOCOL`, or `descriptor N` if it is not an internet socket. A number that was not
    /// inherited is [`NotInherited`](crate::error::AdoptionError::NotInherited). A number that was already adopted, by
    /// any convention, is [`NumberTaken`](crate::error::AdoptionError::NumberTaken). After an error none is adopted.
    ///
    /// ```
    /// # use portgrant_server::Sockets;
    /// let sockets = match Sockets::inherited()? {
    ///     Some(sockets) => Some(sockets),
    ///     None => Sockets::from_variable("UNICORN_FD")?,
    /// };
    /// # let _ = sockets;
    /// # Ok::<(), portgrant_server::Error>(())
    /// ```
    pub fn from_variable(variable: &str) -> Result<Option<Sockets>, Error> {
        adopt(variable)
    }
}

fn adopt(variable: &str) -> Result<Option<Sockets>, Error> {
    match std::env::var_os(variable) {
        Some(value) => adopt_from(variable, &value).map(Some),
        None => Ok(None),
    }
}

fn adopt_from(variable: &str, value: &OsStr) -> Result<Sockets, Error> {
    let malformed =
        || AdoptionError::Variable { variable: variable.to_owned(), value: printable(value.as_encoded_bytes()) };
    let numbers = value.to_str().and_then(numbers).ok_or_else(malformed)?;
    match inherited::take(&numbers) {
        Ok(descriptors) => Ok(descriptors.into_iter().zip(numbers).map(|(fd, number)| named(fd, number)).collect()),
        Err(Unavailable::Taken(number)) => Err(AdoptionError::NumberTaken { number }.into()),
        Err(Unavailable::Missing(number)) => {
            Err(AdoptionError::NotInherited { number, variable: variable.to_owned() }.into())
        }
    }
}

/// One number or several, separated by `,`, `;`, `:` or a space, which may also follow the last one. The standard
/// descriptors are not valid here.
pub(crate) fn numbers(value: &str) -> Option<Vec<RawFd>> {
    let separated = value.trim_end_matches([',', ';', ':', ' ']);
    let number = |word: &str| decimal(word.as_bytes()).filter(|number| *number >= FIRST);
    separated.split([',', ';', ':', ' ']).map(number).collect::<Option<Vec<RawFd>>>().filter(|all| all.len() <= MAX)
}

fn named(descriptor: std::os::fd::OwnedFd, number: RawFd) -> Socket {
    let name = match SocketInfo::of(descriptor.as_fd()) {
        Ok(info) => format!("{}/{}", info.local.port(), info.protocol.word()),
        Err(_) => format!("descriptor {number}"),
    };
    Socket::new(name, descriptor)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::adopting::tests::{is_left_at, leave_at};

    #[test]
    fn each_known_list_format_of_a_variable_is_read() {
        assert_eq!(numbers("3"), Some(vec![3]));
        for several in ["3,4", "3;4;", "3:4", "3 4"] {
            assert_eq!(numbers(several), Some(vec![3, 4]), "{several}");
        }
        for wrong in ["", ";", "x", "+3", "-3", "2", "0,3", "3,,4", "99999999999", "3.4", "\u{663}"] {
            assert_eq!(numbers(wrong), None, "{wrong}");
        }
        assert_eq!(numbers(&"3,".repeat(MAX + 1)), None);
    }

    #[test]
    fn descriptors_of_a_variable_are_adopted_and_named_by_address() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let (port, file) = (tcp.local_addr().expect("bound").port(), std::fs::File::open("/dev/null").expect("null"));
        leave_at(560, &tcp);
        leave_at(561, &file);
        let mut sockets = adopt_from("UNICORN_FD", OsStr::new("560,561")).expect("adopted");
        assert_eq!(sockets.names().collect::<Vec<_>>(), [format!("{port}/tcp"), "descriptor 561".to_owned()]);
        assert!(sockets.tcp(&format!("{port}/tcp")).is_ok());
    }

    #[test]
    fn closed_taken_and_malformed_descriptors_are_different_errors() {
        leave_at(570, UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let adopt = |value: &str| adopt_from("UNICORN_FD", OsStr::new(value));
        let error = adopt("570,571").expect_err("571 is closed");
        assert!(matches!(error.downcast_ref(), Some(AdoptionError::NotInherited { number: 571, .. })), "{error}");
        assert!(error.to_string().contains("UNICORN_FD"), "{error}");
        let error = adopt("570,570").expect_err("twice");
        assert!(matches!(error.downcast_ref(), Some(AdoptionError::NumberTaken { number: 570 })), "{error}");
        assert!(is_left_at(570));
        assert!(adopt("570").is_ok());
        assert!(matches!(
            adopt("570").as_ref().map_err(Error::downcast_ref),
            Err(Some(AdoptionError::NumberTaken { number: 570 }))
        ));
        let error = adopt("\u{1b}[2J").expect_err("no number").to_string();
        assert!(error.contains("UNICORN_FD is '\\x1b[2J'") && error.contains("3,4"), "{error}");
    }
}
