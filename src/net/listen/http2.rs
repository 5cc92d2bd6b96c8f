//! HTTP/2 on one client connection. Requests become tasks of the connection's worker, and count among the connections
//! of their client from the second concurrent one on: one connection gives a client no more than several would.
//!
//! Every bound on a client is a constant here or in `frame_meter`, or a setting of the listener. A connection that
//! exceeds one is closed; a request whose client does not read is cancelled alone.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_rustls::server::TlsStream;

use super::LifecycleStage;
use super::connection::{ClientConnection, HttpServer, RequestHandler};
use super::http2_stream::{CURRENT_STREAM, StreamBody, StreamTasks};
use super::listener::ClientListener;
use super::metered_stream::{MeteredStream, SharedMeter};
use super::refusal::ConnectionRefusal;
use super::stream::ClientStream;

/// Maximum of concurrent requests of a connection. Updaters have a few, browsers a hundred; further ones wait at the
/// client.
const MAX_STREAMS: u32 = 32;

/// Maximum bytes of request content that wait in memory, for one request and for a connection. Endpoints upload a few
/// KiB.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// Maximum bytes of a frame that a client may send: the least that RFC 9113 §4.2 allows.
const MAX_FRAME: u32 = 16 << 10;

/// Maximum bytes of a response that wait for the client's window, beyond the piece of 16 KiB that is being written.
const MAX_SEND_BUFFER: usize = 64 << 10;

/// Maximum of requests that a client cancelled before they were read: all that it may have.
const MAX_UNREAD_RESETS: usize = MAX_STREAMS as usize;

/// Maximum of requests of a connection that ended because of the client's mistakes.
const MAX_FAULTY_STREAMS: usize = 32;

/// Interval of the connection's timer.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time for a client without requests to close a connection that ends.
const CLOSING_TIME: Duration = Duration::from_secs(2);

/// End of a connection.
enum Http2End {
    Closed(hyper::Result<()>),
    SlowHead,
    Idle,
}

impl<A: RequestHandler> HttpServer<A> {
    /// Serves requests on `stream` until the connection ends, then waits for their tasks.
    pub(super) async fn serve_http2(
        self: Arc<Self>,
        stream: Box<TlsStream<TcpStream>>,
        client: ClientConnection,
        stage: watch::Receiver<LifecycleStage>,
    ) {
        let listener = client.state.listener.clone();
        let meter = Arc::new(SharedMeter::new());
        let stream = ClientStream::new(stream, listener.stall_timeout, Arc::default());
        let stream = TokioIo::new(MeteredStream::new(stream, meter.clone()));
        let tasks = StreamTasks::new(listener.stall_timeout);
        let (server, requester) = (self.clone(), client.clone());
        let service = service_fn(move |request| server.clone().respond_on_stream(request, requester.clone()));
        let connection = builder(&listener, tasks.clone()).serve_connection(stream, service);
        // Dropped before the wait: the tasks of its requests end then.
        let end = self.drive(connection, &client, &meter, &tasks, stage).await;
        self.record_http2_end(end, &meter, &client);
        tasks.wait_until_ended().await;
    }

    async fn drive<C>(
        &self,
        connection: C,
        client: &ClientConnection,
        meter: &SharedMeter,
        tasks: &StreamTasks,
        mut stage: watch::Receiver<LifecycleStage>,
    ) -> Http2End
    where
        C: Future<Output = hyper::Result<()>> + GracefulShutdown,
    {
        let listener = &client.state.listener;
        let mut connection = std::pin::pin!(connection);
        let mut timer = interval(INTERVAL.min(listener.header_timeout));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut closing_since: Option<Instant> = None;
        let (mut idle_since, mut requests) = (Instant::now(), 0);
        loop {
            let now = tokio::select! {
                biased;
                result = &mut connection => return Http2End::Closed(result),
                () = LifecycleStage::Draining.wait_until_reached(&mut stage), if closing_since.is_none() => {
                    connection.as_mut().graceful_shutdown();
                    closing_since = Some(Instant::now());
                    continue;
                }
                now = timer.tick() => now,
            };
            for _ in 0..tasks.take_stalled() {
                let stall_text = "nothing of a response was read within stall_timeout";
                self.refuse(ConnectionRefusal::SlowReader, client.address, listener, &stall_text);
            }
            let is_late = |since: Instant| now.saturating_duration_since(since) >= listener.header_timeout;
            if meter.incomplete_since().is_some_and(is_late) {
                return Http2End::SlowHead;
            }
            if tasks.running() > 0 || tasks.started() != requests {
                (idle_since, requests) = (now, tasks.started());
            }
            match closing_since {
                Some(since)
                    if tasks.running() == 0 && now.saturating_duration_since(since) >= CLOSING_TIME =>
                {
                    return Http2End::Idle;
                }
                None if is_late(idle_since) => {
                    connection.as_mut().graceful_shutdown();
                    closing_since = Some(now);
                }
                _ => {}
            }
        }
    }

    async fn respond_on_stream(
        self: Arc<Self>,
        request: Request<Incoming>,
        mut client: ClientConnection,
    ) -> Result<Response<StreamBody<A::Body>>, Infallible> {
        // A proxy's request counts for the client that it names. The handler refuses a malformed field.
        let _malformed = client.identify_client(request.headers());
        let stream = CURRENT_STREAM.with(Arc::clone);
        let admitted = match stream.is_first() {
            true => None,
            false => match client.listener().limits.admit(client.network()) {
                Ok(admitted) => Some(admitted),
                Err(reason) => {
                    self.refuse(
                        reason,
                        client.address,
                        client.listener(),
                        &"too many concurrent requests on a connection",
                    );
                    return Ok(too_many_requests());
                }
            },
        };
        let mut response = self.handler.handle_request(request, client).await;
        // Fields of one connection do not exist in HTTP/2 (RFC 9113 §8.2.2).
        response.headers_mut().remove(header::CONNECTION);
        stream.wait_for_client();
        Ok(response.map(|body| StreamBody::new(body, stream, admitted)))
    }

    fn record_http2_end(&self, end: Http2End, meter: &SharedMeter, client: &ClientConnection) {
        let (client, listener) = (client.address, client.listener());
        if let Some(flood) = meter.flood() {
            return self.refuse(ConnectionRefusal::Flood, client, listener, &flood.as_str());
        }
        match end {
            Http2End::SlowHead => {
                let timeout_text = "a frame or head was incomplete after header_timeout";
                self.refuse(ConnectionRefusal::SlowHead, client, listener, &timeout_text);
            }
            Http2End::Closed(Err(error)) => match reason(&error) {
                Some(h2::Reason::ENHANCE_YOUR_CALM) => {
                    self.refuse(ConnectionRefusal::Flood, client, listener, &error);
                }
                Some(_) => self.refuse(ConnectionRefusal::Malformed, client, listener, &error),
                None => tracing::debug!(%client, %error, "connection broke off"),
            },
            Http2End::Closed(Ok(())) | Http2End::Idle => {}
        }
    }
}

/// A connection that can be told to end.
trait GracefulShutdown {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

impl<I, S, E> GracefulShutdown for http2::Connection<I, S, E>
where
    S: hyper::service::HttpService<Incoming>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S::ResBody: http_body::Body + 'static,
    <S::ResBody as http_body::Body>::Error: Into<Box<dyn Error + Send + Sync>>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, S::ResBody>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

fn builder(listener: &ClientListener, tasks: StreamTasks) -> http2::Builder<StreamTasks> {
    let mut http = http2::Builder::new(tasks);
    http.max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_header_list_size(u32::try_from(listener.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_UNREAD_RESETS)
        .max_local_error_reset_streams(MAX_FAULTY_STREAMS);
    http
}

/// Returns the reason in the error of a connection that broke the protocol; `None` if it was lost.
fn reason(error: &hyper::Error) -> Option<h2::Reason> {
    error.source()?.downcast_ref::<h2::Error>()?.reason()
}

/// The response to a request beyond the limits on connections.
fn too_many_requests<B>() -> Response<StreamBody<B>> {
    let mut response = Response::new(StreamBody::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("10"));
    response
}
