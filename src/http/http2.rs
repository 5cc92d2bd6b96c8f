//! The head of an HTTP/2 request in the form of HTTP/1.1, in which every later step reads it. `:authority` becomes the
//! `Host` field, and the fields into which a client may split its cookies become one (RFC 9113 §8.2.3, §8.3.1). hyper
//! has refused fields that belong to one connection (§8.2.2).

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};

use crate::refusal::Refusal;

/// Turns the head of an HTTP/2 request into that of an HTTP/1.1 request. Heads of other versions stay as they are.
///
/// # Errors
/// If `Host` contradicts `:authority`, or if both are missing. The target has the form of HTTP/1.1 then too.
pub fn normalize_head(head: &mut Parts) -> Result<(), Refusal> {
    if head.version != Version::HTTP_2 || head.method == Method::CONNECT {
        return Ok(());
    }
    let authority = head.uri.authority().cloned();
    if let Some(target) = head.uri.path_and_query().cloned() {
        head.uri = Uri::from(target);
    }
    join_cookies(&mut head.headers);
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (authority, hosts.next(), hosts.next()) {
        (_, _, Some(_)) | (None, None, None) => Err(Refusal::Host),
        (None, Some(_), None) => Ok(()),
        (Some(authority), host, None) => {
            let is_same =
                |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
            if host.is_some_and(|host| !is_same(host)) {
                return Err(Refusal::Host);
            }
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::Host)?;
            head.headers.insert(header::HOST, host);
            Ok(())
        }
    }
}

fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Values of fields stay valid when they are joined.
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn normalized(uri: &str, fields: &[(&str, &str)]) -> Result<(String, HeaderMap), Refusal> {
        let mut request = Request::builder().version(Version::HTTP_2).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        normalize_head(&mut head)?;
        Ok((head.uri.to_string(), head.headers))
    }

    #[test]
    fn authority_becomes_the_only_host() {
        for (uri, fields, host) in [
            ("https://relay.example:8443/a?b", &[][..], "relay.example:8443"),
            ("https://Relay.example/a?b", &[("host", "relay.example")], "Relay.example"),
            ("/a?b", &[("host", "relay.example")], "relay.example"),
        ] {
            let (target, headers) = normalized(uri, fields).unwrap();
            assert_eq!((target.as_str(), headers.get_all("host").iter().count()), ("/a?b", 1), "{uri}");
            assert_eq!(headers["host"], host);
        }
    }

    #[test]
    fn contradicting_or_missing_host_is_refused() {
        for (uri, fields) in [
            ("https://relay.example/a", &[("host", "other.example")][..]),
            ("https://relay.example/a", &[("host", "relay.example:8443")]),
            ("https://relay.example/a", &[("host", "")]),
            ("https://relay.example/a", &[("host", "relay.example"), ("host", "relay.example")]),
            ("/a", &[("host", "a.example"), ("host", "b.example")]),
            ("/a", &[]),
        ] {
            assert_eq!(normalized(uri, fields).unwrap_err(), Refusal::Host, "{uri} {fields:?}");
        }
    }

    #[test]
    fn split_cookies_are_joined() {
        let (_, headers) = normalized("https://a/", &[("cookie", "a=1"), ("cookie", "b=2; c=3")]).unwrap();
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }
}
