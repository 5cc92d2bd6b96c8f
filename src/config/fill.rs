//! `[fill]` and `[cache]`: how content is fetched from upstreams, and how long it stays fresh where neither the
//! response nor its content class decides.

use std::time::Duration;

use http::HeaderName;

use crate::defaults;
use crate::document::Document;
use crate::reader::{boolean, count, time};
use crate::units::Time;

/// `[fill]`
#[derive(Clone, Debug, PartialEq)]
pub struct FillSettings {
    /// Time to connect to an upstream, 1 s to 5 m.
    pub connect_timeout: Duration,
    /// Time from a request to the upstream's response head, 1 s to 1 h.
    pub head_timeout: Duration,
    /// Time from a request to a peer's response head, connecting included; 1 s to 1 m.
    pub peer_timeout: Duration,
    /// Time to find an upstream that answers, over all attempts of one request; 1 s to 1 h.
    pub total_timeout: Duration,
    /// Time without a byte after which an upstream's transfer counts as broken; 1 s to 1 h.
    pub idle_timeout: Duration,
    /// When a fill continues although no client waits for it.
    pub finish: FinishPolicy,
    /// Attempts in a row without one new byte, at each upstream, before a fill fails; 1 to 100. Also the number of
    /// downloads of one object that differ from its digest and from each other.
    pub attempts: u32,
    /// Maximum number of concurrent fills, 1 to 65,536; further fills wait.
    pub max_concurrent: usize,
}

/// `fill.finish`: when a fill continues although no client waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishPolicy {
    /// Always.
    Always,
    /// Once at least this percentage has arrived, 1 to 99, or if the content has at most 4 MiB.
    Above(u8),
    /// Never; the bytes that have arrived are kept for the next client.
    Never,
}

/// `[cache]`: lifetimes used where neither the response nor its class decides.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheSettings {
    /// Freshness of catalogs, 0 to 1 d.
    pub catalog_fresh: Duration,
    /// Lifetime of a missing catalog (404), 0 to 1 d.
    pub catalog_negative: Duration,
    /// Lifetime of a missing payload (404), 0 to 1 h.
    pub payload_negative: Duration,
    /// Lifetime of other negative responses, 0 to 1 d.
    pub generic_negative: Duration,
    /// Maximum heuristic freshness of generic content (RFC 9111 §4.2.2), 0 to 365 d.
    pub heuristic_max: Duration,
    /// Time for which stale content may be served while no upstream answers (RFC 5861), 0 to 365 d.
    pub stale_if_error: Duration,
    /// Response fields that replace `Cache-Control` for this cache, in order (the target list of RFC 9213).
    pub targeted_fields: Vec<HeaderName>,
    /// Whether a response with `Set-Cookie` and explicit freshness is stored, with the cookie. Cookies are not stored
    /// otherwise.
    pub store_set_cookie: bool,
    /// Whether content must match its `Content-MD5`.
    pub verify_content_md5: bool,
}

impl CacheSettings {
    /// Returns the settings with this lifetime of every negative response.
    #[must_use]
    pub fn with_negative(&self, lifetime: Duration) -> Self {
        Self {
            catalog_negative: lifetime,
            payload_negative: lifetime,
            generic_negative: lifetime,
            ..self.clone()
        }
    }
}

pub(crate) fn read_fill(document: &mut Document) -> FillSettings {
    let mut s = document.take_section("fill");
    let fill = FillSettings {
        connect_timeout: time(&mut s, "connect_timeout", defaults::CONNECT_TIMEOUT),
        head_timeout: time(&mut s, "head_timeout", defaults::HEAD_TIMEOUT),
        peer_timeout: time(&mut s, "peer_timeout", defaults::PEER_TIMEOUT),
        total_timeout: time(&mut s, "total_timeout", defaults::TOTAL_TIMEOUT),
        idle_timeout: time(&mut s, "idle_timeout", defaults::IDLE_TIMEOUT),
        finish: s.read("finish", finish_policy).unwrap_or(defaults::FINISH),
        attempts: count(&mut s, "attempts", defaults::ATTEMPTS),
        max_concurrent: count(&mut s, "max_concurrent", defaults::MAX_CONCURRENT),
    };
    if fill.head_timeout > fill.total_timeout {
        let total = Time(fill.total_timeout);
        s.warn("head_timeout", format!("exceeds fill.total_timeout ({total}), which ends the attempt first"));
    }
    document.close(s);
    fill
}

pub(crate) fn read_cache(document: &mut Document) -> CacheSettings {
    let mut s = document.take_section("cache");
    let cache = CacheSettings {
        catalog_fresh: time(&mut s, "catalog_fresh", defaults::CATALOG_FRESH),
        catalog_negative: time(&mut s, "catalog_negative", defaults::CATALOG_NEGATIVE),
        payload_negative: time(&mut s, "payload_negative", defaults::PAYLOAD_NEGATIVE),
        generic_negative: time(&mut s, "generic_negative", defaults::GENERIC_NEGATIVE),
        heuristic_max: time(&mut s, "heuristic_max", defaults::HEURISTIC_MAX),
        stale_if_error: time(&mut s, "stale_if_error", defaults::STALE_IF_ERROR),
        targeted_fields: s.read_list("targeted_fields", targeted_field).map_or_else(
            || vec![HeaderName::from_static(defaults::TARGETED_FIELD)],
            |fields| fields.into_iter().flatten().collect(),
        ),
        store_set_cookie: s.read("store_set_cookie", boolean).unwrap_or(false),
        verify_content_md5: s.read("verify_content_md5", boolean).unwrap_or(true),
    };
    document.close(s);
    cache
}

/// Reads the name of a response field; `off` for none.
fn targeted_field(text: &str) -> Result<Option<HeaderName>, String> {
    let name = HeaderName::try_from(text).map_err(|_| format!("{text:?} is not the name of a field"))?;
    if ["cache-control", "expires", "pragma"].contains(&name.as_str()) {
        return Err(format!("{text} is not a targeted field: name fields like CDN-Cache-Control, or off"));
    }
    Ok((name != "off").then_some(name))
}

fn finish_policy(text: &str) -> Result<FinishPolicy, String> {
    match (text, text.strip_suffix('%').map(str::parse)) {
        ("always", _) => Ok(FinishPolicy::Always),
        ("never", _) => Ok(FinishPolicy::Never),
        (_, Some(Ok(percent @ 1..=99))) => Ok(FinishPolicy::Above(percent)),
        _ => Err(format!("invalid value {text:?}: use always, never or a percentage from 1% to 99%")),
    }
}
