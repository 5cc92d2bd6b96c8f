//! Framing fields of a response (RFC 9112 §6): `Transfer-Encoding` and `Content-Length`. A response passes only if both
//! say one thing, so that no two recipients can read different bodies. Also for responses without a body, such as to
//! `HEAD`: their fields go on to clients and into the store.

use http::{HeaderMap, HeaderValue, header};

/// A contradiction in the framing of a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A transfer coding other than `chunked` (RFC 9112 §6.1). The relay asks for none.
    #[error("transfer coding {0:?} instead of chunked")]
    Coding(String),
    /// Lengths that differ, or a value that is no length (RFC 9112 §6.3).
    #[error("content length {0:?}")]
    Length(String),
}

/// Checks the framing fields and leaves at most one `Content-Length`, none beside `chunked`.
///
/// # Errors
/// If the fields contradict themselves. The response must not be used.
pub fn normalize(headers: &mut HeaderMap) -> Result<(), FramingError> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        let codings = join(headers, &header::TRANSFER_ENCODING);
        if !codings.eq_ignore_ascii_case("chunked") {
            return Err(FramingError::Coding(codings));
        }
        // The coding overrides a length, which a proxy removes (RFC 9112 §6.3).
        headers.remove(header::CONTENT_LENGTH);
        return Ok(());
    }
    let Some(first) = headers.get(header::CONTENT_LENGTH) else { return Ok(()) };
    // The usual case: one field with one value, which stays as it is.
    let is_alone = headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_none();
    if is_alone && length(first.as_bytes()).is_some() {
        return Ok(());
    }
    let all = join(headers, &header::CONTENT_LENGTH);
    let mut lengths = all.split(',').map(|value| length(value.trim_matches([' ', '\t']).as_bytes()));
    let first = lengths.next().flatten();
    match first {
        Some(bytes) if lengths.all(|other| other == first) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
            Ok(())
        }
        _ => Err(FramingError::Length(all)),
    }
}

/// Parses digits only: no sign, no space.
fn length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

fn join(headers: &HeaderMap, name: &header::HeaderName) -> String {
    let values: Vec<_> =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    values.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(fields: &[(header::HeaderName, &str)]) -> Result<Option<String>, FramingError> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        normalize(&mut headers)?;
        assert!(headers.get_all(header::CONTENT_LENGTH).iter().count() <= 1);
        Ok(headers.get(header::CONTENT_LENGTH).map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn equal_lengths_collapse_and_others_are_refused() {
        for (values, expected) in [
            (&["1690"][..], Some("1690")),
            (&["1690", "1690"], Some("1690")),
            (&["1690,1690"], Some("1690")),
            (&["1690 ,\t1690"], Some("1690")),
            (&["1690", "1690, 1690"], Some("1690")),
            (&["0", "0"], Some("0")),
            (&["1690", "1691"], None),
            (&["1690,1691"], None),
            (&["1690,"], None),
            (&[""], None),
            (&["+1690"], None),
            (&["-1"], None),
            (&["0x10"], None),
            (&["16 90"], None),
            (&["1690", "x"], None),
            (&["18446744073709551616"], None),
            (&["1690\u{a0}"], None),
        ] {
            let fields: Vec<_> = values.iter().map(|value| (header::CONTENT_LENGTH, *value)).collect();
            assert_eq!(normalized(&fields).ok().flatten().as_deref(), expected, "{values:?}");
            assert_eq!(normalized(&fields).is_ok(), expected.is_some(), "{values:?}");
        }
        assert_eq!(normalized(&[]), Ok(None));
    }

    #[test]
    fn chunked_is_the_only_coding_and_removes_lengths() {
        let coding = |value| (header::TRANSFER_ENCODING, value);
        for value in ["chunked", "Chunked"] {
            assert_eq!(normalized(&[coding(value)]), Ok(None));
            let length = |value| (header::CONTENT_LENGTH, value);
            assert_eq!(normalized(&[length("5"), coding(value), length("x")]), Ok(None));
        }
        for values in [
            &["gzip, chunked"][..],
            &["gzip"],
            &["deflate", "chunked"],
            &["identity"],
            &["chunked, identity"],
            &["chunked", "chunked"],
            &["chunked;q=1"],
            &["xchunked"],
            &[""],
        ] {
            let fields: Vec<_> = values.iter().map(|value| coding(*value)).collect();
            assert!(matches!(normalized(&fields), Err(FramingError::Coding(_))), "{values:?}");
        }
    }
}
