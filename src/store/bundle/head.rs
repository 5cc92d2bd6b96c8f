//! An object's head in a bundle. Decoding trusts nothing: an invalid field, a length that differs from the
//! blob's, or a head too large for the store is refused before anything is stored.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::held::{PROOF_FIELD, is_held};
use crate::publication::is_copy;
use crate::trailer::RECORD_MAX;
use crate::{BlobId, NewObject, Object};
use gupd_config::clock::UnixMillis;

/// Hop-by-hop fields (RFC 9110 §7.6.1), which are never stored.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// An object's head and the name of its blob.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ObjectHead {
    key: String,
    selecting: String,
    status: u16,
    /// Names and values. Each byte of a value is one character (ISO 8859-1), since values need not be UTF-8.
    fields: Vec<(String, String)>,
    content_type: String,
    upstream: String,
    request_time: UnixMillis,
    response_time: UnixMillis,
    blob: String,
    length: u64,
}

impl ObjectHead {
    pub(super) fn from_object(object: &Object) -> Self {
        let field = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.as_bytes().iter().copied().map(char::from).collect())
        };
        Self {
            key: object.key.to_string(),
            selecting: object.selecting.clone(),
            status: object.status.as_u16(),
            fields: object.headers.iter().map(field).collect(),
            content_type: object.content_type.to_string(),
            upstream: object.upstream.to_string(),
            request_time: object.request_time,
            response_time: object.response_time,
            blob: object.blob.to_string(),
            length: object.len,
        }
    }

    /// Returns the name of the bundle entry.
    pub(super) fn name(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(&self.key);
        digest.update([0]);
        digest.update(&self.selecting);
        format!("objects/{}.json", BlobId::from(<[u8; 32]>::from(digest.finalize())))
    }

    /// Returns the name and length of the blob.
    pub(super) fn blob(&self) -> Result<(BlobId, u64), String> {
        let id = self.blob.parse().map_err(|error| format!("invalid blob {:?}: {error}", self.blob))?;
        Ok((id, self.length))
    }

    /// Returns the object as if it had been fetched at the stated times, but never later than `now`.
    pub(super) fn to_object(&self, now: UnixMillis) -> Result<NewObject, String> {
        if self.key.is_empty()
            || [&self.key, &self.selecting].iter().any(|text| text.contains(char::is_control))
        {
            return Err("the key is empty or has control characters".to_owned());
        }
        if is_copy(&self.key) {
            return Err("the key is that of a copy, which only a store makes".to_owned());
        }
        if is_held(&self.key) {
            return Err("the key is that of held content, which no bundle has".to_owned());
        }
        let new = NewObject {
            key: self.key.as_str().into(),
            selecting: self.selecting.clone(),
            status: StatusCode::from_u16(self.status)
                .map_err(|_| format!("{} is not a status code", self.status))?,
            headers: self.headers()?,
            content_type: self.content_type.as_str().into(),
            upstream: self.upstream.as_str().into(),
            request_time: self.request_time.min(now),
            response_time: self.response_time.min(now),
        };
        match new.encode().len() {
            bytes if bytes > RECORD_MAX => {
                Err(format!("the head needs {bytes} bytes; the limit is {RECORD_MAX}"))
            }
            _ => Ok(new),
        }
    }

    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.fields {
            let refused = || format!("{name:?} is not allowed in a stored response");
            let bytes: Option<Vec<u8>> = value.chars().map(|char| u8::try_from(char).ok()).collect();
            let value = bytes.and_then(|bytes| HeaderValue::from_bytes(&bytes).ok()).ok_or_else(refused)?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
            // The importing relay proves content by itself.
            if name == PROOF_FIELD {
                continue;
            }
            if HOP_BY_HOP.contains(&name) {
                return Err(refused());
            }
            if name == header::CONTENT_LENGTH && value.as_bytes() != self.length.to_string().as_bytes() {
                return Err(format!("Content-Length is not {}, the length of the blob", self.length));
            }
            headers.try_append(name, value).map_err(|_| "too many fields".to_owned())?;
        }
        Ok(headers)
    }
}
