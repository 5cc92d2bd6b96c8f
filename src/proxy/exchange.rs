//! One request on its way through the pipeline: its head, its connection, the configuration that answers it, and
//! everything that steps work out about it. Key, class and lookup are computed when a step first needs them, once for
//! the request. A lookup can become outdated, and is then repeated for a named reason.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use http::request::Parts;
use http::{Extensions, HeaderMap, Method, Version, header};

use crate::access::RequestObserver;
use crate::slot::DownloadSlot;
use crate::{Generation, Proxy};
use gupd_cache::fill::{FillRequest, UnsharedReason};
use gupd_cache::{CacheEntry, CacheLookup};
use gupd_config::policy::{Classification, ClientAttributes, Group};
use gupd_http::UnstorableReason;
use gupd_http::authentication;
use gupd_http::conditional;
use gupd_http::forwarding;
use gupd_http::range::Ranges;
use gupd_http::target::Target;
use gupd_http::{CacheControl, SelectingRequest};
use gupd_net::field_names::FieldNames;
use gupd_net::listen::ClientConnection;
use gupd_net::relocation::Relocation;
use gupd_net::shape::{BandwidthClass, Purpose};
use gupd_net::upstream::ConnectionPin;
use gupd_rollout::revision::RevisionNumber;
use gupd_store::ObjectKey;

/// A request with a valid target, and the facts that steps have found out about it.
pub(crate) struct Exchange<'a> {
    pub(crate) method: &'a Method,
    /// The client's end-to-end fields, without those that a step has removed.
    pub(crate) headers: Cow<'a, HeaderMap>,
    /// Extensions of the request, with the spelling of its field names.
    extensions: &'a Extensions,
    pub(crate) version: Version,
    pub(crate) control: CacheControl,
    pub(crate) connection: &'a ClientConnection,
    pub(crate) generation: &'a Arc<Generation>,
    pub(crate) target: Target,
    pub(crate) group: &'a Arc<Group>,
    key: OnceLock<ObjectKey>,
    classification: OnceLock<Classification>,
    hot: OnceLock<Option<Arc<CacheEntry>>>,
    lookup: OnceLock<Lookup>,
    /// The revision is released to the client at once: windows do not apply.
    pub(crate) skips_windows: bool,
    /// The visible revision that a payload is served for.
    pub(crate) payload_revision: Option<RevisionNumber>,
    /// The slot that the response keeps until its last byte has left.
    pub(crate) slot: Option<Box<DownloadSlot>>,
    /// Told of the response once it has ended.
    pub(crate) observer: Option<Box<dyn RequestObserver>>,
}

/// Result of looking a request's object up.
#[derive(Clone, Debug)]
pub(crate) enum Lookup {
    /// A stored response that this request selects.
    Found(Arc<CacheEntry>),
    /// Only responses to requests with other selecting fields are stored.
    OtherVariant {
        /// The variant of this request.
        variant: String,
    },
    /// Nothing is stored under the key.
    Missing,
    /// The index cannot be read.
    Failed,
}

/// Reason to look a request's object up once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// The request waited for a slot: a fill or an eviction may have changed the store.
    Waited,
    /// The stored payload is not the one that its catalog lists, and was removed.
    NotInCatalog,
    /// The stored bytes were damaged, and were removed.
    Damaged,
    /// A catalog lists the held payload by now, and it was released.
    Released,
    /// The fill brought a variant for other requests.
    OtherVariant,
    /// The fill ended because the content changed, or because its last follower left.
    Changed,
    /// The transfer broke off after other clients had bytes, and cannot be resumed; this client has had none.
    BrokenOff,
    /// The content did not match its announced digest; the fill fetches it again.
    Mismatch,
    /// The response of the fill was complete before the request, which needs a newer one or a validation.
    Completed,
    /// The fill asked upstreams that are not this request's, and brought no content.
    OtherUpstreams,
    /// The fill was a prefetch, and brought no content.
    NotPrefetched,
    /// The fill sent other fields, and brought nothing that is shared.
    OtherFields,
}

impl<'a> Exchange<'a> {
    /// An exchange for a request with a valid target. Selects the client's group, and binds the target to its
    /// upstreams.
    pub(crate) fn new(
        head: &'a Parts,
        connection: &'a ClientConnection,
        target: Target,
        generation: &'a Arc<Generation>,
    ) -> Self {
        let group = generation.policy.group(&client_attributes(connection, target.normalized.path()));
        let mut exchange = Self {
            method: &head.method,
            headers: forwarding::end_to_end_fields(&head.headers),
            extensions: &head.extensions,
            version: head.version,
            control: CacheControl::from_request(&head.headers),
            connection,
            generation,
            target,
            group,
            key: OnceLock::new(),
            classification: OnceLock::new(),
            hot: OnceLock::new(),
            lookup: OnceLock::new(),
            skips_windows: false,
            payload_revision: None,
            slot: None,
            observer: None,
        };
        if let Some(binding) = &group.binding {
            let class = exchange.classification().class;
            exchange.target.bind(binding, class);
        }
        exchange
    }

    /// Address of the client.
    pub(crate) fn address(&self) -> IpAddr {
        self.connection.address.ip()
    }

    /// Address by which the client counts in limits.
    pub(crate) fn client_network(&self) -> IpAddr {
        self.connection.network()
    }

    /// The upstream connections that are reserved for this client since one of its requests authenticated one.
    pub(crate) fn pin(&self) -> Option<&ConnectionPin> {
        self.connection.pin(&self.headers)
    }

    /// The spelling of the client's field names. Copies it.
    pub(crate) fn field_names(&self) -> FieldNames {
        FieldNames::received(self.extensions)
    }

    /// The parts of the request that select a stored response.
    pub(crate) fn selecting(&self) -> SelectingRequest<'_> {
        SelectingRequest { headers: &self.headers, target: self.target.original.as_str() }
    }

    /// Key under which the response is stored.
    pub(crate) fn key(&self) -> &ObjectKey {
        self.key.get_or_init(|| self.target.key().into())
    }

    /// Class, form and content type of the path.
    pub(crate) fn classification(&self) -> &Classification {
        let classify = || self.generation.policy.classify(&self.target.route, self.target.normalized.path());
        self.target.classification.as_ref().unwrap_or_else(|| self.classification.get_or_init(classify))
    }

    /// The stored response that this request selects, if its head is in memory.
    pub(crate) fn hot_entry(&self, proxy: &Proxy) -> Option<&Arc<CacheEntry>> {
        match self.lookup.get() {
            Some(Lookup::Found(entry)) => Some(entry),
            _ => self.hot.get_or_init(|| self.find_hot(proxy)).as_ref(),
        }
    }

    /// The stored response for this request, in memory or in the index. The first call looks it up.
    pub(crate) async fn lookup(&self, proxy: &Proxy) -> &Lookup {
        if let Some(lookup) = self.lookup.get() {
            return lookup;
        }
        let mut lookup = match self.hot.get() {
            Some(Some(entry)) => Lookup::Found(entry.clone()),
            _ => self.find(proxy).await,
        };
        if let Lookup::Found(entry) = &lookup
            && entry.mark_first_use()
            && remove_if_delisted(proxy, entry).await
        {
            self.trace_repeat(Repeat::NotInCatalog);
            lookup = self.find(proxy).await;
        }
        self.lookup.get_or_init(|| lookup)
    }

    /// Makes the response that a fill has just stored the result of the lookup.
    pub(crate) fn set_lookup(&mut self, entry: &Arc<CacheEntry>) {
        if entry.selecting.selects(self.selecting(), &entry.object.headers) {
            self.lookup = OnceLock::from(Lookup::Found(entry.clone()));
        }
    }

    /// Drops the lookup, so that the next step looks the object up once more.
    pub(crate) fn repeat_lookup(&mut self, reason: Repeat) {
        self.trace_repeat(reason);
        self.hot.take();
        self.lookup.take();
    }

    fn trace_repeat(&self, reason: Repeat) {
        tracing::trace!(?reason, key = &**self.key(), "repeating a lookup");
    }

    fn find_hot(&self, proxy: &Proxy) -> Option<Arc<CacheEntry>> {
        match self.key.get() {
            Some(key) => proxy.cache.find_hot(key, self.selecting()),
            // Most requests are hits and need no shared key, which is one more allocation.
            None => proxy.cache.find_hot(&self.target.key(), self.selecting()),
        }
    }

    async fn find(&self, proxy: &Proxy) -> Lookup {
        match proxy.cache.find(self.key(), self.selecting(), self.classification()).await {
            Ok(CacheLookup::Hit(entry)) => Lookup::Found(entry),
            Ok(CacheLookup::OtherVariant { variant }) => Lookup::OtherVariant { variant },
            Ok(CacheLookup::Miss) => Lookup::Missing,
            Err(error) => {
                // The store reports its failure once; this line comes once a request.
                tracing::debug!(%error, "index not readable: passing requests through");
                Lookup::Failed
            }
        }
    }

    /// Returns true for the methods that the store can answer.
    pub(crate) fn is_cacheable(&self) -> bool {
        matches!(*self.method, Method::GET | Method::HEAD)
    }

    pub(crate) fn is_head(&self) -> bool {
        *self.method == Method::HEAD
    }

    /// Returns true if this request asks for a range of this content. Ranges are defined for GET alone (RFC 9110
    /// §14.2), and only for the content that `If-Range` names.
    pub(crate) fn wants_range(&self, content: &HeaderMap) -> bool {
        *self.method == Method::GET
            && self.headers.contains_key(header::RANGE)
            && conditional::is_range_applicable(&self.headers, content)
    }

    /// The facts that decide where a URL of the response leads.
    pub(crate) fn relocation(&self) -> Relocation<'_> {
        Relocation {
            policy: &self.generation.policy,
            upstreams: &self.generation.upstreams,
            target: &self.target,
            request: &self.headers,
            connection: self.connection,
        }
    }

    /// Bandwidth class of bytes that upstreams send for this request.
    pub(crate) fn bandwidth_class(
        &self,
        classification: &Classification,
        purpose: Purpose,
    ) -> BandwidthClass {
        let wan = self.generation.upstreams.wan();
        let client = (self.client_network(), &*self.group.name);
        wan.bandwidth_class(self.target.normalized.path(), classification, Some(client), purpose)
    }

    /// The fill that this request starts or joins. `stale` is the stored response to revalidate.
    pub(crate) fn fill_request(&self, variant: String, stale: Option<Arc<CacheEntry>>) -> FillRequest {
        let classification = self.classification();
        let bandwidth = self.bandwidth_class(classification, Purpose::Client);
        FillRequest {
            variant,
            stale,
            bandwidth,
            ..self.base_fill_request(self.key().clone(), classification)
        }
    }

    /// The hash of the fields that a fill for this request sends.
    pub(crate) fn hash_sent_fields(&self) -> u64 {
        self.base_fill_request(self.key().clone(), self.classification()).hash_fields()
    }

    /// The request that fetches the whole response for this client, without a stored one to revalidate.
    pub(crate) fn base_fill_request(&self, key: ObjectKey, classification: &Classification) -> FillRequest {
        let instance = self.generation.upstreams.instance();
        FillRequest {
            key,
            variant: String::new(),
            upstream_order: self.target.upstreams().clone(),
            target: self.target.original.clone(),
            client_headers: authentication::without_connection_credentials(&self.headers).into_owned(),
            headers: forwarding::prepare_fill(&self.headers, self.version, classification, instance),
            field_names: self.field_names(),
            classification: classification.clone(),
            stale: None,
            part: if *self.method == Method::GET { Ranges::first_part(&self.headers) } else { None },
            background: None,
            bandwidth: BandwidthClass::default(),
            client: Some(self.client_network()),
            group: Some(self.group.name.clone()),
        }
    }
}

/// The attributes that select a client's group.
pub(crate) fn client_attributes<'a>(connection: &'a ClientConnection, path: &'a str) -> ClientAttributes<'a> {
    ClientAttributes::new(connection.address.ip(), path)
        .with_names(connection.certificate_names())
        .with_listener(connection.listener().name())
}

/// Removes a payload that was stored before its catalog was read and is not the one that the catalog lists; returns true
/// if so. Reads the catalog first: clients can ask for its payloads before anything else has read it.
async fn remove_if_delisted(proxy: &Proxy, entry: &CacheEntry) -> bool {
    let digests = proxy.fills.digests();
    digests.read_stored_catalog(entry).await;
    digests.remove_mismatched(entry).await
}

/// Returns true if a fill sent another request than this client: for the whole content in place of a range, or without
/// fields that the manager may demand.
pub(crate) fn fill_sent_other_request(exchange: &Exchange<'_>, why: UnsharedReason) -> bool {
    let is_refused = matches!(why, UnsharedReason::Unstorable(UnstorableReason::Status));
    exchange.headers.contains_key(header::RANGE)
        || (is_refused && forwarding::withholds_fields(&exchange.headers, exchange.classification().class))
}
