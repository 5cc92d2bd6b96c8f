//! The step in which a request that may become a download waits for a slot, while the number of downloads is limited. A
//! download is a `GET` whose response brings content of a payload or of a generic path. Catalogs, private paths,
//! `HEAD`, errors and `304` need no slot and do not wait. The order among waiting clients is the slot limiter's.

use std::ops::ControlFlow::{Break, Continue};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::Proxy;
use crate::exchange::{Exchange, Lookup, Repeat};
use crate::metrics::RequestMetrics;
use crate::pipeline::StepResult;
use crate::reply::Reply;
use gupd_cache::CacheEntry;
use gupd_config::Class;
use gupd_config::policy::Classification;
use gupd_http::conditional::{self, Precondition};
use gupd_http::control::Directive;
use gupd_http::range::Ranges;
use gupd_http::refusal::Refusal;
use gupd_http::refusal::SlotRefusalReason;
use gupd_net::metrics::GaugeGuard;
use gupd_net::shape::{SLOT_PIECE, Slot, SlotRefusal};
use gupd_net::traffic::WaitReason;

/// A slot and its count in the metrics.
pub(crate) struct DownloadSlot {
    // Dropped in this order, so that the metric never shows more than the limit.
    _counted: GaugeGuard,
    slot: Slot,
    /// Rest of a piece that is too large to be handed to the connection at once.
    rest: Bytes,
}

impl DownloadSlot {
    /// Boxed, so that a response without a slot carries one word for it.
    pub(crate) fn new(slot: Slot, metrics: &RequestMetrics) -> Box<Self> {
        let counted = GaugeGuard::increment(&metrics.slots.downloads);
        Box::new(Self { _counted: counted, slot, rest: Bytes::new() })
    }

    /// Records that the connection asks for more, and returns the rest of the last piece.
    pub(crate) fn take_rest(&mut self) -> Option<Bytes> {
        self.slot.end_piece();
        let rest = std::mem::take(&mut self.rest);
        (!rest.is_empty()).then_some(rest)
    }

    /// Returns as much of a piece as the connection gets at once, and keeps the rest.
    pub(crate) fn cut(&mut self, mut piece: Bytes) -> Bytes {
        self.slot.begin_piece();
        self.rest = piece.split_off(piece.len().min(SLOT_PIECE));
        piece
    }

    /// Number of bytes that were cut off and not taken.
    pub(crate) fn rest_len(&self) -> usize {
        self.rest.len()
    }
}

/// Takes a slot for a request that may become a download, and waits for one if none is free. The response is made
/// afterwards: a waiting request has neither started a fill nor bytes in memory. The exception is [`hold_slot`].
pub(crate) async fn wait_for_slot(proxy: &Proxy, exchange: &mut Exchange<'_>) -> StepResult {
    if !is_limited(proxy, exchange) || !needs_slot(exchange.classification()) {
        return Continue(());
    }
    if let Some(slot) = proxy.limits.slots.try_acquire(exchange.client_network(), &exchange.group.name) {
        exchange.slot = Some(DownloadSlot::new(slot, &proxy.metrics));
        return Continue(());
    }
    Box::pin(async {
        if is_answered_without_content(proxy, exchange).await {
            return Continue(());
        }
        match take_slot(proxy, exchange).await {
            Ok(slot) => {
                exchange.slot = Some(slot);
                exchange.repeat_lookup(Repeat::Waited);
                Continue(())
            }
            Err(refused) => Break(refused),
        }
    })
    .await
}

/// Keeps the slot of a download until its last byte has left. Any other reply frees the slot. A
/// request that was expected to be no download waits for its slot here: the stored response was no longer valid, and
/// the new one brings content.
pub(crate) async fn hold_slot(proxy: &Proxy, exchange: &mut Exchange<'_>, reply: Reply) -> Reply {
    let slot = exchange.slot.take();
    if slot.is_none() && !is_limited(proxy, exchange) {
        return reply;
    }
    let is_download = reply.classification().is_some_and(needs_slot) && reply.brings_content();
    if !is_download {
        return reply;
    }
    if slot.is_some() {
        return reply.with_slot(slot);
    }
    match Box::pin(take_slot(proxy, exchange)).await {
        Ok(slot) => reply.with_slot(Some(slot)),
        Err(refused) => refused,
    }
}

/// Returns true if this request may need a slot. Costs one load of a flag while nothing is limited.
fn is_limited(proxy: &Proxy, exchange: &Exchange<'_>) -> bool {
    proxy.limits.slots.is_limited() && *exchange.method == Method::GET
}

fn needs_slot(classification: &Classification) -> bool {
    match classification.class {
        Class::Payload | Class::Generic => true,
        Class::Catalog | Class::Private => false,
    }
}

/// Waits for a slot in the client's turn.
async fn take_slot(proxy: &Proxy, exchange: &Exchange<'_>) -> Result<Box<DownloadSlot>, Reply> {
    let begun = Instant::now();
    let taken = {
        let _queued = GaugeGuard::increment(&proxy.metrics.slots.queued);
        // A client that may have gone must not keep its place in the queue.
        let leaving = exchange.connection.wait_until_half_closed();
        proxy.limits.slots.acquire(exchange.client_network(), &exchange.group.name, leaving).await
    };
    if !matches!(
        taken,
        Err(SlotRefusal { reason: SlotRefusalReason::QueueFull | SlotRefusalReason::ClientQueueFull, .. })
    ) {
        let waited = begun.elapsed();
        proxy.metrics.slots.queue_seconds.observe(waited.as_secs_f64());
        let millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        let (now, client) = (proxy.cache.clock().now(), exchange.address());
        exchange.generation.upstreams.traffic().add_wait(now, client, WaitReason::Queued, millis);
    }
    taken.map(|slot| DownloadSlot::new(slot, &proxy.metrics)).map_err(|refusal| {
        proxy.metrics.refused.with_label_values(&[Refusal::NoSlot(refusal.reason).as_str()]).inc();
        Reply::from(refusal).with_class(exchange.classification())
    })
}

/// Returns true if the request will be answered without content, as far as the store can tell.
async fn is_answered_without_content(proxy: &Proxy, exchange: &Exchange<'_>) -> bool {
    match exchange.lookup(proxy).await {
        Lookup::Found(entry) => has_no_content_for(entry, exchange),
        Lookup::Missing | Lookup::OtherVariant { .. } => exchange.control.has(Directive::OnlyIfCached),
        Lookup::Failed => false,
    }
}

fn has_no_content_for(entry: &CacheEntry, exchange: &Exchange<'_>) -> bool {
    let (status, headers) = (entry.object.status, &entry.object.headers);
    let asked = &*exchange.headers;
    status != StatusCode::OK
        || conditional::evaluate(exchange.method, asked, status, headers) != Precondition::Proceed
        || exchange.wants_range(headers)
            && matches!(Ranges::parse(asked, entry.object.len), Ranges::Unsatisfiable)
}
