//! Host patterns of a profile: a host, or every host below a domain. Pure; hosts compare without case.

use std::fmt;

/// A host, or all hosts below a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// In lower case, without `*.`.
    name: String,
    is_domain: bool,
}

impl HostPattern {
    /// Parses `host.example` or `*.example`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if !name.split('.').all(is_label) {
            return Err(format!(
                "{text:?} is not a host pattern: write it like updates.example or *.updates.example"
            ));
        }
        Ok(Self { name: name.to_ascii_lowercase(), is_domain: name.len() != text.len() })
    }

    /// Returns true if the pattern has this host (without port). A domain does not include itself.
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        if !self.is_domain {
            return host.eq_ignore_ascii_case(&self.name);
        }
        let (host, name) = (host.as_bytes(), self.name.as_bytes());
        let begin = host.len().checked_sub(name.len()).and_then(|begin| host.split_at_checked(begin));
        begin.is_some_and(|(begin, end)| matches!(begin, [_, .., b'.']) && end.eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_domain { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_matches_a_host_or_those_below_a_domain() {
        for (pattern, host, expected) in [
            ("a.example", "A.Example", true),
            ("a.example", "a.example.", true),
            ("a.example", "b.a.example", false),
            ("*.example", "a.example", true),
            ("*.example", "b.a.EXAMPLE.", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "a-example", false),
            ("*.example", "a.example.evil", false),
        ] {
            assert_eq!(HostPattern::parse(pattern).unwrap().matches(host), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn other_text_is_not_a_host_pattern() {
        for text in ["", "*", "*.", "a..b", "a:80", "*.*.a", "a/b", "http://a", "a*.b"] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
    }
}
