//! The access record of one request. It is created when the request arrives and completed as facts become known. It is
//! dropped when the response ends, in whichever way. The drop counts the metrics, writes the access line and gives the
//! finished response to the observer.

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
pub(crate) trait RequestObserver: Debug + Send + Sync {
    /// Takes the finished response. Runs on the request's thread and must not block.
    fn finished(self: Box<Self>, response: FinishedResponse);
}

/// Facts of one request and its response.
#[derive(Debug)]
pub(crate) struct AccessRecord {
    started: Instant,
    client: SocketAddr,
    method: Method,
    target: Uri,
    metrics: Arc<RequestMetrics>,
    is_logged: bool,
    pub status: StatusCode,
    /// Part of the cache in the response; `None` if the request was refused before.
    pub cache: Option<CacheStatus>,
    /// Class of the path.
    pub class: Class,
    /// Content type of the path; `None` if the request was refused before it was classified.
    pub content_type: Option<Arc<str>>,
    /// Blob of the stored object.
    pub object: Option<BlobId>,
    /// Body bytes of a complete response, if known.
    pub expected: Option<u64>,
    /// Body bytes that the relay had when the request came, for a response that follows a fill.
    pub present: u64,
    /// Body bytes handed to the connection.
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

impl AccessRecord {
    /// The record of a request that has just arrived. It gets an access line if `is_logged`.
    pub(crate) fn new(
        client: SocketAddr,
        method: &Method,
        target: &Uri,
        metrics: Arc<RequestMetrics>,
        is_logged: bool,
    ) -> Self {
        Self {
            started: Instant::now(),
            client,
            method: method.clone(),
            target: target.clone(),
            metrics,
            is_logged,
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
    pub(crate) fn count_head(&self) {
        self.metrics.count_response(self.cache, self.class, self.status);
        self.metrics.head_seconds.observe(self.started.elapsed().as_secs_f64());
    }
}

impl Drop for AccessRecord {
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
        if self.is_logged {
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
        let mut access = AccessRecord::new(client, &Method::GET, &Uri::from_static("/a"), metrics, false);
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
