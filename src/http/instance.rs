//! Identity of a relay: the mark on every forwarded request, in `CDN-Loop` (RFC 8586) and `Via` (RFC 9110 §7.6.3),
//! and the detection of forwarding loops. Pure except for the random number; the proxy decides about loops.

use std::hash::{BuildHasher, RandomState};

use http::header::{self, HeaderName};
use http::{HeaderMap, Version};

use crate::field::{append_member, members};

/// Maximum of relays on a request's path. A chain has three or four; a longer one is a loop through a proxy that
/// removes marks.
const MAX_RELAYS: usize = 16;

/// Name of every relay: its CDN-ID, and the prefix of its pseudonym.
const NAME: &[u8] = b"gupd";

/// Field that lists the relays and content delivery networks of a request.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// Identity of one running relay.
#[derive(Debug)]
pub struct RelayInstance {
    /// 64 random bits in hexadecimal digits, drawn at start, so that relays need no names.
    id: String,
}

impl RelayInstance {
    /// Creates a new random identity.
    pub fn new() -> Self {
        // Each `RandomState` has its own keys from the system's random numbers.
        Self { id: format!("{:016x}", RandomState::new().hash_one(0)) }
    }

    /// Adds this relay's marks to a request received with `version`. Other marks stay.
    pub fn mark(&self, headers: &mut HeaderMap, version: Version) {
        let received_by = match version {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2.0",
            _ => "1.1",
        };
        append_member(headers, header::VIA, &format!("{received_by} gupd-{}", self.id));
        append_member(headers, CDN_LOOP, &format!("gupd; id={}", self.id));
    }

    /// Returns true if the request has passed this relay before, or more relays than any chain has. A request without
    /// marks costs two lookups.
    pub fn has_passed(&self, headers: &HeaderMap) -> bool {
        self.is_among(relays(headers)) || self.is_among(pseudonyms(headers))
    }

    /// Returns true if this relay has precedence over the sender of the request where one of two must wait for the
    /// other. Both come to the same result.
    pub fn has_precedence_over_sender(&self, headers: &HeaderMap) -> bool {
        relays(headers).last().is_some_and(|sender| self.id.as_bytes() < sender)
    }

    fn is_among<'a>(&self, relays: impl Iterator<Item = &'a [u8]>) -> bool {
        relays.enumerate().any(|(passed, id)| id == self.id.as_bytes() || passed >= MAX_RELAYS)
    }
}

impl Default for RelayInstance {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns true if a relay sent this request.
pub fn is_from_relay(headers: &HeaderMap) -> bool {
    relays(headers).next().is_some()
}

/// Returns true if a relay forwarded this response.
pub fn has_passed_relay(response: &HeaderMap) -> bool {
    members(response, header::VIA).filter_map(received_by).any(|by| by == NAME)
}

/// Returns the ids of relays in `CDN-Loop`: `gupd; id=0123456789abcdef`.
fn relays(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    members(headers, CDN_LOOP).filter_map(|member| {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        parts.next().filter(|name| name.eq_ignore_ascii_case(NAME))?;
        let mut ids = parts.filter_map(|parameter| parameter.strip_prefix(b"id="));
        Some(ids.next().unwrap_or_default())
    })
}

/// Returns the ids of relays in `Via`: `1.1 gupd-0123456789abcdef`.
fn pseudonyms(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let received_by = members(headers, header::VIA).filter_map(received_by);
    received_by.filter_map(|by| by.strip_prefix(NAME)?.strip_prefix(b"-"))
}

fn received_by(via: &[u8]) -> Option<&[u8]> {
    via.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn passed(relays: &[&RelayInstance]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        relays.iter().for_each(|relay| relay.mark(&mut headers, Version::HTTP_11));
        headers
    }

    fn sent(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn relay_detects_only_its_own_mark_in_either_field() {
        let [region, site, floor] = [(); 3].map(|()| RelayInstance::new());
        let mut headers = passed(&[&region, &site]);
        assert!(region.has_passed(&headers) && site.has_passed(&headers) && !floor.has_passed(&headers));
        headers.remove(CDN_LOOP);
        assert!(region.has_passed(&headers) && !floor.has_passed(&headers));
        let mut headers = passed(&[&region]);
        headers.remove(header::VIA);
        assert!(region.has_passed(&headers) && !floor.has_passed(&headers));
        assert!(!floor.has_passed(&HeaderMap::new()));
    }

    #[test]
    fn marks_of_other_relays_stay_first() {
        let relay = RelayInstance { id: "00000000000000ab".to_owned() };
        let mut headers = sent(CDN_LOOP, "cdn.example; trace=\"a, b\"");
        relay.mark(&mut headers, Version::HTTP_10);
        assert_eq!(headers[CDN_LOOP], "cdn.example; trace=\"a, b\", gupd; id=00000000000000ab");
        assert_eq!(headers[header::VIA], "1.0 gupd-00000000000000ab");
    }

    #[test]
    fn chain_above_the_maximum_is_a_loop() {
        let others: Vec<RelayInstance> = (0..=MAX_RELAYS).map(|_| RelayInstance::new()).collect();
        let chain: Vec<&RelayInstance> = others.iter().collect();
        let relay = RelayInstance::new();
        assert!(!relay.has_passed(&passed(&chain[1..])));
        assert!(relay.has_passed(&passed(&chain)));
    }

    #[test]
    fn similar_fields_are_not_marks() {
        let relay = RelayInstance { id: "00000000000000ab".to_owned() };
        for value in ["other; id=00000000000000ab", "x; y=\"gupd; id=00000000000000ab\"", "gupd", "gupd; id"]
        {
            assert!(!relay.has_passed(&sent(CDN_LOOP, value)), "{value}");
        }
        for value in ["1.1 gupd", "1.1 other (gupd-00000000000000ab)", "gupd-00000000000000ab", "1.1"] {
            assert!(!relay.has_passed(&sent(header::VIA, value)), "{value}");
        }
        assert!(relay.has_passed(&sent(CDN_LOOP, "GUPD ;a=b;id=00000000000000ab")));
        assert!(
            is_from_relay(&sent(CDN_LOOP, "cdn.example, gupd")) && !is_from_relay(&sent(CDN_LOOP, "cdn"))
        );
    }

    #[test]
    fn exactly_one_of_two_relays_has_precedence() {
        let [one, other] = [RelayInstance::new(), RelayInstance::new()];
        assert_ne!(
            one.has_precedence_over_sender(&passed(&[&other])),
            other.has_precedence_over_sender(&passed(&[&one]))
        );
        assert!(!one.has_precedence_over_sender(&HeaderMap::new()));
    }
}
