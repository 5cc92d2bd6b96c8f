//! Clients that close their sending side behind a request (RFC 9112 §9.6), as `nc -N` and old updaters do. They get their
//! response. A client that has gone looks the same until bytes are sent to it. It may neither wait in a queue nor make
//! the relay wait for an upstream without end, least of all if it had a part of the response already.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

use super::connection_state::ConnectionState;

/// Time without a byte to send after which a client counts as gone that closed while its response arrived.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// Signal that a client has closed its sending side.
#[derive(Debug, Default)]
pub(super) struct HalfCloseSignal {
    is_set: AtomicBool,
    changed: Notify,
}

/// Detects that a client closes its sending side, or resets the connection, while hyper reads nothing.
#[derive(Debug)]
pub(super) struct HalfCloseWatch {
    connection: Arc<ConnectionState>,
    /// Time for which a client without a sending side is waited for.
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl HalfCloseSignal {
    /// Waits until the client has closed its sending side.
    pub(super) async fn wait_until_set(&self) {
        let mut changed = std::pin::pin!(self.changed.notified());
        changed.as_mut().enable();
        if !self.is_set.load(Ordering::Relaxed) {
            changed.await;
        }
    }

    fn set(&self) {
        self.is_set.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }
}

impl HalfCloseWatch {
    pub(super) fn new(connection: Arc<ConnectionState>, patience: Duration) -> Self {
        Self { connection, patience, timer: None }
    }

    /// Grants the time again: the client takes bytes.
    pub(super) fn note_write(&mut self) {
        if let Some(timer) = &mut self.timer {
            let now = Instant::now();
            timer.as_mut().reset(now.checked_add(self.patience).unwrap_or(now));
        }
    }

    /// Looks at the connection, and wakes the task when it changes. `has_begun` is true behind the first bytes of a
    /// response.
    ///
    /// # Errors
    /// If the client has reset the connection, or counts as gone.
    pub(super) fn check(&mut self, tcp: &TcpStream, has_begun: bool, cx: &mut Context<'_>) -> io::Result<()> {
        if self.timer.is_none() {
            let mut byte = [0];
            match tcp.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
                Poll::Ready(Ok(0)) => {
                    self.connection.half_close.set();
                    if has_begun {
                        self.patience = self.patience.min(CLOSING_TIME);
                    }
                }
                Poll::Ready(Err(error)) => return Err(error),
                // The next request, which is read when its turn comes.
                Poll::Ready(Ok(_)) | Poll::Pending => return Ok(()),
            }
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "client closed its sending side")),
            Poll::Pending => Ok(()),
        }
    }
}
