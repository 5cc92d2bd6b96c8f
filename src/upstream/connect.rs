//! Connections to upstreams: TCP or TLS, kept alive and pooled. Owns their bounds; knows nothing of what is asked.

use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustix::net::sockopt::set_tcp_congestion;
use rustls::{ClientConfig, RootCertStore};

use super::RequestBody;
use super::line::Connector;
use crate::config::Config;
use crate::shape::Wan;

/// Bytes a response head may have, and the largest piece of a body read at once. hyper's own bound is 400 KiB, and each
/// of hundreds of connections may keep a buffer of that size; a head past 64 KiB is an upstream gone wrong.
const MAX_READ: usize = 64 << 10;

/// Fields a response head may have.
const MAX_FIELDS: usize = 256;

/// Idle connections kept to one upstream: as many as may be useful to a burst of small deltas.
const MAX_IDLE: usize = 32;

/// An idle connection is closed after this time; Apache and IIS close theirs after 5 to 120 s, and a request that
/// meets a closing connection is sent again by the pool.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// TCP keep-alive, so that a line that went away is noticed under a silent connection.
const KEEPALIVE: Duration = Duration::from_secs(60);

pub(super) type Connecting = HttpsConnector<Connector>;

pub(super) type Client = legacy::Client<Connecting, RequestBody>;

/// TLS toward upstreams cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The system has no trusted certificates.
    #[error(
        "an upstream is https, but this system has no trusted certificates ({0}); install ca-certificates"
    )]
    NoRoots(std::io::Error),
    /// The kernel does not offer this algorithm.
    #[error(
        "wan.congestion: the kernel does not offer {algorithm:?} ({cause}); it has {offered}, and more with modprobe \
         tcp_{algorithm}"
    )]
    Congestion {
        /// What was asked for.
        algorithm: String,
        /// What the kernel says.
        cause: std::io::Error,
        /// What it has.
        offered: String,
    },
}

pub(super) fn connector(config: &Config, tls: bool, wan: Arc<Wan>) -> Result<Connecting, ConnectError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(config.fill.connect_timeout));
    tcp.set_keepalive(Some(KEEPALIVE));
    let builder = HttpsConnectorBuilder::new();
    let builder = if tls {
        builder.with_native_roots().map_err(ConnectError::NoRoots)?
    } else {
        // Nothing speaks TLS, so nothing needs to be trusted.
        let trust_nobody =
            ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        builder.with_tls_config(trust_nobody)
    };
    let upstreams =
        config.upstreams.iter().map(|upstream| (upstream.url.clone(), upstream.name.as_str().into()));
    let congestion = config.wan.congestion.as_deref().map(offered).transpose()?;
    let lines = Connector::new(tcp, wan, upstreams.collect(), congestion);
    Ok(builder.https_or_http().enable_http1().wrap_connector(lines))
}

pub(super) fn client(connector: Connecting) -> Client {
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE)
        .http1_max_buf_size(MAX_READ)
        .http1_max_headers(MAX_FIELDS)
        .build(connector)
}

/// The algorithm, if the kernel takes it for a socket.
fn offered(algorithm: &str) -> Result<Arc<str>, ConnectError> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let taken = socket.and_then(|socket| Ok(set_tcp_congestion(&socket, algorithm)?));
    let offered = || std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    taken.map(|()| Arc::from(algorithm)).map_err(|cause| ConnectError::Congestion {
        algorithm: algorithm.to_owned(),
        cause,
        offered: offered().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(", "),
    })
}
