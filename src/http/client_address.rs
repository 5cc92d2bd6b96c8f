//! The address of a client as proxies before the relay wrote it: `Forwarded` (RFC 7239) or `X-Forwarded-For`. Each proxy
//! appends the address that it was reached from, so the list is read from its end, past proxies that are trusted. What
//! stands before the first untrusted address is the client's own claim, and is not read.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderMap;
use http::header::{self, HeaderName};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Field in which proxies write the addresses of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressField {
    /// `Forwarded`
    Forwarded,
    /// `X-Forwarded-For`
    XForwardedFor,
}

/// A field whose last part no proxy writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the field with the client's address is malformed")]
pub struct InvalidAddressField;

/// One hop of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    Address(IpAddr),
    /// The proxy hides the address: `unknown`, or a name that begins with `_` (RFC 7239 §6).
    Hidden,
}

/// Returns the last address of the list that `is_trusted` does not name. `None` without the field, and if a proxy hides
/// the address. If the list names trusted addresses only, the first is the client.
///
/// # Errors
/// A malformed field.
pub fn forwarded_client(
    headers: &HeaderMap,
    field: AddressField,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Result<Option<IpAddr>, InvalidAddressField> {
    let name = match field {
        AddressField::Forwarded => header::FORWARDED,
        AddressField::XForwardedFor => X_FORWARDED_FOR,
    };
    let mut first = None;
    for line in headers.get_all(name).iter().rev() {
        let line = line.to_str().map_err(|_| InvalidAddressField)?;
        let mut hops = match field {
            AddressField::Forwarded => forwarded_hops(line)?,
            AddressField::XForwardedFor => {
                line.split(',').map(str::trim).filter(|hop| !hop.is_empty()).collect()
            }
        };
        while let Some(hop) = hops.pop() {
            match parse_hop(hop)? {
                Hop::Hidden => return Ok(None),
                Hop::Address(address) if !is_trusted(address) => return Ok(Some(address)),
                Hop::Address(address) => first = Some(address),
            }
        }
    }
    Ok(first)
}

/// Returns the values of `for` in the elements of a `Forwarded` line, in their order. An element without one hides its
/// address.
fn forwarded_hops(line: &str) -> Result<Vec<&str>, InvalidAddressField> {
    let mut hops = Vec::new();
    for element in split_unquoted(line, b',')? {
        let mut hop = None;
        for pair in split_unquoted(element, b';')?.into_iter().filter(|pair| !pair.trim().is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(InvalidAddressField)?;
            if name.trim().eq_ignore_ascii_case("for") && hop.replace(unquote(value.trim())?).is_some() {
                return Err(InvalidAddressField);
            }
        }
        if !element.trim().is_empty() {
            hops.push(hop.unwrap_or("unknown"));
        }
    }
    Ok(hops)
}

/// Splits a text at a separator outside of quoted strings (RFC 9110 §5.6.4).
fn split_unquoted(text: &str, separator: u8) -> Result<Vec<&str>, InvalidAddressField> {
    let (mut parts, mut begin, mut is_quoted, mut is_escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ if byte == separator && !is_quoted => {
                parts.push(text.get(begin..at).unwrap_or_default());
                begin = at.saturating_add(1);
            }
            _ => {}
        }
    }
    if is_quoted {
        return Err(InvalidAddressField);
    }
    parts.push(text.get(begin..).unwrap_or_default());
    Ok(parts)
}

/// Returns the inside of a quoted string. No address needs an escape.
fn unquote(value: &str) -> Result<&str, InvalidAddressField> {
    let Some(quoted) = value.strip_prefix('"') else { return Ok(value) };
    let inner = quoted.strip_suffix('"').ok_or(InvalidAddressField)?;
    if inner.contains(['"', '\\']) { Err(InvalidAddressField) } else { Ok(inner) }
}

/// Parses an address, with or without port; IPv6 addresses with or without brackets.
fn parse_hop(hop: &str) -> Result<Hop, InvalidAddressField> {
    if hop.eq_ignore_ascii_case("unknown") || hop.starts_with('_') {
        return Ok(Hop::Hidden);
    }
    let bracketed = || {
        let (address, port) = hop.strip_prefix('[')?.split_once(']')?;
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        address.parse::<Ipv6Addr>().ok().filter(|_| is_port).map(IpAddr::from)
    };
    let address = hop.parse::<IpAddr>().ok();
    let address = address.or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()));
    let address = address.or_else(bracketed).ok_or(InvalidAddressField)?;
    Ok(Hop::Address(address.to_canonical()))
}

/// RFC 7239 §6.3: a number, or a hidden one that begins with `_`.
fn is_port(text: &str) -> bool {
    text.starts_with('_') || text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn client(field: AddressField, lines: &[&str]) -> Result<Option<String>, InvalidAddressField> {
        let name = match field {
            AddressField::Forwarded => header::FORWARDED,
            AddressField::XForwardedFor => X_FORWARDED_FOR,
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_str(line).unwrap());
        }
        let is_trusted = |address: IpAddr| address.to_string().starts_with("192.0.2.");
        Ok(forwarded_client(&headers, field, is_trusted)?.map(|address| address.to_string()))
    }

    #[test]
    fn last_untrusted_address_of_x_forwarded_for_is_the_client() {
        for (lines, expected) in [
            (&[][..], None),
            (&["10.0.0.1"], Some("10.0.0.1")),
            (&["10.9.9.9, 10.0.0.1"], Some("10.0.0.1")),
            (&["10.0.0.1, 192.0.2.7"], Some("10.0.0.1")),
            (&["10.0.0.1", "192.0.2.7,192.0.2.8"], Some("10.0.0.1")),
            (&["garbage, 10.0.0.1"], Some("10.0.0.1")),
            (&["192.0.2.7, 192.0.2.8"], Some("192.0.2.7")),
            (&["10.0.0.1:4711"], Some("10.0.0.1")),
            (&["[2001:db8::1]:4711"], Some("2001:db8::1")),
            (&["2001:db8::1"], Some("2001:db8::1")),
            (&["::ffff:10.0.0.1"], Some("10.0.0.1")),
            (&["10.0.0.1, unknown"], None),
            (&["10.0.0.1,, "], Some("10.0.0.1")),
        ] {
            assert_eq!(
                client(AddressField::XForwardedFor, lines),
                Ok(expected.map(str::to_owned)),
                "{lines:?}"
            );
        }
        for lines in [&["10.0.0.1, x"][..], &["10.0.0.256"], &["[::1"], &["10.0.0.1:99999"], &["localhost"]] {
            assert_eq!(client(AddressField::XForwardedFor, lines), Err(InvalidAddressField), "{lines:?}");
        }
    }

    #[test]
    fn last_untrusted_address_of_forwarded_is_the_client() {
        for (lines, expected) in [
            (&["for=10.0.0.1"][..], Some("10.0.0.1")),
            (&["For=10.9.9.9;proto=http, proto=https;FOR=\"10.0.0.1:80\";by=192.0.2.7"], Some("10.0.0.1")),
            (&["for=\"[2001:db8::1]:4711\""], Some("2001:db8::1")),
            (&["for=\"[2001:db8::1]:_port\""], Some("2001:db8::1")),
            (&["for=10.0.0.1", "for=192.0.2.7"], Some("10.0.0.1")),
            (&["for=\"a,b\";x=\"\\\"\", for=10.0.0.1"], Some("10.0.0.1")),
            (&["for=_hidden"], None),
            (&["for=10.0.0.1, proto=http"], None),
        ] {
            assert_eq!(client(AddressField::Forwarded, lines), Ok(expected.map(str::to_owned)), "{lines:?}");
        }
        for lines in
            [&["for=\"10.0.0.1"][..], &["for"], &["for=10.0.0.1;for=10.0.0.2"], &["for=\"\"10.0.0.1"]]
        {
            assert_eq!(client(AddressField::Forwarded, lines), Err(InvalidAddressField), "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn claims_of_a_client_never_replace_the_last_address(claim in "[ -~]{0,40}") {
            for (field, appended) in [(AddressField::XForwardedFor, "10.0.0.1"), (AddressField::Forwarded, "for=10.0.0.1")] {
                let joined = format!("{claim}, {appended}");
                for lines in [&[&*claim, appended][..], &[&*joined]] {
                    let found = client(field, lines);
                    prop_assert!(matches!(&found, Ok(Some(own)) if own == "10.0.0.1") || found.is_err(), "{found:?}");
                }
            }
        }
    }
}
