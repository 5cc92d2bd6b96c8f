//! A client observation: one request, what it asked for and how its response ended. It is made on the request's path,
//! so it allocates nothing beyond the client's identity.

use std::net::IpAddr;

use http::StatusCode;
use xxhash_rust::xxh3::xxh3_64;

use super::ClientId;
use crate::revision::RevisionNumber;
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::PayloadForm;
use gupd_http::status::{CacheStatus, FinishedResponse, ResponseEnd};

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The client.
    pub client: ClientId,
    /// Address that the request came from.
    pub address: IpAddr,
    /// The client's group.
    pub group: GroupId,
    /// When the request arrived. Its response may end under another view.
    pub at: UnixMillis,
    /// The revision visible to the client at that time; `None` before the first.
    pub revision: Option<RevisionNumber>,
    /// What it asked for.
    pub request: RequestKind,
    /// How the response ended.
    pub outcome: RequestOutcome,
    /// Bytes of body sent.
    pub bytes: u64,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A catalog of the visible revision.
    Catalog,
    /// A payload.
    Payload {
        /// XXH3-64 of its key.
        hash: u64,
        /// True for a full set.
        is_full_set: bool,
    },
    /// Anything else.
    Other,
}

/// How a request ended, as evidence of the client's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The client has the object to its last byte; a catalog also by a `304`.
    Delivered,
    /// It was answered without delivering an object: a `HEAD`, a part, a `404`.
    Answered,
    /// The upstream or the relay failed, or the content broke off.
    Failed,
    /// The content failed verification.
    Damaged,
    /// No evidence: the request was deferred or denied, or the client disconnected.
    Inconclusive,
}

impl Observation {
    /// A request from the client with this address and these certificate names, before its response has ended.
    pub fn new(
        (address, names): (IpAddr, &[Box<str>]),
        group: &GroupId,
        at: UnixMillis,
        revision: Option<RevisionNumber>,
        request: RequestKind,
    ) -> Self {
        Self {
            client: ClientId::of(address, names),
            address: address.to_canonical(),
            group: group.clone(),
            at,
            revision,
            request,
            outcome: RequestOutcome::Inconclusive,
            bytes: 0,
        }
    }

    /// Adds the end of the response.
    #[must_use]
    pub fn with_response(self, response: FinishedResponse) -> Self {
        let outcome = RequestOutcome::of(self.request, response);
        Self { outcome, bytes: response.bytes, ..self }
    }
}

impl RequestKind {
    /// A request for the payload of this form under this key.
    pub fn payload(key: &str, form: PayloadForm) -> Self {
        Self::Payload { hash: xxh3_64(key.as_bytes()), is_full_set: form == PayloadForm::Full }
    }
}

impl RequestOutcome {
    fn of(request: RequestKind, response: FinishedResponse) -> Self {
        let FinishedResponse { status, cache, end, is_damaged, has_last_byte, .. } = response;
        match (cache, end) {
            (Some(CacheStatus::Deferred | CacheStatus::Denied), _) => Self::Inconclusive,
            // Refused for want of a slot: a rollout must not be held up by its own queue.
            (None, _) if status == StatusCode::SERVICE_UNAVAILABLE => Self::Inconclusive,
            (_, ResponseEnd::Upstream) if is_damaged => Self::Damaged,
            (_, ResponseEnd::Upstream) => Self::Failed,
            _ if status.is_server_error() => Self::Failed,
            (_, ResponseEnd::Client) => Self::Inconclusive,
            (_, ResponseEnd::Complete) => match status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT if has_last_byte => Self::Delivered,
                StatusCode::NOT_MODIFIED if request == RequestKind::Catalog => Self::Delivered,
                _ => Self::Answered,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gupd_http::status::{ForwardOutcome, ForwardReason};

    #[test]
    fn outcome_follows_from_status_and_end_of_response() {
        use RequestOutcome::{Answered, Damaged, Delivered, Failed, Inconclusive};
        use ResponseEnd::{Client, Complete, Upstream};
        let (hit, deferred, denied) =
            (Some(CacheStatus::Hit), Some(CacheStatus::Deferred), Some(CacheStatus::Denied));
        let miss = Some(CacheStatus::Forwarded(ForwardReason::UriMiss, ForwardOutcome::Stored));
        let (catalog, payload) = (RequestKind::Catalog, RequestKind::payload("/ /a", PayloadForm::Other));
        for (status, cache, end, [is_damaged, has_last_byte], request, expected) in [
            (200, hit, Complete, [false, true], payload, Delivered),
            (206, hit, Complete, [false, true], payload, Delivered),
            (206, hit, Complete, [false, false], payload, Answered),
            (304, hit, Complete, [false, false], catalog, Delivered),
            (304, hit, Complete, [false, false], payload, Answered),
            (404, miss, Complete, [false, true], payload, Answered),
            (200, miss, Client, [false, false], payload, Inconclusive),
            (200, miss, Upstream, [false, false], payload, Failed),
            (200, miss, Upstream, [true, false], payload, Damaged),
            (504, Some(CacheStatus::Failed), Complete, [false, true], payload, Failed),
            (503, miss, Complete, [false, true], catalog, Failed),
            (503, deferred, Client, [false, false], payload, Inconclusive),
            (503, None, Complete, [false, true], payload, Inconclusive),
            (503, denied, Complete, [false, true], payload, Inconclusive),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let response = FinishedResponse { status, cache, end, is_damaged, has_last_byte, bytes: 5 };
            let client = ([10, 0, 0, 1].into(), &[][..]);
            let observation = Observation::new(client, &"pilot".into(), 0, None, request);
            let observation = observation.with_response(response);
            assert_eq!((observation.outcome, observation.bytes), (expected, 5), "{response:?}");
        }
    }

    #[test]
    fn full_set_is_a_payload_of_that_form() {
        for (form, expected) in
            [(PayloadForm::Full, true), (PayloadForm::Delta, false), (PayloadForm::Other, false)]
        {
            let RequestKind::Payload { is_full_set, .. } = RequestKind::payload("/ /a", form) else {
                panic!()
            };
            assert_eq!(is_full_set, expected, "{form:?}");
        }
    }
}
