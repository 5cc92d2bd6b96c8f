//! The server for client connections: TLS if the listener has it, then HTTP/1.1 or HTTP/2 within the bounds of the
//! listener. A connection that exceeds a bound is answered, counted and closed without an effect on others.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use xxhash_rust::xxh3::xxh3_64;

use super::LifecycleStage;
use super::connection_rate::ConnectionRateLimiter;
use super::connection_state::ConnectionState;
use super::keep_alive::close_gracefully;
use super::listener::{ClientListener, ClientListeners};
use super::proxied::{ProxiedClient, begins_with_proxy_header};
use super::refusal::{ConnectionRefusal, RefusalLog};
use super::tls;
use crate::metrics::GaugeGuard;
use crate::metrics::NetMetrics;
use crate::upstream::ConnectionPin;
use gupd_config::{certificate_identity, certificate_network};
use gupd_http::client_address::InvalidAddressField;

/// Advice for the administrator of a refused proxy.
pub(super) const UNLISTED_PROXY: &str =
    "it begins with a PROXY header: list the proxy in server.trusted_proxies";

/// A stream over TCP.
pub(super) trait TcpBased {
    /// True if the stream can hold bytes of a request that it has read with others: the first TLS records of a client
    /// may come with the end of its handshake.
    const READS_AHEAD: bool;

    fn tcp(&self) -> &TcpStream;
}

impl TcpBased for TcpStream {
    const READS_AHEAD: bool = false;

    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl TcpBased for Box<TlsStream<TcpStream>> {
    const READS_AHEAD: bool = true;

    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A client connection, as a request handler sees it.
#[derive(Clone, Debug)]
pub struct ClientConnection {
    /// Address of the client.
    pub address: SocketAddr,
    /// Address that requests come from: the client's, or that of a proxy that names the client in each request.
    pub sender: SocketAddr,
    /// Address that the client connected to.
    pub local: SocketAddr,
    /// True over TLS.
    pub is_encrypted: bool,
    /// Names of the client certificate in lower case; `None` without a certificate.
    names: Option<Arc<[Box<str>]>>,
    pub(super) state: Arc<ConnectionState>,
}

impl ClientConnection {
    /// Waits until the client has closed its sending side. It may have gone; a response shows it.
    pub async fn wait_until_half_closed(&self) {
        self.state.half_close.wait_until_set().await;
    }

    /// Returns the upstream connections that carry requests of this client alone: from its first request on that
    /// authenticates its upstream connection. `request` holds the end-to-end fields.
    pub fn pin(&self, request: &HeaderMap) -> Option<&ConnectionPin> {
        self.state.pin(request)
    }

    /// Returns the listener that the client connected to.
    pub fn listener(&self) -> &ClientListener {
        &self.state.listener
    }

    /// Takes the address of the client from a request of a trusted proxy, if its requests have it. Call it first of all:
    /// each request of the connection may have another client.
    ///
    /// # Errors
    /// A malformed field.
    pub fn identify_client(&mut self, request: &HeaderMap) -> Result<(), InvalidAddressField> {
        let rules = self.state.listener.rules();
        if rules.is_proxy(self.sender.ip())
            && let Some(client) = rules.forwarded_client(request)?
        {
            self.address = SocketAddr::new(client, 0);
        }
        Ok(())
    }

    /// Returns the address by which the client counts in limits: that of its certificate, or else of its host or
    /// network.
    pub fn network(&self) -> IpAddr {
        match certificate_identity(self.certificate_names()) {
            Some(name) => certificate_network(xxh3_64(name.as_bytes())),
            None => self.state.listener.network_of(self.address.ip()),
        }
    }

    /// Returns true if the server and the listener serve this client.
    pub fn is_permitted(&self) -> bool {
        self.state.listener.permits(self.address.ip())
    }

    /// Returns the names of the client certificate.
    pub fn certificate_names(&self) -> &[Box<str>] {
        self.names.as_deref().unwrap_or_default()
    }
}

/// Handler of the requests on connections.
pub trait RequestHandler: Send + Sync + 'static {
    /// Body of the responses.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// Answers one request. A failure becomes a status, or a broken body.
    fn handle_request(
        &self,
        request: Request<Incoming>,
        client: ClientConnection,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Server for client connections.
pub struct HttpServer<A> {
    pub(super) handler: Arc<A>,
    pub(super) metrics: Arc<NetMetrics>,
    listeners: Arc<ClientListeners>,
    refusals: RefusalLog,
    /// Rate of new connections, for clients that come through a proxy.
    pub(super) rate: Option<Arc<ConnectionRateLimiter>>,
    pub(super) keeps_alive: bool,
    /// True once every response closes its connection.
    pub(super) is_closing: AtomicBool,
}

impl<A: RequestHandler> HttpServer<A> {
    /// Creates a server that passes requests to `handler`.
    pub fn new(handler: Arc<A>, metrics: Arc<NetMetrics>, listeners: Arc<ClientListeners>) -> Self {
        for reason in ConnectionRefusal::ALL {
            metrics.refused.with_label_values(&[reason.as_str()]);
        }
        Self {
            handler,
            metrics,
            listeners,
            refusals: RefusalLog::default(),
            rate: None,
            keeps_alive: true,
            is_closing: AtomicBool::new(false),
        }
    }

    /// Limits the rate of new connections of clients behind a proxy.
    #[must_use]
    pub fn with_connection_rate(self, rate: Arc<ConnectionRateLimiter>) -> Self {
        Self { rate: Some(rate), ..self }
    }

    /// Returns its listeners.
    pub fn listeners(&self) -> &Arc<ClientListeners> {
        &self.listeners
    }

    /// Closes each connection after its next response.
    ///
    /// A connection closed while a request is in transit leaves the client without an answer. This way only silent
    /// connections are closed while idle.
    pub fn close_after_response(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    /// Closes each connection after its first response.
    #[must_use]
    pub fn without_keep_alive(self) -> Self {
        Self { keeps_alive: false, ..self }
    }

    /// Serves one connection to its end, then drops `slot`.
    pub async fn serve<P: Send>(
        self: Arc<Self>,
        mut stream: TcpStream,
        mut client: SocketAddr,
        listener: Arc<ClientListener>,
        _slot: P,
        stage: watch::Receiver<LifecycleStage>,
    ) {
        let _open = GaugeGuard::increment(&self.metrics.connections);
        let Ok(mut local) = stream.local_addr() else { return };
        let mut _counted = None;
        if listener.rules().expects_header(client.ip()) {
            // Boxed, because most connections have no header.
            match Box::pin(self.identify(&mut stream, client, &listener)).await {
                Ok(ProxiedClient { addresses, counted }) => {
                    if let Some(proxied) = addresses {
                        (client, local) = (proxied.client, proxied.local);
                    }
                    _counted = Some(counted);
                }
                Err(refused) => {
                    self.refuse(refused.reason, refused.client, &listener, &refused);
                    let _unsent = stream.try_write(refused.reason.response());
                    return Box::pin(close_gracefully(stream, stage)).await;
                }
            }
        }
        let mut connection = ClientConnection {
            address: client,
            sender: client,
            local,
            is_encrypted: false,
            names: None,
            state: Arc::new(ConnectionState::new(listener.clone())),
        };
        // Send heads and small bodies at once; large bodies fill segments anyway.
        let _unsupported = stream.set_nodelay(true);
        let Some(tls) = listener.tls() else { return self.serve_http(stream, connection, stage).await };
        let handshake = async {
            match begins_with_proxy_header(&stream).await {
                true => Err(None),
                false => tls.acceptor.accept(stream).await.map_err(Some),
            }
        };
        // Boxed, like the stream: every connection would have room for a handshake.
        match Box::pin(timeout(listener.header_timeout, handshake)).await {
            Ok(Ok(stream)) => {
                connection.is_encrypted = true;
                connection.names = tls::client_names(stream.get_ref().1);
                if tls::is_http2(stream.get_ref().1) {
                    return Box::pin(self.clone().serve_http2(Box::new(stream), connection, stage)).await;
                }
                self.serve_http(Box::new(stream), connection, stage).await;
            }
            Ok(Err(None)) => {
                self.refuse(ConnectionRefusal::UnlistedProxy, client, &listener, &UNLISTED_PROXY);
            }
            Ok(Err(Some(error))) => self.refuse(ConnectionRefusal::Tls, client, &listener, &error),
            Err(late) => self.refuse(ConnectionRefusal::Tls, client, &listener, &late),
        }
    }

    pub(super) fn refuse(
        &self,
        reason: ConnectionRefusal,
        client: SocketAddr,
        listener: &ClientListener,
        error: &dyn std::fmt::Display,
    ) {
        self.metrics.refused.with_label_values(&[reason.as_str()]).inc();
        if reason == ConnectionRefusal::Denied {
            self.metrics.traffic.add_refused(client.ip().to_canonical());
        }
        self.refusals.write(reason, client.ip(), listener.name(), error);
    }
}

impl<A> std::fmt::Debug for HttpServer<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpServer").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends by a panic")]

    use gupd_config as config;
    use http_body_util::Empty;
    use tokio::net::TcpListener;

    use super::*;

    struct NoContent;

    impl RequestHandler for NoContent {
        type Body = Empty<bytes::Bytes>;

        async fn handle_request(&self, _: Request<Incoming>, _: ClientConnection) -> Response<Self::Body> {
            Response::new(Empty::new())
        }
    }

    #[tokio::test]
    async fn future_of_a_connection_is_small() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new()).unwrap());
        let env = [("GUPD_UPSTREAM".to_owned(), "http://manager".to_owned())];
        let settings =
            config::Config::load(&config::Overrides::default(), None, env.into_iter()).unwrap().server;
        let listeners = Arc::new(ClientListeners::load(&settings).unwrap());
        let listener = listeners.find(config::ListenerSettings::DEFAULT).unwrap().clone();
        let server = Arc::new(HttpServer::new(Arc::new(NoContent), metrics, listeners));
        let (_stage, watcher) = watch::channel(LifecycleStage::Serving);
        let serve = server.serve(stream, address, listener, (), watcher);
        // In a debug build, which keeps moved values in their old places too.
        assert!(size_of_val(&serve) <= 4 << 10, "{} bytes", size_of_val(&serve));
    }
}
