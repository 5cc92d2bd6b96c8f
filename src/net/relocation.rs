//! Relocation of responses: `Location`, `Content-Location` and `Refresh` that name an upstream by its own URL are
//! rewritten to the relay's address as the client used it, as nginx does with `proxy_redirect default`. Clients of a
//! site may not reach the manager, and what they fetch there crosses the line each time. A URL is rewritten only if
//! the relay would send a request for it to that upstream.

use http::header::{CONTENT_LOCATION, Entry, HOST, HeaderName, LOCATION, REFRESH};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue};

use crate::listen::ClientConnection;
use crate::upstream::Upstreams;
use gupd_config::policy::Policy;
use gupd_http::key;
use gupd_http::target::{Target, normalize_host};

const RELOCATING: [HeaderName; 3] = [LOCATION, CONTENT_LOCATION, REFRESH];

/// Facts of a request that decide where a URL of its response leads.
pub struct Relocation<'a> {
    /// The routes.
    pub policy: &'a Policy,
    /// The upstreams.
    pub upstreams: &'a Upstreams,
    /// The target of the request.
    pub target: &'a Target,
    /// The fields of the request.
    pub request: &'a HeaderMap,
    /// The connection of the request.
    pub connection: &'a ClientConnection,
}

/// An absolute URL, or one that omits the scheme.
struct AbsoluteUrl<'a> {
    scheme: Option<&'a str>,
    authority: Authority,
    /// Path, query and fragment; may be empty.
    rest: &'a str,
}

impl Relocation<'_> {
    /// Rewrites the fields of a response. A client that uses the relay as its proxy gets them as they are: for it, the
    /// upstream's URL leads to the relay.
    pub fn rewrite(&self, response: &mut HeaderMap) {
        if self.target.is_proxied {
            return;
        }
        for name in RELOCATING {
            // Most responses have none of them, and the hit path comes here too.
            if !response.contains_key(&name) {
                continue;
            }
            let is_refresh = name == REFRESH;
            let Entry::Occupied(mut field) = response.entry(name) else { continue };
            for value in field.iter_mut() {
                let relocated = std::str::from_utf8(value.as_bytes()).ok().and_then(|text| {
                    let url = if is_refresh { refresh_url(text)? } else { text };
                    let (before, after) = text.split_once(url)?;
                    HeaderValue::from_str(&format!("{before}{}{after}", self.relocate(url)?)).ok()
                });
                if let Some(relocated) = relocated {
                    *value = relocated;
                }
            }
        }
    }

    /// Returns the path and query that a URL of the response has at the relay; `None` if it leads elsewhere.
    pub fn own_target(&self, url: &str) -> Option<PathAndQuery> {
        let rest = match AbsoluteUrl::parse(url) {
            None => url.starts_with('/').then_some(url)?,
            Some(absolute) if absolute.authority.as_str() == self.own_authority() => absolute.rest,
            Some(absolute) if self.is_own(&absolute) => absolute.rest,
            Some(_) => return None,
        };
        parse_target(rest)
    }

    fn relocate(&self, url: &str) -> Option<String> {
        let absolute = AbsoluteUrl::parse(url).filter(|absolute| self.is_own(absolute))?;
        let scheme = if self.connection.is_encrypted { "https" } else { "http" };
        Some(format!("{scheme}://{}{}", self.own_authority(), absolute.rest))
    }

    /// Returns true if a request for this path at the relay goes to the upstream that the URL names.
    fn is_own(&self, url: &AbsoluteUrl<'_>) -> bool {
        let Some(target) = parse_target(url.rest) else { return false };
        let Ok(normalized) = key::normalize(target.path(), target.query()) else { return false };
        let own = Authority::try_from(self.own_authority()).ok();
        let host = own.map(|own| normalize_host(own.host()));
        let Some(route) = self.policy.route(host.as_deref(), &normalized.canonical_path()) else {
            return false;
        };
        let order = self.target.bound_upstreams().unwrap_or(&route.upstreams);
        let is_at = |scheme| self.upstreams.has_authority_among(order, scheme, &url.authority);
        url.scheme.map_or_else(|| is_at("http") || is_at("https"), is_at)
    }

    /// The relay's address as the client used it.
    fn own_authority(&self) -> String {
        let named = self.target.authority.as_ref().map(Authority::as_str);
        let host = || self.request.get(HOST)?.to_str().ok().filter(|host| !host.is_empty());
        match named.or_else(host) {
            Some(authority) => authority.to_owned(),
            None => {
                let local = self.connection.local;
                std::net::SocketAddr::new(local.ip().to_canonical(), local.port()).to_string()
            }
        }
    }
}

impl<'a> AbsoluteUrl<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        let (scheme, after) = match url.strip_prefix("//") {
            Some(after) => (None, after),
            None => url.split_once("://").map(|(scheme, after)| (Some(scheme), after))?,
        };
        if scheme.is_some_and(|s| !s.eq_ignore_ascii_case("http") && !s.eq_ignore_ascii_case("https")) {
            return None;
        }
        let (authority, rest) = after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len()));
        let authority =
            Authority::try_from(authority).ok().filter(|parsed| !parsed.as_str().contains('@'))?;
        Some(Self { scheme, authority, rest })
    }
}

/// Parses path and query; a fragment stays with the client.
fn parse_target(rest: &str) -> Option<PathAndQuery> {
    let target = rest.split('#').next().unwrap_or_default();
    if target.starts_with('/') { target.parse().ok() } else { format!("/{target}").parse().ok() }
}

/// Returns the URL of a `Refresh` field, such as `5; url="http://manager/x"` or `0,http://manager/x`. Browsers decide
/// what it means (HTML, "shared declarative refresh steps"): `url=` and quotes may be missing.
fn refresh_url(field: &str) -> Option<&str> {
    let is_second = |octet: char| octet.is_ascii_digit() || octet == '.';
    let after_time = field.trim_ascii_start().strip_prefix(is_second)?.trim_start_matches(is_second);
    let ends_time = |octet: char| octet.is_ascii_whitespace() || matches!(octet, ';' | ',');
    let rest = after_time.starts_with(ends_time).then(|| after_time.trim_ascii_start())?;
    let rest = rest.strip_prefix([';', ',']).unwrap_or(rest).trim_ascii_start();
    let url = strip_url_parameter(rest).unwrap_or(rest);
    let quoted = |quote| url.strip_prefix(quote)?.split(quote).next();
    quoted('"').or_else(|| quoted('\'')).or(Some(url.trim_ascii_end())).filter(|url| !url.is_empty())
}

/// Removes `url=`, in any case and with spaces around the sign.
fn strip_url_parameter(text: &str) -> Option<&str> {
    let (name, value) = text.split_once('=')?;
    name.trim_ascii_end().eq_ignore_ascii_case("url").then(|| value.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refresh_field_has_its_url_found() {
        for (field, url) in [
            ("5; url=http://a/b?c=d", Some("http://a/b?c=d")),
            ("0;URL='http://a/b'", Some("http://a/b")),
            ("1, Url = \"http://a/b\"", Some("http://a/b")),
            ("0,http://a/b", Some("http://a/b")),
            ("0;http://a/b?url=c", Some("http://a/b?url=c")),
            (" 2.5 , \"http://a/b\" x", Some("http://a/b")),
            ("0 http://a/b ", Some("http://a/b")),
            (".5;URL = http://a/b", Some("http://a/b")),
            ("5; url 'http://a/b'", Some("url 'http://a/b'")),
            ("5; x=y", Some("x=y")),
            ("5", None),
            ("5; url=", None),
            ("5x; url=http://a/b", None),
            ("url=http://a/b", None),
            ("", None),
        ] {
            assert_eq!(refresh_url(field), url, "{field}");
        }
    }

    #[test]
    fn only_web_urls_with_an_authority_are_absolute() {
        for (url, expected) in [
            ("http://a:8014/b#c", Some((Some("http"), "a:8014", "/b#c"))),
            ("HTTPS://[::1]?q", Some((Some("HTTPS"), "[::1]", "?q"))),
            ("//a", Some((None, "a", ""))),
            ("/b//c", None),
            ("b?u=http://a/", None),
            ("ftp://a/b", None),
            ("http://user@a/b", None),
            ("http:///b", None),
        ] {
            let parsed = AbsoluteUrl::parse(url);
            let parts = parsed.as_ref().map(|url| (url.scheme, url.authority.as_str(), url.rest));
            assert_eq!(parts, expected, "{url}");
        }
    }
}
