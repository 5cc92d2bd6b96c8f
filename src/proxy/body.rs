//! The body of a response to a client. It counts the bytes sent, and carries the record that becomes the request's
//! access line when the body ends or is dropped. Bytes are handed on as they are: never copied, never changed.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{iter, once, try_unfold, unfold};
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body::{Body, Frame, SizeHint};
use tokio::task::yield_now;

use crate::access::AccessRecord;
use crate::pacing::ResponsePacer;
use crate::repair::ReadRepair;
use crate::slot::DownloadSlot;
use gupd_cache::digest::PassedContent;
use gupd_cache::fill::{ContentReader, FillError, TransferError};
use gupd_http::multipart::Multipart;
use gupd_http::status::ResponseEnd;
use gupd_net::upstream::UpstreamBody;
use gupd_net::upstream::{self, BodyBegin, BodyStreamError};
use gupd_store::ReadError;

/// Source of a response's bytes.
pub(crate) enum BodyContent {
    Empty,
    /// All of them are in memory.
    Whole(Bytes),
    /// They arrive piece by piece.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>),
}

/// Error that breaks a body off. hyper then closes the connection, so that no client takes the body for complete.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The content broke off.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The upstream of a passed-through response broke off, or fell silent.
    #[error(transparent)]
    Passed(#[from] BodyStreamError),
    /// A passed-through response differs from its announced digest.
    #[error("content does not match its announced digest")]
    Mismatch,
    /// The relay has a defect.
    #[error("panic: the log has its place")]
    Panic,
}

impl BodyError {
    /// Returns true if the content differs from the announced or stored one; false if it only did not arrive.
    fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Mismatch
                | Self::Transfer(
                    TransferError::Read(ReadError::Damaged { .. })
                        | TransferError::Fill(FillError::Mismatch { .. } | FillError::Corrupt { .. })
                )
        )
    }
}

/// A response's body, and the record of its request.
pub struct ResponseBody {
    content: BodyContent,
    access: Box<AccessRecord>,
    /// Present where the content may have to wait for a limit.
    pacer: Option<Box<ResponsePacer>>,
    /// Present where the response is a download that is counted.
    slot: Option<Box<DownloadSlot>>,
}

/// A download's last bytes, with its slot. hyper drops a body once it has taken the last bytes, long before the client
/// may have them.
struct LastPiece {
    piece: Bytes,
    _slot: Box<DownloadSlot>,
}

impl AsRef<[u8]> for LastPiece {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl BodyContent {
    /// The rest of the content of `reader`, after `first` if that has been read already.
    pub(crate) fn read(first: Option<Bytes>, reader: ContentReader, repair: ReadRepair) -> Self {
        let state = Some((first.map(Ok), reader, repair.begun()));
        Self::Stream(Box::pin(unfold(state, |state| async move {
            let (first, mut reader, mut repair) = state?;
            let piece = match first {
                Some(first) => first,
                None => repair.next(&mut reader).await?.map_err(BodyError::from),
            };
            let next = piece.is_ok().then_some((None, reader, repair));
            Some((piece, next))
        })))
    }

    /// Keeps `held` until the stream of bytes ends or is dropped.
    pub(crate) fn holding(self, held: impl Send + 'static) -> Self {
        match self {
            Self::Stream(pieces) => Self::Stream(Box::pin(pieces.inspect(move |_| {
                let _held = &held;
            }))),
            Self::Empty | Self::Whole(_) => self,
        }
    }

    /// Calls `observe` with the length of each piece of a stream.
    pub(crate) fn observing_pieces(self, observe: impl Fn(u64) + Send + 'static) -> Self {
        match self {
            Self::Stream(pieces) => {
                Self::Stream(Box::pin(pieces.inspect_ok(move |piece| observe(piece.len() as u64))))
            }
            Self::Empty | Self::Whole(_) => self,
        }
    }

    /// Several parts of one content (RFC 9110 §14.6). `open` reads one part.
    pub(crate) fn multipart(
        multipart: Multipart,
        open: impl Fn(std::ops::Range<u64>) -> ContentReader + Send + 'static,
        repair: ReadRepair,
    ) -> Self {
        let closing = (multipart.closing(), None);
        let parts: Vec<_> =
            multipart.parts().iter().map(|part| (part.head.clone(), Some(part.range.clone()))).collect();
        let parts = parts.into_iter().chain([closing]);
        let state = Some((parts, None::<ContentReader>, open, repair.begun()));
        Self::Stream(Box::pin(unfold(state, |state| async move {
            let (mut parts, mut reader, open, mut repair) = state?;
            if let Some(part) = &mut reader
                && let Some(piece) = repair.next(part).await
            {
                let piece = piece.map_err(BodyError::from);
                let next = piece.is_ok().then_some((parts, reader, open, repair));
                return Some((piece, next));
            }
            let (head, range) = parts.next()?;
            reader = range.map(&open);
            Some((Ok(head), Some((parts, reader, open, repair))))
        })))
    }

    /// An upstream's body as it arrives behind its first pieces, each piece within `idle_timeout`. `check` holds back
    /// the end until the content is verified.
    pub(crate) fn passed_on(
        begin: BodyBegin,
        body: UpstreamBody,
        idle_timeout: Duration,
        check: Option<PassedContent>,
    ) -> Self {
        let BodyBegin { pieces, error } = begin;
        if pieces.is_empty() && error.is_none() && body.is_end_stream() {
            return Self::Empty;
        }
        let pieces = iter(pieces).map(Ok);
        if let Some(error) = error {
            let broken = once(async {
                // hyper drops the head that it has not sent if the body breaks off at once.
                yield_now().await;
                Err(error.into())
            });
            return Self::Stream(Box::pin(pieces.chain(broken)));
        }
        let rest = upstream::stream_body(body, idle_timeout).map_err(BodyError::from);
        match check {
            Some(check) => Self::Stream(Box::pin(verified(pieces.chain(rest), check))),
            None => Self::Stream(Box::pin(pieces.chain(rest))),
        }
    }
}

/// Returns `pieces`, the last ones only once `check` has seen them all.
fn verified(
    pieces: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    check: PassedContent,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    let state = (Box::pin(pieces), Some(check), VecDeque::<Bytes>::new(), 0_usize);
    try_unfold(state, |(mut pieces, mut check, mut held, mut bytes)| async move {
        while let Some(checking) = &mut check {
            let first = held.front().map_or(0, Bytes::len);
            if first > 0 && bytes.saturating_sub(first) >= PassedContent::WITHHELD_END {
                break;
            }
            match pieces.try_next().await? {
                Some(piece) => {
                    checking.update(&piece);
                    bytes = bytes.saturating_add(piece.len());
                    held.push_back(piece);
                }
                None if check.take().is_some_and(PassedContent::finish) => {}
                None => return Err(BodyError::Mismatch),
            }
        }
        let next = held.pop_front();
        bytes = bytes.saturating_sub(next.as_ref().map_or(0, Bytes::len));
        Ok(next.map(|piece| (piece, (pieces, check, held, bytes))))
    })
}

impl ResponseBody {
    pub(crate) fn new(
        content: BodyContent,
        access: Box<AccessRecord>,
        pacer: Option<Box<ResponsePacer>>,
        slot: Option<Box<DownloadSlot>>,
    ) -> Self {
        Self { content, access, pacer, slot }
    }

    /// Polls for the next piece of content that may leave now.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(rest) = self.slot.as_mut().and_then(|slot| slot.take_rest()) {
                return Poll::Ready(Some(Ok(rest)));
            }
            if let Some(pacer) = &mut self.pacer {
                let left = self.access.expected.map_or(u64::MAX, |all| all.saturating_sub(self.access.sent));
                if let Some(piece) = ready!(pacer.poll_take(cx, left)) {
                    return Poll::Ready(Some(Ok(piece)));
                }
            }
            let piece = match &mut self.content {
                BodyContent::Empty => None,
                BodyContent::Whole(_) => match std::mem::replace(&mut self.content, BodyContent::Empty) {
                    BodyContent::Whole(bytes) => Some(Ok(bytes)),
                    _ => None,
                },
                BodyContent::Stream(stream) => ready!(stream.as_mut().poll_next(cx)),
            };
            match (piece, &mut self.pacer) {
                (Some(Ok(piece)), Some(pacer)) => pacer.put(piece),
                (piece, _) => return Poll::Ready(piece),
            }
        }
    }

    /// Ends the content after a panic, which may have left it in any state.
    fn break_off(&mut self) -> BodyError {
        self.access.count_panic();
        (self.content, self.pacer, self.slot) = (BodyContent::Empty, None, None);
        BodyError::Panic
    }

    fn held(&self) -> usize {
        let paced = self.pacer.as_ref().map_or(0, |pacer| pacer.held());
        paced.saturating_add(self.slot.as_ref().map_or(0, |slot| slot.rest_len()))
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
        let piece = match catch_unwind(AssertUnwindSafe(|| this.poll_piece(cx))) {
            Ok(piece) => ready!(piece),
            Err(_logged_by_the_hook) => Some(Err(this.break_off())),
        };
        Poll::Ready(match piece {
            Some(Ok(piece)) => {
                let piece = match &mut this.slot {
                    Some(slot) => slot.cut(piece),
                    None => piece,
                };
                this.access.sent = this.access.sent.saturating_add(piece.len() as u64);
                let piece = match this.slot.take_if(|_| this.access.expected == Some(this.access.sent)) {
                    Some(slot) => Bytes::from_owner(LastPiece { piece, _slot: slot }),
                    None => piece,
                };
                Some(Ok(Frame::data(piece)))
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "response broke off");
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
        matches!(self.content, BodyContent::Empty) && self.held() == 0
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            BodyContent::Empty => SizeHint::with_exact(self.held() as u64),
            BodyContent::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // A known length is in the head already.
            BodyContent::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt;

    use super::*;
    use crate::metrics::RequestMetrics;
    use gupd_config::Config;
    use gupd_net::shape::{SLOT_PIECE, SlotLimiter};

    #[tokio::test]
    async fn download_with_slot_leaves_in_pieces_that_show_its_progress() {
        let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
        config.lan.max_downloads = Some(1);
        let (slots, metrics) =
            (Arc::new(SlotLimiter::new(&config)), Arc::new(RequestMetrics::in_new_registry()));
        let client = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
        let slot = slots.try_acquire(client.ip(), "default").unwrap();
        let mut access =
            AccessRecord::new(client, &http::Request::new(()).into_parts().0, metrics.clone(), false);
        let whole: Vec<u8> = (0..SLOT_PIECE * 5 / 2).map(|index| (index % 251) as u8).collect();
        access.expected = Some(whole.len() as u64);
        let content = BodyContent::Whole(Bytes::from(whole.clone()));
        let mut body = ResponseBody::new(content, access, None, Some(DownloadSlot::new(slot, &metrics)));
        let mut pieces = Vec::new();
        while let Some(piece) = body.frame().await {
            assert_eq!(body.is_end_stream(), pieces.len() == 2);
            pieces.push(piece.unwrap().into_data().unwrap());
        }
        assert_eq!(
            pieces.iter().map(Bytes::len).collect::<Vec<_>>(),
            [SLOT_PIECE, SLOT_PIECE, SLOT_PIECE / 2]
        );
        assert!(pieces.concat() == whole);
    }

    #[tokio::test]
    async fn panic_in_a_body_breaks_it_off_and_is_counted() {
        let metrics = Arc::new(RequestMetrics::in_new_registry());
        let client = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
        let access =
            AccessRecord::new(client, &http::Request::new(()).into_parts().0, metrics.clone(), false);
        let defect = once(async { Ok(Bytes::from_static(b"begin")) }).chain(once(async { panic!("defect") }));
        let mut body = ResponseBody::new(BodyContent::Stream(Box::pin(defect)), access, None, None);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "begin");
        assert!(matches!(body.frame().await, Some(Err(BodyError::Panic))));
        assert!(body.is_end_stream());
        assert_eq!(metrics.panics.get(), 1);
    }

    #[tokio::test]
    async fn download_keeps_slot_until_last_bytes_have_left() {
        let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
        config.lan.max_downloads = Some(1);
        let (slots, metrics) =
            (Arc::new(SlotLimiter::new(&config)), Arc::new(RequestMetrics::in_new_registry()));
        let client = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
        let slot = slots.try_acquire(client.ip(), "default").unwrap();
        let mut access =
            AccessRecord::new(client, &http::Request::new(()).into_parts().0, metrics.clone(), false);
        access.expected = Some(5);
        let content = BodyContent::Whole(Bytes::from_static(b"bytes"));
        let mut body = ResponseBody::new(content, access, None, Some(DownloadSlot::new(slot, &metrics)));
        let last = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        assert!(slots.try_acquire(client.ip(), "default").is_none());
        assert_eq!((&*last, metrics.slots.downloads.get()), (&b"bytes"[..], 1));
        drop(last);
        assert!(slots.try_acquire(client.ip(), "default").is_some());
        assert_eq!(metrics.slots.downloads.get(), 0);
    }
}
