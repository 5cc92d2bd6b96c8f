//! One record for each request, and the access line it becomes. The record is made when the request arrives and told
//! the rest as it is known; when it is dropped, the response has ended, one way or another, and the line is written.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode, Uri};

use super::Metrics;
use crate::cache::status::CacheStatus;
use crate::config::Class;
use crate::rollout::clients::Witness;
use crate::store::BlobId;

/// What is known of one request.
#[derive(Debug)]
pub struct Access {
    started: Instant,
    client: SocketAddr,
    method: Method,
    target: Uri,
    metrics: Arc<Metrics>,
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
    pub end: End,
    /// Who tells of the client; `None` where nobody keeps track of clients.
    pub witness: Option<Box<Witness>>,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its last byte was handed to the connection.
    Complete,
    /// The client went away or stalled before.
    Client,
    /// The content broke off.
    Upstream,
}

impl End {
    /// Word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Client => "client",
            Self::Upstream => "upstream",
        }
    }
}

impl Access {
    /// A request that just arrived. `written` says whether it shall have an access line.
    pub fn new(
        client: SocketAddr,
        method: &Method,
        target: &Uri,
        metrics: Arc<Metrics>,
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
            end: End::Client,
            witness: None,
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
        if self.end == End::Client && self.expected == Some(self.sent) {
            self.end = End::Complete;
        }
        let stored = match self.cache {
            Some(cache) if cache.is_from_store() => self.sent,
            _ => self.present.min(self.sent),
        };
        self.metrics.count_sent(self.cache, self.class, self.sent, stored, took);
        if self.end != End::Complete {
            self.metrics.broken.with_label_values(&[self.end.as_str()]).inc();
        }
        if let Some(witness) = self.witness.take() {
            witness.ended(self.status, self.cache, self.end, self.sent);
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
