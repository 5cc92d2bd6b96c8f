//! The stream of an HTTP/2 connection. Its frames are counted as they arrive. After a flood, reads fail, and the
//! connection ends. The meter is behind a lock because the connection's timer reads it too; both run in one task.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frame_meter::{FrameFlood, FrameMeter};

/// The meter of one connection.
#[derive(Debug)]
pub(super) struct SharedMeter(Mutex<Metered>);

#[derive(Debug)]
struct Metered {
    meter: FrameMeter,
    flood: Option<FrameFlood>,
}

/// A stream with a meter.
pub(super) struct MeteredStream<S> {
    stream: S,
    meter: Arc<SharedMeter>,
}

impl SharedMeter {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Metered { meter: FrameMeter::new(Instant::now()), flood: None }))
    }

    /// Returns the bound that the client exceeded.
    pub(super) fn flood(&self) -> Option<FrameFlood> {
        self.lock().flood
    }

    /// Returns the time at which the client began a head or control frame that it has not completed.
    pub(super) fn incomplete_since(&self) -> Option<Instant> {
        self.lock().meter.incomplete_since()
    }

    fn record_read(&self, bytes: &[u8]) -> io::Result<()> {
        let mut metered = self.lock();
        metered.meter.record_read(bytes, Instant::now()).map_err(|flood| {
            metered.flood = Some(flood);
            io::Error::new(io::ErrorKind::InvalidData, flood.as_str())
        })
    }

    fn record_written(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.lock().meter.record_written(*bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Metered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> MeteredStream<S> {
    pub(super) fn new(stream: S, meter: Arc<SharedMeter>) -> Self {
        Self { stream, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.meter.record_read(buf.filled().get(before..).unwrap_or_default()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.meter.record_written(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.meter.record_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
