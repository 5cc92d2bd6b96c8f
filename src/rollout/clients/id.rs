//! The identity of a client: the first name in its certificate, or else its address. Owns its one spelling in commands,
//! reports and the store. Names come from the network: a text that cannot be a host name is ignored.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use gupd_config::{certificate_identity, client_network};

/// Maximum characters of a refused text in an error.
const MAX_NAME: usize = 255;

/// A client. Ordered by address, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(ClientName);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ClientName {
    /// Canonical: an IPv4 address is never in its IPv6 form, and an IPv6 address is that of its `/64`.
    Address(IpAddr),
    /// In lower case, and never the spelling of an address.
    Host(Arc<str>),
}

/// A text that names no client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no client; give its address, or the first name in its certificate")]
pub struct InvalidClientId(String);

impl ClientId {
    /// Returns the identity of a client at this address with these names in its certificate. A name that reads like an
    /// address would be another client's, and is ignored.
    pub fn of(address: IpAddr, names: &[Box<str>]) -> Self {
        let named = certificate_identity(names).map(Self::named);
        named.unwrap_or_else(|| Self(ClientName::Address(client_network(address))))
    }

    fn named(name: &str) -> Self {
        Self(ClientName::Host(name.to_ascii_lowercase().into()))
    }
}

impl FromStr for ClientId {
    type Err = InvalidClientId;

    fn from_str(text: &str) -> Result<Self, InvalidClientId> {
        let text = text.trim();
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(Self(ClientName::Address(client_network(address)))),
            Err(_) => certificate_identity(&[text.into()])
                .map(Self::named)
                .ok_or_else(|| InvalidClientId(text.chars().take(MAX_NAME).collect())),
        }
    }
}

impl Display for ClientId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ClientName::Address(address) => address.fmt(f),
            ClientName::Host(name) => f.pad(name),
        }
    }
}

impl Serialize for ClientId {
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
        ClientId::of(address.parse().unwrap(), &names).to_string()
    }

    #[test]
    fn client_is_its_first_name_or_its_canonical_address() {
        let long = "a".repeat(MAX_NAME + 1);
        for (address, names, expected) in [
            ("10.0.0.1", &["PC-1.example", "other"][..], "pc-1.example"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("::ffff:10.0.0.1", &[], "10.0.0.1"),
            ("2001:DB8::0:1", &[], "2001:db8::"),
            ("2001:db8::2:3:4", &[], "2001:db8::"),
            ("10.0.0.1", &["10.0.0.2"], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["a\nb"], "10.0.0.1"),
            ("10.0.0.1", &[&long], "10.0.0.1"),
        ] {
            assert_eq!(of(address, names), expected, "{address} {names:?}");
        }
    }

    #[test]
    fn invalid_id_is_refused_with_advice() {
        let error = "a b".parse::<ClientId>().unwrap_err().to_string();
        assert_eq!(error, r#""a b" is no client; give its address, or the first name in its certificate"#);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn displayed_id_parses_back(address: IpAddr, name in "\\PC{0,20}") {
            for names in [&[name.into_boxed_str()][..], &[]] {
                let id = ClientId::of(address, names);
                prop_assert_eq!(&id.to_string().parse::<ClientId>().unwrap(), &id);
            }
        }
    }
}
