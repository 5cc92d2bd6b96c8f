//! Requests to upstreams and their responses.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response};

use super::{ConnectionPin, RequestBody, Upstream, UpstreamBody};
use crate::field_names::FieldNames;
use crate::shape::BandwidthClass;
use crate::traffic::TransferLabels;
use gupd_config::clock::UnixMillis;

/// A request that any upstream can get.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    /// The method.
    pub method: Method,
    /// Path and query as the client spelled them.
    pub target: PathAndQuery,
    /// End-to-end fields; `Host` is set for each upstream.
    pub headers: HeaderMap,
    /// Spelling of their names.
    pub field_names: FieldNames,
    /// Empty, or the client's body, streamed.
    pub body: RequestBody,
    /// Limits and priority of the response's bytes.
    pub bandwidth: BandwidthClass,
    /// Shows the upstream that has the request.
    pub current_upstream: CurrentUpstream,
    /// Client on whose behalf it is sent; `None` for the relay's own requests.
    pub client: Option<IpAddr>,
    /// Upstream connections of the client alone, which carry the request; `None` if any connection may.
    pub pin: Option<ConnectionPin>,
    /// Facts under which its traffic is recorded.
    pub labels: TransferLabels,
    /// Key of the object, if the shared tier may have it.
    pub tier_key: Option<Arc<str>>,
}

/// A response head from an upstream, with the body to follow.
#[derive(Debug)]
pub struct UpstreamResponse {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Time at which the request was sent.
    pub request_time: UnixMillis,
    /// Time at which the head arrived.
    pub response_time: UnixMillis,
    /// The response.
    pub response: Response<UpstreamBody>,
}

/// The upstream that a request is waiting for. Clones share the value.
// Locked to copy or to replace.
#[derive(Clone, Debug, Default)]
pub struct CurrentUpstream(Arc<Mutex<Option<Arc<Upstream>>>>);

impl CurrentUpstream {
    /// Returns the last upstream that got the request.
    pub fn get(&self) -> Option<Arc<Upstream>> {
        self.lock().clone()
    }

    pub(super) fn set(&self, upstream: &Arc<Upstream>) {
        *self.lock() = Some(upstream.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Upstream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UpstreamRequest {
    /// Creates a `GET` without a body. Its bytes pass the limits of `bandwidth`.
    pub fn get(target: PathAndQuery, headers: HeaderMap, bandwidth: BandwidthClass) -> Self {
        Self {
            method: Method::GET,
            target,
            headers,
            field_names: FieldNames::default(),
            body: RequestBody::Empty,
            bandwidth,
            current_upstream: CurrentUpstream::default(),
            client: None,
            pin: None,
            labels: TransferLabels::default(),
            tier_key: None,
        }
    }

    /// Returns true if another upstream may get the request after one failed with it: the method is idempotent and
    /// the body unread.
    pub(super) fn is_repeatable(&self) -> bool {
        self.method.is_idempotent() && self.body.is_unread()
    }
}
