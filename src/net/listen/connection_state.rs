//! State that the requests of one client connection share. Every idle connection keeps it, so rare parts are pointers.

use std::sync::{Arc, OnceLock};

use http::HeaderMap;

use super::half_close::HalfCloseSignal;
use super::listener::ClientListener;
use crate::upstream::ConnectionPin;
use gupd_http::authentication::has_connection_credentials;

/// State of a client connection.
#[derive(Debug)]
pub(super) struct ConnectionState {
    pub(super) listener: Arc<ClientListener>,
    pub(super) half_close: HalfCloseSignal,
    /// Set by the first request that authenticates its upstream connection.
    pin: OnceLock<ConnectionPin>,
}

impl ConnectionState {
    /// Creates the state of a connection to `listener`.
    pub(super) fn new(listener: Arc<ClientListener>) -> Self {
        Self { listener, half_close: HalfCloseSignal::default(), pin: OnceLock::new() }
    }

    /// Returns the upstream connections of this client alone, from the first such request on.
    pub(super) fn pin(&self, request: &HeaderMap) -> Option<&ConnectionPin> {
        self.pin.get().or_else(|| {
            has_connection_credentials(request).then(|| self.pin.get_or_init(ConnectionPin::default))
        })
    }
}
