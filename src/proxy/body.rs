//! The body of a response to a client. Owns what is counted as sent, and the record that becomes the request's access
//! line when the body ends or is dropped. Bytes are handed on as they are: never copied, never changed.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use futures_util::{Stream, TryStreamExt};
use http_body::{Body, Frame, SizeHint};
use prometheus::IntCounter;

use super::place::Download;
use super::repair::Repair;
use super::shaped::Shaped;
use crate::access::Access;
use gupd_cache::fill::{FillError, Reader, TransferError};
use gupd_http::multipart::Multipart;
use gupd_http::status::ResponseEnd;
use gupd_net::upstream::UpstreamBody;
use gupd_net::upstream::{self, BodyStreamError};
use gupd_store::ReadError;

/// What a response's body is made of.
pub enum Content {
    /// Nothing.
    Empty,
    /// Bytes in memory.
    Whole(Bytes),
    /// Bytes as they come.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>),
}

/// Why a body could not be sent to its end. hyper then closes the connection, so that no client takes it for whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The content broke off.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The upstream of a passed-through response broke off, or fell silent.
    #[error(transparent)]
    Passed(#[from] BodyStreamError),
}

impl BodyError {
    /// Whether the content is not what was announced or stored; otherwise it only did not come.
    fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Transfer(
                TransferError::Read(ReadError::Damaged { .. })
                    | TransferError::Fill(FillError::Mismatch { .. })
            )
        )
    }
}

/// A response's body, and the record of its request.
pub struct ResponseBody {
    content: Content,
    access: Access,
    /// For what may have to wait for its client's turn.
    shaped: Option<Box<Shaped>>,
    /// For what is counted as a download.
    place: Option<Box<Download>>,
}

/// A download's last bytes. hyper drops a body that it has taken the last bytes of, and the client may still be far from
/// having them; its place goes with them.
struct Last {
    piece: Bytes,
    _download: Box<Download>,
}

impl AsRef<[u8]> for Last {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl Content {
    /// The rest of what `reader` reads, after `first` if that has been read already.
    pub fn read(first: Option<Bytes>, reader: Reader, keeper: Keeper) -> Self {
        let state = Some((first.map(Ok), reader, keeper.begun()));
        Self::Stream(Box::pin(unfold(state, |state| async move {
            let (first, mut reader, mut keeper) = state?;
            let piece = match first {
                Some(first) => first,
                None => keeper.next(&mut reader).await?.map_err(BodyError::from),
            };
            let next = piece.is_ok().then_some((None, reader, keeper));
            Some((piece, next))
        })))
    }

    /// Several parts of one content (RFC 9110 §14.6). `open` reads one part.
    pub fn multipart(
        multipart: Multipart,
        open: impl Fn(std::ops::Range<u64>) -> Reader + Send + 'static,
        keeper: Keeper,
    ) -> Self {
        let closing = (multipart.closing(), None);
        let parts: Vec<_> =
            multipart.parts().iter().map(|part| (part.head.clone(), Some(part.range.clone()))).collect();
        let parts = parts.into_iter().chain([closing]);
        let state = Some((parts, None::<Reader>, open, keeper.begun()));
        Self::Stream(Box::pin(unfold(state, |state| async move {
            let (mut parts, mut reader, open, mut keeper) = state?;
            if let Some(part) = &mut reader
                && let Some(piece) = keeper.next(part).await
            {
                let piece = piece.map_err(BodyError::from);
                let next = piece.is_ok().then_some((parts, reader, open, keeper));
                return Some((piece, next));
            }
            let (head, range) = parts.next()?;
            reader = range.map(&open);
            Some((Ok(head), Some((parts, reader, open, keeper))))
        })))
    }

    /// An upstream's body, as it comes, each piece within `idle_timeout`.
    pub fn passed_on(body: UpstreamBody, idle_timeout: Duration, received: IntCounter) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        Self::Stream(Box::pin(upstream::stream_body(body, idle_timeout, received).map_err(BodyError::from)))
    }
}

/// Sees to it that damage on the disk, or its failure, does not reach the client.
#[derive(Clone)]
pub struct Keeper(Option<Box<Repair>>);

impl Keeper {
    /// For content of a stored object, or of a fill, which repairs itself.
    pub(super) fn new(repair: Option<Repair>) -> Self {
        Self(repair.map(Box::new))
    }

    /// The response's head is on its way.
    fn begun(mut self) -> Self {
        if let Some(repair) = &mut self.0 {
            repair.begun = true;
        }
        self
    }

    /// The next piece of `reader`, which may be another one afterwards.
    pub(super) async fn next(&mut self, reader: &mut Reader) -> Option<Result<Bytes, TransferError>> {
        loop {
            let error = match reader.next().await? {
                Ok(piece) => return Some(Ok(piece)),
                Err(error) => error,
            };
            let Some(repair) = &mut self.0 else { return Some(Err(error)) };
            match repair.make_good(error, reader.rest()).await {
                Ok(None) => {}
                Ok(Some(other)) => *reader = other,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl ResponseBody {
    pub(super) fn new(
        content: Content,
        access: Access,
        shaped: Option<Box<Shaped>>,
        place: Option<Box<Download>>,
    ) -> Self {
        Self { content, access, shaped, place }
    }

    fn held(&self) -> usize {
        self.shaped.as_ref().map_or(0, |shaped| shaped.held())
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let piece = loop {
            if let Some(shaped) = &mut this.shaped {
                let left = this.access.expected.map_or(u64::MAX, |all| all.saturating_sub(this.access.sent));
                if let Some(piece) = ready!(shaped.poll_take(cx, left)) {
                    break Some(Ok(piece));
                }
            }
            let piece = match &mut this.content {
                Content::Empty => None,
                Content::Whole(_) => match std::mem::replace(&mut this.content, Content::Empty) {
                    Content::Whole(bytes) => Some(Ok(bytes)),
                    _ => None,
                },
                Content::Stream(stream) => ready!(stream.as_mut().poll_next(cx)),
            };
            match (piece, &mut this.shaped) {
                (Some(Ok(piece)), Some(shaped)) => shaped.put(piece),
                (piece, _) => break piece,
            }
        };
        Poll::Ready(match piece {
            Some(Ok(piece)) => {
                this.access.sent += piece.len() as u64;
                let piece = match this.place.take_if(|_| this.access.expected == Some(this.access.sent)) {
                    Some(place) => Bytes::from_owner(Last { piece, _download: place }),
                    None => piece,
                };
                Some(Ok(Frame::data(piece)))
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "a response broke off");
                this.access.end = ResponseEnd::Upstream;
                this.access.is_damaged = error.is_damage();
                Some(Err(error))
            }
            None => {
                this.access.end = ResponseEnd::Complete;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Empty) && self.held() == 0
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(self.held() as u64),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // A known length is in the head already.
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Method, Uri};
    use http_body_util::BodyExt;

    use super::*;
    use crate::metrics::RequestMetrics;
    use gupd_config::Config;
    use gupd_net::shape::SlotLimiter;

    #[tokio::test]
    async fn a_download_keeps_its_place_until_its_last_bytes_have_left() {
        let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
        config.lan.max_downloads = Some(1);
        let (places, metrics) =
            (Arc::new(SlotLimiter::new(&config)), Arc::new(RequestMetrics::in_new_registry()));
        let client = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
        let place = places.try_acquire(client.ip(), "default").unwrap();
        let mut access = Access::new(client, &Method::GET, &Uri::from_static("/"), metrics.clone(), false);
        access.expected = Some(5);
        let content = Content::Whole(Bytes::from_static(b"bytes"));
        let mut body = ResponseBody::new(content, access, None, Some(Download::new(place, &metrics)));
        let last = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        assert!(places.try_acquire(client.ip(), "default").is_none());
        assert_eq!((&*last, metrics.downloads.get()), (&b"bytes"[..], 1));
        drop(last);
        assert!(places.try_acquire(client.ip(), "default").is_some());
        assert_eq!(metrics.downloads.get(), 0);
    }
}
