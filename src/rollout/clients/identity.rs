//! Who a client is: the first name of the certificate that it shows, or else its address. Owns the one spelling of that in
//! orders, reports and the store. Names come from the network: what is no host's name is not taken for one.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Bytes of a name. A host has no longer one (RFC 1035 §2.3.4), and it is kept for each client.
const MAX_NAME: usize = 255;

/// A client. Ordered by address, then by name; spelled as either.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(Kind);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    /// Canonical: an IPv4 address is never in its IPv6 form.
    Address(IpAddr),
    /// In lower case, and never the spelling of an address.
    Name(Arc<str>),
}

/// A text that names no client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no client; give its address, or the first name in its certificate")]
pub struct NotAClient(String);

impl Identity {
    /// Of a client at this address that has shown a certificate with these names. A name that reads like an address
    /// would be another client's, and is passed over like one that no host can have.
    pub fn of(address: IpAddr, names: &[Box<str>]) -> Self {
        let named = names.first().and_then(|name| Self::named(name));
        named.unwrap_or_else(|| Self(Kind::Address(address.to_canonical())))
    }

    fn named(name: &str) -> Option<Self> {
        let is_printable = |name: &str| name.chars().all(|char| !char.is_control() && !char.is_whitespace());
        let fits = (1..=MAX_NAME).contains(&name.len()) && is_printable(name);
        if !fits || name.parse::<IpAddr>().is_ok() {
            return None;
        }
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            name.to_ascii_lowercase().into()
        } else {
            name.into()
        };
        Some(Self(Kind::Name(name)))
    }
}

impl FromStr for Identity {
    type Err = NotAClient;

    fn from_str(text: &str) -> Result<Self, NotAClient> {
        let text = text.trim();
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(Self(Kind::Address(address.to_canonical()))),
            Err(_) => Self::named(text).ok_or_else(|| NotAClient(text.chars().take(MAX_NAME).collect())),
        }
    }
}

impl Display for Identity {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Address(address) => address.fmt(f),
            Kind::Name(name) => f.pad(name),
        }
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(address: &str, names: &[&str]) -> String {
        let names: Vec<Box<str>> = names.iter().map(|&name| name.into()).collect();
        Identity::of(address.parse().unwrap(), &names).to_string()
    }

    #[test]
    fn a_client_is_its_first_name_or_else_its_canonical_address() {
        let long = "a".repeat(MAX_NAME + 1);
        for (address, names, expected) in [
            ("10.0.0.1", &["pc-1.example", "other"][..], "pc-1.example"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("::ffff:10.0.0.1", &[], "10.0.0.1"),
            ("2001:DB8::0:1", &[], "2001:db8::1"),
            ("10.0.0.1", &["10.0.0.2"], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["a\nb"], "10.0.0.1"),
            ("10.0.0.1", &[&long], "10.0.0.1"),
        ] {
            assert_eq!(of(address, names), expected, "{address} {names:?}");
        }
    }

    #[test]
    fn what_names_no_client_is_refused_with_what_to_give() {
        let error = "a b".parse::<Identity>().unwrap_err().to_string();
        assert_eq!(error, r#""a b" is no client; give its address, or the first name in its certificate"#);
        assert_eq!("PC-1.Example".parse::<Identity>().unwrap().to_string(), "pc-1.example");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_identity_is_parsed_back(address: IpAddr, name in "\\PC{0,20}") {
            for names in [&[name.into_boxed_str()][..], &[]] {
                let identity = Identity::of(address, names);
                prop_assert_eq!(&identity.to_string().parse::<Identity>().unwrap(), &identity);
            }
        }
    }
}
