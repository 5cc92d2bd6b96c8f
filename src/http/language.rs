//! `Accept-Language` (RFC 9110 §12.5.4) as a selecting field: lists with equal meaning are one variant, and a response in
//! the language that a client prefers to all others is right for it. Order has no meaning of its own and case none at
//! all; a member that is malformed stays as it is and equals only itself.

use std::cmp::Reverse;

use http::{HeaderMap, header};

use super::field;

/// Weight of a member without one.
const FULL_WEIGHT: u16 = 1000;

/// One member of the list: weight in thousandths, language range in lower case.
type Preference = (Reverse<u16>, Vec<u8>);

/// Returns the normal form of a request's list: by weight, then by name, without repetition.
pub(super) fn normalize(request: &HeaderMap) -> Vec<u8> {
    let mut text = Vec::new();
    for (Reverse(weight), range) in preferences(request) {
        if !text.is_empty() {
            text.push(b',');
        }
        text.extend_from_slice(&range);
        if weight < FULL_WEIGHT {
            let decimals = format!("{weight:03}");
            let decimals = decimals.trim_end_matches('0');
            let point = if decimals.is_empty() { "" } else { "." };
            text.extend_from_slice(format!(";q=0{point}{decimals}").as_bytes());
        }
    }
    text
}

/// Returns true if the response is in the one language that the request prefers to all others. An origin that has the
/// content in this language sends it.
pub(super) fn is_first_choice(request: &HeaderMap, response: &HeaderMap) -> bool {
    let mut languages = field::members(response, header::CONTENT_LANGUAGE);
    let (Some(language), None) = (languages.next(), languages.next()) else { return false };
    let preferences = preferences(request);
    let mut choices = preferences.iter();
    let Some((weight, first)) = choices.next() else { return false };
    weight.0 > 0
        && first.eq_ignore_ascii_case(language)
        && choices.next().is_none_or(|(second, _)| second.0 < weight.0)
}

fn preferences(request: &HeaderMap) -> Vec<Preference> {
    let members = field::members(request, header::ACCEPT_LANGUAGE);
    let mut preferences: Vec<Preference> = members.map(parse).collect();
    preferences.sort_unstable();
    let mut known: Vec<Vec<u8>> = Vec::with_capacity(preferences.len());
    preferences.retain(|(_, range)| {
        let is_new = !known.contains(range);
        if is_new {
            known.push(range.clone());
        }
        is_new
    });
    preferences
}

fn parse(member: &[u8]) -> Preference {
    let member: Vec<u8> = member.iter().filter(|byte| !byte.is_ascii_whitespace()).copied().collect();
    let member = member.to_ascii_lowercase();
    let split = field::split_once(&member, b';');
    match split.and_then(|(range, parameter)| Some((range, weight(parameter.strip_prefix(b"q=")?)?))) {
        Some((range, weight)) => (Reverse(weight), range.to_vec()),
        None => (Reverse(FULL_WEIGHT), member),
    }
}

/// Parses a weight (§12.4.2).
fn weight(text: &[u8]) -> Option<u16> {
    let (whole, decimals) = match text {
        [whole, b'.', decimals @ ..] => (*whole, decimals),
        [whole] => (*whole, &[][..]),
        _ => return None,
    };
    if decimals.len() > 3 {
        return None;
    }
    let zeros = std::iter::repeat(&b'0');
    let thousandths =
        std::iter::once(&whole).chain(decimals).chain(zeros).take(4).try_fold(0_u16, |number, byte| {
            number.checked_mul(10)?.checked_add(u16::from(field::digit(*byte)?))
        })?;
    (thousandths <= FULL_WEIGHT).then_some(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    fn normal(list: &str) -> String {
        String::from_utf8(normalize(&headers(header::ACCEPT_LANGUAGE, list))).unwrap()
    }

    #[test]
    fn lists_with_equal_meaning_have_one_normal_form() {
        for (list, expected) in [
            ("en, de", "de,en"),
            ("de, en", "de,en"),
            ("eN, De", "de,en"),
            (" en ,   de", "de,en"),
            ("en;q=1, de;q=1.000", "de,en"),
            ("de;q=0.5, en", "en,de;q=0.5"),
            ("en, de ; q=0.50", "en,de;q=0.5"),
            ("en, de;q=0.500, de;q=0.1", "en,de;q=0.5"),
            ("fr;q=0.25, *;q=0, en-GB", "en-gb,fr;q=0.25,*;q=0"),
            ("en, en", "en"),
            ("", ""),
            // Malformed members equal only themselves.
            ("en;q=2", "en;q=2"),
            ("en;q=0.1234", "en;q=0.1234"),
            ("en;x=1", "en;x=1"),
            ("en;q=", "en;q="),
        ] {
            assert_eq!(normal(list), expected, "{list}");
            assert_eq!(normal(expected), expected, "a normal form is its own");
        }
    }

    #[test]
    fn response_in_the_most_preferred_language_is_right() {
        for (list, language, expected) in [
            ("fr;q=0.5, de;q=1.0", "de", true),
            ("de", "DE", true),
            ("de-CH, de;q=0.9", "de-CH", true),
            ("fr;q=0.5, de;q=1.0", "fr", false),
            ("fr, de", "de", false),
            ("de-CH", "de", false),
            ("*", "de", false),
            ("*, de;q=0.5", "de", false),
            ("de;q=0", "de", false),
            ("de", "de, fr", false),
            ("de", "", false),
            ("", "de", false),
        ] {
            let request = headers(header::ACCEPT_LANGUAGE, list);
            let response = headers(header::CONTENT_LANGUAGE, language);
            assert_eq!(is_first_choice(&request, &response), expected, "{list} {language}");
        }
        assert!(!is_first_choice(&HeaderMap::new(), &headers(header::CONTENT_LANGUAGE, "de")));
    }
}
