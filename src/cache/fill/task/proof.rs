//! The verdict on complete content: its digests, its proof on routes that need one, and the fate of payloads that changed
//! under their name. Content that is refused reaches no follower: its head was hidden, so the fill still ends with an error
//! or the stored response.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode};

use super::{FillTask, StepOutcome};
use crate::digest::{
    CompleteContent, ContentProof, DigestVerdict, Expectation, HoldConsequence, Provability, Subject,
    Unproven,
};
use crate::fill::head::ContentHead;
use crate::fill::{FillContent, FillError, FillOutcome, Phase};
use gupd_config::Class;
use gupd_config::policy::{Classification, plausibility};
use gupd_http::internal::MUTABLE;
use gupd_net::upstream::{PeerProof, UpstreamResponse};
use gupd_store::{BlobWriter, BodySource, StoreError};

/// Marks that accepted content is stored with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AcceptedContent {
    proof: Option<ContentProof>,
    /// The payload has changed under its name, now or before.
    is_mutable: bool,
}

impl AcceptedContent {
    /// Sets the marks among the fields to store.
    pub(super) fn mark(self, headers: &mut HeaderMap) {
        if let Some(proof) = self.proof {
            proof.set(headers);
        }
        if self.is_mutable {
            headers.insert(MUTABLE, HeaderValue::from_static("?1"));
        }
    }
}

impl FillTask {
    /// Compares complete content with its digests.
    pub(super) async fn verify(
        &self,
        content: &FillContent,
        length: u64,
        writer: &BlobWriter,
    ) -> Result<DigestVerdict, StoreError> {
        let source = BodySource::Partial(content.partial.clone());
        let complete = CompleteContent { source, length, blob: writer.blob_id()? };
        let subject = self.subject(content.head.status);
        let attempts = self.upstreams.settings().attempts;
        Ok(self.context.digests.verify(subject, &content.head.expected, &complete, attempts).await?)
    }

    /// Returns true if the first bytes of complete content show a page in place of a file.
    pub(super) async fn is_page(&self, content: &FillContent, length: u64) -> Result<bool, StoreError> {
        let path = self.request.target.path();
        // Most names and types are plausible with any bytes.
        if length == 0 || content.head.is_plausible(path, Some(b"<html>")) {
            return Ok(false);
        }
        let source = BodySource::Partial(content.partial.clone());
        let first = self.context.store.read(&source, 0).await?;
        let beginning = first.get(..plausibility::BEGINNING).unwrap_or(&first);
        Ok(!content.head.is_plausible(path, Some(beginning)))
    }

    /// Returns the digests and the proof expected of a response.
    pub(super) fn expect(&self, status: StatusCode, headers: &HeaderMap) -> Expectation {
        self.context.digests.expect(self.subject(status), headers)
    }

    pub(super) fn subject(&self, status: StatusCode) -> Subject<'_> {
        Subject::new(&self.request.key, status, &self.request.classification)
    }

    /// Returns the proof that content of a peer has or needs.
    pub(super) fn peer_proof(&self) -> PeerProof {
        let Classification { class, verification, .. } = self.request.classification;
        let is_listed =
            || class == Class::Payload && self.context.digests.is_listed(&self.request.key, verification);
        match verification.needs_proof() {
            _ if is_listed() => PeerProof::Listed,
            true => PeerProof::Tls,
            false => PeerProof::Unneeded,
        }
    }

    /// Returns the reason not to ask for the content now: it was refused a moment ago.
    pub(super) async fn find_hold(&self) -> Option<Unproven> {
        let (key, digests) = (&self.request.key, &self.context.digests);
        let Classification { class, verification, .. } = self.request.classification;
        if class == Class::Payload && verification.needs_proof() && !digests.is_listed(key, verification) {
            Box::pin(digests.read_proven_catalogs()).await;
        }
        digests.remembered_hold(key)
    }

    /// Returns true if the response of an upstream may show other bytes of a stored payload that keeps its own.
    pub(super) fn may_refuse_change(&self, head: &ContentHead) -> bool {
        let classification = &head.classification;
        classification.class == Class::Payload
            && classification.verification.refuses_changes()
            && head.status == StatusCode::OK
            && self.replaced.as_ref().is_some_and(|entry| entry.object.status == StatusCode::OK)
    }

    /// Proves complete content with right digests.
    ///
    /// # Errors
    /// Returns an error if the body is not complete; the inner one is the reason for which it is not proven.
    pub(super) async fn prove(
        &self,
        content: &FillContent,
        length: u64,
        writer: &BlobWriter,
    ) -> Result<Result<Option<ContentProof>, Unproven>, StoreError> {
        let source = BodySource::Partial(content.partial.clone());
        let complete = CompleteContent { source, length, blob: writer.blob_id()? };
        let replaced = self.replaced.as_deref().map(|entry| &entry.object);
        let (subject, provability) = (self.subject(content.head.status), content.head.expected.provability());
        Ok(self.context.digests.prove(subject, provability, &complete, replaced).await)
    }

    /// Decides about a payload with other bytes than the stored one, and reports it.
    ///
    /// # Errors
    /// If the stored payload keeps its bytes.
    pub(super) fn judge_change(
        &self,
        content: &FillContent,
        writer: &BlobWriter,
        proof: Option<ContentProof>,
    ) -> Result<AcceptedContent, Unproven> {
        let head = &content.head;
        let replaced = self.replaced.as_deref().map(|entry| &entry.object);
        let Some(replaced) = replaced.filter(|_| head.classification.class == Class::Payload) else {
            return Ok(AcceptedContent { proof, is_mutable: false });
        };
        let is_mutable = replaced.headers.contains_key(MUTABLE);
        let is_changed = (head.status, replaced.status) == (StatusCode::OK, StatusCode::OK)
            && writer.blob_id().is_ok_and(|blob| blob != replaced.blob)
            // The stored bytes were the wrong ones.
            && proof != Some(ContentProof::Listed);
        if !is_changed || is_mutable {
            return Ok(AcceptedContent { proof, is_mutable });
        }
        if head.classification.verification.refuses_changes() {
            return Err(Unproven::Changed);
        }
        let (key, consequence) = (&self.request.key, HoldConsequence::Replaced);
        self.context.digests.report_unproven(key, &head.upstream, &Unproven::Changed, consequence);
        Ok(AcceptedContent { proof, is_mutable: true })
    }

    /// Keeps refused content aside and ends the fill.
    pub(super) async fn hold(
        &mut self,
        content: &FillContent,
        writer: BlobWriter,
        unproven: &Unproven,
    ) -> FillOutcome {
        let object = content.head.to_object(&self.request);
        let class = content.head.classification.class;
        match self.flags.is_detached() || self.context.store.is_released() {
            true => writer.discard(),
            false => self.context.digests.hold(writer, object, class, unproven).await,
        }
        self.context.cache.forget_evicted();
        self.refuse(unproven)
    }

    /// Passes unproven content on to the present followers.
    pub(super) fn pass_on_unproven(
        &self,
        content: Arc<FillContent>,
        length: u64,
        writer: BlobWriter,
        unproven: &Unproven,
    ) -> StepOutcome {
        writer.discard();
        // Generic content is not the purpose of the route: there is much of it, and nothing could prove it.
        if content.head.classification.class != Class::Generic {
            let (key, consequence) = (&self.request.key, HoldConsequence::PassedOn);
            self.context.digests.report_unproven(key, &content.head.upstream, unproven, consequence);
        }
        content.mark_unproven();
        self.pass_on(content, length, FillOutcome::Unproven)
    }

    /// Ends the fill without the content of the upstream: with the stored payload, which keeps its bytes, or an error.
    pub(super) fn refuse(&mut self, unproven: &Unproven) -> FillOutcome {
        let stored = self.replaced.clone().filter(|_| *unproven == Unproven::Changed);
        if let Some(entry) = stored.filter(|entry| !entry.awaits_proof()) {
            self.unregister();
            self.set_phase(Phase::NotModified { entry });
            return FillOutcome::Kept;
        }
        let current = self.current_upstream.get();
        let upstream = current.map_or_else(|| Arc::from("none"), |upstream| upstream.name.clone());
        self.fail(FillError::Unproven { upstream, reason: Arc::from(unproven.to_string()) })
    }

    /// Returns true if the content of a response that cannot be stored must not be passed on either.
    pub(super) fn is_withheld(&self, answer: &UpstreamResponse) -> bool {
        let status = answer.response.status();
        let is_authenticated = self.upstreams.are_authenticated(&self.request.upstream_order)
            && answer.upstream.is_authenticated();
        status.is_success() && self.context.digests.is_withheld(self.subject(status), is_authenticated)
    }

    /// Refuses content of which no byte was read.
    pub(super) fn refuse_unseen(&mut self, answer: &UpstreamResponse) -> FillOutcome {
        let subject = self.subject(answer.response.status());
        let unproven = match self.context.digests.provability(subject, &HeaderMap::new()) {
            Provability::BySignature => {
                Unproven::Signature("the catalog cannot be stored, and so not be verified".to_owned())
            }
            _ if subject.class == Class::Payload => Unproven::Unlisted,
            _ => Unproven::NoFormat,
        };
        let (key, name) = (&self.request.key, &answer.upstream.name);
        self.context.digests.remember_hold(key, subject.class, &unproven);
        self.context.digests.report_unproven(key, name, &unproven, HoldConsequence::Refused);
        self.refuse(&unproven)
    }
}
