//! Connections of the admin address, within bounds of their own: few connections, little time for a head, and a rate of
//! requests. A full house makes room by closing the connection that has waited longest for a request or a reader, so
//! that silent sockets never keep a probe or an administrator out. A command that runs is never closed.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::IntCounterVec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use gupd_net::listen::ClientListeners;

/// Maximum of connections: monitoring, administrators' commands and an open status page need a few each.
const MAX_CONNECTIONS: usize = 64;

/// Time for a request head, and for the next one on a kept connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for which a response is safe from being closed for room.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// Requests a second, and at once: many times what monitoring and commands send. Further ones wait: each connection has
/// one request at a time, so at most 64 do.
const REQUEST_RATE: u32 = 1_000;

/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of a request head.
const MAX_HEAD: usize = 16 << 10;

/// Pause after `accept` failed for lack of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of all connections, and the counter of what they refuse.
#[derive(Debug)]
struct AdminBounds {
    connections: Mutex<VecDeque<Arc<AdminConnection>>>,
    // Locked for the arithmetic of one request.
    rate: Mutex<RequestBucket>,
    refused: IntCounterVec,
}

/// Mark of a request that came over TLS, in its extensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct OverTls;

/// One connection.
#[derive(Debug)]
struct AdminConnection {
    closed: CancellationToken,
    // Locked to read or to set.
    activity: Mutex<Activity>,
}

/// Activity of a connection.
#[derive(Clone, Copy, Debug)]
enum Activity {
    /// No request has arrived.
    Silent,
    /// A request is being answered.
    Answering,
    /// A response is being sent since this time, or has been sent.
    Sending(Instant),
}

/// Requests that may be answered now; below 0, requests that wait.
#[derive(Debug)]
struct RequestBucket {
    tokens: f64,
    at: Instant,
}

/// A connection in the count, which ends with it.
struct CountedAdmin {
    bounds: Arc<AdminBounds>,
    connection: Arc<AdminConnection>,
}

/// Serves `listener` until `stopped`, then waits for the requests under way.
pub(super) async fn serve(
    (listener, listeners): (TcpListener, Arc<ClientListeners>),
    router: Router,
    refused: IntCounterVec,
    stopped: impl Future<Output = ()>,
) -> io::Result<()> {
    let bounds = AdminBounds::new(refused);
    let (running, stopping) = (TaskTracker::new(), CancellationToken::new());
    let mut stopped = std::pin::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => break,
        };
        match accepted {
            Ok((stream, peer)) => match bounds.admit() {
                Some(counted) => {
                    let connection = (stream, peer, listeners.admin_tls());
                    running.spawn(accept_connection(connection, router.clone(), counted, stopping.clone()));
                }
                None => bounds.refuse("connections"),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections on the admin address");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    stopping.cancel();
    running.close();
    running.wait().await;
    Ok(())
}

/// Serves a connection, after the handshake if it has TLS. Until a request arrives, it counts as silent.
async fn accept_connection(
    (stream, peer, tls): (TcpStream, SocketAddr, Option<TlsAcceptor>),
    router: Router,
    counted: CountedAdmin,
    stopping: CancellationToken,
) {
    let Some(tls) = tls else {
        return serve_connection(stream, (peer, None), router, counted, stopping).await;
    };
    let closed = counted.connection.closed.clone();
    let handshake = tokio::select! {
        handshake = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)) => handshake,
        () = closed.cancelled() => return,
        () = stopping.cancelled() => return,
    };
    // A failed handshake concerns its client alone, which knows the reason.
    if let Ok(Ok(stream)) = handshake {
        serve_connection(stream, (peer, Some(OverTls)), router, counted, stopping).await;
    }
}

async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    (peer, over_tls): (SocketAddr, Option<OverTls>),
    router: Router,
    counted: CountedAdmin,
    stopping: CancellationToken,
) {
    let (bounds, state) = (counted.bounds.clone(), counted.connection.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (bounds, state, mut router) = (bounds.clone(), state.clone(), router.clone());
        async move {
            // A request that waits for its time makes room like a silent connection.
            sleep(bounds.next_request_delay()).await;
            state.set(Activity::Answering);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            over_tls.map(|mark| request.extensions_mut().insert(mark));
            let response = router.call(request).await;
            state.set(Activity::Sending(Instant::now()));
            response
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let closed = counted.connection.closed.clone();
    let _broken = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closed.cancelled() => Ok(()),
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

impl AdminBounds {
    fn new(refused: IntCounterVec) -> Arc<Self> {
        for reason in ["connections", "closed-for-room"] {
            refused.with_label_values(&[reason]);
        }
        let rate = RequestBucket { tokens: REQUEST_RATE.into(), at: Instant::now() };
        Arc::new(Self { connections: Mutex::default(), rate: Mutex::new(rate), refused })
    }

    /// Counts a new connection. Closes another one if there are too many; `None` if all of them are busy.
    fn admit(self: &Arc<Self>) -> Option<CountedAdmin> {
        let mut connections = self.connections();
        if connections.len() >= MAX_CONNECTIONS {
            // The oldest first.
            let closable = connections.iter().position(|connection| connection.is_closable())?;
            let closable = connections.remove(closable)?;
            closable.closed.cancel();
            self.refuse("closed-for-room");
        }
        let connection = Arc::new(AdminConnection {
            closed: CancellationToken::new(),
            activity: Mutex::new(Activity::Silent),
        });
        connections.push_back(connection.clone());
        Some(CountedAdmin { bounds: self.clone(), connection })
    }

    /// Counts a request and returns the time until it may be answered.
    fn next_request_delay(&self) -> Duration {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }

    fn refuse(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    fn connections(&self) -> MutexGuard<'_, VecDeque<Arc<AdminConnection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdminConnection {
    fn set(&self, activity: Activity) {
        *self.activity.lock().unwrap_or_else(PoisonError::into_inner) = activity;
    }

    fn is_closable(&self) -> bool {
        match *self.activity.lock().unwrap_or_else(PoisonError::into_inner) {
            Activity::Silent => true,
            Activity::Answering => false,
            Activity::Sending(since) => since.elapsed() >= WRITE_TIME,
        }
    }
}

impl RequestBucket {
    fn take(&mut self, now: Instant) -> Duration {
        let more = now.duration_since(self.at).as_secs_f64() * f64::from(REQUEST_RATE);
        self.tokens = (self.tokens + more).min(REQUEST_RATE.into());
        self.at = now;
        self.tokens -= 1.0;
        Duration::from_secs_f64((-self.tokens).max(0.0) / f64::from(REQUEST_RATE))
    }
}

impl Drop for CountedAdmin {
    fn drop(&mut self) {
        self.bounds.connections().retain(|other| !Arc::ptr_eq(other, &self.connection));
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    fn bounds() -> Arc<AdminBounds> {
        AdminBounds::new(IntCounterVec::new(Opts::new("refused", "refused"), &["reason"]).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connection_makes_room_and_a_command_does_not() {
        let bounds = bounds();
        let held: Vec<_> = (0..MAX_CONNECTIONS).map(|_| bounds.admit().unwrap()).collect();
        held.iter().take(MAX_CONNECTIONS - 2).for_each(|one| one.connection.set(Activity::Answering));
        let sending = &held[MAX_CONNECTIONS - 2].connection;
        sending.set(Activity::Sending(Instant::now()));
        let silent = &held[MAX_CONNECTIONS - 1].connection;
        let next = bounds.admit().unwrap();
        assert!(silent.closed.is_cancelled() && !sending.closed.is_cancelled());
        next.connection.set(Activity::Answering);
        assert!(bounds.admit().is_none());
        tokio::time::advance(WRITE_TIME).await;
        let _last = bounds.admit().unwrap();
        assert!(sending.closed.is_cancelled());
        drop(held);
        assert_eq!(bounds.connections().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_rate_wait_for_their_second() {
        let bounds = bounds();
        let delays: Vec<_> =
            (0..REQUEST_RATE + MAX_CONNECTIONS as u32).map(|_| bounds.next_request_delay()).collect();
        assert!(delays.iter().take(REQUEST_RATE as usize).all(Duration::is_zero));
        assert_eq!(delays.last(), Some(&Duration::from_millis(64)));
        tokio::time::advance(Duration::from_millis(564)).await;
        let immediate = (0..1_000).filter(|_| bounds.next_request_delay().is_zero()).count();
        assert_eq!(immediate, REQUEST_RATE as usize / 2);
    }
}
