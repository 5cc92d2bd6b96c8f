//! A connection to an upstream that reads and writes no faster than the limits permit. All bytes pass here, including
//! heads and TLS. Nothing is read before its grant, so that the upstream's congestion control sees a slow reader.
//! Without limits it is a plain connection.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper_util::client::legacy::connect::{CaptureConnection, Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::dial::Socket;
use super::tcp::TcpMeasurement;
use crate::shape::{BandwidthClass, LineSample, Throttle, WanLimiter};

/// Handle on the limits of a connection.
#[derive(Clone, Debug)]
pub(crate) struct LineHandle(Arc<HandleShared>);

#[derive(Debug)]
struct HandleShared {
    wan: Arc<WanLimiter>,
    upstream: Arc<str>,
    // Locked for arithmetic, never while bytes are read or written.
    state: Mutex<HandleState>,
}

#[derive(Debug)]
struct HandleState {
    /// Class of the current response; `None` between responses.
    bandwidth: Option<BandwidthClass>,
    /// Number of that response.
    response: u64,
    /// Client of the current request: head and body use its share.
    client: Option<IpAddr>,
    throttle: Option<Throttle>,
    /// Waker of a read or write that waits for a grant.
    waker: Option<Waker>,
    /// Time of the last grant that was waited for.
    granted_at: Option<Instant>,
}

/// Assigns a connection's bytes to one response until it is dropped.
#[derive(Debug)]
pub(super) struct ClassHold {
    line: LineHandle,
    response: u64,
}

/// Minimum interval between two measurements by the kernel.
const MEASURE_INTERVAL: Duration = Duration::from_millis(50);

/// A rate-limited connection.
#[derive(Debug)]
pub(super) struct LimitedStream {
    socket: Socket,
    line: LineHandle,
    /// The last measurement and its time.
    measured: Option<(Instant, TcpMeasurement)>,
    /// True while the receive window is clamped.
    is_clamped: bool,
    /// True once the upstream accepts no more bytes. What it has sent can still be read.
    is_write_broken: bool,
}

impl LineHandle {
    fn new(wan: Arc<WanLimiter>, upstream: Arc<str>) -> Self {
        let state = HandleState {
            bandwidth: None,
            response: 0,
            client: None,
            throttle: None,
            waker: None,
            granted_at: None,
        };
        Self(Arc::new(HandleShared { wan, upstream, state: Mutex::new(state) }))
    }

    /// Returns the handle of a request's connection, once it has one.
    pub(super) fn from_request(request: &CaptureConnection) -> Option<Self> {
        let mut extras = http::Extensions::new();
        request.connection_metadata().as_ref()?.get_extras(&mut extras);
        extras.remove()
    }

    /// Returns true if a limit, and not the upstream, delayed bytes within this time.
    pub(super) fn was_limited_within(&self, time: Duration) -> bool {
        let state = self.state();
        state.waker.is_some() || state.granted_at.is_some_and(|granted_at| granted_at.elapsed() < time)
    }

    /// Returns true if the connection has carried a response before.
    pub(super) fn has_answered(&self) -> bool {
        self.state().response > 0
    }

    /// Returns true from the head of a response to the end of its body.
    pub(super) fn has_response(&self) -> bool {
        self.state().bandwidth.is_some()
    }

    /// Counts the bytes of a request against its client.
    pub(super) fn begin_request(&self, client: Option<IpAddr>) {
        let mut state = self.state();
        if std::mem::replace(&mut state.client, client) != client && state.bandwidth.is_none() {
            Self::change_class(state, None);
        }
    }

    /// Assigns the bytes from now on to a response of this class.
    pub(super) fn assign(&self, bandwidth: BandwidthClass) -> ClassHold {
        let mut state = self.state();
        state.response = state.response.wrapping_add(1);
        let response = state.response;
        Self::change_class(state, Some(bandwidth));
        ClassHold { line: self.clone(), response }
    }

    /// Changes the class. The connection may wait for a grant of the former class, because it reads ahead behind a
    /// head. That grant will not come, so the reader is woken to request another.
    fn change_class(mut state: MutexGuard<'_, HandleState>, bandwidth: Option<BandwidthClass>) {
        let old = (std::mem::replace(&mut state.bandwidth, bandwidth), state.throttle.take());
        let waker = state.waker.take();
        drop(state);
        drop(old);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Returns how many of `bytes` may pass now.
    fn poll(&self, cx: &Context<'_>, bytes: usize) -> Poll<usize> {
        let HandleShared { wan, upstream, .. } = &*self.0;
        let mut state = self.state();
        if !wan.is_limited() {
            let unused = state.throttle.take();
            state.waker = None;
            drop(state);
            drop(unused);
            return Poll::Ready(bytes);
        }
        let (bandwidth, client) = (state.bandwidth.clone(), state.client);
        let throttle =
            state.throttle.get_or_insert_with(|| wan.throttle(upstream, bandwidth.as_ref(), client));
        match throttle.poll_grant(cx, bytes as u64) {
            Poll::Pending => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Poll::Ready(passes) => {
                if state.waker.take().is_some() {
                    state.granted_at = Some(Instant::now());
                }
                // At most the requested bytes.
                Poll::Ready(usize::try_from(passes).unwrap_or(bytes))
            }
        }
    }

    fn spend(&self, bytes: usize) {
        if let Some(throttle) = &mut self.state().throttle {
            throttle.consume(bytes as u64);
        }
    }

    fn state(&self) -> MutexGuard<'_, HandleState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClassHold {
    /// Returns true if a limit, and not the upstream, delayed bytes within this time.
    pub(super) fn was_limited_within(&self, time: Duration) -> bool {
        self.line.was_limited_within(time)
    }
}

impl Drop for ClassHold {
    /// The next response may own the connection already.
    fn drop(&mut self) {
        let state = self.line.state();
        if state.response == self.response {
            LineHandle::change_class(state, None);
        }
    }
}

impl LimitedStream {
    /// Creates a connection under the limits of its upstream.
    pub(super) fn new(socket: Socket, wan: Arc<WanLimiter>, upstream: Arc<str>) -> Self {
        let line = LineHandle::new(wan, upstream);
        let mut stream = Self { socket, line, measured: None, is_clamped: false, is_write_broken: false };
        stream.clamp_window(None);
        stream
    }

    pub(super) fn line(&self) -> &LineHandle {
        &self.line
    }

    /// Passes measurements to the limits, and their window to the kernel.
    fn measure(&mut self) {
        let now = Instant::now();
        let before = match self.measured {
            Some((at, _)) if now.duration_since(at) < MEASURE_INTERVAL => return,
            before => before.map(|(_, measured)| measured),
        };
        // Without measurements limits hold, but the relay does not yield.
        let Some(measured) = self.socket.measure() else { return };
        self.measured = Some((now, measured));
        if let Some(before) = before {
            self.line.0.wan.observe(LineSample {
                // An identical value means no new measurement.
                round_trip: measured.round_trip.filter(|_| measured.round_trip != before.round_trip),
                received: measured.received.saturating_sub(before.received),
                disorder: measured.disordered > before.disordered,
            });
        }
        self.clamp_window(measured.round_trip);
    }

    /// Discards bytes that the upstream refuses, so that the response is read that it sent first (RFC 9112 §9.5): an
    /// early `413`, after which it closed. Nothing hangs: the end of the connection follows what is left to read.
    fn discard_refused(&mut self, written: io::Result<usize>, length: usize) -> io::Result<usize> {
        let is_refused = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
        };
        match written {
            Err(error) if is_refused(&error) => {
                self.is_write_broken = true;
                Ok(length)
            }
            written => written,
        }
    }

    fn clamp_window(&mut self, round_trip: Option<Duration>) {
        let window = self.line.0.wan.window(round_trip);
        if window.is_some() || self.is_clamped {
            self.is_clamped = window.is_some();
            self.socket.clamp_window(window.unwrap_or(u64::MAX));
        }
    }
}

impl Connection for LimitedStream {
    fn connected(&self) -> Connected {
        self.socket.connected().extra(self.line.clone())
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.line.0.wan.is_limited() {
            if this.is_clamped {
                this.clamp_window(None);
            }
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        // An idle connection requests no grant.
        ready!(this.socket.poll_read_ready(cx))?;
        let passes = ready!(this.line.poll(cx, buf.remaining()));
        let mut limited = ReadBuf::new(buf.initialize_unfilled_to(passes));
        ready!(Pin::new(&mut this.socket).poll_read(cx, &mut limited))?;
        let read = limited.filled().len();
        buf.advance(read);
        this.line.spend(read);
        this.measure();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_write_broken {
            return Poll::Ready(Ok(buf.len()));
        }
        if !this.line.0.wan.is_limited() {
            let written = ready!(Pin::new(&mut this.socket).poll_write(cx, buf));
            return Poll::Ready(this.discard_refused(written, buf.len()));
        }
        let passes = ready!(this.line.poll(cx, buf.len()));
        let written = ready!(Pin::new(&mut this.socket).poll_write(cx, buf.get(..passes).unwrap_or(buf)));
        let written = this.discard_refused(written, passes)?;
        this.line.spend(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;
    use gupd_config::clock::Clock;
    use gupd_config::units::Rate;
    use gupd_config::{Config, RateSchedule};

    #[tokio::test(start_paused = true)]
    async fn waiting_connection_resumes_when_its_class_changes() {
        let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
        config.wan.limit = RateSchedule::from_rate(Rate(1 << 10));
        let wan = Arc::new(WanLimiter::new(&config, Clock::manual(0)));
        let running = wan.clone();
        let limits = tokio::spawn(async move { running.run().await });
        let line = LineHandle::new(wan, Arc::from("manager"));
        let reader = line.clone();
        // It reads ahead before the response is assigned.
        let connection = tokio::spawn(async move {
            for _ in 0..10 {
                let passes = poll_fn(|cx| reader.poll(cx, 16 << 10)).await;
                reader.spend(passes);
            }
        });
        tokio::task::yield_now().await;
        let _held = line.assign(BandwidthClass::default());
        timeout(Duration::from_secs(60), connection).await.expect("nobody woke it").unwrap();
        limits.abort();
    }
}
