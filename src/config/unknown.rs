//! Unknown keys, and what was probably meant: a key of the section with a typing error, or a key of another section whose
//! line is missing or still a comment. Knows the keys that sections have read, so it answers when all are read.

use std::collections::BTreeMap;

use crate::problem::{Location, Problem};

/// Maximum number of typing errors for which another name is suggested.
const MAX_TYPOS: usize = 2;

/// Maximum number of other sections that are suggested. A key of more, such as `limit`, is no hint.
const MAX_SECTIONS: usize = 2;

/// A key that its section does not have.
pub(crate) struct UnknownKey {
    /// The section; `None` above the first one.
    pub(crate) section: Option<&'static str>,
    pub(crate) key: String,
    pub(crate) location: Location,
}

/// The keys of all sections that were read.
#[derive(Default)]
pub(crate) struct KnownKeys {
    by_section: BTreeMap<&'static str, SectionKeys>,
}

#[derive(Default)]
struct SectionKeys {
    is_list: bool,
    // In the order of their reading.
    keys: Vec<&'static str>,
}

impl KnownKeys {
    /// Adds the keys of a section, which may have several tables.
    pub(crate) fn add(
        &mut self,
        section: &'static str,
        is_list: bool,
        keys: impl Iterator<Item = &'static str>,
    ) {
        let known = self.by_section.entry(section).or_default();
        known.is_list = is_list;
        for key in keys {
            if !known.keys.contains(&key) {
                known.keys.push(key);
            }
        }
    }

    /// Describes an unknown key. `sections` are the names of all sections.
    pub(crate) fn problem(&self, unknown: UnknownKey, sections: &[&str]) -> Problem {
        let UnknownKey { section, key, location } = unknown;
        let own = section.and_then(|name| self.by_section.get(name)).map_or(&[][..], |known| &known.keys);
        let what = if section.is_some() { "unknown key" } else { "key outside a section" };
        let owners = self.owners(&key);
        let message = if section.is_some() && sections.contains(&&*key) {
            format!("{what}: {key} is a section: write [{key}] on a line of its own, and its settings below")
        } else if let Some(near) = closest_word(&key, own.iter().copied()) {
            format!("{what}: did you mean {near}?")
        } else if (1..=MAX_SECTIONS).contains(&owners.len()) {
            format!("{what}: it belongs to {}: write or uncomment that line above it", owners.join(" or "))
        } else if let Some(near) = closest_word(&key, sections.iter().copied()).filter(|_| section.is_none())
        {
            format!("{what}: did you mean {near}?")
        } else if let Some(name) = section {
            format!("{what}: {name} has the keys {}", own.join(", "))
        } else {
            format!("{what}: the sections are {}", sections.join(", "))
        };
        let key = section.map_or_else(|| key.clone(), |name| format!("{name}.{key}"));
        Problem { location: Some(location), key: Some(key), message }
    }

    /// Returns the lines of the sections that have this key.
    fn owners(&self, key: &str) -> Vec<String> {
        let owners = self.by_section.iter().filter(|(_, known)| known.keys.contains(&key));
        owners
            .map(|(name, known)| if known.is_list { format!("[[{name}]]") } else { format!("[{name}]") })
            .collect()
    }
}

/// Returns the word that was probably meant.
pub(crate) fn closest_word<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // No name has upper case.
    let word = word.to_ascii_lowercase();
    let near = known.map(|candidate| (edit_distance(&word, candidate), candidate)).min()?;
    // A word with half of its letters wrong is another word.
    (near.0 <= MAX_TYPOS && near.0.saturating_mul(2) < near.1.len()).then_some(near.1)
}

// Levenshtein distance, one row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    // The distances of the beginnings of b, the empty one excepted, from the beginning of a.
    let mut row: Vec<usize> = (1..=b.len()).collect();
    let mut last = b.len();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        last = i.saturating_add(1);
        for (y, distance) in b.bytes().zip(&mut row) {
            let substituted = diagonal.saturating_add(usize::from(x != y));
            let inserted_or_removed = last.min(*distance).saturating_add(1);
            diagonal = *distance;
            last = substituted.min(inserted_or_removed);
            *distance = last;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_single_typing_errors() {
        for (a, b, distance) in [
            ("quota", "quota", 0),
            ("quotta", "quota", 1),
            ("quta", "quota", 1),
            ("", "ab", 2),
            ("ab", "ba", 2),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }

    #[test]
    fn only_a_close_word_is_suggested() {
        let known = ["dir", "quota", "min_free"];
        assert_eq!(closest_word("quotta", known.into_iter()), Some("quota"));
        assert_eq!(closest_word("DIR", known.into_iter()), Some("dir"));
        assert_eq!(closest_word("minfree", known.into_iter()), Some("min_free"));
        assert_eq!(closest_word("url", known.into_iter()), None);
    }
}
