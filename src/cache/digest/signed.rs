//! Signed catalogs: each `.grd` of the archive has a signature by a configured root beside it, and each other member is
//! listed there with its SHA-256. Pure. Zip readers disagree on archives with hidden or doubled entries,
//! so only an archive that every reader reads alike is believed.

use sha2::{Digest as _, Sha256};

use super::catalog::{self, CatalogArchive, CatalogError, ENTRY, ListedFile, MAX_LIST};
use super::signature::{MAX_SIGNATURE, SignatureError, SignatureRoots, SignedBytes};
use gupd_config::clock::UnixMillis;
use gupd_store::BlobId;

/// Maximum bytes of all members of one catalog when inflated.
const MAX_MEMBERS_BYTES: u64 = 16 << 20;

/// Signature of a member's own head.
const MEMBER: &[u8; 4] = b"PK\x03\x04";

/// Signature of the end of the central directory, and its length without a comment.
const END: &[u8; 4] = b"PK\x05\x06";
const END_LEN: usize = 22;

/// Reason for which a catalog is not believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnsignedCatalog {
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] CatalogError),
    /// The signature proves nothing.
    #[error("the catalog is not proven: {0}")]
    Signature(#[from] SignatureError),
    /// There is no list, or none with a signature.
    #[error("the catalog is not proven: it has no .grd with a .sig beside it")]
    Missing,
    /// A member is not covered by a signature.
    #[error("the catalog is not proven: its member {0:?} differs from the signed list or is not in it")]
    Member(String),
    /// Zip readers would disagree about the members.
    #[error("the catalog is not proven: readers of its archive would not agree on its members")]
    Ambiguous,
}

/// Content of a signed catalog.
#[derive(Debug)]
pub(super) struct SignedCatalog {
    /// Files beside the catalog.
    pub(super) listed: Vec<ListedFile>,
    /// Time that the catalog states, in seconds since 1970; 0 if it states none.
    pub(super) stated: u64,
}

/// Verifies a catalog and returns its content. Blocks while it inflates and hashes up to 16 MiB.
///
/// # Errors
/// Returns the first reason not to believe it.
pub(super) fn verify(
    catalog: &[u8],
    roots: &SignatureRoots,
    now: UnixMillis,
) -> Result<SignedCatalog, UnsignedCatalog> {
    let mut archive = CatalogArchive::open(catalog)?;
    check_unambiguous(catalog, &mut archive)?;
    let (mut listed, mut stated, mut covered) = (Vec::new(), 0, Vec::new());
    for list in archive.lists()? {
        let signature = signature_of(&archive.names, list).ok_or(UnsignedCatalog::Missing)?;
        let bytes = archive.read(list, MAX_LIST)?;
        let signature_bytes = match archive.read(signature, MAX_SIGNATURE) {
            Err(CatalogError::Inflates) => return Err(SignatureError::TooLarge.into()),
            read => read?,
        };
        let text = String::from_utf8_lossy(&bytes);
        let time = stated_time(&text);
        roots.verify(&signature_bytes, SignedBytes { bytes: &bytes, stated: time }, now)?;
        catalog::parse_list(&text, &mut listed)?;
        stated = stated.max(time.unwrap_or(0));
        covered.extend([list, signature]);
    }
    if covered.is_empty() {
        return Err(UnsignedCatalog::Missing);
    }
    let mut left = MAX_MEMBERS_BYTES;
    for index in (0..archive.names.len()).filter(|index| !covered.contains(index)) {
        let bytes = archive.read(index, left)?;
        left = left.saturating_sub(bytes.len() as u64);
        let Some(name) = archive.names.get(index) else { continue };
        let found = BlobId::from(<[u8; 32]>::from(Sha256::digest(&bytes)));
        if !listed.iter().any(|(listed, blob)| listed.eq_ignore_ascii_case(name) && *blob == found) {
            return Err(UnsignedCatalog::Member(name.chars().take(64).collect()));
        }
    }
    listed.retain(|(name, _)| !archive.names.contains(name));
    Ok(SignedCatalog { listed, stated })
}

/// Returns the index of the signature of a list: the member with its name and the extension `.sig`.
fn signature_of(names: &[String], list: usize) -> Option<usize> {
    let stem = |name: &str| name.to_ascii_lowercase().rsplit_once('.').map(|(stem, _)| stem.to_owned());
    let own = stem(names.get(list)?)?;
    let is_signature = |name: &String| name.to_ascii_lowercase().ends_with(".sig");
    names.iter().position(|name| is_signature(name) && stem(name).as_deref() == Some(&own))
}

/// Returns the time that a list states, in seconds since 1970.
fn stated_time(text: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.eq_ignore_ascii_case("[GuardHeader]"))?;
    let fields = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once('='));
    fields
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("LastModifiedUtcSeconds"))
        .find_map(|(_, value)| value.trim().parse().ok())
}

/// Checks that the archive is nothing but its members and one directory of them, and that both name each member alike. A
/// reader that scans for heads then finds the same members as one that reads the directory.
fn check_unambiguous(catalog: &[u8], archive: &mut CatalogArchive<'_>) -> Result<(), UnsignedCatalog> {
    let members = archive.names.len();
    let end = catalog.len().checked_sub(END_LEN).and_then(|at| catalog.get(at..)).unwrap_or_default();
    let is_plain = catalog.starts_with(MEMBER)
        && end.starts_with(END)
        && catalog::count(catalog, END) == 1
        && catalog::count(catalog, ENTRY) == members
        && catalog::count(catalog, MEMBER) == members;
    if !is_plain {
        return Err(UnsignedCatalog::Ambiguous);
    }
    for index in 0..members {
        let member = archive.archive.by_index_raw(index).map_err(CatalogError::from)?;
        let head = usize::try_from(member.header_start()).ok().and_then(|at| catalog.get(at..));
        let name = head.and_then(local_name).ok_or(UnsignedCatalog::Ambiguous)?;
        if name != member.name_raw() {
            return Err(UnsignedCatalog::Ambiguous);
        }
    }
    Ok(())
}

/// Returns the name in a member's own head (APPNOTE §4.3.7).
fn local_name(head: &[u8]) -> Option<&[u8]> {
    let [low, high] = *head.get(26..)?.first_chunk::<2>()?;
    head.get(30..)?.get(..usize::from(u16::from_le_bytes([low, high])))
}
