//! `portgrant explain`: the helper's own answer, because only the helper reads the policy as it decides by it.

use std::convert::Infallible;
use std::ffi::CString;

use log::debug;

use crate::{Error, Explain, helper};

pub(crate) fn explain(asked: &Explain, environment: &[CString]) -> Result<Infallible, Error> {
    let path = portgrant_server::helper::locate()?;
    let endpoints: Vec<_> = asked.listen.iter().chain(&asked.endpoints).cloned().collect();
    let mut words = helper::words("explain", &endpoints);
    if let Some(user) = &asked.user {
        words.extend(["--for".into(), user.clone()]);
    }
    if asked.json {
        words.push("--json".into());
    }
    if !asked.program.is_empty() {
        words.push("--".into());
        words.extend(asked.program.iter().cloned());
    }
    debug!("{} explains", path.display());
    helper::execute(&path, &words, environment)
}
