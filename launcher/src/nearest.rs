//! The known word that a misspelt one was probably meant to be.

/// The word in `known` that `word` is probably a misspelling of.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &&str| strsim::osa_distance(&word.to_lowercase(), name);
    known.min_by_key(distance).filter(|name| distance(name) <= if name.len() < 4 { 1 } else { 2 })
}

/// What to do about a service that /etc/services does not have.
pub(crate) fn service(name: &str) -> String {
    let text = std::fs::read(portgrant_protocol::service::PATH).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let names = text.lines().filter_map(|line| line.split('#').next()?.split_whitespace().next());
    match nearest(name, names) {
        Some(near) => format!("write {near}"),
        None => "write the port's number".to_owned(),
    }
}
