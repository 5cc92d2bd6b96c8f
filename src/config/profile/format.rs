//! File formats of a profile: the first bytes of files by extension. A file of a listed extension is binary also if its
//! first bytes are unknown.

use super::read::read_certainty;
use crate::document::Document;

/// Maximum length of a magic number in bytes: signatures of common formats have 2 to 16.
const MAX_MAGIC_NUMBER: usize = 64;

/// Files of one format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFormat {
    /// Extensions without dot, in lower case. Never empty.
    extensions: Vec<String>,
    /// The first bytes, one of these; empty if they are not known.
    magic_numbers: Vec<Vec<u8>>,
}

impl FileFormat {
    /// Returns true if files of this extension (in lower case) have the format.
    pub fn has_extension(&self, extension: &str) -> bool {
        self.extensions.iter().any(|own| own == extension)
    }

    /// Returns true if content that begins like this is a file of the format.
    pub fn matches(&self, beginning: &[u8]) -> bool {
        self.magic_numbers.iter().any(|magic_number| beginning.starts_with(magic_number))
    }
}

/// Returns the extension of the last segment of a folded path; empty if it has none.
pub(crate) fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

pub(super) fn read_formats(document: &mut Document) -> Vec<FileFormat> {
    let mut formats: Vec<FileFormat> = Vec::new();
    for mut s in document.take_tables("magic", None) {
        let extensions = s.read_list("extensions", extension_name);
        if !s.is_given("extensions") {
            s.refuse_missing("extensions");
        }
        let magic_numbers = s.read_list("bytes", hex_bytes).unwrap_or_default();
        read_certainty(&mut s);
        if let Some(extensions) = extensions {
            if extensions.iter().any(|name| formats.iter().any(|format| format.has_extension(name))) {
                s.refuse("extensions", "has an extension of an earlier table: list each once");
            }
            formats.push(FileFormat { extensions, magic_numbers });
        }
        document.close(s);
    }
    formats
}

fn extension_name(text: &str) -> Result<String, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(format!("{text:?} is not an extension: write it like zip, without a dot"));
    }
    Ok(text.to_ascii_lowercase())
}

/// Reads bytes in hexadecimal digits, with spaces between bytes if liked.
pub(super) fn hex_bytes(text: &str) -> Result<Vec<u8>, String> {
    let refused = || {
        format!("{text:?} is not a sequence of up to {MAX_MAGIC_NUMBER} bytes: write it like \"50 4b 03 04\"")
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() || !(1..=MAX_MAGIC_NUMBER).contains(&pairs.len()) {
        return Err(refused());
    }
    let byte = |[high, low]: &[u8; 2]| {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        Some(digit(*high)? << 4 | digit(*low)?)
    };
    pairs.iter().map(byte).collect::<Option<_>>().ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pairs_of_hexadecimal_digits() {
        assert_eq!(hex_bytes("50 4B0304"), Ok(vec![0x50, 0x4b, 3, 4]));
        for text in ["", " ", "5", "504", "5g", "0x50", &"00".repeat(MAX_MAGIC_NUMBER + 1)] {
            assert!(hex_bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn extension_is_what_follows_the_last_dot_of_the_name() {
        for (path, expected) in
            [("/a.b/c.zip", "zip"), ("/a.b/c", ""), ("/a.tar.gz", "gz"), ("/", ""), ("", "")]
        {
            assert_eq!(extension(path), expected, "{path}");
        }
    }
}
