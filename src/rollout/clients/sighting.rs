//! What one request that has ended tells of its client. Owns the words for what it was after and what came of it; made on
//! the request's path, so nothing here allocates.

use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use xxhash_rust::xxh3::xxh3_64;

use super::Identity;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::RevisionFile;
use gupd_http::status::{CacheStatus, FinishedResponse, ResponseEnd};

/// The name of a payload that brings everything, where a delta would bring what has changed.
const FULL: &str = "full.zip";

/// One request that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Whose it was.
    pub client: Identity,
    /// Where it came from.
    pub address: IpAddr,
    /// The client's group.
    pub group: Arc<str>,
    /// When it came, and its view was looked up: a download may end when the view is another one.
    pub at: UnixMillis,
    /// The revision that the client's view was then; `None` while there is none.
    pub sees: Option<u64>,
    /// What it was for.
    pub sought: Sought,
    /// Bytes of body that were sent.
    pub bytes: u64,
    /// What came of it.
    pub end: Outcome,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// A catalog, of the revision that the client sees.
    Catalog,
    /// A payload.
    Payload {
        /// XXH3-64 of its key.
        object: u64,
        /// Whether it is a full set.
        full: bool,
    },
    /// Anything else.
    Other,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client has what it asked for, to its end; of a catalog, also by a `304`.
    Given,
    /// It was answered, and that is all: a `HEAD`, a part, a "there is none".
    Fine,
    /// It failed: an error of the manager's or of the relay's, or content that broke off.
    Failed,
    /// The content was not what was announced or stored.
    Damaged,
    /// It is to come again when it is its turn, or when there is a place.
    Deferred,
    /// The policy of the site denies it the content.
    Denied,
    /// The client broke off.
    Gone,
}

impl Sought {
    /// The payload under this key.
    pub fn payload(key: &str) -> Self {
        let full = RevisionFile::parse(key).is_some_and(|file| file.name.eq_ignore_ascii_case(FULL));
        Self::Payload { object: xxh3_64(key.as_bytes()), full }
    }
}

impl Outcome {
    /// What came of a request for this, of its response.
    pub(super) fn of(sought: Sought, response: FinishedResponse) -> Self {
        let FinishedResponse { status, cache, end, is_damaged, has_last_byte, .. } = response;
        match (cache, end) {
            (Some(CacheStatus::Deferred), _) => Self::Deferred,
            (Some(CacheStatus::Denied), _) => Self::Denied,
            // Turned away for want of a place: a rollout must not be held up by its own queue.
            (None, _) if status == StatusCode::SERVICE_UNAVAILABLE => Self::Deferred,
            (_, ResponseEnd::Upstream) if is_damaged => Self::Damaged,
            (_, ResponseEnd::Upstream) => Self::Failed,
            _ if status.is_server_error() => Self::Failed,
            (_, ResponseEnd::Client) => Self::Gone,
            (_, ResponseEnd::Complete) => match status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT if has_last_byte => Self::Given,
                StatusCode::NOT_MODIFIED if sought == Sought::Catalog => Self::Given,
                _ => Self::Fine,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gupd_http::status::{ForwardOutcome as Fetched, ForwardReason};

    #[test]
    fn what_came_of_a_request_is_told_by_its_response() {
        let miss = Some(CacheStatus::Forwarded(ForwardReason::UriMiss, Fetched::Stored));
        let payload = Sought::payload("/ /a");
        for (status, cache, end, to_the_end, sought, expected) in [
            (200, Some(CacheStatus::Hit), ResponseEnd::Complete, true, payload, Outcome::Given),
            (206, Some(CacheStatus::Hit), ResponseEnd::Complete, false, payload, Outcome::Fine),
            (304, Some(CacheStatus::Hit), ResponseEnd::Complete, false, Sought::Catalog, Outcome::Given),
            (304, Some(CacheStatus::Hit), ResponseEnd::Complete, false, payload, Outcome::Fine),
            (404, miss, ResponseEnd::Complete, true, payload, Outcome::Fine),
            (200, miss, ResponseEnd::Client, false, payload, Outcome::Gone),
            (200, miss, ResponseEnd::Upstream, false, payload, Outcome::Failed),
            (504, Some(CacheStatus::Failed), ResponseEnd::Complete, true, payload, Outcome::Failed),
            (503, miss, ResponseEnd::Complete, true, Sought::Catalog, Outcome::Failed),
            (503, Some(CacheStatus::Deferred), ResponseEnd::Client, false, payload, Outcome::Deferred),
            (503, None, ResponseEnd::Complete, true, payload, Outcome::Deferred),
            (503, Some(CacheStatus::Denied), ResponseEnd::Complete, true, payload, Outcome::Denied),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let response = FinishedResponse {
                status,
                cache,
                end,
                is_damaged: false,
                has_last_byte: to_the_end,
                bytes: 0,
            };
            assert_eq!(Outcome::of(sought, response), expected, "{response:?}");
        }
        let (status, end) = (StatusCode::OK, ResponseEnd::Upstream);
        let (cache, has_last_byte, bytes) = (miss, false, 0);
        let response = FinishedResponse { status, cache, end, is_damaged: true, has_last_byte, bytes };
        assert_eq!(Outcome::of(payload, response), Outcome::Damaged);
    }

    #[test]
    fn a_full_set_is_known_by_its_name() {
        let is_full = |key| matches!(Sought::payload(key), Sought::Payload { full: true, .. });
        assert!(is_full("/ /content/{a}/261121001/full.zip"));
        assert!(!is_full("/ /content/{a}/261121001/xdelta1.dax"));
        assert!(!is_full("/ /other/full.zip"));
    }
}
