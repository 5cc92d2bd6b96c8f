//! Outcomes of a fill for a request that follows it, and the decision whether the request looks the object up once
//! more. A fill may fail, or bring nothing that is shared, for a reason that is not this request's. Another lookup then
//! costs less than an error.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::sleep;

use crate::exchange::{Exchange, Repeat};
use crate::reply::Reply;
use crate::{Proxy, representation};
use gupd_cache::CacheEntry;
use gupd_cache::fill::{self, FillContent, FillError, PrivateResponse, TransferError, UnsharedReason};
use gupd_http::status::{CacheStatus, ForwardOutcome};
use gupd_http::validator::strong_validator;

/// Wait before a request leaves a broken fill for a new one, as between two attempts of a fill.
const RESTART_BACKOFF: Duration = Duration::from_millis(100);

/// Result of following a fill.
pub(crate) enum Followed {
    Reply(Reply),
    /// Look the object up once more.
    Repeat(Repeat),
    /// The response is not shareable with this request: ask the upstream for this one, uncached.
    Alone(ForwardOutcome),
    Failed(FillError, Option<PrivateResponse>),
}

/// Returns true if the fields of a request may have caused this outcome. Other statuses of servers in trouble have
/// nothing to do with them.
pub(crate) fn is_for_one_request(outcome: &fill::FillResponse) -> bool {
    match outcome {
        fill::FillResponse::Unshared(why) => matches!(why, UnsharedReason::Unstorable(_)),
        fill::FillResponse::Failed(FillError::ServerError { status, .. }) => {
            matches!(*status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::NOT_IMPLEMENTED)
        }
        _ => false,
    }
}

/// Returns the next step of a request that has no byte yet, after an error of the content that it follows. Leaves a fill
/// that broke off for a new one, once: `has_left` says whether it has.
pub(crate) async fn after_error(
    exchange: &Exchange<'_>,
    flow: &FillContent,
    (error, private): (TransferError, Option<PrivateResponse>),
    has_left: &mut bool,
) -> Followed {
    let can_repeat = exchange.generation.upstreams.settings().attempts > 1;
    if *has_left || !can_repeat || !is_broken_for_readers(flow, &error) {
        return failed(error, private);
    }
    *has_left = true;
    sleep(RESTART_BACKOFF).await;
    Followed::Repeat(Repeat::BrokenOff)
}

/// Returns true if content broke off after other clients had bytes of it, and nothing names it for a resumption. While
/// no client has a byte, the fill itself starts again.
fn is_broken_for_readers(flow: &FillContent, error: &TransferError) -> bool {
    matches!(error, TransferError::Fill(FillError::BrokenOff { .. }))
        && flow.is_revealed()
        && strong_validator(&flow.head.headers).is_none()
}

/// Returns the next step of a request after the failure of its fill.
pub(crate) fn failed(error: TransferError, private: Option<PrivateResponse>) -> Followed {
    match error {
        // The disk failed under a fill: the manager still has the content.
        TransferError::Read(_) | TransferError::Fill(FillError::Store(_)) => {
            Followed::Alone(ForwardOutcome::StoreFailed)
        }
        TransferError::Fill(FillError::Mismatch { .. }) => Followed::Repeat(Repeat::Mismatch),
        TransferError::Fill(FillError::Changed { .. } | FillError::Abandoned) => {
            Followed::Repeat(Repeat::Changed)
        }
        // The request that started the fill came round in a loop. A follower was not in it, and sends its own request.
        TransferError::Fill(FillError::ServerError { status: StatusCode::LOOP_DETECTED, .. })
            if private.is_none() =>
        {
            Followed::Repeat(Repeat::Changed)
        }
        TransferError::Fill(error) => Followed::Failed(error, private),
    }
}

/// Answers with a stored response, if it is for this request.
pub(crate) async fn answer_stored(
    proxy: &Proxy,
    exchange: &Exchange<'_>,
    entry: &Arc<CacheEntry>,
    status: CacheStatus,
) -> Followed {
    if !entry.selecting.selects(exchange.selecting(), &entry.object.headers) {
        return Followed::Repeat(Repeat::OtherVariant);
    }
    if exchange.is_failure_of_other_upstreams(entry) {
        return Followed::Repeat(Repeat::OtherUpstreams);
    }
    match representation::stored(proxy, exchange, entry).await {
        Ok(reply) => Followed::Reply(reply.annotate(status, &entry.classification, Some(entry.object.blob))),
        Err(_) => Followed::Repeat(Repeat::Damaged),
    }
}
