//! The query parameter with which clients name the origin server of their content, and the hosts that it may name. A
//! relay asks only servers that a route names besides; the list keeps a profile to its vendor.

use super::HostPattern;
use super::read::read_certainty;
use crate::document::Document;
use crate::reader::parameter;

/// The query parameter that names the origin server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginParameter {
    /// Its name.
    name: String,
    /// Hosts that it may name.
    hosts: Vec<HostPattern>,
}

/// Error of an origin that is not allowed: another host, several, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignOrigin;

impl OriginParameter {
    /// Returns the host that a query names; `None` if it has no such parameter. Names compare with case.
    ///
    /// # Errors
    /// A host that is not listed, or two hosts.
    pub fn host_in<'a>(&self, query: &'a str) -> Result<Option<&'a str>, ForeignOrigin> {
        let mut values = query.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == self.name).then_some(value)
        });
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(host), None) if self.hosts.iter().any(|pattern| pattern.matches(host)) => Ok(Some(host)),
            _ => Err(ForeignOrigin),
        }
    }
}

pub(super) fn read_origin(document: &mut Document) -> Option<OriginParameter> {
    let mut s = document.take_section("origin");
    s.location()?;
    let name = s.read_required("parameter", parameter);
    let hosts = s.read_list("hosts", HostPattern::parse);
    if !s.is_given("hosts") {
        s.refuse_missing("hosts");
    }
    let certainty = read_certainty(&mut s);
    document.close(s);
    let origin = OriginParameter { name: name?, hosts: hosts? };
    certainty.map(|_| origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_listed_host_is_an_origin() {
        let hosts = ["*.dl.example", "dl.example"].map(|host| HostPattern::parse(host).unwrap()).to_vec();
        let origin = OriginParameter { name: "host".into(), hosts };
        for (query, expected) in [
            ("", Ok(None)),
            ("a=b&hosts=x", Ok(None)),
            ("HOST=x", Ok(None)),
            ("host=a.dl.example", Ok(Some("a.dl.example"))),
            ("a=b&host=DL.Example&c", Ok(Some("DL.Example"))),
            ("host=evil.example", Err(ForeignOrigin)),
            ("host=dl.example.evil", Err(ForeignOrigin)),
            ("host=dl.example:8080", Err(ForeignOrigin)),
            ("host=dl.example%2fx", Err(ForeignOrigin)),
            ("host=", Err(ForeignOrigin)),
            ("host", Err(ForeignOrigin)),
            ("host=dl.example&host=dl.example", Err(ForeignOrigin)),
            ("host=dl.example&host=evil.example", Err(ForeignOrigin)),
        ] {
            assert_eq!(origin.host_in(query), expected, "{query}");
        }
    }
}
