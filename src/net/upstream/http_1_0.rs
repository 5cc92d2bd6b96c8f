//! A connection whose HTTP/1.0 responses may be chunked. HTTP/1.0 has no transfer codings, and hyper refuses such a
//! response, but servers send them. RFC 9112 §6.1: decode, and close the connection behind it. The head of such a
//! response becomes one of HTTP/1.1 with `Connection: close` before hyper reads it. All other bytes pass unchanged, and
//! uncopied but for the heads of HTTP/1.0.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::cause;
use super::limited_stream::LineHandle;

/// First bytes of a response of HTTP/1.0.
const VERSION: &[u8] = b"HTTP/1.0 ";

/// Maximum length of a head that is rewritten. hyper judges a longer one as it is.
const MAX_HEAD: usize = 64 << 10;

/// Bytes to look for before the head is complete.
const PIECE: usize = 4 << 10;

/// A connection to an upstream.
#[derive(Debug)]
pub(super) struct Http10Stream<S> {
    stream: S,
    line: LineHandle,
    /// True from the first byte of a request to the first bytes of its response.
    expects_head: bool,
    /// Bytes of a head that may have to be rewritten.
    head: Vec<u8>,
    /// Bytes to give before those of the stream.
    ready: Vec<u8>,
}

impl<S> Http10Stream<S> {
    pub(super) fn new(stream: S, line: LineHandle) -> Self {
        Self { stream, line, expects_head: false, head: Vec::new(), ready: Vec::new() }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Starts to look for a head when a request leaves. Between responses the line has no class, so that the rest of
    /// an upload beside its response is no new request.
    fn note_write(&mut self) {
        if !self.expects_head && !self.line.has_response() {
            self.expects_head = true;
        }
    }

    fn give_ready(&mut self, buf: &mut ReadBuf<'_>) {
        let given = self.ready.len().min(buf.remaining());
        buf.put_slice(self.ready.get(..given).unwrap_or_default());
        self.ready.drain(..given);
        if self.ready.is_empty() {
            self.ready = Vec::new();
        }
    }

    /// Takes the next bytes of a head, none at the end of the connection. The head is ready when it is complete, or is
    /// not of HTTP/1.0.
    fn take(&mut self, bytes: &[u8]) {
        self.head.extend_from_slice(bytes);
        let is_other = !begins_like_version(&self.head);
        let end = if is_other { None } else { head_end(&self.head) };
        if !is_other && end.is_none() && !bytes.is_empty() && self.head.len() < MAX_HEAD {
            return;
        }
        self.expects_head = false;
        let head = std::mem::take(&mut self.head);
        self.ready = match end {
            Some(end) if has_transfer_coding(head.get(..end).unwrap_or_default()) => as_http_1_1(&head),
            _ => head,
        };
    }
}

/// Returns the end of a head: the position behind its empty line.
fn head_end(bytes: &[u8]) -> Option<usize> {
    (0..bytes.len()).find_map(|at| {
        let line_end = bytes.get(at..)?;
        let length = [&b"\n\n"[..], b"\n\r\n"].iter().find(|empty| line_end.starts_with(empty))?.len();
        at.checked_add(length)
    })
}

fn has_transfer_coding(head: &[u8]) -> bool {
    head.split(|byte| *byte == b'\n').any(|line| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        name.trim_ascii_end().eq_ignore_ascii_case(b"transfer-encoding")
    })
}

/// Changes the version, and adds `Connection: close` behind the status line.
fn as_http_1_1(response: &[u8]) -> Vec<u8> {
    let line =
        response.iter().position(|byte| *byte == b'\n').map_or(response.len(), |end| end.saturating_add(1));
    let (status, fields) = response.split_at_checked(line).unwrap_or_default();
    [b"HTTP/1.1 ", status.get(VERSION.len()..).unwrap_or_default(), b"Connection: close\r\n", fields].concat()
}

/// Returns true if the bytes are the begin of a response of HTTP/1.0, as far as there are any.
fn begins_like_version(bytes: &[u8]) -> bool {
    bytes.iter().zip(VERSION).all(|(byte, expected)| byte == expected)
}

impl<S: AsyncRead + Unpin> AsyncRead for Http10Stream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                this.give_ready(buf);
                return Poll::Ready(Ok(()));
            }
            if !this.expects_head {
                return Pin::new(&mut this.stream).poll_read(cx, buf);
            }
            if this.head.is_empty() {
                // Nearly every head is of HTTP/1.1 and stays where it is.
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                let read = buf.filled().get(before..).unwrap_or_default();
                if read.is_empty() || !begins_like_version(read) {
                    this.expects_head = false;
                    return Poll::Ready(cause::check_beginning(read));
                }
                let read = read.to_vec();
                buf.set_filled(before);
                this.take(&read);
                continue;
            }
            let mut bytes = [0; PIECE];
            let mut piece = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut piece))?;
            this.take(piece.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Http10Stream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.note_write();
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
