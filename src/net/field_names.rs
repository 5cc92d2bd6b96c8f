//! Spelling of a message's field names. HTTP compares names without case, but some agents and servers do not. hyper
//! keeps the received spelling in an extension of a private type. It therefore travels as what is left of a message's
//! extensions without those that are known. A name without a received spelling is sent as `Title-Case`.

use std::sync::Arc;

use http::Extensions;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::connect::HttpInfo;

use crate::upstream::LineHandle;

/// Spelling of the field names of one message. The default knows none. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FieldNames(Option<Arc<Extensions>>);

impl FieldNames {
    /// Returns the spelling in a received message with these extensions.
    pub fn received(extensions: &Extensions) -> Self {
        Self::taken(extensions.clone())
    }

    /// Returns the spelling in a received message that had these extensions.
    pub fn taken(mut extensions: Extensions) -> Self {
        // They belong to the connection, or replace the reason of the relay's own response.
        extensions.remove::<OnUpgrade>();
        extensions.remove::<HttpInfo>();
        extensions.remove::<LineHandle>();
        extensions.remove::<ReasonPhrase>();
        Self((!extensions.is_empty()).then(|| Arc::new(extensions)))
    }

    /// Returns the extensions of a message to be sent in this spelling.
    pub fn into_extensions(self) -> Extensions {
        self.0.map(Arc::unwrap_or_clone).unwrap_or_default()
    }
}
