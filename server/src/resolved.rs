//! From the text of an endpoint to addresses and numbers: parsed, with its service looked up in services(5).

use portgrant_protocol::endpoint::{AskedPort, Endpoint, EndpointError, Resolved};
use portgrant_protocol::service::Services;
use portgrant_protocol::text::printable;
use portgrant_protocol::{Protocol, status};

use crate::failure::{Error, Report, failure};
use crate::services::{self, ServicesError};

/// A text that is not a valid endpoint, or that names an unknown service
#[derive(Debug)]
#[non_exhaustive]
pub struct InvalidEndpoint {
    /// The text
    pub text: String,
    /// What is wrong with it
    pub source: EndpointError,
}

impl InvalidEndpoint {
    /// `source` says what is wrong with `text`.
    pub fn new(text: String, source: EndpointError) -> InvalidEndpoint {
        InvalidEndpoint { text, source }
    }

    fn report(&self) -> Report<'_> {
        Report::what(format!("'{}' is not a valid endpoint", printable(self.text.as_bytes())))
            .because(&self.source)
            .status(status::USAGE)
    }
}

failure!(InvalidEndpoint);

/// Parses `text`.
pub(crate) fn parse(text: &str) -> Result<Endpoint, Error> {
    text.parse().map_err(|source| InvalidEndpoint { text: text.to_owned(), source }.into())
}

/// Parses `text` and looks up its service. The protocol is `transport` unless the text names another.
pub(crate) fn of_text(text: &str, transport: Protocol) -> Result<Resolved, Error> {
    let mut endpoint = parse(text)?;
    if endpoint.protocol == Protocol::default() {
        endpoint.protocol = transport;
    }
    of(endpoint)
}

/// Looks up the service of `endpoint`.
pub(crate) fn of(endpoint: Endpoint) -> Result<Resolved, Error> {
    let services = services(std::slice::from_ref(&endpoint))?;
    resolve(endpoint, &services)
}

/// Looks up the services of all `endpoints`.
pub(crate) fn all(endpoints: &[Endpoint]) -> Result<Vec<Resolved>, Error> {
    let services = services(endpoints)?;
    endpoints.iter().map(|endpoint| resolve(endpoint.clone(), &services)).collect()
}

fn resolve(endpoint: Endpoint, services: &Services) -> Result<Resolved, Error> {
    let text = endpoint.to_string();
    endpoint.resolve(services).map_err(|source| InvalidEndpoint { text, source }.into())
}

/// Reads services(5), if one of `endpoints` has a service name.
fn services(endpoints: &[Endpoint]) -> Result<Services, ServicesError> {
    let is_named = endpoints.iter().any(|endpoint| matches!(endpoint.port, AskedPort::Service(_)));
    if is_named { services::system() } else { Ok(Services::default()) }
}
