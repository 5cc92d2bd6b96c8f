//! The request that a fill sends upstream, and the request's purpose when no client waits for it.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::uri::PathAndQuery;

use crate::CacheEntry;
use gupd_config::policy::{Classification, PayloadForm};
use gupd_config::{Class, GroupId, UpstreamId};
use gupd_http::key::split_key;
use gupd_http::range::RequestedPart;
use gupd_http::{SelectingRequest, forwarding};
use gupd_net::field_names::FieldNames;
use gupd_net::shape::BandwidthClass;
use gupd_net::traffic::{TransferCause, TransferLabels};
use gupd_net::upstream::UpstreamRequest;
use gupd_store::ObjectKey;

/// Request that starts a fill, made from a client's request or by the relay itself.
#[derive(Clone, Debug)]
pub struct FillRequest {
    /// The object's key.
    pub key: ObjectKey,
    /// Known selection of the request. Two requests with different variants have separate fills.
    pub variant: String,
    /// Upstreams to ask, by priority.
    pub upstream_order: Arc<[UpstreamId]>,
    /// Path and query in the client's spelling.
    pub target: PathAndQuery,
    /// Fields as the client sent them, without those that its `Connection` names. They select the variant, as in every
    /// lookup.
    pub client_headers: HeaderMap,
    /// Fields to send upstream.
    pub headers: HeaderMap,
    /// Spelling of the names of these fields.
    pub field_names: FieldNames,
    /// Class and content type of the path.
    pub classification: Classification,
    /// Stored response to revalidate.
    pub stale: Option<Arc<CacheEntry>>,
    /// Range that the client waits for; `None` for the complete content.
    pub part: Option<RequestedPart>,
    /// Purpose of a background fetch; `None` if a client waits.
    pub background: Option<BackgroundFetch>,
    /// Bandwidth class that the received bytes count against.
    pub bandwidth: BandwidthClass,
    /// Client whose request starts the fill; `None` for the relay itself.
    pub client: Option<IpAddr>,
    /// Its group.
    pub group: Option<GroupId>,
}

impl FillRequest {
    /// The request to send upstream with these fields.
    pub(super) fn to_upstream(&self, headers: HeaderMap) -> UpstreamRequest {
        UpstreamRequest {
            client: self.client,
            labels: self.labels(),
            field_names: self.field_names.clone(),
            tier_key: self.tier_key(),
            ..UpstreamRequest::get(self.target.clone(), headers, self.bandwidth.clone())
        }
    }
}

impl FillRequest {
    /// Returns the key under which the shared tier may have the content: it has payloads only, which are the same for
    /// all managers.
    fn tier_key(&self) -> Option<Arc<str>> {
        let is_payload = self.classification.class == Class::Payload && self.stale.is_none();
        let is_shared = || split_key(&self.key).binding.is_none();
        (is_payload && is_shared()).then(|| self.key.to_shared())
    }

    /// The facts under which the traffic of the fill is recorded.
    fn labels(&self) -> TransferLabels {
        let Classification { content_type, form, .. } = &self.classification;
        let cause = match (self.background, &self.stale) {
            (Some(BackgroundFetch::Prefetch), _) => TransferCause::Prefetch,
            (Some(BackgroundFetch::Revalidation | BackgroundFetch::Collect), _) | (None, Some(_)) => {
                TransferCause::Revalidation
            }
            (None, None) if *form == PayloadForm::Full => TransferCause::FullSet,
            (None, None) => TransferCause::Miss,
        };
        let (content_type, group) = (Some(content_type.clone()), self.group.clone());
        TransferLabels { cause, content_type, form: Some(*form), group }
    }

    /// Returns a number that is the same for requests that send the same fields.
    pub fn hash_fields(&self) -> u64 {
        forwarding::hash_fields(&self.headers)
    }

    /// Returns the parts that select a response.
    pub fn selecting(&self) -> SelectingRequest<'_> {
        SelectingRequest { headers: &self.client_headers, target: self.target.as_str() }
    }
}

/// Purpose of a fill that no client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackgroundFetch {
    /// The stored response may be stale.
    Revalidation,
    /// Fetches the present content of one upstream, because the result becomes part of a coherent set.
    Collect,
    /// Clients may request the object later.
    Prefetch,
}
