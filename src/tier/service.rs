//! The tier as an HTTP service on connections within the process, which the pool of an upstream opens. A fill thus reads,
//! limits, measures and resumes a body of the tier as it does one of a peer. The head is sent when the first piece is
//! verified, so the time to it is the time to the first byte; damage behind it breaks the body off.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{DuplexStream, duplex};

use super::record::TierRecord;
use super::{Tier, TierError};
use gupd_http::range::{Ranges, content_range};
use gupd_net::upstream::{Connecting, Duplex, Network, TIER_OBJECT};

/// Buffer of a connection, in each direction.
const BUFFER: usize = 256 << 10;

/// Answers requests of fills from a tier.
#[derive(Clone, Debug)]
pub struct TierService(Arc<Tier>);

type Body = StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, TierError>> + Send>>>;

impl TierService {
    /// Creates the service.
    pub fn new(tier: Arc<Tier>) -> Self {
        Self(tier)
    }
}

impl Network for TierService {
    fn connect(&self, _to: Uri) -> Connecting {
        let tier = self.0.clone();
        Box::pin(async move {
            let (near, far) = duplex(BUFFER);
            let tasks = tier.tasks.clone();
            tasks.spawn(serve(tier, far));
            let near: Box<dyn Duplex> = Box::new(near);
            Ok(near)
        })
    }
}

/// Answers the requests of one connection until its pool closes it or the relay stops.
async fn serve(tier: Arc<Tier>, connection: DuplexStream) {
    let stopping = tier.stopping.clone();
    let service = service_fn(move |request| {
        let tier = tier.clone();
        async move { Ok::<_, Infallible>(answer(&tier, &request).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(connection), service);
    tokio::select! {
        // The reason of a broken body has been noted, and the fill sees the break.
        _ended = connection => {}
        () = stopping.cancelled() => {}
    }
}

async fn answer(tier: &Arc<Tier>, request: &Request<Incoming>) -> Response<Body> {
    let key = request.headers().get(TIER_OBJECT).and_then(|key| std::str::from_utf8(key.as_bytes()).ok());
    let Some(key) = key else { return empty(StatusCode::NOT_FOUND) };
    match find(tier, key, request.headers()).await {
        Ok(Some(response)) => response,
        Ok(None) => empty(StatusCode::NOT_FOUND),
        // Noted where it happened.
        Err(_failed) => empty(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// Returns the response with an object. `None` if the tier lacks it, or not the version that the request names.
async fn find(tier: &Arc<Tier>, key: &str, request: &HeaderMap) -> Result<Option<Response<Body>>, TierError> {
    let Some(record) = tier.find(key).await? else { return Ok(None) };
    if request.get(header::IF_RANGE).is_some_and(|wanted| Some(wanted) != validator(&record)) {
        return Ok(None);
    }
    let range = requested_range(&record, request);
    let mut pieces = tier.stream(&record, range.clone()).boxed();
    let first = match pieces.next().await {
        Some(Ok(piece)) => piece,
        // The object is damaged, and so absent.
        Some(Err(_damage)) if tier.is_damaged(key) => return Ok(None),
        Some(Err(error)) => return Err(error),
        None => return Ok(None),
    };
    let frames = stream::iter([Ok(first)]).chain(pieces).map(|piece| piece.map(Frame::data));
    let mut response =
        Response::new(StreamBody::new(frames.boxed() as Pin<Box<dyn Stream<Item = _> + Send>>));
    *response.headers_mut() = record.fields.clone();
    let headers = response.headers_mut();
    let length = range.end.saturating_sub(range.start);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Ok(digest) = HeaderValue::from_str(&format!("sha-256=:{}:", STANDARD.encode(record.sha256))) {
        headers.insert(HeaderName::from_static("repr-digest"), digest);
    }
    if length < record.length {
        headers.insert(header::CONTENT_RANGE, content_range(&range, Some(record.length)));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(Some(response))
}

/// Returns the range to send. Without a strong validator no part can be joined with another, so all is sent.
fn requested_range(record: &TierRecord, request: &HeaderMap) -> Range<u64> {
    match Ranges::parse(request, record.length) {
        Ranges::Single(range) if validator(record).is_some() => range,
        _ => 0..record.length,
    }
}

fn validator(record: &TierRecord) -> Option<&HeaderValue> {
    record.fields.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""))
}

fn empty(status: StatusCode) -> Response<Body> {
    let nothing: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(stream::empty());
    let mut response = Response::new(StreamBody::new(nothing));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    response
}
