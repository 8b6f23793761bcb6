//! `portgrant explain`, `list`, `check` and `import` execute `portgrant-explain`. It lies beside the helper, decides by
//! the same code, and has no privilege.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::path::PathBuf;

use clap::ValueEnum;
use log::debug;

use crate::{Check, Error, Explain, Format, Import, List, Writing, program, unprivileged};

const PROGRAM: &str = "portgrant-explain";
/// Its name in version 0.1.0.
const EARLIER: &str = "portgrant-policy";

pub(crate) fn explain(asked: &Explain, environment: &[CString]) -> Result<Infallible, Error> {
    let endpoints = asked.listen.iter().chain(&asked.endpoints);
    let listen = endpoints.flat_map(|endpoint| ["-l".into(), endpoint.to_string().into()]);
    let mut words = words("explain", asked.format);
    words.extend(listen);
    words.extend(as_user(asked.user.as_ref()));
    if !asked.program.is_empty() {
        words.push("--".into());
        words.extend(asked.program.iter().cloned());
    }
    execute_explain(&words, environment)
}

pub(crate) fn list(asked: &List, environment: &[CString]) -> Result<Infallible, Error> {
    let mut words = words("list", asked.format);
    words.extend(as_user(asked.user.as_ref()));
    execute_explain(&words, environment)
}

pub(crate) fn check(asked: &Check, environment: &[CString]) -> Result<Infallible, Error> {
    let mut words = words("check", asked.format);
    words.extend(asked.strict.then(|| "--strict".into()));
    words.push("--".into());
    words.extend(asked.files.iter().map(|file| file.as_os_str().to_owned()));
    execute_explain(&words, environment)
}

pub(crate) fn import(asked: &Import, environment: &[CString]) -> Result<Infallible, Error> {
    let mut words: Vec<OsString> = vec![PROGRAM.into(), "import".into()];
    words.extend(asked.write.iter().flat_map(|folder| ["--write".into(), folder.clone().into()]));
    words.push("--".into());
    words.extend(asked.from.to_possible_value().map(|value| value.get_name().into()));
    words.extend(asked.files.iter().map(|file| file.as_os_str().to_owned()));
    execute_explain(&words, environment)
}

/// Its path: beside the helper, even if the helper is missing.
pub(crate) fn locate() -> Result<PathBuf, Error> {
    let helpers = portgrant_server::helper::places()?;
    let places = |name| helpers.iter().map(move |helper| helper.with_file_name(name));
    let found = places(PROGRAM).chain(places(EARLIER)).find(|place| place.is_file());
    found.ok_or_else(|| Error::PolicyMissing { places: places(PROGRAM).collect() })
}

fn words(verb: &str, format: Format) -> Vec<OsString> {
    let format = if format.writing() == Writing::Json { "json" } else { "text" };
    let mut words: Vec<OsString> = [PROGRAM, verb, "--format", format].map(OsString::from).into();
    // As exec decides it.
    let owns_network = unprivileged::owns_this_network(|| portgrant_server::helper::locate().ok());
    words.extend(owns_network.then(|| "--own-network".into()));
    words
}

fn as_user(user: Option<&OsString>) -> impl Iterator<Item = OsString> {
    user.into_iter().flat_map(|user| ["--as-user".into(), user.clone()])
}

fn execute_explain(words: &[OsString], environment: &[CString]) -> Result<Infallible, Error> {
    let path = locate()?;
    debug!("executing {}", path.display());
    program::execute(&path, words, environment).map_err(|errno| Error::Policy { path, source: errno.into() })
}
