//! The step that applies rollouts: the client's visible revision decides. A catalog is that of the revision, from the
//! store alone, whatever the request says of freshness: the revision was published for this client. A payload with a
//! number that the revision has not reached is deferred. `rollout` computes views; `refresh` brings missing catalogs.

mod catalog;
mod payload;

use std::ops::ControlFlow::{Break, Continue};
use std::sync::Arc;

use http::Method;

use self::catalog::serve_catalog;
use self::payload::check_payload;
use crate::Proxy;
use crate::access::RequestObserver;
use crate::exchange::{Exchange, client_attributes};
use crate::pipeline::StepResult;
use crate::reply::Reply;
use crate::window::deferred;
use gupd_config::Class;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::Group;
use gupd_http::status::FinishedResponse;
use gupd_rollout::clients::{ClientTracker, Observation, RequestKind};
use gupd_rollout::revision::RevisionNumber;
use gupd_rollout::view::{PayloadAccess, RevisionView};

/// Deferral in milliseconds of a payload without a foreseeable start: the view is held, or waits for an administrator.
/// An hour is a heartbeat of most endpoints.
const HELD_RETRY_MILLIS: i64 = 3_600_000;

/// Serves catalogs of the client's visible revision, and defers payloads that it has not reached. Without rings this
/// costs one comparison.
pub(crate) async fn serve_visible_revision(proxy: &Proxy, exchange: &mut Exchange<'_>) -> StepResult {
    if !exchange.generation.rollout.has_rings() {
        return Continue(());
    }
    Box::pin(apply_view(proxy, exchange)).await
}

async fn apply_view(proxy: &Proxy, exchange: &mut Exchange<'_>) -> StepResult {
    let Some(view) = exchange.generation.rollout.view().clone() else { return Continue(()) };
    let now = proxy.cache.clock().now();
    let class = exchange.classification().class;
    match class {
        Class::Catalog if exchange.is_cacheable() => {
            let (reply, revision) = serve_catalog(proxy, exchange, view).await;
            observe(proxy, exchange, now, revision, RequestKind::Catalog);
            Break(reply)
        }
        Class::Payload if exchange.is_cacheable() => {
            let is_get = *exchange.method == Method::GET;
            let access =
                if is_get { check_payload(proxy, exchange, &view).await } else { PayloadAccess::Visible };
            // The revision may have been announced meanwhile.
            let (view, group) = current_view(proxy, exchange).unwrap_or((view, exchange.group.clone()));
            let visible = visible_number(proxy, exchange, &view, &group);
            let request = RequestKind::payload(exchange.key(), exchange.classification().form);
            observe(proxy, exchange, now, visible, request);
            exchange.payload_revision = visible;
            match access {
                PayloadAccess::Deferred(opens) => Break(defer_payload(proxy, exchange, opens)),
                PayloadAccess::Released => {
                    exchange.skips_windows = true;
                    Continue(())
                }
                PayloadAccess::Visible | PayloadAccess::Unannounced => Continue(()),
            }
        }
        _ => {
            let visible = visible_number(proxy, exchange, &view, exchange.group);
            observe(proxy, exchange, now, visible, RequestKind::Other);
            Continue(())
        }
    }
}

fn defer_payload(proxy: &Proxy, exchange: &Exchange<'_>, opens: Option<UnixMillis>) -> Reply {
    proxy.metrics.deferred.with_label_values(&[&exchange.group.name]).inc();
    let now = proxy.cache.clock().now();
    let opens = opens.unwrap_or(now.saturating_add(HELD_RETRY_MILLIS));
    deferred(exchange, opens.max(now.saturating_add(1)), now)
}

/// Registers an observer for the end of a denied request, where views track clients.
pub(crate) fn observe_denial(proxy: &Proxy, exchange: &mut Exchange<'_>) {
    if let Some(view) = &*exchange.generation.rollout.view() {
        let now = proxy.cache.clock().now();
        let visible = visible_number(proxy, exchange, view, exchange.group);
        observe(proxy, exchange, now, visible, RequestKind::Other);
    }
}

/// Records which revision a payload was served for.
pub(crate) fn record_download(proxy: &Proxy, exchange: &Exchange<'_>, reply: &Reply) {
    if let Some(revision) = exchange.payload_revision.filter(|_| reply.brings_content()) {
        proxy.rollouts.record_download(exchange.key(), revision);
    }
}

/// Registers an observer for the end of the response, which shows the revision that the client has.
fn observe(
    proxy: &Proxy,
    exchange: &mut Exchange<'_>,
    arrived: UnixMillis,
    visible: Option<RevisionNumber>,
    request: RequestKind,
) {
    let client = (exchange.address(), exchange.connection.certificate_names());
    let observation = Observation::new(client, &exchange.group.name, arrived, visible, request);
    let tracker = proxy.rollouts.clients().clone();
    exchange.observer = Some(Box::new(ClientObserver { tracker, observation }));
}

/// Sends an observation to the client tracker once the response has ended.
#[derive(Debug)]
struct ClientObserver {
    tracker: ClientTracker,
    observation: Observation,
}

impl RequestObserver for ClientObserver {
    fn finished(self: Box<Self>, response: FinishedResponse) {
        self.tracker.record(self.observation.with_response(response));
    }
}

/// View and group of the client by the configuration in force. A request that has waited goes on by these: the view of
/// a configuration that was replaced meanwhile shows nothing new. `None` without rings.
fn current_view(proxy: &Proxy, exchange: &Exchange<'_>) -> Option<(Arc<RevisionView>, Arc<Group>)> {
    let generation = proxy.generations.load();
    let view = generation.rollout.view().clone()?;
    let client = client_attributes(exchange.connection, exchange.target.normalized.path());
    Some((view, generation.policy.group(&client).clone()))
}

/// The number of the revision that is visible to the client now.
fn visible_number(
    proxy: &Proxy,
    exchange: &Exchange<'_>,
    view: &RevisionView,
    group: &Group,
) -> Option<RevisionNumber> {
    let now = view.effective_time(proxy.cache.clock().now());
    view.visible_revision(&group.name, exchange.address(), now).map(|revision| revision.number)
}
