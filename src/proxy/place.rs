//! The stage before look-up in which a request that may become a download waits for a place. Owns what counts as one: a
//! `GET` whose response brings content of a payload, or of what the general rules class; what catalogs bring, `HEAD`,
//! errors, `304` and private paths are none, and do not wait. Whose turn it is `shape` says.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, StatusCode};

use super::reply::Reply;
use super::{Asked, Proxy, Refusal};
use crate::metrics::RequestMetrics;
use gupd_cache::{Entry, Found};
use gupd_config::Class;
use gupd_config::policy::Classification;
use gupd_http::conditional::{self, Precondition};
use gupd_http::control::Directive;
use gupd_http::range::Ranges;
use gupd_http::refusal::SlotDenial;
use gupd_net::metrics::GaugeGuard;
use gupd_net::shape::{Slot, SlotRejection};

/// A place, and its download in the metrics.
pub(super) struct Download {
    // Dropped in this order, so that the metric never shows more than the count.
    _counted: GaugeGuard,
    _place: Slot,
}

impl Proxy {
    /// Whether this request may become a download that is counted: one look at a flag while nothing is.
    pub(super) fn may_be_counted(&self, asked: &Asked<'_>) -> bool {
        self.places.is_limited() && *asked.method == Method::GET
    }

    /// A place for what a request may become; none if it will be no download, as far as can be told. It is taken before
    /// the response is made: who waits has neither a fill begun for it nor bytes in memory.
    ///
    /// # Errors
    /// What a client gets for which there is none in time.
    pub(super) async fn before_its_download(
        &self,
        asked: &Asked<'_>,
    ) -> Result<Option<Box<Download>>, Reply> {
        let classified =
            asked.generation.policy.classify(&asked.target.route, asked.target.normalized.path());
        if !is_counted(classified.class) {
            return Ok(None);
        }
        if let Some(place) = self.places.try_acquire(asked.peer.address.ip(), &asked.group.name) {
            return Ok(Some(Download::new(place, &self.metrics)));
        }
        if self.brings_nothing(asked, &classified).await {
            return Ok(None);
        }
        self.wait_for_place(asked, &classified).await.map(Some)
    }

    /// Gives a reply that is a download its place, which it waits for if it was taken for none: the stored response was
    /// no longer good, and the new one brings content. Any other reply leaves the place to others.
    pub(super) async fn with_place(
        &self,
        asked: &Asked<'_>,
        reply: Reply,
        place: Option<Box<Download>>,
    ) -> Reply {
        let counted = reply.classified().filter(|classified| is_counted(classified.class));
        let (Some(classified), true) = (counted, reply.brings_content()) else { return reply };
        if place.is_some() {
            return reply.in_place(place);
        }
        match self.wait_for_place(asked, classified).await {
            Ok(place) => reply.in_place(Some(place)),
            Err(refused) => refused,
        }
    }

    /// Waits in its client's turn.
    async fn wait_for_place(
        &self,
        asked: &Asked<'_>,
        classified: &Classification,
    ) -> Result<Box<Download>, Reply> {
        let begun = Instant::now();
        let taken = {
            let _waits = GaugeGuard::increment(&self.metrics.queued);
            self.places.acquire(asked.peer.address.ip(), &asked.group.name).await
        };
        if !matches!(
            taken,
            Err(SlotRejection { reason: SlotDenial::QueueFull | SlotDenial::ClientQueueFull, .. })
        ) {
            self.metrics.queue_seconds.observe(begun.elapsed().as_secs_f64());
        }
        match taken {
            Ok(place) => Ok(Download::new(place, &self.metrics)),
            Err(turned) => {
                let reason = Refusal::NoSlot(turned.reason).as_str();
                self.metrics.refused.with_label_values(&[reason]).inc();
                Err(Reply::from(turned).about(classified))
            }
        }
    }

    /// Whether a request will be answered without content, judged by what is stored: asking is not waiting.
    async fn brings_nothing(&self, asked: &Asked<'_>, classified: &Classification) -> bool {
        let key = Arc::from(asked.target.key());
        match self.cache.find(&key, asked.headers, classified).await {
            Ok(Found::Entry(entry)) => has_nothing_for(&entry, asked),
            Ok(Found::Nothing | Found::OtherVariant { .. }) => asked.control.has(Directive::OnlyIfCached),
            Err(_) => false,
        }
    }
}

impl Download {
    /// Boxed, so that a response without one carries a word for it.
    pub(super) fn new(place: Slot, metrics: &RequestMetrics) -> Box<Self> {
        Box::new(Self { _counted: GaugeGuard::increment(&metrics.downloads), _place: place })
    }
}

fn is_counted(class: Class) -> bool {
    match class {
        Class::Payload | Class::Generic => true,
        Class::Catalog | Class::Private => false,
    }
}

fn has_nothing_for(entry: &Entry, asked: &Asked<'_>) -> bool {
    let (status, headers): (StatusCode, &HeaderMap) = (entry.object.status, &entry.object.headers);
    status != StatusCode::OK
        || conditional::evaluate(asked.method, asked.headers, status, headers) != Precondition::Proceed
        || (asked.wants_range(headers)
            && matches!(Ranges::parse(asked.headers, entry.object.len), Ranges::Unsatisfiable))
}
