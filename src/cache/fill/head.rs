//! Head of shared content: the stored fields, and the decisions made from them when the response arrived. An unfinished
//! fill restores its head from the journal.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};

use super::FillRequest;
use crate::digest::Expectation;
use crate::{Cache, CacheEntry};
use gupd_config::Class;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::{Classification, plausibility};
use gupd_http::validator::strong_validator;
use gupd_http::{Freshness, UnstorableReason, VaryFields};
use gupd_store::{CHUNK, NewObject, UnfinishedFill};

/// Head of a shared response.
#[derive(Clone, Debug)]
pub struct ContentHead {
    /// Status.
    pub status: StatusCode,
    /// `Ok` if the complete response will be kept. Otherwise only the present followers may have it.
    pub kept: Result<(), UnstorableReason>,
    /// End-to-end fields.
    pub headers: HeaderMap,
    /// Expected digests of the content.
    pub(crate) expected: Expectation,
    /// `Vary` selection.
    pub selecting: VaryFields,
    /// Freshness.
    pub freshness: Freshness,
    /// Class and content type of the request's path.
    pub classification: Classification,
    /// Name of the upstream that sent the head.
    pub upstream: Arc<str>,
    /// Time of the request.
    pub request_time: UnixMillis,
    /// Time of the response.
    pub response_time: UnixMillis,
    /// No follower sees the content before the verdict on it.
    pub(super) is_hidden: bool,
    /// Stored response that this one replaces.
    pub(super) replaced: Option<Arc<CacheEntry>>,
}

impl ContentHead {
    /// Restores the head of an unfinished fill.
    pub(super) fn from_unfinished(
        unfinished: &UnfinishedFill,
        request: &FillRequest,
        cache: &Cache,
        expected: Expectation,
    ) -> Self {
        let object = &unfinished.object;
        let (request_time, response_time) = (object.request_time, object.response_time);
        Self {
            status: object.status,
            kept: expected.check_storable().and(check_type(request, object.status, &object.headers)),
            expected,
            freshness: cache.freshness(
                object.status,
                &object.headers,
                request_time,
                response_time,
                &request.classification,
            ),
            headers: object.headers.clone(),
            selecting: VaryFields::decode(&object.selecting).unwrap_or_default(),
            classification: request.classification.clone(),
            upstream: object.upstream.clone(),
            request_time,
            response_time,
            is_hidden: false,
            replaced: None,
        }
    }

    /// Returns true if no check of the complete content can refuse it. A payload may turn out to be a page.
    pub(super) fn is_kept_surely(&self) -> bool {
        self.kept.is_ok()
            && !self.is_hidden
            && !self.expected.must_verify_first()
            && self.classification.class != Class::Payload
    }

    /// Returns true if the end of the fill may refuse the content as a page in place of a file.
    pub(super) fn may_be_page(&self) -> bool {
        let Classification { class, format, .. } = &self.classification;
        self.kept.is_err() || (*class == Class::Payload && format.is_some())
    }

    /// Records that a client may have the whole response: the stored one is older.
    pub(super) fn mark_replaced(&self) {
        if let Some(replaced) = &self.replaced {
            replaced.mark_outdated();
        }
    }

    /// Returns true if the content is most likely what the name of the request's path promises. `beginning` holds its
    /// first bytes, or `None` before they have arrived.
    pub(super) fn is_plausible(&self, path: &str, beginning: Option<&[u8]>) -> bool {
        is_plausible_head(path, self.status, &self.headers, &self.classification, beginning)
    }

    /// Builds the object to commit.
    pub(super) fn to_object(&self, request: &FillRequest) -> NewObject {
        NewObject {
            key: request.key.clone(),
            selecting: self.selecting.encode(),
            status: self.status,
            headers: self.headers.clone(),
            content_type: self.classification.content_type.clone(),
            upstream: self.upstream.clone(),
            request_time: self.request_time,
            response_time: self.response_time,
        }
    }

    /// Returns true if a later fill could continue from a part of the content. Only a strong validator proves that the
    /// rest belongs to the same content.
    pub(super) fn is_resumable(&self, length: Option<u64>) -> bool {
        self.status == StatusCode::OK
            && self.kept.is_ok()
            && length.is_some_and(|length| length > CHUNK)
            && strong_validator(&self.headers).is_some()
    }
}

/// Returns an error if the head shows a page in place of a file. The content is kept all the same if its first bytes are
/// those of the file.
pub(super) fn check_type(
    request: &FillRequest,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<(), UnstorableReason> {
    match is_plausible_head(request.target.path(), status, headers, &request.classification, None) {
        true => Ok(()),
        false => Err(UnstorableReason::UnexpectedType),
    }
}

fn is_plausible_head(
    path: &str,
    status: StatusCode,
    headers: &HeaderMap,
    classification: &Classification,
    beginning: Option<&[u8]>,
) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    status != StatusCode::OK
        || !matches!(classification.class, Class::Payload | Class::Catalog)
        || plausibility::is_plausible(path, classification.format.as_deref(), media_type, beginning)
}
