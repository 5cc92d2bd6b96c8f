//! Outcomes of a fill for a request that follows it, and the decision whether the request looks the object up once
//! more. A fill may fail, or bring nothing that is shared, for a reason that is not this request's. Another lookup then
//! costs less than an error.

use http::StatusCode;

use crate::exchange::Repeat;
use crate::reply::Reply;
use gupd_cache::fill::{self, FillError, PrivateResponse, TransferError, UnsharedReason};
use gupd_http::status::ForwardOutcome;

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
