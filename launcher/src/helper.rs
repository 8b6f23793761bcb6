//! Executes the helper in place of the launcher.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::path::Path;

use portgrant_protocol::Endpoint;
use portgrant_server::error::RequestError;

use crate::{Error, program};

/// The first arguments of the helper: its name, the verb, the endpoints.
pub(crate) fn words(verb: &str, listen: &[Endpoint]) -> Vec<OsString> {
    let listen = listen.iter().flat_map(|endpoint| ["-l".into(), endpoint.to_string().into()]);
    ["portgrant-binder".into(), verb.into()].into_iter().chain(listen).collect()
}

/// Becomes the helper, with the caller's environment.
pub(crate) fn execute(helper: &Path, words: &[OsString], environment: &[CString]) -> Result<Infallible, Error> {
    program::execute(helper, words, environment).map_err(|errno| {
        Error::Sockets(RequestError::Helper { helper: helper.to_owned(), source: errno.into() }.into())
    })
}
