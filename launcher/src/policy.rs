//! `portgrant explain`, `list` and `check`: the answers of `portgrant-policy`, which lies beside the helper, reads the
//! policy by the helper's own library, and has no privilege.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::path::PathBuf;

use log::debug;

use crate::{Check, Error, Explain, Format, List, Writing, program};

const PROGRAM: &str = "portgrant-policy";

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
    become_it(&words, environment)
}

pub(crate) fn list(asked: &List, environment: &[CString]) -> Result<Infallible, Error> {
    let mut words = words("list", asked.format);
    words.extend(as_user(asked.user.as_ref()));
    become_it(&words, environment)
}

pub(crate) fn check(asked: &Check, environment: &[CString]) -> Result<Infallible, Error> {
    let mut words = words("check", asked.format);
    words.push("--".into());
    words.extend(asked.files.iter().map(|file| file.as_os_str().to_owned()));
    become_it(&words, environment)
}

/// Where it is: beside the helper, whether that is there or not.
pub(crate) fn locate() -> Result<PathBuf, Error> {
    let places = portgrant_server::helper::places()?.into_iter().map(|helper| helper.with_file_name(PROGRAM));
    let places: Vec<PathBuf> = places.collect();
    let found = places.iter().find(|place| place.is_file()).cloned();
    found.ok_or(Error::PolicyMissing { places })
}

fn words(verb: &str, format: Format) -> Vec<OsString> {
    let format = if format.writing() == Writing::Json { "json" } else { "text" };
    [PROGRAM, verb, "--format", format].map(OsString::from).into()
}

fn as_user(user: Option<&OsString>) -> impl Iterator<Item = OsString> {
    user.into_iter().flat_map(|user| ["--as-user".into(), user.clone()])
}

fn become_it(words: &[OsString], environment: &[CString]) -> Result<Infallible, Error> {
    let path = locate()?;
    debug!("executing {}", path.display());
    program::execute(&path, words, environment).map_err(|errno| Error::Policy { path, source: errno.into() })
}
