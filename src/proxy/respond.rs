//! Turns content into a response: conditions, ranges, head, body (RFC 9110 §13, §14, §15.3.7). The same for what is
//! stored and for what is still arriving. Nothing is sent before its first bytes are at hand, so that damage and
//! failure can still be told by a status.

use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, Version, header};

use super::body::{Content, Keeper};
use super::reply::Reply;
use super::{Asked, Proxy};
use gupd_cache::digest::field::{CONTENT_DIGEST, CONTENT_MD5, REPR_DIGEST, repr_digest};
use gupd_cache::fill::{Arrived, Fill, FillError, Flow, Reader, TransferError};
use gupd_cache::{Cache, Entry};
use gupd_http::conditional::{self, Precondition};
use gupd_http::control::Directive;
use gupd_http::forwarding;
use gupd_http::multipart::Multipart;
use gupd_http::range::{RangePrerequisite, Ranges, content_range, unsatisfied_range};
use gupd_store::{BLOCK, BodySource, Store};

/// Content that is being received is shown to clients from this many bytes on, or when it is whole: up to here a
/// failure becomes a `502`, not a broken transfer, and a delta is worth nothing to a client until it has all of it.
const HOLD_BACK: u64 = BLOCK;

/// Another relay of the site is shown the head at once: it gives up sooner than a thin line brings so much, and goes on
/// elsewhere by itself if the rest does not come.
const HOLD_BACK_FROM_PEERS: u64 = 0;

/// Fields a `304` repeats (RFC 9110 §15.4.5), and those that say how it came here.
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

/// Responds with a stored response.
///
/// # Errors
/// When its first bytes cannot be read; its blob is then discarded.
pub(super) async fn stored(
    proxy: &Proxy,
    asked: &Asked<'_>,
    entry: &Arc<Entry>,
) -> Result<Reply, TransferError> {
    let now = proxy.cache.clock().now();
    entry.touch(now);
    let from = From::Stored { store: proxy.cache.store().clone(), source: entry.source() };
    let (status, stored) = (entry.object.status, &entry.object.headers);
    let mut presented = entry.presented.get_or_init(|| present(status, stored)).clone();
    if status == StatusCode::OK
        && let Some(digest) = repr_digest(asked.headers, stored, entry.object.blob)
    {
        presented.insert(REPR_DIGEST, digest);
    }
    let content = Available {
        status,
        headers: stored,
        presented,
        age: entry.freshness.age(now),
        length: Some(entry.object.len),
    };
    let origin = Some((proxy, asked, entry));
    Opened { from, origin, head_only: asked.is_head(), held_back: HOLD_BACK }.respond(asked, content).await
}

/// Responds with what a fill brings.
///
/// # Errors
/// When the fill fails before the first bytes are shown.
pub(super) async fn following(
    cache: &Cache,
    asked: &Asked<'_>,
    fill: &Fill,
    flow: &Arc<Flow>,
    collapsed: bool,
) -> Result<Reply, TransferError> {
    // Nobody else is given what still arrives if it is to cause no request.
    let from_peer = asked.control.has(Directive::OnlyIfCached);
    let held_back = if from_peer { HOLD_BACK_FROM_PEERS } else { HOLD_BACK };
    let length = known_length(asked, fill, flow, held_back).await?;
    let content = Available {
        status: flow.head.status,
        headers: &flow.head.headers,
        presented: present(flow.head.status, &flow.head.headers),
        age: flow.head.freshness.age(cache.clock().now()),
        length,
    };
    let store = cache.store().clone();
    let from = From::Arriving { store, fill: fill.clone(), flow: flow.clone(), collapsed };
    Opened { from, origin: None, head_only: asked.is_head(), held_back }.respond(asked, content).await
}

/// The complete length, where it is not known once enough has arrived to begin: some requests cannot be answered
/// without it.
async fn known_length(
    asked: &Asked<'_>,
    fill: &Fill,
    flow: &Flow,
    held_back: u64,
) -> Result<Option<u64>, FillError> {
    let enough = match flow.length {
        // Whoever opens it waits for what it needs.
        Some(length) => return Ok(Some(length)),
        None if asked.is_head() => return Ok(None),
        // Without a length, a client of HTTP/1.0 could not tell a broken transfer from a whole one.
        None if asked.version < Version::HTTP_11 => u64::MAX,
        None if asked.wants_range(&flow.head.headers) => match Ranges::prerequisite(asked.headers) {
            Some(RangePrerequisite::Bytes(bytes)) => bytes.end.max(held_back),
            Some(RangePrerequisite::Length) => u64::MAX,
            None => held_back,
        },
        None => held_back,
    };
    match fill.arrived(enough).await {
        Arrived::Enough => Ok(flow.length),
        Arrived::All { length } => Ok(Some(length)),
        Arrived::Failed(error) => Err(error),
    }
}

/// A response as it would be without conditions and ranges.
struct Available<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
    presented: HeaderMap,
    /// In seconds.
    age: u64,
    length: Option<u64>,
}

/// Where its bytes are read.
struct Opened<'a> {
    from: From,
    /// Where what is stored came from.
    origin: Option<(&'a Proxy, &'a Asked<'a>, &'a Arc<Entry>)>,
    head_only: bool,
    /// Bytes to have at hand before the head is shown.
    held_back: u64,
}

#[derive(Clone)]
enum From {
    Stored { store: Arc<Store>, source: BodySource },
    Arriving { store: Arc<Store>, fill: Fill, flow: Arc<Flow>, collapsed: bool },
}

impl Opened<'_> {
    async fn respond(&self, asked: &Asked<'_>, content: Available<'_>) -> Result<Reply, TransferError> {
        let mut headers = content.presented;
        headers.insert(header::AGE, HeaderValue::from(content.age));
        if content.status != StatusCode::OK {
            return self.whole(content.status, headers, content.length).await;
        }
        match conditional::evaluate(asked.method, asked.headers, content.status, content.headers) {
            Precondition::Proceed => {}
            Precondition::NotModified => return Ok(not_modified(&headers)),
            Precondition::Failed => {
                return Ok(Reply::text(StatusCode::PRECONDITION_FAILED, "gupd: the precondition failed\n"));
            }
        }
        let length = content.length;
        if !asked.wants_range(content.headers) {
            return self.whole(StatusCode::OK, headers, length).await;
        }
        let Some(length) = length else {
            // `known_length` has waited: these bytes are there, only how many follow is not known.
            return match Ranges::prerequisite(asked.headers) {
                Some(RangePrerequisite::Bytes(part)) => self.part(headers, part, None).await,
                Some(RangePrerequisite::Length) | None => self.whole(StatusCode::OK, headers, None).await,
            };
        };
        match Ranges::parse(asked.headers, length) {
            Ranges::Whole => self.whole(StatusCode::OK, headers, Some(length)).await,
            Ranges::Single(part) => self.part(headers, part, Some(length)).await,
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
        let present = self.from.present(all.clone());
        let content = self.open(all).await?;
        Ok(Reply::new(status, headers, content, length).with_present(present))
    }

    async fn part(
        &self,
        mut headers: HeaderMap,
        part: Range<u64>,
        length: Option<u64>,
    ) -> Result<Reply, TransferError> {
        let expected = part.end - part.start;
        remove_digests_of_the_whole(&mut headers);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(expected));
        headers.insert(header::CONTENT_RANGE, content_range(&part, length));
        let present = self.from.present(part.clone());
        let content = self.open(part).await?;
        Ok(Reply::new(StatusCode::PARTIAL_CONTENT, headers, content, Some(expected)).with_present(present))
    }

    fn parts(&self, mut headers: HeaderMap, parts: &[Range<u64>], length: u64) -> Reply {
        let multipart = Multipart::new(parts, length, headers.get(header::CONTENT_TYPE));
        let expected = multipart.content_length();
        remove_digests_of_the_whole(&mut headers);
        headers.insert(header::CONTENT_TYPE, multipart.content_type());
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(expected));
        let from = self.from.clone();
        let present = parts.iter().map(|part| from.present(part.clone())).sum();
        let content = Content::multipart(multipart, move |part| from.reader(part), self.keeper());
        Reply::new(StatusCode::PARTIAL_CONTENT, headers, content, Some(expected)).with_present(present)
    }

    /// Opens a range and has the bytes at hand that are held back. What is in memory whole costs neither a stream nor a wait.
    async fn open(&self, range: Range<u64>) -> Result<Content, TransferError> {
        // A HEAD waits for no content: none may have arrived yet.
        if range.is_empty() || self.head_only {
            return Ok(Content::Empty);
        }
        if let From::Stored { store, source } = &self.from {
            let wanted = range.end - range.start;
            if let Some(piece) = store.read_cached(source, range.start)
                && piece.len() as u64 >= wanted
            {
                return Ok(Content::Whole(piece.slice(..usize::try_from(wanted).unwrap_or(piece.len()))));
            }
        }
        let mut reader = self.from.reader(range);
        let mut keeper = self.keeper();
        if self.held_back == 0 {
            return Ok(Content::read(None, reader, keeper));
        }
        reader.at_hand(self.held_back).await?;
        match keeper.next(&mut reader).await {
            None => Ok(Content::Empty),
            Some(first) => Ok(Content::read(Some(first?), reader, keeper)),
        }
    }

    /// Made when something is read that is not at hand: a hit in memory does not need it.
    fn keeper(&self) -> Keeper {
        Keeper::new(self.origin.map(|(proxy, asked, entry)| proxy.repair(asked, entry)))
    }
}

impl From {
    /// Bytes of what still arrives that were here when it was asked for.
    fn present(&self, range: Range<u64>) -> u64 {
        match self {
            Self::Stored { .. } => 0,
            Self::Arriving { flow, collapsed: true, .. } => flow.present(range),
            Self::Arriving { flow, .. } => flow.left.as_ref().map_or(0, |left| left.bytes_within(range)),
        }
    }

    fn reader(&self, range: Range<u64>) -> Reader {
        match self {
            Self::Stored { store, source } => Reader::stored(store.clone(), source.clone(), range),
            Self::Arriving { store, fill, flow, .. } => {
                let end = (range.end != u64::MAX).then_some(range.end);
                Reader::following(store.clone(), fill, flow.clone(), range.start, end)
            }
        }
    }
}

/// A response's fields as clients get them, but for those that change with time and request.
fn present(status: StatusCode, stored: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(stored.len() + 8);
    headers.extend(stored.iter().map(|(name, value)| (name.clone(), value.clone())));
    forwarding::add_via(&mut headers, Version::HTTP_11);
    if status == StatusCode::OK {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    headers
}

/// These speak of the content of one message (RFC 9530 §2): what the origin said of the whole is wrong of a part.
fn remove_digests_of_the_whole(headers: &mut HeaderMap) {
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
    Reply::new(StatusCode::NOT_MODIFIED, headers, Content::Empty, Some(0))
}

fn unsatisfiable(length: u64) -> Reply {
    let mut reply =
        Reply::text(StatusCode::RANGE_NOT_SATISFIABLE, "gupd: the content ends before this range\n");
    reply.headers_mut().insert(header::CONTENT_RANGE, unsatisfied_range(length));
    reply
}
