//! Strict parser of Prometheus' text exposition format 0.0.4: input that a scraper could reject fails the test.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    /// Values by name with labels, as written.
    pub(crate) samples: BTreeMap<String, f64>,
}

/// Parses the families by name.
pub(crate) fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "no newline after the last line");
    let mut families = BTreeMap::<String, Family>::new();
    let (mut helped, mut current) = (None, String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(!text.is_empty() && !families.contains_key(name), "{line}");
            helped = Some(name.to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(helped.take().as_deref(), Some(name), "TYPE without its HELP");
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            let new = Family { kind: kind.to_owned(), ..Family::default() };
            assert!(families.insert(name.to_owned(), new).is_none(), "{name} twice");
            current = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family = families.get_mut(&current).unwrap();
            let suffix = name.strip_prefix(current.as_str());
            let suffixes: &[&str] =
                if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffix.is_some_and(|suffix| suffixes.contains(&suffix)), "{line} is not of {current}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{line}"
            );
            let value = value.parse().unwrap();
            assert!(family.samples.insert(series.to_owned(), value).is_none(), "{series} twice");
        }
    }
    for (name, family) in &families {
        assert!(!family.samples.is_empty(), "{name} has no sample");
        if family.kind == "histogram" {
            let infinite = family.samples[&format!("{name}_bucket{{le=\"+Inf\"}}")];
            assert_eq!(infinite, family.samples[&format!("{name}_count")], "{name}");
            assert!(family.samples.values().all(|value| *value >= 0.0), "{name}");
        }
    }
    families
}
