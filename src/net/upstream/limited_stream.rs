//! The line to an upstream: a connection that reads and writes no faster than the limits allow. Everything an upstream
//! sends passes here, heads and what TLS adds included, and nothing is read before its turn, so that the upstream's own
//! congestion control sees a slow reader. Without limits it is a plain connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper_util::client::legacy::connect::{CaptureConnection, Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::dial::Socket;
use super::tcp::Seen;
use crate::shape::{BandwidthClass, LineSample, Throttle, WanLimiter};

/// A connection's line, as those who use the connection see it.
#[derive(Clone, Debug)]
pub(super) struct Line(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    wan: Arc<WanLimiter>,
    upstream: Arc<str>,
    // Held for arithmetic, never while bytes are read or written.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Whose bytes pass; none between responses.
    bandwidth: Option<BandwidthClass>,
    /// Which response that was.
    response: u64,
    pace: Option<Throttle>,
    /// Whom to wake when it need not wait for its turn any more; none if it does not wait.
    waits: Option<Waker>,
    /// When it last had one, having waited.
    turn: Option<Instant>,
}

/// A response's hold on its connection's line.
#[derive(Debug)]
pub(super) struct Held {
    line: Line,
    response: u64,
}

/// Time between two looks at what the kernel has seen of a connection.
const LOOK: Duration = Duration::from_millis(50);

/// The connection.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    line: Line,
    /// What was seen last, and when.
    seen: Option<(Instant, Seen)>,
    /// The window is held to what the limits let pass.
    clamped: bool,
}

impl Line {
    fn new(wan: Arc<WanLimiter>, upstream: Arc<str>) -> Self {
        let state = State { bandwidth: None, response: 0, pace: None, waits: None, turn: None };
        Self(Arc::new(Shared { wan, upstream, state: Mutex::new(state) }))
    }

    /// That of a request's connection, once it has one.
    pub(super) fn of(request: &CaptureConnection) -> Option<Self> {
        let mut extras = http::Extensions::new();
        request.connection_metadata().as_ref()?.get_extras(&mut extras);
        extras.remove()
    }

    /// Whether it is a limit, not the upstream, that nothing passed in this time.
    pub(super) fn waited_within(&self, time: Duration) -> bool {
        let state = self.state();
        state.waits.is_some() || state.turn.is_some_and(|turn| turn.elapsed() < time)
    }

    /// Whether it is kept from an earlier response.
    pub(super) fn has_answered(&self) -> bool {
        self.state().response > 0
    }

    /// A response's bytes pass from now on.
    pub(super) fn hold(&self, bandwidth: BandwidthClass) -> Held {
        let mut state = self.state();
        state.response += 1;
        let response = state.response;
        Self::pass_on(state, Some(bandwidth));
        Held { line: self.clone(), response }
    }

    /// Bytes pass for another lane from now on. The connection may wait for a turn of the one before, as it reads on
    /// behind a head: no turn comes of that any more, so it asks again.
    fn pass_on(mut state: MutexGuard<'_, State>, bandwidth: Option<BandwidthClass>) {
        let old = (std::mem::replace(&mut state.bandwidth, bandwidth), state.pace.take());
        let waits = state.waits.take();
        drop(state);
        drop(old);
        waits.into_iter().for_each(Waker::wake);
    }

    /// How many of `bytes` may pass now.
    fn poll(&self, cx: &Context<'_>, bytes: usize) -> Poll<usize> {
        let Shared { wan, upstream, .. } = &*self.0;
        let mut state = self.state();
        if !wan.is_limited() {
            let unused = state.pace.take();
            state.waits = None;
            drop(state);
            drop(unused);
            return Poll::Ready(bytes);
        }
        let bandwidth = state.bandwidth.clone();
        let pace = state.pace.get_or_insert_with(|| wan.throttle(upstream, bandwidth.as_ref()));
        match pace.poll_grant(cx, bytes as u64) {
            Poll::Pending => {
                state.waits = Some(cx.waker().clone());
                Poll::Pending
            }
            Poll::Ready(passes) => {
                if state.waits.take().is_some() {
                    state.turn = Some(Instant::now());
                }
                // No more than what was asked for.
                Poll::Ready(usize::try_from(passes).unwrap_or(bytes))
            }
        }
    }

    fn spend(&self, bytes: usize) {
        if let Some(pace) = &mut self.state().pace {
            pace.consume(bytes as u64);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Whether it is a limit, not the upstream, that nothing came in this time.
    pub(super) fn waited_within(&self, time: Duration) -> bool {
        self.line.waited_within(time)
    }
}

impl Drop for Held {
    /// The next response on the connection may have it already.
    fn drop(&mut self) {
        let state = self.line.state();
        if state.response == self.response {
            Line::pass_on(state, None);
        }
    }
}

impl Stream {
    /// A connection whose bytes pass by the limits of its upstream.
    pub(super) fn new(socket: Socket, wan: Arc<WanLimiter>, upstream: Arc<str>) -> Self {
        let mut stream = Self { socket, line: Line::new(wan, upstream), seen: None, clamped: false };
        stream.clamp(None);
        stream
    }

    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    /// Tells the limits what the kernel has seen, and the kernel what the limits let pass.
    fn look(&mut self) {
        let now = Instant::now();
        let before = match self.seen {
            Some((at, _)) if now.duration_since(at) < LOOK => return,
            before => before.map(|(_, seen)| seen),
        };
        // Without it limits are kept all the same, and others not yielded to.
        let Some(seen) = self.socket.seen() else { return };
        self.seen = Some((now, seen));
        if let Some(before) = before {
            self.line.0.wan.observe(LineSample {
                // To the microsecond the same means that none was measured.
                round_trip: seen.round_trip.filter(|_| seen.round_trip != before.round_trip),
                received: seen.received.saturating_sub(before.received),
                disorder: seen.disordered > before.disordered,
            });
        }
        self.clamp(seen.round_trip);
    }

    fn clamp(&mut self, round_trip: Option<Duration>) {
        let window = self.line.0.wan.window(round_trip);
        if window.is_some() || self.clamped {
            self.clamped = window.is_some();
            self.socket.clamp_window(window.unwrap_or(u64::MAX));
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.socket.connected().extra(self.line.clone())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.line.0.wan.is_limited() {
            if this.clamped {
                this.clamp(None);
            }
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        // A connection on which nothing comes asks for no turn.
        ready!(this.socket.poll_read_ready(cx))?;
        let passes = ready!(this.line.poll(cx, buf.remaining()));
        let mut limited = ReadBuf::new(buf.initialize_unfilled_to(passes));
        ready!(Pin::new(&mut this.socket).poll_read(cx, &mut limited))?;
        let read = limited.filled().len();
        buf.advance(read);
        this.line.spend(read);
        this.look();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.line.0.wan.is_limited() {
            return Pin::new(&mut this.socket).poll_write(cx, buf);
        }
        let passes = ready!(this.line.poll(cx, buf.len()));
        let written = ready!(Pin::new(&mut this.socket).poll_write(cx, &buf[..passes]))?;
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
    async fn a_connection_that_waits_when_its_response_takes_the_line_goes_on() {
        let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
        config.wan.limit = RateSchedule::from_rate(Rate(1 << 10));
        let wan = Arc::new(WanLimiter::new(&config, Clock::manual(0)));
        let running = wan.clone();
        let limits = tokio::spawn(async move { running.run().await });
        let line = Line::new(wan, Arc::from("manager"));
        let reader = line.clone();
        // It reads behind the head at once, before anybody has the response.
        let connection = tokio::spawn(async move {
            for _ in 0..10 {
                let passes = poll_fn(|cx| reader.poll(cx, 16 << 10)).await;
                reader.spend(passes);
            }
        });
        tokio::task::yield_now().await;
        let _held = line.hold(BandwidthClass::default());
        timeout(Duration::from_secs(60), connection).await.expect("nobody woke it").unwrap();
        limits.abort();
    }
}
