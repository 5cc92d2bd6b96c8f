//! A manager: an origin on a port of loopback.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;

use crate::{LinkSwitch, Listener, OriginServer, Reachability, or_panic};

/// A running manager. Dropping it closes its port and breaks its connections.
#[derive(Debug)]
pub struct Manager {
    origin: OriginServer,
    listener: Listener,
    switch: LinkSwitch,
}

impl Manager {
    /// Starts a manager that has nothing yet.
    pub fn start() -> Self {
        or_panic(Self::with_origin(OriginServer::default()))
    }

    /// Starts a manager with this origin on a free port.
    pub fn with_origin(origin: OriginServer) -> io::Result<Self> {
        let (served, switch) = (origin.clone(), LinkSwitch::default());
        let listener = Listener::start(switch.clone(), move |stream| {
            let served = served.clone();
            async move { served.serve(stream).await }
        })?;
        Ok(Self { origin, listener, switch })
    }

    /// The address of its port.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Takes the manager down, which breaks its connections, or up again.
    pub fn set_down(&self, is_down: bool) {
        self.switch.set(if is_down { Reachability::Refusing } else { Reachability::Up });
    }
}

impl Deref for Manager {
    type Target = OriginServer;

    fn deref(&self) -> &OriginServer {
        &self.origin
    }
}
