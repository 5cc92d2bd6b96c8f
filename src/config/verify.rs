//! `[verify]`: the proof that content needs on routes with `verify`, the room of held content, and the checks of stored
//! payloads. Holds paths only; the roots are read where a configuration is compiled.

use std::path::PathBuf;

use crate::defaults;
use crate::document::Document;
use crate::reader::{choice, count, glob, path, size};

/// Maximum number of patterns of content without proof.
const MAX_UNSIGNED: usize = 100;

/// What content of a route needs before other clients get it, in increasing order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verification {
    /// Nothing beyond the digests that its head or its catalog announces.
    #[default]
    Off,
    /// A payload keeps the bytes that it was stored with: other bytes under its name are held.
    Changes,
    /// Proof. Content without it is passed on and not stored.
    Pass,
    /// Proof. Content without it is held, and no client gets it.
    Hold,
}

impl Verification {
    /// Returns the spelling used in configuration and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Changes => "changes",
            Self::Pass => "pass",
            Self::Hold => "hold",
        }
    }

    /// Returns true if content needs proof: a signature, a signed list, or TLS.
    pub const fn needs_proof(self) -> bool {
        matches!(self, Self::Pass | Self::Hold)
    }

    /// Returns true if a stored payload keeps its bytes.
    pub const fn refuses_changes(self) -> bool {
        !matches!(self, Self::Off)
    }
}

pub(crate) const VERIFICATIONS: [(&str, Verification); 4] = [
    (Verification::Off.as_str(), Verification::Off),
    (Verification::Changes.as_str(), Verification::Changes),
    (Verification::Pass.as_str(), Verification::Pass),
    (Verification::Hold.as_str(), Verification::Hold),
];

/// `[verify]`
#[derive(Clone, Debug, PartialEq)]
pub struct VerifySettings {
    /// PEM files of the roots that signers of catalogs chain to.
    pub roots: Vec<PathBuf>,
    /// True to judge a signer's certificate at the time that the signed catalog states, if it has expired since.
    pub accepts_expired: bool,
    /// Maximum bytes of held content.
    pub held_bytes: u64,
    /// Globs over the path of content that needs no proof.
    pub unsigned: Vec<String>,
    /// Number of stored payloads that are revalidated each day; 0 for none.
    pub checks_per_day: u32,
}

pub(crate) fn read_verify(document: &mut Document) -> VerifySettings {
    let mut s = document.take_section("verify");
    let roots = s.read_list("roots", path).unwrap_or_default();
    // For the sandbox: they are read again at each reload.
    roots.iter().for_each(|root| s.add_file("roots", root.clone()));
    let expired = [("refuse", false), ("accept", true)];
    let accepts_expired = s.read("expired_signers", |text| choice(text, &expired)).unwrap_or(false);
    let held_bytes = size(&mut s, "held_bytes", defaults::HELD_BYTES);
    let mut patterns = 0;
    let unsigned = s.read_list("unsigned", |text| {
        patterns = usize::saturating_add(patterns, 1);
        match patterns > MAX_UNSIGNED {
            true => Err(format!("{text:?} exceeds the maximum of {MAX_UNSIGNED} patterns: remove some")),
            false => glob(text),
        }
    });
    let verify = VerifySettings {
        roots,
        accepts_expired,
        held_bytes,
        unsigned: unsigned.unwrap_or_else(|| vec![defaults::UNSIGNED.to_owned()]),
        checks_per_day: count(&mut s, "checks_per_day", defaults::CHECKS_PER_DAY),
    };
    document.close(s);
    verify
}
