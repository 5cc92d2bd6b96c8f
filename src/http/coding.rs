//! Content codings (RFC 9110 §8.4, §12.5.3): the coding that a fill asks for, and whether a response has it.
//! `Accept-Encoding` has hundreds of spellings and few meanings; each spelling sent upstream would be a variant of its
//! own. A fill therefore asks for one coding. Some servers code content without being asked.

use http::{HeaderMap, header};

use super::field;

/// Codings that a fill asks for, by preference. Nearly every client and server knows `gzip`, so one variant serves most
/// clients.
const CODINGS: [&str; 4] = ["gzip", "br", "zstd", "deflate"];

/// Other codings of the registry (RFC 9110 §16.6). Together with [`CODINGS`] they are those that an upstream may have
/// chosen for one client.
const OTHER_CODINGS: [&str; 8] =
    ["compress", "x-compress", "dcb", "dcz", "aes128gcm", "exi", "pack200-gzip", "x-gzip"];

/// The coding that changes nothing.
const IDENTITY: &str = "identity";

/// Returns the `Accept-Encoding` that a fill sends for a client: one coding that the client accepts. `None` if the client
/// sent none.
pub(super) fn requested_coding(request: &HeaderMap) -> Option<&'static str> {
    if !request.contains_key(header::ACCEPT_ENCODING) {
        return None;
    }
    Some(CODINGS.into_iter().find(|coding| is_accepted(request, coding)).unwrap_or(IDENTITY))
}

/// Returns true if the content has a coding.
pub(super) fn is_coded(response: &HeaderMap) -> bool {
    codings(response).next().is_some()
}

/// Returns true if every client with the same [`requested_coding`] can decode the response. A client that asked for no
/// coding and got one would get it again from the upstream, so others like it may have the same. So may clients of a
/// private coding: nobody can ask for it by negotiation, so its upstream applies it for all.
pub(super) fn is_decodable(response: &HeaderMap, requested: Option<&str>) -> bool {
    match requested {
        None | Some(IDENTITY) => true,
        Some(coding) => codings(response).all(|applied| is_named(applied, coding) || !is_registered(applied)),
    }
}

fn codings(response: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let members = field::members(response, header::CONTENT_ENCODING);
    members.filter(|coding| !coding.eq_ignore_ascii_case(IDENTITY.as_bytes()))
}

fn is_registered(coding: &[u8]) -> bool {
    CODINGS.iter().chain(&OTHER_CODINGS).any(|name| coding.eq_ignore_ascii_case(name.as_bytes()))
}

/// Returns true if the client accepts a coding. A member that is not understood accepts nothing.
fn is_accepted(request: &HeaderMap, coding: &str) -> bool {
    let (mut named, mut others) = (None, false);
    for member in field::members(request, header::ACCEPT_ENCODING) {
        let mut parts = member.splitn(2, |byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let is_wanted = parts.next().is_none_or(is_positive_weight);
        if is_named(name, coding) {
            named = Some(named.unwrap_or(true) && is_wanted);
        } else if name == b"*" {
            others = is_wanted;
        }
    }
    named.unwrap_or(others)
}

/// RFC 9110 §8.4.1.3: `x-gzip` is `gzip`.
fn is_named(name: &[u8], coding: &str) -> bool {
    name.eq_ignore_ascii_case(coding.as_bytes()) || (coding == "gzip" && name.eq_ignore_ascii_case(b"x-gzip"))
}

/// Returns true for a weight (RFC 9110 §12.4.2) above zero.
fn is_positive_weight(parameter: &[u8]) -> bool {
    let weight = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="));
    let weight = weight.and_then(|weight| std::str::from_utf8(weight).ok()?.parse::<f32>().ok());
    weight.is_some_and(|weight| weight > 0.0 && weight <= 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn field(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn accept_encoding_has_few_normal_forms() {
        assert_eq!(requested_coding(&HeaderMap::new()), None);
        for (accepted, expected) in [
            ("gzip", "gzip"),
            ("GZip", "gzip"),
            ("x-gzip", "gzip"),
            ("gzip, deflate", "gzip"),
            ("deflate,gzip;q=0.5", "gzip"),
            ("gzip, deflate, br, zstd", "gzip"),
            ("gzip;q=1.0, *;q=0", "gzip"),
            ("*", "gzip"),
            ("compress, identity;q=0, gzip ; q=0.001", "gzip"),
            ("br", "br"),
            ("gzip;q=0, *", "br"),
            ("zstd, deflate", "zstd"),
            ("deflate", "deflate"),
            ("", "identity"),
            ("identity", "identity"),
            ("compress, unknown", "identity"),
            ("gzip;q=0", "identity"),
            ("gzip;q=0.000, identity", "identity"),
            ("*;q=0", "identity"),
            // A client that contradicts itself, or is not understood, accepts nothing.
            ("gzip, gzip;q=0", "identity"),
            ("gzip;q=x", "identity"),
            ("gzip;q=-1", "identity"),
            ("gzip;level=9", "identity"),
            ("gzipped", "identity"),
        ] {
            let request = field(header::ACCEPT_ENCODING, accepted);
            assert_eq!(requested_coding(&request), Some(expected), "{accepted}");
            let sent = field(header::ACCEPT_ENCODING, expected);
            assert_eq!(requested_coding(&sent), Some(expected), "a normal form is its own");
        }
    }

    #[test]
    fn identity_is_no_coding() {
        for (coding, expected) in
            [("gzip", true), ("identity", false), ("Identity, ", false), ("identity, br", true), ("", false)]
        {
            assert_eq!(is_coded(&field(header::CONTENT_ENCODING, coding)), expected, "{coding}");
        }
        assert!(!is_coded(&HeaderMap::new()));
    }

    #[test]
    fn only_the_requested_coding_is_decodable_for_all() {
        for (requested, coding, expected) in [
            (Some("gzip"), "gzip", true),
            (Some("gzip"), "X-GZIP", true),
            (Some("gzip"), "br", false),
            (Some("gzip"), "gzip, br", false),
            (Some("br"), "gzip", false),
            (Some("br"), "x-gzip", false),
            (Some("gzip"), "Compress", false),
            (Some("gzip"), "vendor-packed", true),
            (Some("gzip"), "vendor-packed, br", false),
            (Some("gzip"), "vendor-packed, gzip", true),
            (Some("identity"), "gzip", true),
            (None, "gzip", true),
        ] {
            let response = field(header::CONTENT_ENCODING, coding);
            assert_eq!(is_decodable(&response, requested), expected, "{requested:?} {coding}");
        }
    }
}
