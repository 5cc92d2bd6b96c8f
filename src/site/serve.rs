//! One connection to an origin: reads requests and writes responses, faults included.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::answer::Answer;
use crate::message::{read_chunks, read_head};
use crate::origin::{OriginServer, RecordedRequest};
use crate::resource::{Body, Framing, Resource};

/// Bytes written at once: few, so that a pause may fall anywhere.
const PIECE: u64 = 16 << 10;

impl OriginServer {
    /// Serves the requests of one connection, until it ends or a fault ends it.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        self.count_connection();
        let mut stream = BufReader::new(stream);
        while let Some(request) = read_request(&mut stream).await? {
            let resource = self.respond(&request);
            if !self.write_response(stream.get_mut(), &request, &resource).await? {
                break;
            }
        }
        stream.get_mut().shutdown().await
    }

    /// Returns true if the connection can be used again.
    async fn write_response(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        request: &RecordedRequest,
        resource: &Resource,
    ) -> io::Result<bool> {
        for pause in &resource.faults.before_head {
            pause.pass().await;
        }
        if let Body::Raw(bytes) = &resource.body {
            stream.write_all(bytes).await?;
            return Ok(false);
        }
        let answer = Answer::new(request, resource, self.now());
        stream.write_all(answer.head.as_bytes()).await?;
        match answer.part.clone() {
            Some(part) => self.write_body(stream, resource, &answer, part).await,
            None => Ok(true),
        }
    }

    async fn write_body(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        resource: &Resource,
        answer: &Answer,
        part: Range<u64>,
    ) -> io::Result<bool> {
        let faults = &resource.faults;
        let break_off = faults.break_off.as_ref().and_then(|cut| cut.take(part.end - part.start));
        let end = break_off.map_or(part.end, |after| part.start + after);
        let mut pause = faults.in_body.as_ref();
        let mut due = Instant::now();
        let mut at = part.start;
        while at < end {
            if let Some((_, pause)) = pause.take_if(|(offset, _)| *offset <= at) {
                pause.pass().await;
            }
            let next = end.min(at + PIECE).min(pause.map_or(end, |(offset, _)| (*offset).max(at + 1)));
            if let Some(rate) = faults.rate {
                due += Duration::from_nanos((next - at) * 1_000_000_000 / rate);
                sleep_until(due).await;
            }
            let mut piece = answer.content.read(at..next);
            if let Some(offset) = faults.flip.filter(|offset| (at..next).contains(offset)) {
                let mut flipped = piece.to_vec();
                flipped[(offset - at) as usize] ^= 1;
                piece = flipped.into();
            }
            self.write_piece(stream, &piece, resource.framing).await?;
            // Connections take turns, as with a thread for each.
            yield_now().await;
            at = next;
        }
        if break_off.is_some() {
            // A pause at the very byte where the connection breaks comes before the break.
            if let Some((_, pause)) = pause.filter(|(offset, _)| *offset <= at) {
                pause.pass().await;
            }
            return Ok(false);
        }
        if resource.framing == Framing::Chunked {
            stream.write_all(b"0\r\n\r\n").await?;
        }
        // A client cannot tell the end of a body without a length, or with a wrong one, from a pause.
        Ok(matches!(resource.framing, Framing::Length | Framing::Chunked))
    }

    async fn write_piece(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        piece: &[u8],
        framing: Framing,
    ) -> io::Result<()> {
        // Counted before the write: a client that has the bytes may look at the count.
        let (count, counter) = (piece.len() as u64, self.count_body_bytes());
        counter.fetch_add(count, Ordering::SeqCst);
        let written = if framing == Framing::Chunked {
            let size = format!("{count:x}\r\n");
            stream.write_all(&[size.as_bytes(), piece, b"\r\n"].concat()).await
        } else {
            stream.write_all(piece).await
        };
        if written.is_err() {
            counter.fetch_sub(count, Ordering::SeqCst);
        }
        written
    }
}

async fn read_request<S>(stream: &mut BufReader<S>) -> io::Result<Option<RecordedRequest>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some((first, fields)) = read_head(stream).await? else { return Ok(None) };
    let mut request = RecordedRequest::new(&first, fields);
    if request.header("expect").is_some() {
        stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    if let Some(length) = request.header("content-length") {
        let length = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        request.body.resize(length, 0);
        stream.read_exact(&mut request.body).await?;
    } else if request.header("transfer-encoding").is_some() {
        read_chunks(stream, &mut request.body).await?;
    }
    Ok(Some(request))
}
