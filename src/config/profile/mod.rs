//! Profiles: what is known about the update traffic of one vendor, as data. A profile is a TOML file; those of
//! `config/profiles` are built in, and an operator's file of the same name replaces one.
//!
//! A [`Profile`] is valid: every pattern is compiled and every name is known, or the file is refused with its line.
//! `policy` compiles the rules of each route from it. The complication is `include`: a profile may consist of others.

mod client;
mod format;
mod host;
mod origin;
mod query;
mod read;
mod registry;
mod revision;
mod template;
mod vector;

use std::fmt;
use std::time::Duration;

use globset::Glob;
use http::HeaderName;

use crate::Class;
use crate::content::ContentGuid;
use crate::pass::PassRules;

pub use client::ClientInstruction;
pub use format::FileFormat;
pub(crate) use format::extension;
pub use host::HostPattern;
pub use origin::{ForeignOrigin, OriginParameter};
pub use query::QuerySelection;
pub use registry::Profiles;
pub(crate) use registry::read_profiles;
pub(crate) use revision::NumberSpan;
pub use revision::RevisionPattern;
pub use template::Template;
pub use vector::{TestVector, VectorFailure};

/// The rules of one vendor's update traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Name in `[[route]]`: lower-case letters, digits, `-`.
    pub name: String,
    /// Description for people.
    pub title: String,
    /// True to refuse paths that some servers take for the path of content.
    pub refuses_ambiguous_paths: bool,
    /// Requests that reach an upstream.
    pub pass: PassRules,
    /// Rules of paths; the first that matches decides.
    pub paths: Vec<PathRule>,
    /// Locations of revision numbers in paths.
    pub revisions: Vec<RevisionPattern>,
    /// The query parameter that names the origin server.
    pub origin: Option<OriginParameter>,
    /// Content types by GUID.
    pub guids: Vec<ContentGuid>,
    /// File formats by extension; those of `generic` follow on every route.
    pub formats: Vec<FileFormat>,
    /// Settings of the vendor's clients.
    pub clients: Vec<ClientInstruction>,
    /// Requests with their expected results.
    pub vectors: Vec<TestVector>,
}

/// A rule of paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// Glob over the folded path.
    pub pattern: Glob,
    /// Hosts of the routes that the rule is for; every route if empty.
    pub hosts: Vec<HostPattern>,
    /// Class of the paths that match.
    pub class: Class,
    /// True if no request for these paths passes.
    pub is_closed: bool,
    /// Content type, if not that of the path's GUID or class.
    pub content_type: Option<String>,
    /// Form of a payload.
    pub form: PayloadForm,
    /// Number of digits with which names of payloads begin: a larger number is a newer file of the same name.
    pub stamp_digits: Option<usize>,
    /// Lifetime of a negative response, if not that of its class.
    pub negative: Option<Duration>,
    /// Query parameters that are part of the key.
    pub key_query: QuerySelection,
    /// Request fields that are part of the key, as if every response listed them in `Vary`.
    pub key_fields: Vec<HeaderName>,
    /// Form of the list of payload digests in these catalogs.
    pub digests: Option<DigestList>,
    /// Certainty of the rule.
    pub certainty: Certainty,
}

/// Form in which a payload delivers a revision. A full set is a hundred times the size of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PayloadForm {
    /// A complete revision, such as `full.zip`.
    Full,
    /// A delta between two revisions, such as `*.dax`.
    Delta,
    /// Neither, or unknown from its name.
    Other,
}

/// Form of a list of payload digests in a catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestList {
    /// A zip archive with `.grd` files: sections `[File-<name>]` with `SHA256=`, for files beside the catalog.
    Grd,
}

/// Certainty of a fact about a vendor's servers or clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The vendor's documentation says so.
    Documented,
    /// It was seen on the wire, on a server's disk or in a public client's source.
    Observed,
    /// It follows from what is documented or was seen.
    Inferred,
    /// No public source says so.
    Unverified,
}

const CERTAINTIES: [(&str, Certainty); 4] = [
    (Certainty::Documented.as_str(), Certainty::Documented),
    (Certainty::Observed.as_str(), Certainty::Observed),
    (Certainty::Inferred.as_str(), Certainty::Inferred),
    (Certainty::Unverified.as_str(), Certainty::Unverified),
];

const DIGEST_LISTS: [(&str, DigestList); 1] = [(DigestList::Grd.as_str(), DigestList::Grd)];

const FORMS: [(&str, PayloadForm); 3] = [
    (PayloadForm::Full.as_str(), PayloadForm::Full),
    (PayloadForm::Delta.as_str(), PayloadForm::Delta),
    (PayloadForm::Other.as_str(), PayloadForm::Other),
];

impl PayloadForm {
    /// Returns the spelling used in profiles, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Delta => "delta",
            Self::Other => "other",
        }
    }
}

impl DigestList {
    /// Returns the spelling used in profiles.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grd => "grd",
        }
    }
}

impl Certainty {
    /// Returns the spelling used in profiles.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Documented => "documented",
            Self::Observed => "observed",
            Self::Inferred => "inferred",
            Self::Unverified => "unverified",
        }
    }
}

impl fmt::Display for Certainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Profile {
    /// Returns the names of its content types.
    pub fn content_types(&self) -> impl Iterator<Item = &str> {
        let of_paths = self.paths.iter().filter_map(|rule| rule.content_type.as_deref());
        self.guids.iter().map(|guid| guid.name.as_str()).chain(of_paths)
    }
}

impl PathRule {
    /// Returns true if the rule is for a route with these hosts: its own, or else those of its upstreams.
    pub(crate) fn is_for_hosts(&self, hosts: &[&str]) -> bool {
        self.hosts.is_empty()
            || !hosts.is_empty()
                && hosts.iter().all(|host| self.hosts.iter().any(|pattern| pattern.matches(host)))
    }
}
