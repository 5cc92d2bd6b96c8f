//! Proof of content on routes that need it: the signature of a catalog, the entry of a payload in a signed catalog, TLS
//! from an upstream, or the word of an administrator. Content with a format for signatures must be signed; TLS proves the
//! rest. The proof is stored beside the object, because the catalog that gave it may be gone later.

use http::{HeaderMap, HeaderValue};

use super::{CatalogReading, CompleteContent, Digests, Subject};
use crate::{CacheEntry, negative};
use gupd_config::profile::DigestList;
use gupd_config::{Class, Verification};
use gupd_http::field::composed;
use gupd_http::internal::PROOF;
use gupd_store::Object;

/// Proof of stored content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentProof {
    /// A signature by a configured root.
    Signature {
        /// Time that the signed content states, in seconds since 1970.
        stated: u64,
    },
    /// A signed catalog lists its SHA-256.
    Listed,
    /// Every upstream that sent bytes has proven itself by TLS.
    Tls,
    /// An administrator has released it.
    Released,
}

impl ContentProof {
    /// Reads the proof from stored fields.
    pub fn from_headers(stored: &HeaderMap) -> Option<Self> {
        let text = stored.get(PROOF)?.to_str().ok()?;
        match text.split_once(' ').unwrap_or((text, "")) {
            ("signature", stated) => Some(Self::Signature { stated: stated.parse().ok()? }),
            ("listed", "") => Some(Self::Listed),
            ("tls", "") => Some(Self::Tls),
            ("released", "") => Some(Self::Released),
            _ => None,
        }
    }

    /// Sets the proof among the fields to store.
    pub fn set(self, stored: &mut HeaderMap) {
        let value = match self {
            Self::Signature { stated } => composed(format!("signature {stated}")),
            Self::Listed => HeaderValue::from_static("listed"),
            Self::Tls => HeaderValue::from_static("tls"),
            Self::Released => HeaderValue::from_static("released"),
        };
        stored.insert(PROOF, value);
    }
}

/// How the content of a response can be proven, as far as its head and its path tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Provability {
    /// It needs no proof.
    #[default]
    Unneeded,
    /// By its own signature, once it is complete.
    BySignature,
    /// By its digest, which a signed catalog lists.
    ByList,
    /// TLS has proven it.
    ByTls,
    /// Not at all.
    Impossible,
}

/// Reason for which content is not proven.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unproven {
    /// A catalog with a signature that proves nothing.
    #[error("{0}")]
    Signature(String),
    /// A signed catalog that was replaced by a later one before.
    #[error("the catalog is older than the one before it: a replay, or a step back of the manager")]
    Older,
    /// A payload that no signed catalog lists.
    #[error("no signed catalog lists it, and it came without TLS")]
    Unlisted,
    /// Content without a format for signatures.
    #[error("nothing signs such content, and it came without TLS")]
    NoFormat,
    /// A payload with other bytes than the stored one.
    #[error("a payload never changes under its name, and its stored bytes are others")]
    Changed,
}

impl Unproven {
    pub(super) const LABELS: [&'static str; 5] = ["signature", "older", "unlisted", "no-format", "changed"];

    /// Label value of the metric.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Signature(_) => "signature",
            Self::Older => "older",
            Self::Unlisted => "unlisted",
            Self::NoFormat => "no-format",
            Self::Changed => "changed",
        }
    }
}

impl Digests {
    /// Returns how a response with these fields can be proven. `headers` are fields to store, with the proof of TLS.
    pub(crate) fn provability(&self, subject: Subject<'_>, headers: &HeaderMap) -> Provability {
        let Subject { class, status, verification, digests, key } = subject;
        let is_exempt =
            !verification.needs_proof() || class == Class::Private || negative::is_negative(status);
        if is_exempt {
            return Provability::Unneeded;
        }
        match class {
            Class::Catalog if digests == Some(DigestList::Grd) => Provability::BySignature,
            Class::Payload if self.is_listed(key, verification) => Provability::ByList,
            _ if ContentProof::from_headers(headers) == Some(ContentProof::Tls) => Provability::ByTls,
            _ => Provability::Impossible,
        }
    }

    /// Returns true if no client may get the response before its proof: it would reach the client that asked, whatever is
    /// stored.
    pub fn is_withheld(&self, subject: Subject<'_>, is_authenticated: bool) -> bool {
        subject.verification == Verification::Hold
            && match subject.class {
                Class::Payload => !is_authenticated && !self.is_listed(subject.key, subject.verification),
                Class::Catalog => !is_authenticated || subject.digests == Some(DigestList::Grd),
                Class::Private | Class::Generic => false,
            }
    }

    /// Proves complete content with matching digests. `replaced` is the stored object that it replaces.
    ///
    /// # Errors
    /// Returns the reason if it is not proven.
    pub(crate) async fn prove(
        &self,
        subject: Subject<'_>,
        provability: Provability,
        content: &CompleteContent,
        replaced: Option<&Object>,
    ) -> Result<Option<ContentProof>, Unproven> {
        let unproven = match provability {
            Provability::Unneeded => return Ok(None),
            Provability::ByTls => return Ok(Some(ContentProof::Tls)),
            Provability::ByList => return Ok(Some(ContentProof::Listed)),
            Provability::BySignature => match self.prove_catalog(subject, content, replaced).await {
                Ok(stated) => return Ok(Some(ContentProof::Signature { stated })),
                Err(unproven) => unproven,
            },
            Provability::Impossible if subject.class == Class::Payload => Unproven::Unlisted,
            Provability::Impossible => Unproven::NoFormat,
        };
        let is_released = |object: &&Object| {
            object.blob == content.blob
                && ContentProof::from_headers(&object.headers) == Some(ContentProof::Released)
        };
        match replaced.filter(is_released) {
            Some(_) => Ok(Some(ContentProof::Released)),
            None => Err(unproven),
        }
    }

    /// Verifies a catalog and returns the time that it states.
    async fn prove_catalog(
        &self,
        subject: Subject<'_>,
        content: &CompleteContent,
        replaced: Option<&Object>,
    ) -> Result<u64, Unproven> {
        let known = self.catalogs.get(&**subject.key).and_then(|known| known.stated);
        let stored = replaced.and_then(|object| match ContentProof::from_headers(&object.headers) {
            Some(ContentProof::Signature { stated }) => Some(stated),
            _ => None,
        });
        let (listed, stated) = match self.judge_catalog(subject, content).await {
            CatalogReading::Signed { listed, stated } => (listed, stated),
            CatalogReading::Unsigned(reason) => return Err(Unproven::Signature(reason)),
            CatalogReading::Ignored | CatalogReading::List(_) => {
                return Err(Unproven::Signature("the catalog cannot be read".to_owned()));
            }
        };
        if known.max(stored).is_some_and(|before| stated < before) {
            return Err(Unproven::Older);
        }
        self.record_catalog(subject, content.blob, listed, Some(stated)).await;
        Ok(stated)
    }

    /// Proves a stored response that has no proof yet: it was stored before its route needed one, or came in a bundle.
    /// Returns false if a request must not use it.
    pub async fn prove_stored(&self, entry: &CacheEntry) -> bool {
        if !entry.awaits_proof() {
            return true;
        }
        let (subject, content) = (Subject::of(entry), CompleteContent::of(entry));
        let object = &entry.object;
        let proof = match subject.class {
            Class::Catalog if subject.digests == Some(DigestList::Grd) => self
                .prove_catalog(subject, &content, None)
                .await
                .ok()
                .map(|stated| ContentProof::Signature { stated }),
            Class::Payload => {
                let listed = self.listed.get(&*object.key).filter(|listed| listed.is_signed);
                listed.filter(|listed| listed.blob == object.blob).map(|_| ContentProof::Listed)
            }
            _ => None,
        };
        let Some(proof) = proof else { return false };
        let mut headers = object.headers.clone();
        proof.set(&mut headers);
        self.cache.refresh(entry, headers, object.request_time, object.response_time).await;
        entry.confirm_proof();
        true
    }

    /// Returns true if a catalog lists the payload of this key; a signed one if the route needs proof.
    pub(crate) fn is_listed(&self, key: &str, verification: Verification) -> bool {
        self.listed.get(key).is_some_and(|listed| listed.is_signed || !verification.needs_proof())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proof_is_read_as_it_was_set() {
        for proof in [
            ContentProof::Signature { stated: 1_369_163_480 },
            ContentProof::Listed,
            ContentProof::Tls,
            ContentProof::Released,
        ] {
            let mut headers = HeaderMap::new();
            proof.set(&mut headers);
            assert_eq!(ContentProof::from_headers(&headers), Some(proof));
        }
        for value in ["", "signature", "signature x", "listed x", "TLS", "other"] {
            let headers = HeaderMap::from_iter([(PROOF, HeaderValue::from_static(value))]);
            assert_eq!(ContentProof::from_headers(&headers), None, "{value}");
        }
    }
}
