//! The sources of a command's sockets: this process binds those that need no rule, the helper all others.

use std::path::{Path, PathBuf};

use log::debug;
use portgrant_protocol::{Address, AskedPort, Endpoint};
use portgrant_server::error::RequestError;
use portgrant_server::{Bind, Request, Services, Socket, Sockets};

use crate::{Error, unprivileged};

/// Who binds each endpoint of a command.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    /// The endpoints, and whether each needs no rule
    listen: Vec<(&'a Endpoint, bool)>,
    /// The helper, if an endpoint needs it
    helper: Option<PathBuf>,
}

impl<'a> Sources<'a> {
    /// Decides who binds each endpoint, and finds the helper if it is needed. Binds nothing.
    pub(crate) fn of(listen: &'a [Endpoint]) -> Result<Sources<'a>, Error> {
        let free = unprivileged::are_free(&ports(listen)?, || portgrant_server::helper::locate().ok());
        let is_needed = free.iter().any(|free| !free);
        if is_needed && unprivileged::is_unmapped() {
            return Err(Error::Unmapped);
        }
        let helper = is_needed.then(portgrant_server::helper::locate).transpose()?;
        Ok(Sources { listen: listen.iter().zip(free).collect(), helper })
    }

    /// The helper. An error if no endpoint needs it.
    pub(crate) fn helper(&self) -> Result<&Path, Error> {
        let missing = || portgrant_server::Error::from(RequestError::HelperMissing { places: Vec::new() });
        self.helper.as_deref().ok_or_else(|| missing().into())
    }

    /// The endpoints that need no rule.
    pub(crate) fn free(&self) -> impl Iterator<Item = &'a Endpoint> {
        self.listen.iter().filter(|(_, free)| *free).map(|(endpoint, _)| *endpoint)
    }

    /// The sockets of all endpoints in their order, or none.
    pub(crate) fn obtain(&self) -> Result<Sockets, portgrant_server::Error> {
        let mut bound = Vec::new();
        for endpoint in self.free() {
            debug!("binding {endpoint}, which needs no rule");
            bound.push(Bind::endpoint(endpoint.clone()).sockets()?);
        }
        let Some(helper) = &self.helper else { return Ok(bound.into_iter().flatten().collect()) };
        let asked = self.listen.iter().filter(|(_, free)| !free);
        let request = asked.fold(Request::new().helper(helper), |request, (endpoint, _)| {
            debug!("asking {} for {endpoint}", helper.display());
            request.endpoint((*endpoint).clone())
        });
        let granted = request.send()?;
        Ok(self.in_order(bound, granted))
    }

    fn in_order(&self, bound: Vec<Sockets>, granted: Sockets) -> Sockets {
        let (mut bound, mut granted) = (bound.into_iter(), granted.into_iter().peekable());
        let mut sockets: Vec<Socket> = Vec::new();
        for (endpoint, free) in &self.listen {
            if *free {
                sockets.extend(bound.next().into_iter().flatten());
                continue;
            }
            let first = granted.next();
            let name = first.as_ref().map(|first| first.name().to_owned()).unwrap_or_default();
            sockets.extend(first);
            let mut numbered = (1..).map(|number| format!("{name}-{number}"));
            let mut is_next = |socket: &Socket| numbered.next().is_some_and(|name| name == socket.name());
            while endpoint.address == Address::Each
                && let Some(socket) = granted.next_if(&mut is_next)
            {
                sockets.push(socket);
            }
        }
        sockets.into_iter().collect()
    }
}

/// The port numbers; `None` for a service that is not in /etc/services.
fn ports(listen: &[Endpoint]) -> Result<Vec<Option<u16>>, Error> {
    let is_named = |endpoint: &Endpoint| matches!(endpoint.port, AskedPort::Service(_));
    let services = if listen.iter().any(is_named) { Services::system()? } else { Services::default() };
    let number = |endpoint: &Endpoint| match &endpoint.port {
        AskedPort::Number(port) => Some(port.get()),
        AskedPort::Service(name) => services.port(name, endpoint.protocol),
    };
    Ok(listen.iter().map(number).collect())
}
