//! Connections of trusted proxies: their client is learned from the PROXY header before anything else is read, and is
//! then admitted as if it had connected itself. Also finds headers of peers that are not listed.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::{HttpServer, RequestHandler};
use super::connection_limits::CountedClient;
use super::listener::ClientListener;
use super::proxy_header::{
    ProxiedAddresses, ProxyHeaderError, SIGNATURE_LENGTH, is_proxy_header, read_proxy_header,
};
use super::refusal::ConnectionRefusal;

/// Time for a PROXY header. Proxies send it with the connection; the protocol advises three seconds at least.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The client of a proxy's connection.
pub(super) struct ProxiedClient {
    /// `None` for a connection of the proxy's own.
    pub(super) addresses: Option<ProxiedAddresses>,
    /// Held until the connection ends.
    pub(super) counted: CountedClient,
}

/// A connection of a proxy that is refused.
pub(super) struct RefusedProxy {
    pub(super) reason: ConnectionRefusal,
    pub(super) client: SocketAddr,
    error: Option<ProxyHeaderError>,
}

impl<A: RequestHandler> HttpServer<A> {
    /// Reads the header of a proxy's connection, and admits its client.
    pub(super) async fn identify(
        &self,
        stream: &mut TcpStream,
        proxy: SocketAddr,
        listener: &ClientListener,
    ) -> Result<ProxiedClient, RefusedProxy> {
        let patience = HEADER_TIMEOUT.min(listener.header_timeout);
        let header = timeout(patience, read_proxy_header(stream)).await;
        let header = header.unwrap_or(Err(ProxyHeaderError::Late(patience)));
        let addresses = header.map_err(|error| RefusedProxy {
            reason: ConnectionRefusal::ProxyHeader,
            client: proxy,
            error: Some(error),
        })?;
        let client = addresses.map_or(proxy, |addresses| addresses.client);
        let refused = |reason| RefusedProxy { reason, client, error: None };
        if !listener.permits(client.ip()) {
            return Err(refused(ConnectionRefusal::Denied));
        }
        // The proxy's own connections are not counted: it checks the relay's health with them.
        let network = listener.network_of(client.ip());
        if addresses.is_some() && self.rate.as_ref().is_some_and(|rate| !rate.admit(network)) {
            return Err(refused(ConnectionRefusal::TooManyNew));
        }
        let counted = listener.limits.count(network).map_err(refused)?;
        Ok(ProxiedClient { addresses, counted })
    }
}

/// Returns true if a connection begins with a PROXY header. Waits for its first bytes, and leaves them.
pub(super) async fn begins_with_proxy_header(stream: &TcpStream) -> bool {
    let mut begin = [0; SIGNATURE_LENGTH];
    let seen = stream.peek(&mut begin).await;
    seen.is_ok_and(|length| is_proxy_header(begin.get(..length).unwrap_or_default()))
}

impl Display for RefusedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.error, self.reason) {
            (Some(error), _) => error.fmt(f),
            (None, ConnectionRefusal::Denied) => f.write_str("address not served (allow, deny)"),
            (None, _) => f.write_str("limit of the client reached"),
        }
    }
}
