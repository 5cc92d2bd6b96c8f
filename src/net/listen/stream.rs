//! The stream of a client connection, with a stall time-out: a client that receives next to nothing for too long is
//! disconnected, so that it holds neither memory nor a slot. One timer, armed only while a write waits; a client that
//! reads costs nothing. The stream outlives the HTTP state of an idle connection, and gives back the bytes that state
//! had read ahead.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::activity::ConnectionActivity;
use super::connection::TcpBased;
use super::connection_state::ConnectionState;
use super::half_close::HalfCloseWatch;

/// Minimum rate in bytes a second of a client that keeps writes waiting, over `server.stall_timeout` of such waits. The
/// slowest lines of sites have ten times as much.
const MIN_RATE: f64 = 1024.0;

/// A client's stream.
pub(super) struct ClientStream<S> {
    stream: S,
    stall_timeout: Duration,
    activity: Arc<ConnectionActivity>,
    timer: Option<Pin<Box<Sleep>>>,
    /// When a write began to wait; `None` while none does.
    waiting_since: Option<Instant>,
    /// Time that writes have waited since the client last kept the minimum rate, and bytes written in that period.
    waited: Duration,
    written: usize,
    /// Bytes read before, which come first.
    read_ahead: Bytes,
    /// `None` over TLS, where the end of the sending side is a record that hyper has to read.
    half_close: Option<HalfCloseWatch>,
}

impl<S> ClientStream<S> {
    /// Wraps `stream`; reads and writes are recorded in `activity`.
    pub(super) fn new(stream: S, stall_timeout: Duration, activity: Arc<ConnectionActivity>) -> Self {
        Self {
            stream,
            stall_timeout,
            activity,
            timer: None,
            waiting_since: None,
            waited: Duration::ZERO,
            written: 0,
            read_ahead: Bytes::new(),
            half_close: None,
        }
    }

    /// Serves a client that closes its sending side.
    pub(super) fn with_half_close(self, state: Arc<ConnectionState>) -> Self {
        Self { half_close: Some(HalfCloseWatch::new(state, self.stall_timeout)), ..self }
    }

    /// Returns the underlying connection.
    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Sets the bytes that the next reads return first. Copies them: `bytes` may hold a buffer of several KiB, even
    /// when it is empty.
    pub(super) fn unread(&mut self, bytes: &Bytes) {
        self.read_ahead = Bytes::copy_from_slice(bytes);
    }

    /// Returns true if bytes that were read before are still to be handled.
    pub(super) fn has_read_ahead(&self) -> bool {
        !self.read_ahead.is_empty()
    }

    fn record_write(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes @ 1..)) = *written {
            self.note_progress(bytes);
            self.activity.record_write();
            self.half_close.iter_mut().for_each(HalfCloseWatch::note_write);
        }
    }

    fn check_stall<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.end_wait();
            return written;
        }
        let left = self.stall_timeout.saturating_sub(self.waited);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(left)));
        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            self.activity.set_write_blocked(true);
            timer.as_mut().reset(now.checked_add(left).unwrap_or(now));
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "client stalled: it receives next to nothing",
        )))
    }

    fn end_wait(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            self.waited = self.waited.saturating_add(since.elapsed());
            self.activity.set_write_blocked(false);
        }
    }

    /// Counts written bytes, and begins a new period once they are as many as the minimum rate asks for.
    fn note_progress(&mut self, bytes: usize) {
        self.end_wait();
        if self.waited > Duration::ZERO {
            self.written = self.written.saturating_add(bytes);
            if self.written as f64 >= MIN_RATE * self.stall_timeout.as_secs_f64() {
                (self.waited, self.written) = (Duration::ZERO, 0);
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.read_ahead.is_empty() {
            let now = this.read_ahead.len().min(buf.remaining());
            buf.put_slice(this.read_ahead.get(..now).unwrap_or_default());
            this.read_ahead.advance(now);
            this.activity.record_read();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.activity.record_read();
        }
        read
    }
}

impl<S: AsyncWrite + TcpBased + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.record_write(&written);
        this.check_stall(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.record_write(&written);
        this.check_stall(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        // hyper flushes each time that it waits for a response, and reads nothing then.
        if let Some(half_close) = &mut this.half_close {
            half_close.check(this.stream.tcp(), !this.activity.is_unanswered(), cx)?;
        }
        this.check_stall(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.activity.is_parking() {
            return Poll::Ready(Ok(()));
        }
        let shut = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.check_stall(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends by a panic")]

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpStream;

    use super::*;

    impl TcpBased for DuplexStream {
        const READS_AHEAD: bool = false;

        fn tcp(&self) -> &TcpStream {
            unreachable!("only half-closed connections are asked")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn client_below_minimum_rate_is_disconnected() {
        // Bytes that the client reads, every so many seconds, and whether it may keep its connection.
        for (bytes, pause, is_kept) in [
            (1, 1, false),
            (1, 59, false),
            (500, 1, false),
            (0, 1, false),
            (2048, 1, true),
            (65_536, 50, true),
        ] {
            let (mut client, stream) = duplex(1024);
            let mut stream = ClientStream::new(stream, Duration::from_secs(60), Arc::default());
            let writing = async {
                loop {
                    stream.write_all(&[0; 512]).await?;
                }
            };
            let reading = async {
                let mut into = vec![0; bytes];
                for _ in 0..200 {
                    tokio::time::sleep(Duration::from_secs(pause)).await;
                    client.read_exact(&mut into).await.unwrap();
                }
            };
            let begun = Instant::now();
            let end: Option<io::Result<()>> = tokio::select! {
                end = writing => Some(end),
                () = reading => None,
            };
            assert_eq!(end.is_none(), is_kept, "{bytes} bytes in {pause} s");
            if let Some(end) = end {
                assert_eq!(end.unwrap_err().kind(), io::ErrorKind::TimedOut);
                assert!(begun.elapsed() <= Duration::from_secs(121), "{:?}", begun.elapsed());
            }
        }
    }

    #[tokio::test]
    async fn unread_bytes_come_before_those_of_the_client() {
        let (mut client, stream) = duplex(64);
        let mut stream = ClientStream::new(stream, Duration::from_secs(1), Arc::default());
        client.write_all(b" / HTTP/1.1").await.unwrap();
        stream.unread(&Bytes::from_static(b"GET"));
        assert!(stream.has_read_ahead());
        let mut read = [0; 14];
        stream.read_exact(&mut read[..2]).await.unwrap();
        stream.read_exact(&mut read[2..]).await.unwrap();
        assert_eq!(&read, b"GET / HTTP/1.1");
        assert!(!stream.has_read_ahead());
    }
}
