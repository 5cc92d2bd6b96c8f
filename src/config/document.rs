//! The configuration as text: finds each setting in a flag, else an environment variable, else the file. Sections take
//! out the keys that they know, and the rest is reported as unknown, so the sections are the only list of keys.

use std::path::{Path, PathBuf};

use crate::file::{self, Block, BlockBody, Setting, Value};
use crate::overrides::Overrides;
use crate::problem::{Location, Problem, Problems};
use crate::unknown::{KnownKeys, UnknownKey, closest_word};

/// Maximum number of tables of one name. Each is tried in turn or becomes a metric label.
const MAX_TABLES: usize = 1_000;
/// Variables that container platforms set for a service named `gupd`; ignored.
const FOREIGN_VARIABLES: [&str; 2] = ["GUPD_PORT", "GUPD_SERVICE"];

/// All settings by section. Each section is taken out, read and closed.
pub(crate) struct Document {
    blocks: Vec<Block>,
    flags: Vec<(&'static str, Setting)>,
    variables: Vec<(String, String)>,
    problems: Vec<Problem>,
    // Sections that are missing everywhere, each with its problem.
    missing: Vec<(&'static str, Problem)>,
    // Problems of a relay only, not of a command that reaches one.
    relay_problems: Vec<Problem>,
    warnings: Vec<Problem>,
    // Sections that were taken.
    known: Vec<&'static str>,
    keys: KnownKeys,
    unknown: Vec<UnknownKey>,
    // Lists of tables that were taken and had none.
    empty: Vec<&'static str>,
    files: Vec<ConfiguredFile>,
}

/// A file or folder that the configuration names and the relay reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredFile {
    /// Setting that names it, such as `server.tls_key`.
    pub setting: String,
    /// Its path.
    pub path: PathBuf,
}

/// One table: the settings of its keys, the strongest location first.
pub(crate) struct Section {
    name: &'static str,
    // Written [[name]].
    is_list: bool,
    location: Option<Location>,
    entries: Vec<Setting>,
    problems: Vec<Problem>,
    relay_problems: Vec<Problem>,
    warnings: Vec<Problem>,
    // Keys that were read, with the location of their setting.
    known: Vec<(&'static str, Option<Location>)>,
    files: Vec<ConfiguredFile>,
}

impl Document {
    /// Reads the file. If it cannot be read or is not TOML, that is the only problem reported.
    pub(crate) fn open(
        overrides: &Overrides,
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        let blocks = file.map_or_else(|| Ok(Vec::new()), file::read)?;
        // An empty variable counts as unset: service files and compose files pass on `${X:-}`.
        let variables = env
            .filter(|(name, value)| name.starts_with("GUPD_") && !is_foreign(name) && !value.is_empty())
            .collect();
        let flags = overrides.entries().map(|(section, key, flag, values)| {
            let location = Location::Flag(flag);
            let list = values.iter().map(|value| (location.clone(), value.clone())).collect();
            (section, Setting { key: key.to_owned(), location, value: Value::List(list) })
        });
        Ok(Self { flags: flags.collect(), variables, ..Self::of_blocks(blocks) })
    }

    /// A document of these items alone, without flags and variables.
    pub(crate) fn of_blocks(blocks: Vec<Block>) -> Self {
        Self {
            blocks,
            flags: Vec::new(),
            variables: Vec::new(),
            problems: Vec::new(),
            missing: Vec::new(),
            relay_problems: Vec::new(),
            warnings: Vec::new(),
            known: Vec::new(),
            keys: KnownKeys::default(),
            unknown: Vec::new(),
            empty: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Takes out `[name]`, with its flags and its `GUPD_<NAME>_<KEY>` variables.
    pub(crate) fn take_section(&mut self, name: &'static str) -> Section {
        let mut entries: Vec<Setting> =
            self.flags.extract_if(.., |(section, _)| *section == name).map(|(_, entry)| entry).collect();
        let prefix = format!("GUPD_{}_", name.to_ascii_uppercase());
        entries.extend(self.variables.extract_if(.., |(variable, _)| variable.starts_with(&prefix)).map(
            |(variable, value)| Setting {
                key: variable.get(prefix.len()..).unwrap_or_default().to_ascii_lowercase(),
                location: Location::Environment(variable),
                value: Value::Text(value),
            },
        ));
        let mut location = None;
        if let Some(block) = self.take_block(name) {
            match block.body {
                BlockBody::Table(from_file) => entries.extend(from_file),
                _ => self.refuse(block.location.clone(), name, format!("expected one table: write [{name}]")),
            }
            location = Some(block.location);
        }
        Section::new(name, false, location, entries)
    }

    /// Takes out every `[[name]]`. If `list_key` names a key, a flag or the variable `GUPD_<NAME>` may replace the
    /// file's tables: each of its values is a table with that key.
    pub(crate) fn take_tables(&mut self, name: &'static str, list_key: Option<&'static str>) -> Vec<Section> {
        let block = self.take_block(name);
        let tables = match list_key.and_then(|key| self.take_list(name, key)) {
            Some(tables) => tables,
            None => match block {
                None => Vec::new(),
                Some(Block { body: BlockBody::Tables(tables), .. }) => tables,
                Some(Block { location, .. }) => {
                    self.refuse(location, name, format!("expected a list of tables: write [[{name}]]"));
                    Vec::new()
                }
            },
        };
        if tables.is_empty() {
            self.empty.push(name);
        }
        if let Some((location, _)) = tables.get(MAX_TABLES) {
            self.refuse(location.clone(), name, format!("more than {MAX_TABLES} tables: remove some"));
        }
        tables
            .into_iter()
            .take(MAX_TABLES)
            .map(|(location, entries)| Section::new(name, true, Some(location), entries))
            .collect()
    }

    /// Collects a section's problems and warnings. Keys that were not read are unknown.
    pub(crate) fn close(&mut self, section: Section) {
        self.problems.extend(section.problems);
        self.relay_problems.extend(section.relay_problems);
        self.warnings.extend(section.warnings);
        self.files.extend(section.files);
        let name = section.name;
        self.keys.add(name, section.is_list, section.known.iter().map(|(key, _)| *key));
        let unknown = section.entries.into_iter();
        self.unknown.extend(unknown.map(|Setting { key, location, .. }| UnknownKey {
            section: Some(name),
            key,
            location,
        }));
    }

    /// Returns true if `[[name]]` was taken and there was none.
    pub(crate) fn has_no_tables(&self, name: &str) -> bool {
        self.empty.contains(&name)
    }

    /// Takes the files that the closed sections name.
    pub(crate) fn take_files(&mut self) -> Vec<ConfiguredFile> {
        std::mem::take(&mut self.files)
    }

    /// Adds the problems of another file.
    pub(crate) fn refuse_all(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.problems.extend(problems);
    }

    /// Adds a problem of a section that is missing everywhere: one of the file as a whole, if there is one. It is not
    /// reported if the file has the section under a wrong name or in a wrong form, which is a problem of its own.
    pub(crate) fn refuse_missing(&mut self, section: &'static str, file: Option<&Path>, message: String) {
        let location = file.map(|path| Location::File(path.display().to_string().into(), None));
        self.missing.push((section, Problem { location, key: None, message }));
    }

    /// Adds a warning about the file as a whole.
    pub(crate) fn warn_about_file(&mut self, file: &Path, message: String) {
        let location = Some(Location::File(file.display().to_string().into(), None));
        self.warnings.push(Problem { location, key: None, message });
    }

    /// Adds a warning without a location: it follows from a setting that is missing.
    pub(crate) fn warn_missing(&mut self, key: &str, message: &str) {
        let key = Some(key.to_owned());
        self.warnings.push(Problem { location: None, key, message: message.to_owned() });
    }

    /// Drops the problems that concern a relay only.
    pub(crate) fn ignore_relay_problems(&mut self) {
        self.relay_problems.clear();
    }

    /// Returns the warnings by location, or every problem if there is one. Sections that were not taken are unknown.
    pub(crate) fn finish(mut self) -> Result<Vec<Problem>, Problems> {
        for Block { name, location, body } in std::mem::take(&mut self.blocks) {
            if matches!(body, BlockBody::Value) {
                self.unknown.push(UnknownKey { section: None, key: name, location });
                continue;
            }
            let message = match closest_word(&name, self.known.iter().copied()) {
                Some(near) => {
                    self.missing.retain(|(section, _)| *section != near);
                    format!("unknown section: did you mean {near}?")
                }
                None => format!("unknown section: the sections are {}", self.known.join(", ")),
            };
            self.refuse(location, &name, message);
        }
        let missing = std::mem::take(&mut self.missing).into_iter();
        let is_given = |section| self.problems.iter().any(|problem| problem.key.as_deref() == Some(section));
        let missing: Vec<_> = missing.filter(|(section, _)| !is_given(*section)).collect();
        self.problems.extend(missing.into_iter().map(|(_, problem)| problem));
        // Only now are the keys of all sections known.
        let unknown = std::mem::take(&mut self.unknown);
        self.problems.extend(unknown.into_iter().map(|key| self.keys.problem(key, &self.known)));
        for (variable, _) in std::mem::take(&mut self.variables) {
            let message = "unknown variable: use GUPD_<SECTION>_<KEY> or GUPD_UPSTREAM";
            self.problems.push(Problem {
                location: Some(Location::Environment(variable)),
                key: None,
                message: message.to_owned(),
            });
        }
        self.problems.append(&mut self.relay_problems);
        Problems::check(self.problems)?;
        self.warnings.sort();
        Ok(self.warnings)
    }

    fn take_block(&mut self, name: &'static str) -> Option<Block> {
        self.known.push(name);
        let at = self.blocks.iter().position(|block| block.name == name)?;
        Some(self.blocks.remove(at))
    }

    // Takes the values of `key` from a flag or the variable, one table for each value.
    fn take_list(&mut self, name: &'static str, key: &str) -> Option<Vec<(Location, Vec<Setting>)>> {
        let entry = |location, value| Setting { key: key.to_owned(), location, value };
        let variable = format!("GUPD_{}", name.to_ascii_uppercase());
        let flags = self.flags.extract_if(.., |(section, _)| *section == name).map(|(_, entry)| entry);
        let variables = self.variables.extract_if(.., |(given, _)| *given == variable);
        let variables = variables.map(|(name, value)| entry(Location::Environment(name), Value::Text(value)));
        let given: Vec<Setting> = flags.chain(variables).collect();
        let values = given.into_iter().next()?.into_list().ok()?;
        let table =
            |(location, value): (Location, _)| (location.clone(), vec![entry(location, Value::Text(value))]);
        Some(values.into_iter().map(table).collect())
    }

    fn refuse(&mut self, location: Location, key: &str, message: String) {
        self.problems.push(Problem { location: Some(location), key: Some(key.to_owned()), message });
    }
}

impl Section {
    fn new(name: &'static str, is_list: bool, location: Option<Location>, entries: Vec<Setting>) -> Self {
        Self {
            name,
            is_list,
            location,
            entries,
            problems: Vec::new(),
            relay_problems: Vec::new(),
            warnings: Vec::new(),
            known: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Reads the value of `key`, if it is set. A value that `read` refuses is a problem.
    pub(crate) fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let entry = self.take(key)?;
        let result = match entry.value {
            Value::Text(text) => read(&text),
            Value::List(list) => match list.as_slice() {
                [(_, text)] => read(text),
                _ => Err("expected one value, found a list".to_owned()),
            },
            Value::Unfit(form) => Err(format!("expected one value, found {form}")),
        };
        result.map_err(|message| self.refuse(key, message)).ok()
    }

    /// Reads the value of `key`. A missing key is a problem.
    pub(crate) fn read_required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.read(key, read);
        if !self.is_given(key) {
            self.refuse_missing(key);
        }
        value
    }

    /// Adds the problem that `key` is missing.
    pub(crate) fn refuse_missing(&mut self, key: &str) {
        self.refuse(key, "missing required key");
    }

    /// Returns true if a key that was read is set, to a valid value or not.
    pub(crate) fn is_given(&self, key: &str) -> bool {
        self.location_of(key).is_some()
    }

    /// Reads the values of `key`, if it is set: a list, or one text with commas. Values that `read` refuses are
    /// problems and left out.
    pub(crate) fn read_list<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        match self.take(key)?.into_list() {
            Err(form) => {
                self.refuse(key, format!("expected a list of values, found {form}"));
                None
            }
            Ok(values) => {
                if values.is_empty() {
                    self.refuse(key, "empty list: add a value or remove the key");
                }
                let mut taken = Vec::with_capacity(values.len());
                for (location, text) in values {
                    match read(&text) {
                        Ok(value) => taken.push(value),
                        Err(message) => self.refuse_at(Some(location), key, message),
                    }
                }
                Some(taken)
            }
        }
    }

    /// Notes a file that the value of `key` names.
    pub(crate) fn add_file(&mut self, key: &str, path: PathBuf) {
        self.files.push(ConfiguredFile { setting: format!("{}.{key}", self.name), path });
    }

    /// Returns the location of the section.
    pub(crate) fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }

    /// Adds a problem of `key`, at its location or else that of the section.
    pub(crate) fn refuse(&mut self, key: &str, message: impl Into<String>) {
        let location = self.location_of(key).or(self.location.as_ref()).cloned();
        self.refuse_at(location, key, message.into());
    }

    /// Adds a warning about `key`: the value is valid, but probably not intended.
    pub(crate) fn warn(&mut self, key: &str, message: impl Into<String>) {
        let location = self.location_of(key).or(self.location.as_ref()).cloned();
        let key = Some(format!("{}.{key}", self.name));
        self.warnings.push(Problem { location, key, message: message.into() });
    }

    /// Adds a problem of `key` that concerns a relay with this configuration, not a command that reaches one.
    pub(crate) fn refuse_for_relay(&mut self, key: &str, message: impl Into<String>) {
        let location = self.location_of(key).or(self.location.as_ref()).cloned();
        let key = Some(format!("{}.{key}", self.name));
        self.relay_problems.push(Problem { location, key, message: message.into() });
    }

    fn refuse_at(&mut self, location: Option<Location>, key: &str, message: String) {
        self.problems.push(Problem { location, key: Some(format!("{}.{key}", self.name)), message });
    }

    /// Returns the location of a key that was read, if it is set.
    pub(crate) fn location_of(&self, key: &str) -> Option<&Location> {
        self.known.iter().find(|(known, _)| *known == key).and_then(|(_, location)| location.as_ref())
    }

    // Settings of the same key at weaker locations are dropped unread.
    fn take(&mut self, key: &'static str) -> Option<Setting> {
        let given: Vec<_> = self.entries.extract_if(.., |entry| entry.key == key).collect();
        let entry = given.into_iter().next();
        self.known.push((key, entry.as_ref().map(|entry| entry.location.clone())));
        entry
    }
}

fn is_foreign(variable: &str) -> bool {
    let rest_of = |foreign: &&str| variable.strip_prefix(*foreign);
    FOREIGN_VARIABLES.iter().filter_map(rest_of).any(|rest| rest.is_empty() || rest.starts_with('_'))
}
