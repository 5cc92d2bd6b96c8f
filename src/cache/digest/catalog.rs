//! Payload hashes in LiveUpdate catalogs. Such a zip archive has a `.grd`, an INI file with a section `[File-<name>]` and
//! a `SHA256=` for each payload. The bytes come from the network, so every dimension is bounded before memory is spent
//! on it. An invalid catalog is only ignored here; the relay serves it unchanged.

use std::io::{Cursor, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use gupd_http::key;
use gupd_store::BlobId;

/// Maximum size of a catalog in bytes. Observed ones have 4 KiB; one for all products would have some hundred KiB.
pub(super) const MAX_CATALOG: u64 = 4 << 20;

/// Maximum number of archive members. Observed catalogs have three or four.
const MAX_MEMBERS: usize = 1024;

/// Maximum number of `.grd` files read from one catalog. One is expected.
const MAX_LISTS: usize = 8;

/// Maximum size of an inflated `.grd` in bytes. A file takes about 200 bytes, so this allows 5,000 files.
pub(super) const MAX_LIST: u64 = 1 << 20;

/// Maximum number of files listed by one catalog.
const MAX_LISTED: usize = 4096;

/// Maximum length of a file name in bytes, as in common file systems.
const MAX_NAME: usize = 255;

/// Signature of a member's entry in the archive's central directory.
pub(super) const ENTRY: &[u8; 4] = b"PK\x01\x02";

/// Reason why a catalog is ignored.
#[derive(Debug, thiserror::Error)]
pub(super) enum CatalogError {
    /// The catalog has too many bytes.
    #[error("the catalog has {0} bytes; the limit is {MAX_CATALOG}")]
    TooLarge(u64),
    /// The catalog is not a readable zip archive.
    #[error("the catalog is not a readable zip archive: {0}")]
    Archive(#[from] ZipError),
    /// The archive has too many members.
    #[error("the catalog has more than {MAX_MEMBERS} members")]
    Members,
    /// The archive has too many lists.
    #[error("the catalog has more than {MAX_LISTS} .grd files")]
    Lists,
    /// A member is too large when inflated.
    #[error("a member inflates to more than is read of it")]
    Inflates,
    /// A member cannot be inflated.
    #[error("a member cannot be inflated: {0}")]
    Broken(std::io::Error),
    /// The catalog lists too many files.
    #[error("the catalog lists more than {MAX_LISTED} files")]
    Listed,
}

/// Name and SHA-256 of a file beside a catalog.
pub(super) type ListedFile = (String, BlobId);

/// Members of a catalog, by name.
pub(super) struct CatalogArchive<'a> {
    pub(super) archive: ZipArchive<Cursor<&'a [u8]>>,
    pub(super) names: Vec<String>,
}

impl<'a> CatalogArchive<'a> {
    /// Reads the names of all members.
    ///
    /// # Errors
    /// Returns an error if the archive is invalid or has too many members.
    pub(super) fn open(catalog: &'a [u8]) -> Result<Self, CatalogError> {
        let length = catalog.len() as u64;
        if length > MAX_CATALOG {
            return Err(CatalogError::TooLarge(length));
        }
        // The archive reader allocates an entry for each of these before it reports their number.
        if count(catalog, ENTRY) > MAX_MEMBERS {
            return Err(CatalogError::Members);
        }
        let archive = ZipArchive::new(Cursor::new(catalog))?;
        let names =
            archive.file_names().map(|name| Ok(name?.into_owned())).collect::<Result<Vec<_>, ZipError>>()?;
        Ok(Self { archive, names })
    }

    /// Returns the indices of the `.grd` files.
    ///
    /// # Errors
    /// Returns an error if there are too many.
    pub(super) fn lists(&self) -> Result<Vec<usize>, CatalogError> {
        let is_list = |name: &String| name.to_ascii_lowercase().ends_with(".grd");
        let lists: Vec<_> =
            self.names.iter().enumerate().filter(|(_, name)| is_list(name)).map(|(index, _)| index).collect();
        if lists.len() > MAX_LISTS { Err(CatalogError::Lists) } else { Ok(lists) }
    }

    /// Inflates a member of at most `max` bytes.
    ///
    /// # Errors
    /// Returns an error if it has more or cannot be inflated.
    pub(super) fn read(&mut self, index: usize, max: u64) -> Result<Vec<u8>, CatalogError> {
        let mut bytes = Vec::new();
        self.archive
            .by_index(index)?
            .take(max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(CatalogError::Broken)?;
        if bytes.len() as u64 > max { Err(CatalogError::Inflates) } else { Ok(bytes) }
    }
}

/// Returns the number of times that `mark` occurs.
pub(super) fn count(bytes: &[u8], mark: &[u8; 4]) -> usize {
    bytes.windows(mark.len()).filter(|window| window == mark).count()
}

/// Parses a catalog and returns the listed files, without the archive's own members. Blocks while it inflates up to a
/// few MiB.
///
/// # Errors
/// Returns an error if any part of the catalog is invalid.
pub(super) fn parse(catalog: &[u8]) -> Result<Vec<ListedFile>, CatalogError> {
    let mut archive = CatalogArchive::open(catalog)?;
    let mut listed = Vec::new();
    for index in archive.lists()? {
        let text = archive.read(index, MAX_LIST)?;
        parse_list(&String::from_utf8_lossy(&text), &mut listed)?;
    }
    listed.retain(|(name, _)| !archive.names.contains(name));
    Ok(listed)
}

/// Returns the key of a payload beside a catalog, shared by all upstreams; `None` if the name is not valid in a path.
pub(super) fn payload_key(catalog: &str, name: &str) -> Option<String> {
    let key::KeyParts { route, target, .. } = key::split_key(catalog);
    let path = target.split('?').next().unwrap_or(target);
    let folder = path.get(..=path.rfind('/')?)?;
    let spelled = key::normalize(&format!("{folder}{}", escape(name)), None).ok()?;
    Some(spelled.key(route, None))
}

/// Adds the files that a list has, with their SHA-256.
pub(super) fn parse_list(text: &str, listed: &mut Vec<ListedFile>) -> Result<(), CatalogError> {
    let mut file = None;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            file = section.strip_prefix("File-").filter(|name| is_file_name(name));
        } else if let (Some(name), Some((field, value))) = (file, line.split_once('='))
            && field.trim_end().eq_ignore_ascii_case("SHA256")
            && let Ok(blob) = value.trim_start().to_ascii_lowercase().parse()
        {
            if listed.len() == MAX_LISTED {
                return Err(CatalogError::Listed);
            }
            listed.push((name.to_owned(), blob));
        }
    }
    Ok(())
}

/// Returns true if the name can only denote a file beside the catalog.
fn is_file_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.contains(['/', '\\'])
}

/// Escapes a name as clients do in a path segment (RFC 3986 §3.3).
fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@{}".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in members {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn section(name: &str, digit: char) -> String {
        let (short, long) = ("1".repeat(40), digit.to_string().repeat(64));
        format!("[File-{name}]\r\nSHA1={short}\r\nSHA256={long}\r\n")
    }

    #[test]
    fn catalog_lists_files_beside_it_and_not_its_members() {
        let list = [
            "[GuardHeader]\r\nLastModifiedUtcSeconds=1369163480\r\n".to_owned(),
            section("1369163480jtun_a.zip", 'A'),
            section("liveupdt.tri", 'b'),
            section("../b.zip", 'c'),
            "SHA256=cccc\r\n[File-d.7z]\r\nSHA256=short\r\n[File-]\r\n".to_owned(),
        ];
        let bytes = archive(&[("liveupdt.tri", b"tri"), ("V.GRD", list.concat().as_bytes()), ("v.sig", b"")]);
        let listed = parse(&bytes).unwrap();
        assert_eq!(listed, [("1369163480jtun_a.zip".to_owned(), BlobId::from([0xaa; 32]))]);
        assert_eq!(parse(&archive(&[("liveupdt.tri", b"tri")])).unwrap(), []);
    }

    #[test]
    fn payload_key_equals_the_key_of_client_requests() {
        for (catalog, name, expected) in [
            ("all /x$20y_livetri.zip", "1_a$20b.zip", Some("all /1_a$20b.zip")),
            ("a b /lu/livetri.zip?x=/y", "1 a.7z", Some("a b /lu/1%20a.7z")),
            ("all ~m2 /lu/livetri.zip", "a.7z", Some("all /lu/a.7z")),
            ("all /livetri.zip", "..", None),
            ("all", "a", None),
        ] {
            assert_eq!(payload_key(catalog, name).as_deref(), expected, "{catalog} {name}");
        }
    }

    #[test]
    fn oversized_catalog_of_any_kind_is_refused() {
        let bomb = archive(&[("v.grd", &vec![b'a'; 64 << 20])]);
        assert!(bomb.len() < 100_000, "it has {} bytes", bomb.len());
        assert!(matches!(parse(&bomb), Err(CatalogError::Inflates)));
        let many: Vec<_> = (0..=MAX_MEMBERS).map(|member| member.to_string()).collect();
        let many: Vec<_> = many.iter().map(|name| (&**name, &b""[..])).collect();
        assert!(matches!(parse(&archive(&many)), Err(CatalogError::Members)));
        let lists: Vec<_> = (0..=MAX_LISTS).map(|list| format!("{list}.grd")).collect();
        let lists: Vec<_> = lists.iter().map(|name| (&**name, &b""[..])).collect();
        assert!(matches!(parse(&archive(&lists)), Err(CatalogError::Lists)));
        let long: String = (0..=MAX_LISTED).map(|file| section(&file.to_string(), 'a')).collect();
        assert!(matches!(parse(&archive(&[("v.grd", long.as_bytes())])), Err(CatalogError::Listed)));
        assert!(matches!(parse(&vec![0; MAX_CATALOG as usize + 1]), Err(CatalogError::TooLarge(_))));
        // A nested archive is a file like any other.
        assert_eq!(parse(&archive(&[("v.zip", &bomb)])).unwrap(), []);
    }

    #[test]
    fn truncated_catalog_is_refused() {
        let whole = archive(&[("v.grd", section("a.zip", 'a').as_bytes())]);
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).is_err(), "{cut} of {} bytes", whole.len());
        }
    }

    proptest! {
        #[test]
        fn damaged_catalog_never_causes_a_panic(at: proptest::sample::Index, to: u8) {
            let mut bytes = archive(&[("v.grd", section("a.zip", 'a').as_bytes())]);
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(listed) = parse(&bytes) {
                prop_assert!(listed.len() <= 1);
            }
        }
    }
}
