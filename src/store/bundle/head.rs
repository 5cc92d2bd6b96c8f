//! An object's head as a bundle has it. Reading one believes nothing: a field that cannot be a field, a length that is
//! not the body's or a head too large for the store is refused before anything is stored.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::publication::is_copy;
use crate::trailer::RECORD_MAX;
use crate::{BlobId, NewObject, Object};
use gupd_config::clock::UnixMillis;

/// FieldReader of one connection (RFC 9110 §7.6.1), which no store keeps.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// An object's head and the blob it has.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ObjectHead {
    key: String,
    selecting: String,
    status: u16,
    /// Name and value; each of a value's bytes is a character (ISO 8859-1), since values need not be UTF-8.
    fields: Vec<(String, String)>,
    content_type: String,
    upstream: String,
    request_time: UnixMillis,
    response_time: UnixMillis,
    blob: String,
    length: u64,
}

impl ObjectHead {
    pub(super) fn of(object: &Object) -> Self {
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

    /// The name of its entry.
    pub(super) fn name(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(&self.key);
        digest.update([0]);
        digest.update(&self.selecting);
        format!("objects/{}.json", BlobId::from(<[u8; 32]>::from(digest.finalize())))
    }

    /// Its blob and that blob's length.
    pub(super) fn blob(&self) -> Result<(BlobId, u64), String> {
        let id = self.blob.parse().map_err(|error| format!("its blob is {:?}: {error}", self.blob))?;
        Ok((id, self.length))
    }

    /// The object it is of, as if it had been fetched at the times it says, but never later than `now`.
    pub(super) fn object(&self, now: UnixMillis) -> Result<NewObject, String> {
        if self.key.is_empty()
            || [&self.key, &self.selecting].iter().any(|text| text.contains(char::is_control))
        {
            return Err("its key is empty or has control characters".to_owned());
        }
        if is_copy(&self.key) {
            return Err("its key is that of a copy, which only a store itself makes".to_owned());
        }
        let new = NewObject {
            key: self.key.as_str().into(),
            selecting: self.selecting.clone(),
            status: StatusCode::from_u16(self.status).map_err(|_| format!("{} is no status", self.status))?,
            headers: self.headers()?,
            content_type: self.content_type.as_str().into(),
            upstream: self.upstream.as_str().into(),
            request_time: self.request_time.min(now),
            response_time: self.response_time.min(now),
        };
        match new.encode().len() {
            bytes if bytes > RECORD_MAX => {
                Err(format!("the head needs {bytes} bytes and a store keeps at most {RECORD_MAX}"))
            }
            _ => Ok(new),
        }
    }

    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.fields {
            let refused = || format!("{name:?} is not a field of a stored response");
            let bytes: Option<Vec<u8>> = value.chars().map(|char| u8::try_from(char).ok()).collect();
            let value = bytes.and_then(|bytes| HeaderValue::from_bytes(&bytes).ok()).ok_or_else(refused)?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
            if HOP_BY_HOP.contains(&name) {
                return Err(refused());
            }
            if name == header::CONTENT_LENGTH && value.as_bytes() != self.length.to_string().as_bytes() {
                return Err(format!("its Content-Length is not {}, its blob's length", self.length));
            }
            headers.try_append(name, value).map_err(|_| "it has too many fields".to_owned())?;
        }
        Ok(headers)
    }
}
