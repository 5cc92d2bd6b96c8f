//! One mechanism that finds each setting: flag, else environment variable, else file. What is asked for is taken out;
//! what is left at the end is what nobody knows, so the readers in `settings`, `tables`, `network` and `group` are the
//! only list of keys there is.

use std::path::Path;

use super::Overrides;
use super::file::{self, Block, Body, Entry, Value};
use super::problem::{Location, Problem, Problems};

/// Tables of one name, at most: each is tried in turn or becomes a metric's label.
const MAX_TABLES: usize = 1_000;
/// Typing errors within which another name is proposed.
const MAX_TYPOS: usize = 2;
/// What container platforms set for a service named `gupd`: not ours to judge.
const FOREIGN_VARIABLES: [&str; 2] = ["GUPD_PORT", "GUPD_SERVICE"];

/// Everything that was said, by section. Sections are taken out, read and closed.
pub(super) struct Document {
    blocks: Vec<Block>,
    flags: Vec<(&'static str, Entry)>,
    variables: Vec<(String, String)>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    // Sections that were asked for.
    known: Vec<&'static str>,
    // Those of them that are lists of tables and had none.
    empty: Vec<&'static str>,
}

/// One table: what was said for its keys, strongest place first.
pub(super) struct Section {
    name: &'static str,
    place: Option<Location>,
    entries: Vec<Entry>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    // Keys that were asked for, and where they were given.
    known: Vec<(&'static str, Option<Location>)>,
}

impl Document {
    /// Reads the file. An unreadable file or one that is not TOML is the only problem there is.
    pub(super) fn open(
        overrides: &Overrides,
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        let blocks = file.map_or_else(|| Ok(Vec::new()), file::read)?;
        // An empty variable is not set: service files and compose files pass on `${X:-}`.
        let variables = env
            .filter(|(name, value)| name.starts_with("GUPD_") && !is_foreign(name) && !value.is_empty())
            .collect();
        let flags = overrides.entries().map(|(section, key, flag, values)| {
            let place = Location::Flag(flag);
            let list = values.iter().map(|value| (place.clone(), value.clone())).collect();
            (section, Entry { key: key.to_owned(), place, value: Value::List(list) })
        });
        Ok(Self {
            blocks,
            flags: flags.collect(),
            variables,
            problems: Vec::new(),
            warnings: Vec::new(),
            known: Vec::new(),
            empty: Vec::new(),
        })
    }

    /// Takes out `[name]`, with its flags and its `GUPD_<NAME>_<KEY>` variables.
    pub(super) fn section(&mut self, name: &'static str) -> Section {
        let mut entries: Vec<Entry> =
            self.flags.extract_if(.., |(section, _)| *section == name).map(|(_, entry)| entry).collect();
        let prefix = format!("GUPD_{}_", name.to_ascii_uppercase());
        entries.extend(self.variables.extract_if(.., |(variable, _)| variable.starts_with(&prefix)).map(
            |(variable, value)| Entry {
                key: variable[prefix.len()..].to_ascii_lowercase(),
                place: Location::Environment(variable),
                value: Value::Text(value),
            },
        ));
        let mut place = None;
        if let Some(block) = self.block(name) {
            match block.body {
                Body::Table(from_file) => entries.extend(from_file),
                _ => self.refuse(block.place.clone(), name, format!("is one table; write [{name}]")),
            }
            place = Some(block.place);
        }
        Section::new(name, place, entries)
    }

    /// Takes out every `[[name]]`. If `listed` names a key, a flag or the variable `GUPD_<NAME>` may give that key's
    /// values, one table each, in place of the file's.
    pub(super) fn tables(&mut self, name: &'static str, listed: Option<&'static str>) -> Vec<Section> {
        let block = self.block(name);
        let tables = match listed.and_then(|key| self.listed(name, key)) {
            Some(tables) => tables,
            None => match block {
                None => Vec::new(),
                Some(Block { body: Body::Tables(tables), .. }) => tables,
                Some(Block { place, .. }) => {
                    self.refuse(place, name, format!("is a list of tables; write [[{name}]]"));
                    Vec::new()
                }
            },
        };
        if tables.is_empty() {
            self.empty.push(name);
        }
        if let Some((place, _)) = tables.get(MAX_TABLES) {
            self.refuse(place.clone(), name, format!("is given more than {MAX_TABLES} times; give fewer"));
        }
        tables
            .into_iter()
            .take(MAX_TABLES)
            .map(|(place, entries)| Section::new(name, Some(place), entries))
            .collect()
    }

    /// Collects a section's problems and warnings; what nobody asked it for is unknown.
    pub(super) fn close(&mut self, section: Section) {
        self.problems.extend(section.problems);
        self.warnings.extend(section.warnings);
        for Entry { key, place, .. } in section.entries {
            let message = match closest(&key, section.known.iter().map(|(known, _)| *known)) {
                Some(near) => format!("unknown key; did you mean {near}?"),
                None => {
                    let known: Vec<_> = section.known.iter().map(|(known, _)| *known).collect();
                    format!("unknown key; {} has {}", section.name, known.join(", "))
                }
            };
            self.refuse(place, &format!("{}.{key}", section.name), message);
        }
    }

    /// Whether `[[name]]` was asked for and nobody gave one.
    pub(super) fn gave_none(&self, name: &str) -> bool {
        self.empty.contains(&name)
    }

    /// Adds a problem that has no place: something is missing everywhere.
    pub(super) fn missing(&mut self, message: &str) {
        self.problems.push(Problem { place: None, key: None, message: message.to_owned() });
    }

    /// Adds a warning that has no place: something odd follows from what was not given.
    pub(super) fn warn_missing(&mut self, key: &str, message: &str) {
        let key = Some(key.to_owned());
        self.warnings.push(Problem { place: None, key, message: message.to_owned() });
    }

    /// Every problem; or, if there is none, the warnings by place. What no section took is unknown.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, Problems> {
        for Block { name, place, body } in std::mem::take(&mut self.blocks) {
            let what = if matches!(body, Body::Value) { "key outside of a section" } else { "section" };
            let message = match closest(&name, self.known.iter().copied()) {
                Some(near) => format!("unknown {what}; did you mean {near}?"),
                None => format!("unknown {what}; the sections are {}", self.known.join(", ")),
            };
            self.refuse(place, &name, message);
        }
        for (variable, _) in std::mem::take(&mut self.variables) {
            let message = "no such setting; variables are GUPD_<SECTION>_<KEY>, and GUPD_UPSTREAM";
            self.problems.push(Problem {
                place: Some(Location::Environment(variable)),
                key: None,
                message: message.to_owned(),
            });
        }
        Problems::none(self.problems)?;
        self.warnings.sort();
        Ok(self.warnings)
    }

    fn block(&mut self, name: &'static str) -> Option<Block> {
        self.known.push(name);
        let at = self.blocks.iter().position(|block| block.name == name)?;
        Some(self.blocks.remove(at))
    }

    // What a flag or the variable gives for `key` of `[[name]]`, one table for each value.
    fn listed(&mut self, name: &'static str, key: &str) -> Option<Vec<(Location, Vec<Entry>)>> {
        let entry = |place, value| Entry { key: key.to_owned(), place, value };
        let variable = format!("GUPD_{}", name.to_ascii_uppercase());
        let flags = self.flags.extract_if(.., |(section, _)| *section == name).map(|(_, entry)| entry);
        let variables = self.variables.extract_if(.., |(given, _)| *given == variable);
        let variables = variables.map(|(name, value)| entry(Location::Environment(name), Value::Text(value)));
        let given: Vec<Entry> = flags.chain(variables).collect();
        let values = given.into_iter().next()?.values().ok()?;
        let table = |(place, value): (Location, _)| (place.clone(), vec![entry(place, Value::Text(value))]);
        Some(values.into_iter().map(table).collect())
    }

    fn refuse(&mut self, place: Location, key: &str, message: String) {
        self.problems.push(Problem { place: Some(place), key: Some(key.to_owned()), message });
    }
}

impl Section {
    fn new(name: &'static str, place: Option<Location>, entries: Vec<Entry>) -> Self {
        Self { name, place, entries, problems: Vec::new(), warnings: Vec::new(), known: Vec::new() }
    }

    /// The value of `key`, if it was given and `read` takes it; a value it does not take is a problem.
    pub(super) fn one<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let entry = self.take(key)?;
        let result = match entry.value {
            Value::Text(text) => read(&text),
            Value::List(list) => match list.as_slice() {
                [(_, text)] => read(text),
                _ => Err("takes one value, not a list".to_owned()),
            },
            Value::Unfit(what) => Err(format!("takes one value, not {what}")),
        };
        result.map_err(|message| self.refuse(key, message)).ok()
    }

    /// Like [`Section::one`]; without the key there is a problem.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.one(key, read);
        if !self.given(key) {
            self.refuse(key, "is missing");
        }
        value
    }

    /// Whether a key that was read was given, rightly or not.
    pub(super) fn given(&self, key: &str) -> bool {
        self.place_of(key).is_some()
    }

    /// The values of `key`, if it was given: a list, or one text with commas. Values that `read` does not take are
    /// problems and left out.
    pub(super) fn many<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        match self.take(key)?.values() {
            Err(what) => {
                self.refuse(key, format!("takes a list of values, not {what}"));
                None
            }
            Ok(values) => {
                if values.is_empty() {
                    self.refuse(key, "is empty; give at least one value, or leave the key out");
                }
                let mut taken = Vec::with_capacity(values.len());
                for (place, text) in values {
                    match read(&text) {
                        Ok(value) => taken.push(value),
                        Err(message) => self.refuse_at(Some(place), key, message),
                    }
                }
                Some(taken)
            }
        }
    }

    /// Where it begins.
    pub(super) fn place(&self) -> Option<&Location> {
        self.place.as_ref()
    }

    /// Adds a problem of `key`, where it was given, or else where the section begins.
    pub(super) fn refuse(&mut self, key: &str, message: impl Into<String>) {
        let place = self.place_of(key).or(self.place.as_ref()).cloned();
        self.refuse_at(place, key, message.into());
    }

    /// Says what is odd about `key`, though it may be meant.
    pub(super) fn warn(&mut self, key: &str, message: impl Into<String>) {
        let place = self.place_of(key).or(self.place.as_ref()).cloned();
        let key = Some(format!("{}.{key}", self.name));
        self.warnings.push(Problem { place, key, message: message.into() });
    }

    fn refuse_at(&mut self, place: Option<Location>, key: &str, message: String) {
        self.problems.push(Problem { place, key: Some(format!("{}.{key}", self.name)), message });
    }

    fn place_of(&self, key: &str) -> Option<&Location> {
        self.known.iter().find(|(known, _)| *known == key).and_then(|(_, place)| place.as_ref())
    }

    // Weaker places that say the same key are overruled, unread.
    fn take(&mut self, key: &'static str) -> Option<Entry> {
        let given: Vec<_> = self.entries.extract_if(.., |entry| entry.key == key).collect();
        let entry = given.into_iter().next();
        self.known.push((key, entry.as_ref().map(|entry| entry.place.clone())));
        entry
    }
}

fn is_foreign(variable: &str) -> bool {
    let rest_of = |foreign: &&str| variable.strip_prefix(*foreign);
    FOREIGN_VARIABLES.iter().filter_map(rest_of).any(|rest| rest.is_empty() || rest.starts_with('_'))
}

fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|candidate| (typos(word, candidate), candidate)).min()?;
    // Half a word wrong is another word.
    (near.0 <= MAX_TYPOS && near.0 * 2 < near.1.len()).then_some(near.1)
}

// Levenshtein distance, one row at a time.
fn typos(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_single_typing_errors() {
        for (a, b, distance) in [
            ("quota", "quota", 0),
            ("quotta", "quota", 1),
            ("quta", "quota", 1),
            ("", "ab", 2),
            ("ab", "ba", 2),
        ] {
            assert_eq!(typos(a, b), distance, "{a} {b}");
            assert_eq!(typos(b, a), distance, "{b} {a}");
        }
    }

    #[test]
    fn only_a_near_name_is_proposed() {
        let known = ["dir", "quota", "min_free"];
        assert_eq!(closest("quotta", known.into_iter()), Some("quota"));
        assert_eq!(closest("minfree", known.into_iter()), Some("min_free"));
        assert_eq!(closest("url", known.into_iter()), None);
    }
}
