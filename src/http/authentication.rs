//! Authentication that binds a connection instead of a request: NTLM and Negotiate (RFC 4559), which carries Kerberos. A
//! server takes every later request on the connection for the same user's, although RFC 9110 §3.3 forbids to assume that.
//! A relay must therefore not mix clients on such a connection.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Schemes that bind a connection.
const SCHEMES: [&str; 5] = ["NTLM", "Negotiate", "Kerberos", "CredSSP", "Nego2"];

/// Says whether the connection stays authenticated, from IIS.
static PERSISTENT_AUTH: HeaderName = HeaderName::from_static("persistent-auth");

static PROXY_SUPPORT: HeaderName = HeaderName::from_static("proxy-support");

/// Returns true if a request authenticates its connection.
pub fn has_connection_credentials(request: &HeaderMap) -> bool {
    request.get_all(header::AUTHORIZATION).iter().any(|value| challenges(value).next().is_some())
}

/// Returns the fields of a request without credentials that authenticate its connection.
pub fn without_connection_credentials(request: &HeaderMap) -> Cow<'_, HeaderMap> {
    if !has_connection_credentials(request) {
        return Cow::Borrowed(request);
    }
    let mut fields = request.clone();
    fields.remove(header::AUTHORIZATION);
    Cow::Owned(fields)
}

/// Returns true if a response shows that its connection belongs to one user: it stays authenticated, or a challenge
/// continues an exchange that has begun.
pub fn binds_connection(response: &HeaderMap) -> bool {
    let is_persistent = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"true");
    let continues = |value: &HeaderValue| challenges(value).any(|token| !token.is_empty());
    response.get_all(&PERSISTENT_AUTH).iter().any(is_persistent)
        || response.get_all(header::WWW_AUTHENTICATE).iter().any(continues)
}

/// Tells a client that uses the relay as its proxy that it may authenticate its connection, if a response asks for that.
/// Without this it must not (RFC 4559 §6).
pub fn announce_proxy_support(response: &mut HeaderMap) {
    if response.get_all(header::WWW_AUTHENTICATE).iter().any(|value| challenges(value).next().is_some()) {
        response.insert(&PROXY_SUPPORT, HeaderValue::from_static("Session-Based-Authentication"));
        response.insert(header::CONNECTION, HeaderValue::from_static("Proxy-Support"));
    }
}

/// Returns the token behind each scheme that binds a connection. Quoted strings are searched too: a scheme that is found
/// in vain costs a connection, one that is missed costs an identity.
fn challenges(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').filter_map(|member| {
        let member = member.trim_ascii();
        let end = member.iter().position(u8::is_ascii_whitespace).unwrap_or(member.len());
        let (scheme, token) = member.split_at(end);
        let is_known = SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known.as_bytes()));
        is_known.then_some(token.trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::parse_lines as headers;

    #[test]
    fn credentials_of_a_connection_are_recognized_by_scheme() {
        for (fields, expected) in [
            ("authorization: NTLM TlRMTVNTUAAB", true),
            ("authorization: ntlm TlRMTVNTUAAB", true),
            ("authorization: Negotiate YII=", true),
            ("authorization: NEGOTIATE\tYII=", true),
            ("authorization:  Kerberos YII=", true),
            ("authorization: CredSSP YII=", true),
            ("authorization: Nego2 YII=", true),
            ("authorization: NTLM", true),
            ("authorization: Basic eA==|authorization: NTLM TlRM", true),
            ("authorization: Basic eA==, NTLM TlRM", true),
            ("authorization: Basic TlRMTVNTUAAB", false),
            ("authorization: Bearer negotiate", false),
            ("authorization: NTLMx y", false),
            ("authorization: Digest username=\"a\", realm=\"ntlm\"", false),
            ("proxy-authorization: NTLM TlRM", false),
            ("x-auth: NTLM TlRM", false),
        ] {
            let fields = headers(fields);
            assert_eq!(has_connection_credentials(&fields), expected, "{fields:?}");
            let without = without_connection_credentials(&fields);
            assert_eq!(
                without.contains_key("authorization"),
                !expected && fields.contains_key("authorization")
            );
        }
    }

    #[test]
    fn proxy_support_is_announced_with_a_challenge_only() {
        for (fields, expected) in [
            ("www-authenticate: NTLM", true),
            ("www-authenticate: Basic realm=\"a\"|www-authenticate: Negotiate", true),
            ("www-authenticate: Negotiate oYG=", true),
            ("www-authenticate: Basic realm=\"a\"", false),
            ("authorization: NTLM", false),
            ("", false),
        ] {
            let mut response = headers(fields);
            announce_proxy_support(&mut response);
            let announced =
                response.get("proxy-support").is_some_and(|it| it == "Session-Based-Authentication");
            assert_eq!(announced, expected, "{fields}");
            assert_eq!(response.contains_key("connection"), expected, "{fields}");
        }
    }

    #[test]
    fn response_that_binds_its_connection_is_recognized() {
        for (fields, expected) in [
            ("persistent-auth: true", true),
            ("persistent-auth: True", true),
            ("persistent-auth: false", false),
            ("persistent-auth: false|persistent-auth: true", true),
            ("www-authenticate: NTLM TlRMTVNTUAAC", true),
            ("www-authenticate: negotiate oYG=", true),
            ("www-authenticate: Basic realm=\"a\", Negotiate oYG=", true),
            ("www-authenticate: Negotiate, NTLM TlRM", true),
            ("www-authenticate: Negotiate|www-authenticate: NTLM TlRM", true),
            ("www-authenticate: NTLM", false),
            ("www-authenticate: Negotiate, NTLM", false),
            ("www-authenticate: Negotiate ,NTLM ", false),
            ("www-authenticate: Basic realm=\"NTLM\"", false),
            ("authorization: NTLM TlRM", false),
        ] {
            assert_eq!(binds_connection(&headers(fields)), expected, "{fields}");
        }
    }
}
