//! Plausibility of content: can a file of this name begin like this? A captive portal or a failing server answers `200`
//! with a page for any name, and a page under a payload's name would be served for ever. The first bytes decide, because
//! servers declare wrong types for files that they do not know. Pure.

use crate::profile::{FileFormat, extension};

/// Number of first bytes that decide.
pub const BEGINNING: usize = 256;

/// Extensions of pages.
const PAGES: &[&str] = &["html", "htm", "xhtml", "asp", "aspx", "php", "jsp", "cgi", "dll"];

/// Media types of pages.
const PAGE_TYPES: &[&str] = &["text/html", "application/xhtml+xml"];

/// Media types of text, besides `text/*`.
const TEXT_TYPES: &[&str] = &["application/json", "application/xml", "application/javascript"];

/// Returns false if content of this path is most likely a page in place of the file. `format` is that of its extension,
/// if the profile has one; `media_type` is the value of `Content-Type`; `beginning` holds up to [`BEGINNING`] first bytes, or `None` while only the head is known.
pub fn is_plausible(
    path: &str,
    format: Option<&FileFormat>,
    media_type: Option<&str>,
    beginning: Option<&[u8]>,
) -> bool {
    let media_type = media_type.map(|value| value.split(';').next().unwrap_or_default().trim());
    let is_type = |known: &[&str]| {
        media_type.is_some_and(|is| known.iter().any(|known| known.eq_ignore_ascii_case(is)))
    };
    let is_page_type = is_type(PAGE_TYPES);
    let Some(format) = format else {
        let extension = extension(path).to_ascii_lowercase();
        let is_page = is_page_type && beginning.is_none_or(is_markup);
        return !is_page || extension.is_empty() || PAGES.contains(&&*extension);
    };
    let Some(beginning) = beginning else { return !is_page_type };
    if format.matches(beginning) {
        return true;
    }
    let is_text_type = is_type(TEXT_TYPES)
        || media_type.and_then(|is| is.get(..5)).is_some_and(|is| is.eq_ignore_ascii_case("text/"));
    !(is_page_type || is_markup(beginning) || (is_text_type && is_text(beginning)))
}

/// Returns true for HTML, XML and JSON.
fn is_markup(beginning: &[u8]) -> bool {
    let text = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning).trim_ascii_start();
    match text {
        [b'<', b'!' | b'?' | b'a'..=b'z' | b'A'..=b'Z', rest @ ..] => is_text(rest),
        [b'{', rest @ ..] => rest.trim_ascii_start().starts_with(b"\"") && is_text(rest),
        _ => false,
    }
}

/// Returns true if no byte is a control character other than white space.
fn is_text(beginning: &[u8]) -> bool {
    beginning.iter().all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::BEGINNING;
    use crate::Config;
    use crate::policy::Policy;

    fn is_plausible(path: &str, media_type: Option<&str>, beginning: Option<&[u8]>) -> bool {
        let policy = Policy::new(&Config::for_upstreams(&["http://manager"]).unwrap()).unwrap();
        let classified = policy.classify(policy.route(None, path).unwrap(), path);
        super::is_plausible(path, classified.format.as_deref(), media_type, beginning)
    }

    const MAGIC_NUMBERS: [(&str, &[u8]); 5] = [
        ("zip", b"PK\x03\x04"),
        ("7z", b"7z\xbc\xaf\x27\x1c"),
        ("EXE", b"MZ"),
        ("msi", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        ("cab", b"MSCF"),
    ];

    const HTML: &[u8] = b"<html>please log in";

    #[test]
    fn page_in_place_of_a_file_is_implausible() {
        let utf8_html = [b"\xef\xbb\xbf\r\n ", HTML].concat();
        for (path, media_type, beginning) in [
            ("/full.zip", Some("text/html"), HTML),
            ("/full.ZIP", Some("Text/HTML; charset=utf-8"), b"Please log in"),
            ("/full.zip", Some("text/html"), b"\x1f\x8b\x08coded page"),
            ("/xdelta.dax", None, b"<!DOCTYPE html>"),
            ("/x.7z", Some("application/octet-stream"), &utf8_html),
            ("/x.exe", Some("application/json"), b"{ \"error\": 503 }"),
            ("/x.msi", Some("text/plain"), b"Bad gateway\n"),
            ("/x.cab", Some("application/xhtml+xml"), b"<?xml version=\"1.0\"?>"),
            ("/x.jdb", None, b"{\"error\":\"quota\"}"),
            ("/1369163480x.m26", None, b"<HTML><HEAD>"),
            ("/minitri.flg", Some("text/html"), HTML),
        ] {
            assert!(!is_plausible(path, media_type, Some(beginning)), "{path} {media_type:?}");
        }
    }

    #[test]
    fn file_with_a_wrong_media_type_is_plausible() {
        for (path, media_type, beginning) in [
            ("/full.zip", Some("text/html"), &b"PK\x03\x04"[..]),
            ("/empty.zip", None, b"PK\x05\x06"),
            ("/xdelta.dax", Some("text/plain"), b"\x00\x01binary"),
            ("/xdelta.dax", Some("application/octet-stream"), b"anything"),
            ("/x.7z", Some("text/html"), b"7z\xbc\xaf\x27\x1c\x00"),
            ("/x.exe", Some("text/plain"), b"MZ\x90"),
            ("/x.msi", Some("text/html"), b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
            ("/x.cab", Some("text/plain"), b"MSCF"),
            ("/x.zip", Some("application/zip"), b"<a\x00"),
            ("/x.m26", Some("text/plain"), b"\x02"),
            ("/x.zip", None, b""),
            // Names of pages, and files that may be text.
            ("/index.html", Some("text/html"), HTML),
            ("/server.php", Some("text/html"), HTML),
            ("/globalindex.xml", Some("text/xml"), b"<?xml version=\"1.0\"?>"),
            ("/liveupdt.tri", Some("text/plain"), b"[TriHeader]\r\n"),
            ("/minitri.flg", Some("text/html"), b" "),
            ("/news", Some("text/html"), HTML),
        ] {
            assert!(is_plausible(path, media_type, Some(beginning)), "{path} {media_type:?}");
        }
    }

    #[test]
    fn head_of_a_page_is_implausible_for_files_only() {
        for (path, media_type, plausible) in [
            ("/full.zip", Some("text/html"), false),
            ("/minitri.flg", Some("text/html"), false),
            ("/full.zip", Some("text/plain"), true),
            ("/full.zip", None, true),
            ("/index.html", Some("text/html"), true),
        ] {
            assert_eq!(is_plausible(path, media_type, None), plausible, "{path} {media_type:?}");
        }
    }

    proptest! {
        #[test]
        fn magic_number_overrules_every_media_type(
            (extension, magic_number) in proptest::sample::select(&MAGIC_NUMBERS[..]),
            media_type in proptest::option::of("[ -~]{0,20}"),
            rest in proptest::collection::vec(any::<u8>(), 0..BEGINNING),
        ) {
            let beginning = [magic_number, &rest].concat();
            let path = format!("/a.b/c.{extension}");
            prop_assert!(is_plausible(&path, media_type.as_deref(), Some(&beginning)));
        }
    }
}
