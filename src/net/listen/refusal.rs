//! Refusals of connections, with their labels and responses. [`Refusal`](gupd_http::refusal::Refusal) has those of
//! requests.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::log_limit::LogLimit;

/// Maximum of log lines for each reason within [`LOG_INTERVAL`]. Ten clients with a wrong configuration are all named; a
/// flood of connections is not a flood of lines.
const MAX_LINES: u32 = 10;

/// Interval of [`MAX_LINES`].
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The reason for which a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionRefusal {
    /// The TLS handshake failed or timed out.
    Tls,
    /// The request head was incomplete after `server.header_timeout`.
    SlowHead,
    /// The head is longer than `server.max_header_bytes`, or has too many fields.
    HeadTooLarge,
    /// The bytes are not HTTP.
    Malformed,
    /// A PROXY header of an address that `server.trusted_proxies` does not list.
    UnlistedProxy,
    /// A connection of a listed proxy without a usable PROXY header.
    ProxyHeader,
    /// The client is not served: `allow` and `deny`.
    Denied,
    /// An HTTP/2 client floods its connection with frames or cancelled requests.
    Flood,
    /// An HTTP/2 client takes nothing of a response for `server.stall_timeout`.
    SlowReader,
    /// `server.max_connections` are open.
    TooManyOpen,
    /// The client has `server.max_client_connections` open, and few are left for others.
    TooManyOfClient,
    /// The client has opened `lan.client_connections` within a second.
    TooManyNew,
}

impl ConnectionRefusal {
    /// Every reason, for metrics that exist before the first refusal.
    pub(super) const ALL: [Self; 12] = [
        Self::Tls,
        Self::SlowHead,
        Self::HeadTooLarge,
        Self::Malformed,
        Self::UnlistedProxy,
        Self::ProxyHeader,
        Self::Denied,
        Self::Flood,
        Self::SlowReader,
        Self::TooManyOpen,
        Self::TooManyOfClient,
        Self::TooManyNew,
    ];

    /// Returns the label for logs and metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::SlowHead => "slow-head",
            Self::HeadTooLarge => "head-too-large",
            Self::Malformed => "malformed",
            Self::UnlistedProxy => "unlisted-proxy",
            Self::ProxyHeader => "proxy-header",
            Self::Denied => "client-denied",
            Self::Flood => "http2-flood",
            Self::SlowReader => "slow-reader",
            Self::TooManyOpen => "too-many-connections",
            Self::TooManyOfClient => "too-many-client-connections",
            Self::TooManyNew => "too-many-new-connections",
        }
    }

    /// Returns the response that the listener writes itself; empty if hyper writes one or the client reads none.
    pub(super) const fn response(self) -> &'static [u8] {
        match self {
            Self::Tls
            | Self::HeadTooLarge
            | Self::Malformed
            | Self::UnlistedProxy
            | Self::ProxyHeader
            | Self::Flood
            | Self::SlowReader => b"",
            Self::Denied => b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            // RFC 9110 §15.5.9.
            Self::SlowHead => {
                b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
            Self::TooManyOpen | Self::TooManyOfClient => {
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 10\r\n\
                  Connection: close\r\n\r\n"
            }
            // After one second the client may open as many connections as before.
            Self::TooManyNew => {
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n\
                  Connection: close\r\n\r\n"
            }
        }
    }
}

/// Log lines about refused connections, limited for each reason.
#[derive(Debug)]
pub(super) struct RefusalLog([LogLimit; ConnectionRefusal::ALL.len()]);

impl Default for RefusalLog {
    fn default() -> Self {
        Self(std::array::from_fn(|_| LogLimit::new(MAX_LINES, LOG_INTERVAL)))
    }
}

impl RefusalLog {
    /// Logs a refused connection to `listener`, if its reason has a line left.
    pub(super) fn write(
        &self,
        reason: ConnectionRefusal,
        client: IpAddr,
        listener: &str,
        error: &dyn Display,
    ) {
        let of_reason = ConnectionRefusal::ALL.iter().zip(&self.0).find(|(own, _)| **own == reason);
        let Some(suppressed) = of_reason.and_then(|(_, limit)| limit.admit(Instant::now())) else { return };
        let (client, label) = (client.to_canonical(), reason.as_str());
        match reason {
            // The proxy's configuration, or that of the relay, is wrong.
            ConnectionRefusal::UnlistedProxy | ConnectionRefusal::ProxyHeader => {
                tracing::warn!(%client, listener, reason = label, %error, suppressed, "connection refused");
            }
            _ => tracing::info!(%client, listener, reason = label, %error, suppressed, "connection refused"),
        }
    }
}

/// Writes the response to a client that has its share of the connections. The caller closes the connection.
pub fn send_share_exceeded(stream: &TcpStream) {
    // The empty buffer of a new connection takes the whole response; otherwise the close says the same.
    let _unsent = stream.try_write(ConnectionRefusal::TooManyOfClient.response());
}
