//! A manager: one content, whole or in ranges, with a strong `ETag`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

/// What answers at a name.
pub(crate) trait Answers: Send + Sync {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>>;
}

pub(crate) struct Manager {
    content: Mutex<(Bytes, String)>,
    requests: AtomicUsize,
}

impl Manager {
    pub(crate) fn new(content: &[u8], tag: &str) -> Self {
        let content = Mutex::new((Bytes::copy_from_slice(content), format!("\"{tag}\"")));
        Self { content, requests: AtomicUsize::new(0) }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Answers for Manager {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let (content, tag) = self.content.lock().unwrap().clone();
        let response = Response::builder().header(header::ETAG, &tag);
        let (status, response, body) = match range(request.headers(), &tag, content.len()) {
            None => (StatusCode::OK, response, content),
            Some(range) => {
                let (first, last) = (range.start, range.end - 1);
                let part = format!("bytes {first}-{last}/{}", content.len());
                let response = response.header(header::CONTENT_RANGE, part);
                (StatusCode::PARTIAL_CONTENT, response, content.slice(range))
            }
        };
        response.status(status).body(Full::new(body)).unwrap()
    }
}

fn range(headers: &HeaderMap, tag: &str, length: usize) -> Option<std::ops::Range<usize>> {
    let field = |name| headers.get(name)?.to_str().ok();
    let (first, last) = field(header::RANGE)?.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse::<usize>().ok()?;
    let end = last.parse::<usize>().map_or(length, |last| length.min(last + 1));
    (field(header::IF_RANGE) == Some(tag) && first < end).then_some(first..end)
}
