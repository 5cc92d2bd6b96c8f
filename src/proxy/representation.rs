//! A representation of an object as a reply: conditions, ranges, head and body (RFC 9110 §13, §14, §15.3.7). The same
//! for stored content and for content that still arrives. Nothing is sent before its first bytes are in memory, so that
//! damage and failure still become a status.

use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, Version, header};

use crate::Proxy;
use crate::body::BodyContent;
use crate::exchange::Exchange;
use crate::repair::ReadRepair;
use crate::reply::Reply;
use gupd_cache::digest::field::{CONTENT_DIGEST, CONTENT_MD5, REPR_DIGEST, repr_digest};
use gupd_cache::fill::{ContentReader, FillContent, FillError, FillHandle, FillProgress, TransferError};
use gupd_cache::{Cache, CacheEntry};
use gupd_http::conditional::{self, Precondition};
use gupd_http::control::Directive;
use gupd_http::forwarding;
use gupd_http::internal;
use gupd_http::multipart::Multipart;
use gupd_http::range::{MAX_UNORDERED_RANGES, RangePrerequisite, Ranges, content_range, unsatisfied_range};
use gupd_store::{BLOCK, BodySource, Store};

/// Bytes of arriving content that the relay holds back before it sends the head, or all if there are fewer. Up to here
/// a failure becomes a `502`, not a broken transfer; and a delta is worth nothing to a client until it is complete.
const HOLD_BACK: u64 = BLOCK;

/// Another relay of the site gets the head at once: its timeout is shorter than a thin line needs for more, and it goes
/// on elsewhere by itself if the rest does not arrive.
const HOLD_BACK_FROM_PEERS: u64 = 0;

/// Fields that a `304` repeats (RFC 9110 §15.4.5), and those that describe the way of the response.
const NOT_MODIFIED: [header::HeaderName; 10] = [
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::VARY,
    header::AGE,
    header::VIA,
    header::CACHE_STATUS,
    header::LAST_MODIFIED,
];

/// The reply with a stored response.
///
/// # Errors
/// When the first bytes cannot be read. A damaged blob is then discarded.
pub(crate) async fn stored(
    proxy: &Proxy,
    exchange: &Exchange<'_>,
    entry: &Arc<CacheEntry>,
) -> Result<Reply, TransferError> {
    let now = proxy.cache.clock().now();
    entry.touch(now);
    let source = ContentSource::Stored { store: proxy.cache.store().clone(), source: entry.body_source() };
    let (status, stored) = (entry.object.status, &entry.object.headers);
    let mut presented = entry.client_headers.get_or_init(|| client_headers(status, stored)).clone();
    if status == StatusCode::OK
        && let Some(digest) = repr_digest(&exchange.headers, stored, entry.object.blob)
    {
        presented.insert(REPR_DIGEST, digest);
    }
    let representation = Representation {
        status,
        headers: stored,
        presented,
        age: entry.freshness.age(now),
        length: Some(entry.object.len),
    };
    let repairable = Some((proxy, entry));
    let reply = Delivery { exchange, source, repairable, held_back: HOLD_BACK }.reply(representation).await?;
    Ok(reply.with_upstream(&entry.object.upstream))
}

/// The reply with the content of a running fill.
///
/// # Errors
/// When the fill fails before the first bytes are sent.
pub(crate) async fn arriving(
    cache: &Cache,
    exchange: &Exchange<'_>,
    fill: &FillHandle,
    flow: &Arc<FillContent>,
    collapsed: bool,
) -> Result<Reply, TransferError> {
    // Only peers get arriving content for an only-if-cached request.
    let is_from_peer = exchange.control.has(Directive::OnlyIfCached);
    let held_back = if is_from_peer { HOLD_BACK_FROM_PEERS } else { HOLD_BACK };
    let length = known_length(exchange, fill, flow, held_back).await?;
    let representation = Representation {
        status: flow.head.status,
        headers: &flow.head.headers,
        presented: client_headers(flow.head.status, &flow.head.headers),
        age: flow.head.freshness.age(cache.clock().now()),
        length,
    };
    let store = cache.store().clone();
    let source = ContentSource::Arriving { store, fill: fill.clone(), flow: flow.clone(), collapsed };
    let reply = Delivery { exchange, source, repairable: None, held_back }.reply(representation).await?;
    Ok(reply.with_upstream(&flow.head.upstream))
}

/// The complete length, if it is known once enough content has arrived to begin. Waits for it where the request cannot
/// be answered without it.
async fn known_length(
    exchange: &Exchange<'_>,
    fill: &FillHandle,
    flow: &FillContent,
    held_back: u64,
) -> Result<Option<u64>, FillError> {
    let enough = match flow.length {
        // Opening the content waits for the bytes that it needs.
        Some(length) => return Ok(Some(length)),
        None if exchange.is_head() => return Ok(None),
        // Without a length, an HTTP/1.0 client cannot tell a broken transfer from a complete one.
        None if exchange.version < Version::HTTP_11 => u64::MAX,
        None if exchange.wants_range(&flow.head.headers) => match Ranges::prerequisite(&exchange.headers) {
            Some(RangePrerequisite::Bytes(bytes)) => bytes.end.max(held_back),
            Some(RangePrerequisite::Length) => u64::MAX,
            None => held_back,
        },
        None => held_back,
    };
    match fill.wait_for(enough).await {
        FillProgress::Enough => Ok(flow.length),
        FillProgress::All { length } => Ok(Some(length)),
        FillProgress::Failed(error) => Err(error),
    }
}

/// The selected representation, without conditions and ranges.
struct Representation<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
    /// The fields that clients get.
    presented: HeaderMap,
    /// In seconds.
    age: u64,
    length: Option<u64>,
}

/// The way of a representation's bytes to one client.
struct Delivery<'a> {
    exchange: &'a Exchange<'a>,
    source: ContentSource,
    /// The stored entry, where damage can be repaired.
    repairable: Option<(&'a Proxy, &'a Arc<CacheEntry>)>,
    /// Bytes to have in memory before the head is sent.
    held_back: u64,
}

#[derive(Clone)]
enum ContentSource {
    Stored { store: Arc<Store>, source: BodySource },
    Arriving { store: Arc<Store>, fill: FillHandle, flow: Arc<FillContent>, collapsed: bool },
}

impl Delivery<'_> {
    async fn reply(&self, content: Representation<'_>) -> Result<Reply, TransferError> {
        let exchange = self.exchange;
        let mut headers = content.presented;
        exchange.relocation().rewrite(&mut headers);
        headers.insert(header::AGE, HeaderValue::from(content.age));
        if content.status != StatusCode::OK {
            return self.whole(content.status, headers, content.length).await;
        }
        match conditional::evaluate(exchange.method, &exchange.headers, content.status, content.headers) {
            Precondition::Proceed => {}
            Precondition::NotModified => return Ok(not_modified(&headers)),
            Precondition::Failed => {
                return Ok(Reply::text(StatusCode::PRECONDITION_FAILED, "gupd: precondition failed\n"));
            }
        }
        let length = content.length;
        if !exchange.wants_range(content.headers) {
            return self.whole(StatusCode::OK, headers, length).await;
        }
        let Some(length) = length else {
            // `known_length` has waited: these bytes are there, but the number of those that follow is not known.
            return match Ranges::prerequisite(&exchange.headers) {
                Some(RangePrerequisite::Bytes(part)) => self.part(headers, part, None).await,
                Some(RangePrerequisite::Length) | None => self.whole(StatusCode::OK, headers, None).await,
            };
        };
        match Ranges::parse(&exchange.headers, length) {
            Ranges::Whole => self.whole(StatusCode::OK, headers, Some(length)).await,
            Ranges::Single(part) => self.part(headers, part, Some(length)).await,
            // The heads of many small parts would multiply the bytes sent.
            Ranges::Multiple(parts)
                if parts.len() > MAX_UNORDERED_RANGES
                    && Multipart::do_heads_exceed(parts.len(), length, headers.get(header::CONTENT_TYPE)) =>
            {
                self.whole(StatusCode::OK, headers, Some(length)).await
            }
            Ranges::Multiple(parts) => Ok(self.parts(headers, &parts, length)),
            Ranges::Unsatisfiable => Ok(unsatisfiable(length)),
        }
    }

    async fn whole(
        &self,
        status: StatusCode,
        mut headers: HeaderMap,
        length: Option<u64>,
    ) -> Result<Reply, TransferError> {
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let all = 0..length.unwrap_or(u64::MAX);
        let present = self.source.bytes_on_hand(all.clone());
        let content = self.open(all).await?;
        Ok(Reply::new(status, headers, content, length).with_present(present))
    }

    async fn part(
        &self,
        mut headers: HeaderMap,
        part: Range<u64>,
        length: Option<u64>,
    ) -> Result<Reply, TransferError> {
        let expected = part.end.saturating_sub(part.start);
        remove_content_digests(&mut headers);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(expected));
        headers.insert(header::CONTENT_RANGE, content_range(&part, length));
        let present = self.source.bytes_on_hand(part.clone());
        let content = self.open(part).await?;
        Ok(Reply::new(StatusCode::PARTIAL_CONTENT, headers, content, Some(expected)).with_present(present))
    }

    fn parts(&self, mut headers: HeaderMap, parts: &[Range<u64>], length: u64) -> Reply {
        let multipart = Multipart::new(parts, length, headers.get(header::CONTENT_TYPE));
        let expected = multipart.content_length();
        remove_content_digests(&mut headers);
        headers.insert(header::CONTENT_TYPE, multipart.content_type());
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(expected));
        let source = self.source.clone();
        let present = parts.iter().map(|part| source.bytes_on_hand(part.clone())).sum();
        let content = BodyContent::multipart(multipart, move |part| source.reader(part), self.read_repair());
        Reply::new(StatusCode::PARTIAL_CONTENT, headers, content, Some(expected)).with_present(present)
    }

    /// Opens a range, and waits for the bytes that are held back. Content that is in memory costs neither a stream nor
    /// a wait.
    async fn open(&self, range: Range<u64>) -> Result<BodyContent, TransferError> {
        // A HEAD waits for no content: none may have arrived yet.
        if range.is_empty() || self.exchange.is_head() {
            return Ok(BodyContent::Empty);
        }
        let wanted = range.end.saturating_sub(range.start);
        if let ContentSource::Stored { store, source } = &self.source
            && let Some(piece) = store.read_cached(source, range.start)
            && piece.len() as u64 >= wanted
        {
            return Ok(BodyContent::Whole(piece.slice(..usize::try_from(wanted).unwrap_or(piece.len()))));
        }
        let mut reader = self.source.reader(range);
        let mut repair = self.read_repair();
        if self.held_back == 0 {
            return Ok(BodyContent::read(None, reader, repair));
        }
        reader.wait_for(self.held_back).await?;
        match repair.next(&mut reader).await {
            None => Ok(BodyContent::Empty),
            Some(Ok(whole)) if whole.len() as u64 == wanted => Ok(BodyContent::Whole(whole)),
            Some(first) => Ok(BodyContent::read(Some(first?), reader, repair)),
        }
    }

    /// Called only for content that is not in memory: a hit in memory does not pay for it.
    fn read_repair(&self) -> ReadRepair {
        self.repairable
            .map_or_else(ReadRepair::none, |(proxy, entry)| ReadRepair::new(proxy, self.exchange, entry))
    }
}

impl ContentSource {
    /// Number of bytes of a running fill that had arrived; 0 for stored content.
    fn bytes_on_hand(&self, range: Range<u64>) -> u64 {
        match self {
            Self::Stored { .. } => 0,
            Self::Arriving { flow, collapsed: true, .. } => flow.available_bytes(range),
            Self::Arriving { flow, .. } => flow.leftover.as_ref().map_or(0, |left| left.bytes_within(range)),
        }
    }

    fn reader(&self, range: Range<u64>) -> ContentReader {
        match self {
            Self::Stored { store, source } => ContentReader::from_store(store.clone(), source.clone(), range),
            Self::Arriving { store, fill, flow, .. } => {
                let end = (range.end != u64::MAX).then_some(range.end);
                ContentReader::from_fill(store.clone(), fill, flow.clone(), range.start, end)
            }
        }
    }
}

/// The fields that clients get, without those that depend on time and request.
fn client_headers(status: StatusCode, stored: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(stored.len().saturating_add(8));
    headers.extend(stored.iter().map(|(name, value)| (name.clone(), value.clone())));
    internal::remove(&mut headers);
    forwarding::add_via(&mut headers, Version::HTTP_11);
    if status == StatusCode::OK {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    headers
}

/// Removes fields that describe the content of one message (RFC 9530 §2): those of the whole are wrong for a part.
fn remove_content_digests(headers: &mut HeaderMap) {
    headers.remove(CONTENT_DIGEST);
    headers.remove(CONTENT_MD5);
}

fn not_modified(available: &HeaderMap) -> Reply {
    let mut headers = HeaderMap::with_capacity(NOT_MODIFIED.len());
    for name in NOT_MODIFIED {
        for value in available.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    Reply::new(StatusCode::NOT_MODIFIED, headers, BodyContent::Empty, Some(0))
}

fn unsatisfiable(length: u64) -> Reply {
    let mut reply = Reply::text(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "gupd: range not satisfiable: the content is shorter\n",
    );
    reply.headers_mut().insert(header::CONTENT_RANGE, unsatisfied_range(length));
    reply
}
