//! The access record of one request. It is made when the request arrives and filled in as facts become known. Its drop
//! is the end of the response, however that came: then the metrics are counted, the access line is written and the
//! record's observer gets the finished response.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode, Uri};

use crate::metrics::RequestMetrics;
use gupd_config::Class;
use gupd_http::status::{CacheStatus, FinishedResponse, ResponseEnd};
use gupd_store::BlobId;

/// A subscriber to the end of one request.
pub trait RequestObserver: Debug + Send + Sync {
    /// Takes the finished response. Runs on the request's thread and must not block.
    fn finished(self: Box<Self>, response: FinishedResponse);
}

/// What is known of one request.
#[derive(Debug)]
pub struct Access {
    started: Instant,
    client: SocketAddr,
    method: Method,
    target: Uri,
    metrics: Arc<RequestMetrics>,
    written: bool,
    /// The response's status.
    pub status: StatusCode,
    /// What the cache did; `None` if the request was refused before that.
    pub cache: Option<CacheStatus>,
    /// Class of the path.
    pub class: Class,
    /// Content type of the path; `None` if the request was refused before it was classed.
    pub content_type: Option<Arc<str>>,
    /// The stored object's bytes.
    pub object: Option<BlobId>,
    /// Bytes of body the client must get for the response to be complete, where known.
    pub expected: Option<u64>,
    /// Bytes of its body that were here when it was asked for, of a response that follows a fill.
    pub present: u64,
    /// Bytes of body handed to the connection.
    pub sent: u64,
    /// How the response ended.
    pub end: ResponseEnd,
    /// True if the response broke off because the content failed verification.
    pub is_damaged: bool,
    /// True if the content includes the last byte of the object. Set only where there is an observer.
    pub has_last_byte: bool,
    /// Gets the finished response; `None` while nothing tracks clients.
    pub observer: Option<Box<dyn RequestObserver>>,
}

impl Access {
    /// A request that just arrived. `written` says whether it shall have an access line.
    pub fn new(
        client: SocketAddr,
        method: &Method,
        target: &Uri,
        metrics: Arc<RequestMetrics>,
        written: bool,
    ) -> Self {
        Self {
            started: Instant::now(),
            client,
            method: method.clone(),
            target: target.clone(),
            metrics,
            written,
            status: StatusCode::OK,
            cache: None,
            class: Class::Generic,
            content_type: None,
            object: None,
            expected: None,
            present: 0,
            sent: 0,
            end: ResponseEnd::Client,
            is_damaged: false,
            has_last_byte: false,
            observer: None,
        }
    }

    /// Counts the response's head, which is about to be sent.
    pub fn head_ready(&self) {
        self.metrics.count_response(self.cache, self.class, self.status);
        self.metrics.head_seconds.observe(self.started.elapsed().as_secs_f64());
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        if self.end == ResponseEnd::Client && self.expected == Some(self.sent) {
            self.end = ResponseEnd::Complete;
        }
        let stored = match self.cache {
            Some(cache) if cache.is_from_store() => self.sent,
            _ => self.present.min(self.sent),
        };
        self.metrics.count_sent(self.cache, self.class, self.sent, stored, took);
        if self.end != ResponseEnd::Complete {
            self.metrics.broken.with_label_values(&[self.end.as_str()]).inc();
        }
        if let Some(observer) = self.observer.take() {
            observer.finished(FinishedResponse {
                status: self.status,
                cache: self.cache,
                end: self.end,
                is_damaged: self.is_damaged,
                has_last_byte: self.has_last_byte,
                bytes: self.sent,
            });
        }
        if self.written {
            tracing::info!(
                target: "gupd::access",
                client = %self.client.ip().to_canonical(),
                method = self.method.as_str(),
                path = self.target.path_and_query().map_or("", |target| target.as_str()),
                status = self.status.as_u16(),
                bytes = self.sent,
                stored_bytes = stored,
                duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                cache = self.cache.map_or("refused", CacheStatus::as_str),
                content_type = self.content_type.as_deref().unwrap_or("-"),
                object = self.object.map(tracing::field::display),
                end = self.end.as_str(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug)]
    struct Reported(Arc<Mutex<Vec<FinishedResponse>>>);

    impl RequestObserver for Reported {
        fn finished(self: Box<Self>, response: FinishedResponse) {
            self.0.lock().unwrap().push(response);
        }
    }

    #[test]
    fn dropped_record_reports_the_finished_response_once() {
        let reported = Arc::new(Mutex::new(Vec::new()));
        let client = ([10, 0, 0, 1], 1).into();
        let metrics = Arc::new(RequestMetrics::in_new_registry());
        let mut access = Access::new(client, &Method::GET, &Uri::from_static("/a"), metrics, false);
        access.observer = Some(Box::new(Reported(reported.clone())));
        (access.status, access.cache, access.has_last_byte) = (StatusCode::OK, Some(CacheStatus::Hit), true);
        (access.expected, access.sent) = (Some(5), 5);
        drop(access);
        let expected = FinishedResponse {
            status: StatusCode::OK,
            cache: Some(CacheStatus::Hit),
            end: ResponseEnd::Complete,
            is_damaged: false,
            has_last_byte: true,
            bytes: 5,
        };
        assert_eq!(*reported.lock().unwrap(), [expected]);
    }
}
