//! State that the requests of one client connection share. Every idle connection keeps it, so rare parts are pointers.

use std::sync::OnceLock;

use http::HeaderMap;

use super::half_close::HalfCloseSignal;
use crate::upstream::ConnectionPin;
use gupd_http::authentication::has_connection_credentials;

/// State of a client connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionState {
    pub(super) half_close: HalfCloseSignal,
    /// Set by the first request that authenticates its upstream connection.
    pin: OnceLock<ConnectionPin>,
}

impl ConnectionState {
    /// Returns the upstream connections of this client alone, from the first such request on.
    pub(super) fn pin(&self, request: &HeaderMap) -> Option<&ConnectionPin> {
        self.pin.get().or_else(|| {
            has_connection_credentials(request).then(|| self.pin.get_or_init(ConnectionPin::default))
        })
    }
}
