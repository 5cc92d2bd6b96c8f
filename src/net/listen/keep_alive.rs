//! HTTP/1.1 on one client connection, from request to request. hyper's state, its buffers and the futures of a request
//! exist only while a request is near: an idle connection is parked with its stream alone.
//!
//! One coarse timer per connection bounds the time of a head and finds idle connections. hyper's own timer would be
//! reset with each request.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::LifecycleStage;
use super::activity::{ConnectionActivity, ResponseGuard, TrackedBody};
use super::connection::{ClientConnection, HttpServer, RequestHandler, TcpBased, UNLISTED_PROXY};
use super::phase::{PhaseTimer, PhaseVerdict};
use super::proxy_header::is_proxy_header;
use super::refusal::ConnectionRefusal;
use super::stream::ClientStream;
use crate::metrics::GaugeGuard;

/// Time for a client to read a refusal while it still sends: enough to cross a slow line.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);

/// Size of the buffer for discarded bytes.
const LINGER_BUFFER: usize = 16 << 10;

/// End of a period in which a connection had HTTP state.
enum ServedPeriod<S> {
    /// The connection is idle.
    Parked(ClientStream<S>),
    Ended,
}

/// End of a period in which a connection was parked.
enum ParkedPeriod {
    Readable,
    Draining,
    TimedOut,
}

impl<A: RequestHandler> HttpServer<A> {
    /// Serves requests on `stream` until the connection ends.
    pub(super) async fn serve_http<S>(
        &self,
        stream: S,
        client: ClientConnection,
        mut stage: watch::Receiver<LifecycleStage>,
    ) where
        S: AsyncRead + AsyncWrite + TcpBased + Unpin + Send + 'static,
    {
        let activity = Arc::<ConnectionActivity>::default();
        let listener = &client.state.listener;
        let mut stream = ClientStream::new(stream, listener.stall_timeout, activity.clone());
        if !client.is_encrypted {
            stream = stream.with_half_close(client.state.clone());
        }
        let mut may_have_request = S::READS_AHEAD;
        loop {
            if !may_have_request && !stream.has_read_ahead() {
                let _idle = GaugeGuard::increment(&self.metrics.idle_connections);
                match wait_for_request(stream.get_ref().tcp(), listener.header_timeout, &mut stage).await {
                    ParkedPeriod::Readable => {}
                    ParkedPeriod::Draining => return Box::pin(close_gracefully(stream, stage)).await,
                    ParkedPeriod::TimedOut => return,
                }
            }
            // hyper reads all that the stream has before a connection counts as idle.
            may_have_request = false;
            // Boxed, so that a parked connection has no room for it.
            match Box::pin(self.serve_requests(stream, &client, &activity, &mut stage)).await {
                ServedPeriod::Parked(parked) => stream = parked,
                ServedPeriod::Ended => return,
            }
        }
    }

    /// Serves requests until the connection is idle or ends.
    async fn serve_requests<S>(
        &self,
        stream: ClientStream<S>,
        client: &ClientConnection,
        activity: &Arc<ConnectionActivity>,
        stage: &mut watch::Receiver<LifecycleStage>,
    ) -> ServedPeriod<S>
    where
        S: AsyncRead + AsyncWrite + TcpBased + Unpin + Send + 'static,
    {
        let is_http_1_0 = AtomicBool::new(false);
        let service = service_fn(|request: Request<Incoming>| {
            is_http_1_0.store(request.version() < Version::HTTP_11, Ordering::Relaxed);
            // Two copied addresses and a reference count, one more for a client with a certificate.
            self.respond(request, client.clone(), activity.begin_response())
        });
        let listener = &client.state.listener;
        let mut http = listener.http1.clone();
        http.keep_alive(self.keeps_alive).half_close(!client.is_encrypted);
        let mut connection = http.serve_connection(TokioIo::new(stream), service);
        let mut timer = PhaseTimer::new(activity.clone(), listener.header_timeout);
        let result = loop {
            let verdict = tokio::select! {
                biased;
                result = &mut connection => break result,
                verdict = timer.wait_for_verdict() => verdict,
                () = LifecycleStage::Draining.wait_until_reached(stage) => {
                    Pin::new(&mut connection).graceful_shutdown();
                    break (&mut connection).await;
                }
            };
            if verdict == PhaseVerdict::SlowHead {
                self.refuse_slow_head(connection.into_parts().io.into_inner(), client, stage).await;
                return ServedPeriod::Ended;
            }
            activity.set_parking(true);
            Pin::new(&mut connection).graceful_shutdown();
            // Ready at once if hyper agrees that the connection is idle.
            let ended = poll!(&mut connection);
            activity.set_parking(false);
            match ended {
                Poll::Ready(Ok(())) => {
                    let parts = connection.into_parts();
                    let mut stream = parts.io.into_inner();
                    stream.unread(&parts.read_buf);
                    return ServedPeriod::Parked(stream);
                }
                Poll::Ready(result) => break result,
                Poll::Pending => {}
            }
        };
        let parts = connection.into_parts();
        let stream = parts.io.into_inner();
        if is_http_1_0.load(Ordering::Relaxed) && result.as_ref().is_err_and(hyper::Error::is_user) {
            // The body broke off. To a client of HTTP/1.0 a closed connection could mean its end, so reset it.
            let _closed = stream.get_ref().tcp().set_zero_linger();
        } else if self.record_end(result, client, &parts.read_buf) {
            close_gracefully(stream, stage.clone()).await;
        }
        ServedPeriod::Ended
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        client: ClientConnection,
        guard: ResponseGuard,
    ) -> Result<Response<TrackedBody<A::Body>>, Infallible> {
        let mut response = self.handler.handle_request(request, client).await;
        if self.is_closing.load(Ordering::Relaxed) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| TrackedBody::new(body, guard)))
    }

    /// Records the end of a connection, with the bytes that were read and not handled. Returns true if the client should
    /// still read what was sent.
    fn record_end(&self, result: hyper::Result<()>, client: &ClientConnection, unread: &[u8]) -> bool {
        let Err(error) = result else { return true };
        if !error.is_parse() {
            tracing::debug!(client = %client.address, %error, "connection broke off");
            return false;
        }
        if is_proxy_header(unread) {
            self.refuse(ConnectionRefusal::UnlistedProxy, client.address, client.listener(), &UNLISTED_PROXY);
            return true;
        }
        let reason = match error.is_parse_too_large() {
            true => ConnectionRefusal::HeadTooLarge,
            false => ConnectionRefusal::Malformed,
        };
        self.refuse(reason, client.address, client.listener(), &error);
        true
    }

    async fn refuse_slow_head<S: AsyncRead + AsyncWrite + TcpBased + Unpin>(
        &self,
        mut stream: ClientStream<S>,
        client: &ClientConnection,
        stage: &watch::Receiver<LifecycleStage>,
    ) {
        let timeout_text = "the head was incomplete after server.header_timeout";
        self.refuse(ConnectionRefusal::SlowHead, client.address, client.listener(), &timeout_text);
        let sent = stream.write_all(ConnectionRefusal::SlowHead.response());
        // The client may be gone.
        drop(timeout(client.state.listener.header_timeout, sent).await);
        close_gracefully(stream, stage.clone()).await;
    }
}

/// Waits until a connection without HTTP state has bytes, or ends.
async fn wait_for_request(
    stream: &TcpStream,
    idle_timeout: Duration,
    stage: &mut watch::Receiver<LifecycleStage>,
) -> ParkedPeriod {
    tokio::select! {
        biased;
        // An error is met again by the next read.
        _readiness = stream.readable() => ParkedPeriod::Readable,
        () = LifecycleStage::Draining.wait_until_reached(stage) => ParkedPeriod::Draining,
        () = sleep(idle_timeout) => ParkedPeriod::TimedOut,
    }
}

/// Closes a connection so that the last response arrives (RFC 9112 §9.6).
///
/// A socket closed over unread bytes is reset, and the reset can overtake a refusal that the client, still sending,
/// has not read yet.
pub(super) async fn close_gracefully<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    mut stage: watch::Receiver<LifecycleStage>,
) {
    let unread = async {
        stream.shutdown().await?;
        let mut unread = vec![0; LINGER_BUFFER];
        while stream.read(&mut unread).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    tokio::select! {
        // However it ends, the connection is closed.
        _ended = timeout(LINGER_TIMEOUT, unread) => {}
        () = LifecycleStage::Draining.wait_until_reached(&mut stage) => {}
    }
}
