//! All profiles of a configuration: the built-in ones, and the operator's files of `[profiles]`. An operator's profile
//! replaces the built-in one of its name, also where `include` names it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use super::read::ProfileFile;
use super::{FileFormat, Profile};
use crate::document::Document;
use crate::file;
use crate::problem::{Problem, Problems};
use crate::reader;

/// The built-in profiles.
const BUILT_IN: [(&str, &str); 10] = [
    ("auto.toml", include_str!("../../../config/profiles/auto.toml")),
    ("clamav.toml", include_str!("../../../config/profiles/clamav.toml")),
    ("debian.toml", include_str!("../../../config/profiles/debian.toml")),
    ("eset.toml", include_str!("../../../config/profiles/eset.toml")),
    ("generic.toml", include_str!("../../../config/profiles/generic.toml")),
    ("liveupdate.toml", include_str!("../../../config/profiles/liveupdate.toml")),
    ("microsoft-do.toml", include_str!("../../../config/profiles/microsoft-do.toml")),
    ("sep.toml", include_str!("../../../config/profiles/sep.toml")),
    ("trellix.toml", include_str!("../../../config/profiles/trellix.toml")),
    ("trend-micro.toml", include_str!("../../../config/profiles/trend-micro.toml")),
];

/// Name of the profile of routes without one.
pub(crate) const DEFAULT_PROFILE: &str = "auto";

/// Maximum number of an operator's files: there are some dozens of vendors.
const MAX_FILES: usize = 100;

// Parsed once in a process: each configuration has them all.
static PARSED: LazyLock<Result<Vec<ProfileFile>, Problems>> = LazyLock::new(|| {
    let parse = |(name, text): (&str, &str)| {
        let name = format!("built-in profile {name}").into();
        ProfileFile::read(&name, file::parse(&name, text)?)
    };
    BUILT_IN.into_iter().map(parse).collect()
});

/// Profiles by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profiles(Vec<Arc<Profile>>);

impl Profiles {
    /// Returns the built-in profiles.
    ///
    /// # Errors
    /// A built-in file with problems, which the tests exclude.
    pub fn built_in() -> Result<Self, Problems> {
        Self::with_files(Vec::new())
    }

    /// Returns the built-in profiles and that of a file, and the latter.
    ///
    /// # Errors
    /// The problems of the file.
    pub fn with_file(path: &Path) -> Result<(Self, Arc<Profile>), Problems> {
        let file = read_file(path)?;
        let name = file.profile.name.clone();
        let profiles = Self::with_files(vec![file])?;
        let profile = profiles.find(&name).cloned().unwrap_or_default();
        Ok((profiles, profile))
    }

    /// Returns the profile of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Profile>> {
        self.0.iter().find(|profile| profile.name == name)
    }

    /// Returns every profile, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Profile>> {
        self.0.iter()
    }

    /// Returns the file formats of every route, which are those of the profile `generic`.
    pub(crate) fn common_formats(&self) -> &[FileFormat] {
        self.find("generic").map_or(&[], |generic| &generic.formats)
    }

    /// Returns the profile of routes without one.
    pub(crate) fn default_profile(&self) -> Arc<Profile> {
        self.find(DEFAULT_PROFILE).cloned().unwrap_or_default()
    }

    fn with_files(mut files: Vec<ProfileFile>) -> Result<Self, Problems> {
        let built_in = PARSED.as_ref().map_err(Clone::clone)?;
        let is_replaced = |file: &&ProfileFile| files.iter().any(|own| own.profile.name == file.profile.name);
        let kept: Vec<_> = built_in.iter().filter(|file| !is_replaced(file)).cloned().collect();
        files.extend(kept);
        files.sort_by(|a, b| a.profile.name.cmp(&b.profile.name));
        let mut problems = Vec::new();
        let profiles = files.iter().map(|file| Arc::new(file.resolve(&files, &mut problems))).collect();
        Problems::check(problems)?;
        Ok(Self(profiles))
    }
}

impl ProfileFile {
    /// Adds the rules of the included profiles.
    fn resolve(&self, all: &[Self], problems: &mut Vec<Problem>) -> Profile {
        let mut profile = self.profile.clone();
        for name in &self.includes {
            match all.iter().find(|other| other.profile.name == *name) {
                Some(other) if other.includes.is_empty() => {
                    let included = other.profile.clone();
                    profile.refuses_ambiguous_paths |= included.refuses_ambiguous_paths;
                    profile.paths.extend(included.paths);
                    profile.revisions.extend(included.revisions);
                    profile.origin = profile.origin.or(included.origin);
                    profile.guids.extend(included.guids);
                    profile.formats.extend(included.formats);
                    profile.clients.extend(included.clients);
                }
                Some(_) => {
                    problems
                        .push(self.problem(format!("{name:?} includes others itself: list those instead")));
                }
                None => problems.push(self.problem(format!("unknown profile {name:?}: {}", known(all)))),
            }
        }
        profile
    }

    fn problem(&self, message: String) -> Problem {
        Problem { location: Some(self.location.clone()), key: Some("profile.include".to_owned()), message }
    }
}

fn known(files: &[ProfileFile]) -> String {
    let names: Vec<_> = files.iter().map(|file| file.profile.name.as_str()).collect();
    format!("use one of {}", names.join(", "))
}

/// Reads `[profiles]` and its files.
pub(crate) fn read_profiles(document: &mut Document) -> Profiles {
    let mut s = document.take_section("profiles");
    let mut files: Vec<ProfileFile> = Vec::new();
    let (mut problems, mut named) = (Vec::new(), Vec::new());
    let mut read = |text: &str| {
        let path = reader::path(text)?;
        named.push(path.clone());
        for path in list_files(&path)? {
            match read_file(&path) {
                Ok(file) => match files.iter().find(|other| other.profile.name == file.profile.name) {
                    Some(other) => {
                        let name = &file.profile.name;
                        return Err(format!(
                            "profile {name:?} of {} is at {} too: remove one",
                            file.location, other.location
                        ));
                    }
                    None => files.push(file),
                },
                Err(found) => problems.extend(found.iter().cloned()),
            }
        }
        Ok(())
    };
    s.read_list("files", &mut read);
    named.into_iter().for_each(|path| s.add_file("files", path));
    if files.len() > MAX_FILES {
        s.refuse("files", format!("more than {MAX_FILES} profiles: remove some"));
    }
    document.close(s);
    document.refuse_all(problems);
    Profiles::with_files(files).unwrap_or_else(|problems| {
        document.refuse_all(problems.iter().cloned());
        Profiles::built_in().unwrap_or_default()
    })
}

fn read_file(path: &Path) -> Result<ProfileFile, Problems> {
    let name = path.display().to_string().into();
    ProfileFile::read(&name, file::read(path)?)
}

/// Returns the file, or the `*.toml` files of the folder by name.
fn list_files(path: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    if files.is_empty() {
        return Err(format!("{} has no *.toml file: add one or remove the entry", path.display()));
    }
    Ok(files)
}
