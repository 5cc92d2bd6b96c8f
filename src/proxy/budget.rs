//! Budgets of a request that goes upstream. A client that has spent its budget gets `503` with `Retry-After` and the
//! reason; what is stored is served to it all the same.

use std::ops::ControlFlow::{Break, Continue};

use http::{HeaderValue, StatusCode, header};

use crate::Proxy;
use crate::exchange::Exchange;
use crate::pipeline::StepResult;
use crate::reply::Reply;
use gupd_http::UnstorableReason;
use gupd_http::refusal::{BudgetKind, Refusal};
use gupd_http::status::ForwardOutcome;
use gupd_net::client_budgets::BudgetRefusal;

/// Variants of a stored name that one client may bring. With the first one, half of those that are kept.
const MAX_CLIENT_VARIANTS: u32 = gupd_store::MAX_VARIANTS as u32 / 2 - 1;

/// Spends a request that goes upstream, or refuses it. With `is_new`, nothing is stored under its name: that must be within
/// the client's budgets of names, negative responses and bytes too.
pub(crate) fn spend_upstream_request(proxy: &Proxy, exchange: &Exchange<'_>, is_new: bool) -> StepResult {
    let upstreams = &exchange.generation.upstreams;
    if upstreams.time_to_probe(exchange.target.upstreams()).is_some() {
        // None of them gets requests now.
        return Continue(());
    }
    let (budgets, client) = (&proxy.limits.budgets, exchange.client_network());
    let spend = || {
        budgets.try_spend(BudgetKind::UpstreamRequests, client)?;
        if is_new {
            budgets.check(BudgetKind::NewBytes, client)?;
            budgets.check(BudgetKind::AbsentNames, client)?;
            budgets.try_spend_name(client, exchange.key())?;
        }
        Ok(())
    };
    continue_or_refuse(proxy, exchange, spend())
}

/// Refuses a request with a body if the client has sent too much.
pub(crate) fn check_upload(proxy: &Proxy, exchange: &Exchange<'_>) -> StepResult {
    let checked = proxy.limits.budgets.check(BudgetKind::Uploads, exchange.client_network());
    continue_or_refuse(proxy, exchange, checked)
}

/// Spends a negative response that an upstream gave to this client.
pub(crate) fn spend_absent_name(proxy: &Proxy, exchange: &Exchange<'_>, status: StatusCode) {
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        proxy.limits.budgets.spend(BudgetKind::AbsentNames, exchange.client_network(), 1);
    }
}

/// Counts a variant that the client brings to a stored name. False if the client has brought its part.
pub(crate) fn admit_variant(proxy: &Proxy, exchange: &Exchange<'_>, variant: &str) -> bool {
    let client = exchange.client_network();
    proxy.limits.budgets.admits_variant(client, exchange.key(), variant, MAX_CLIENT_VARIANTS)
}

/// Refuses a request that nothing is stored for by the client's own choice, if the client has had too many such bytes.
pub(crate) fn check_passed_bytes(
    proxy: &Proxy,
    exchange: &Exchange<'_>,
    why: UnstorableReason,
) -> StepResult {
    if !why.is_chosen_by_client() {
        return Continue(());
    }
    let checked = proxy.limits.budgets.check(BudgetKind::NewBytes, exchange.client_network());
    continue_or_refuse(proxy, exchange, checked)
}

/// Spends the bytes of a response that the client's own fields kept from being stored: it could have them again and
/// again.
pub(crate) fn spend_passed_bytes(
    proxy: &Proxy,
    exchange: &Exchange<'_>,
    outcome: ForwardOutcome,
    reply: Reply,
) -> Reply {
    if !matches!(outcome, ForwardOutcome::NotStored(why) if why.is_chosen_by_client()) {
        return reply;
    }
    let (budgets, client) = (proxy.limits.budgets.clone(), exchange.client_network());
    reply.observing_pieces(move |bytes| budgets.spend(BudgetKind::NewBytes, client, bytes))
}

fn continue_or_refuse(
    proxy: &Proxy,
    exchange: &Exchange<'_>,
    spent: Result<(), BudgetRefusal>,
) -> StepResult {
    let Err(refusal) = spent else { return Continue(()) };
    let client = exchange.address().to_canonical();
    let reason = Refusal::Budget(refusal.kind);
    tracing::debug!(%client, reason = reason.as_str(), "request refused: budget of the client spent");
    let mut reply = proxy.refuse(reason).with_class(exchange.classification());
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(refusal.retry_after.as_secs()));
    Break(reply)
}
