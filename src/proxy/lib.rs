//! The request pipeline of the relay: every client request goes in at [`Proxy::handle`] and comes out as a response.
//!
//! Guarantees: a request is answered by one [`Generation`] of the configuration; it is classified at most once and
//! looked up once, again only for a reason of `Repeat`; a hit in memory takes no lock of ours, spawns no task and
//! copies no body. Nothing here knows sockets.
//!
//! Main types: [`Proxy`], shared by all requests; `Exchange`, one request with the facts that steps share; `Reply`, a
//! response before it is sent; [`Background`], the fetches of the relay's own. Start reading at `pipeline.rs`: it lists
//! the steps of a request in their order. Each step is in the file of its concept.

// Guaranteed by lints, not by care: these bytes come from the network.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::string_slice, clippy::arithmetic_side_effects))]

mod access;
pub mod background;
mod binding;
mod body;
mod budget;
mod exchange;
mod fetch;
mod full_set;
mod generation;
mod hit;
pub mod metrics;
mod outcome;
mod pacing;
mod pass_limit;
mod passthrough;
mod pipeline;
mod relays;
mod repair;
mod reply;
mod representation;
mod screening;
mod slot;
mod view;
mod window;

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

pub use self::background::Background;
pub use self::body::ResponseBody;
pub use self::generation::{Generation, Generations};
use crate::metrics::RequestMetrics;
use crate::reply::Reply;
use gupd_cache::Cache;
use gupd_cache::fill::Fills;
use gupd_config::policy::FirstSeen;
use gupd_http::refusal::Refusal;
use gupd_net::client_budgets::ClientBudgets;
use gupd_net::listen::{ClientConnection, RequestHandler};
use gupd_net::redirect::DrainState;
use gupd_net::shape::{LanLimiter, SlotLimiter};
use gupd_rollout::engine::Rollouts;

/// Answers requests. One for the whole relay.
#[derive(Debug)]
pub struct Proxy {
    generations: Arc<Generations>,
    cache: Arc<Cache>,
    fills: Fills,
    background: Arc<Background>,
    first_seen: FirstSeen,
    rollouts: Rollouts,
    limits: ClientLimits,
    metrics: Arc<RequestMetrics>,
    drain: Arc<DrainState>,
}

/// Limits of what clients get.
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// Bytes toward clients.
    pub lan: Arc<LanLimiter>,
    /// Concurrent downloads.
    pub slots: Arc<SlotLimiter>,
    /// What each client may cost upstreams and the store.
    pub budgets: Arc<ClientBudgets>,
}

impl Proxy {
    /// A proxy that fetches by these fills and answers from their cache.
    pub fn new(
        generations: Arc<Generations>,
        fills: Fills,
        limits: ClientLimits,
        metrics: Arc<RequestMetrics>,
    ) -> Self {
        for refusal in Refusal::ALL {
            metrics.refused.with_label_values(&[refusal.as_str()]);
        }
        create_series(&generations.load(), &metrics);
        let series = metrics.clone();
        generations.follow(move |generation| create_series(generation, &series));
        Self {
            background: Arc::new(Background::new(generations.clone(), fills.clone())),
            cache: fills.cache().clone(),
            fills,
            first_seen: FirstSeen::new(),
            rollouts: generations.rollouts().clone(),
            generations,
            limits,
            metrics,
            drain: Arc::default(),
        }
    }

    /// The generations of the configuration; requests are answered by the current one.
    pub fn generations(&self) -> &Arc<Generations> {
        &self.generations
    }

    /// The drain state: whether clients are redirected to a manager.
    pub fn drain(&self) -> &Arc<DrainState> {
        &self.drain
    }

    /// The running fills.
    pub fn fills(&self) -> &Fills {
        &self.fills
    }

    /// The fetches of the relay's own.
    pub fn background(&self) -> &Arc<Background> {
        &self.background
    }

    fn refuse(&self, refusal: Refusal) -> Reply {
        self.metrics.refused.with_label_values(&[refusal.as_str()]).inc();
        refusal.into()
    }
}

/// Creates the series of groups that may be deferred or denied, at zero, before they count.
fn create_series(generation: &Generation, metrics: &RequestMetrics) {
    for group in generation.policy.groups().filter(|group| group.has_schedule()) {
        metrics.deferred.with_label_values(&[&group.name]);
    }
    metrics.create_content_type_series(generation.policy.content_types());
    for (group, content_type) in generation.policy.denial_labels() {
        metrics.denied.with_label_values(&[&*group.name, content_type]);
    }
}

impl RequestHandler for Proxy {
    type Body = ResponseBody;

    fn handle_request(
        &self,
        request: Request<Incoming>,
        connection: ClientConnection,
    ) -> impl Future<Output = Response<ResponseBody>> + Send {
        self.handle(request, connection)
    }
}
