//! `[store]`: the folder of stored content and its limits. Without `store.dir` the packaged service's folder is used if
//! it can be written, else the user's state folder of the XDG Base Directory Specification.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::defaults;
use crate::document::Document;
use crate::reader::{check_bounds, path, size, time, time_or_off};
use crate::units::{Rate, Size, UnitError};

/// `[store]`
#[derive(Clone, Debug, PartialEq)]
pub struct StoreSettings {
    /// Folder of the store.
    pub dir: PathBuf,
    /// Maximum bytes on disk, 64 MiB to 1,024 TiB.
    pub quota: u64,
    /// Bytes that the store leaves free on its file system, 0 to 1,024 TiB.
    pub min_free: u64,
    /// Time without a request after which an object is removed, 1 h to 3,650 d.
    pub max_unused: Duration,
    /// Maximum bytes of hot chunks in memory, 16 MiB to 1 TiB.
    pub memory: u64,
    /// Time in which the scrub verifies the whole store, 1 h to 365 d; `None` without a scrub.
    pub scrub_period: Option<Duration>,
    /// Maximum bytes a second that the scrub reads, 64 KiB/s to 1 TiB/s.
    pub scrub_rate: u64,
}

pub(crate) fn read_store(document: &mut Document, default_dir: PathBuf) -> StoreSettings {
    let mut s = document.take_section("store");
    let store = StoreSettings {
        dir: s.read("dir", path).unwrap_or(default_dir),
        quota: size(&mut s, "quota", defaults::QUOTA),
        min_free: size(&mut s, "min_free", defaults::MIN_FREE),
        max_unused: time(&mut s, "max_unused", defaults::MAX_UNUSED),
        memory: size(&mut s, "memory", defaults::MEMORY),
        scrub_period: time_or_off(&mut s, "scrub_period", defaults::SCRUB_PERIOD),
        scrub_rate: s.read("scrub_rate", rate).unwrap_or(defaults::SCRUB_RATE.default),
    };
    if s.is_given("memory") && store.memory > store.quota {
        let (memory, quota) = (Size(store.memory), Size(store.quota));
        s.warn("memory", format!("{memory} exceeds store.quota ({quota}): the rest of it is never used"));
    }
    document.close(s);
    store
}

fn rate(text: &str) -> Result<u64, String> {
    let Rate(rate) = text.parse().map_err(|error: UnitError| error.to_string())?;
    check_bounds(text, rate, defaults::SCRUB_RATE, Rate)
}

/// Returns the folder of the store where the configuration names none.
pub(crate) fn default_dir(system: &Path, env: &[(String, String)]) -> PathBuf {
    let variable = |name: &str| {
        let value = env.iter().find(|(given, _)| given == name).map(|(_, value)| PathBuf::from(value));
        value.filter(|path| path.is_absolute())
    };
    let state = || variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    if is_writable(system) {
        return system.to_owned();
    }
    state().map_or_else(|| system.to_owned(), |state| state.join("gupd"))
}

fn is_writable(dir: &Path) -> bool {
    can_write(dir) || (!dir.exists() && dir.parent().is_some_and(can_write))
}

#[cfg(unix)]
fn can_write(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(not(unix))]
fn can_write(path: &Path) -> bool {
    path.metadata().is_ok_and(|folder| folder.is_dir() && !folder.permissions().readonly())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_uses_state_folder_when_service_folder_is_read_only() {
        let folder = tempfile::tempdir().unwrap();
        let (writable, unwritable) = (folder.path().join("gupd"), folder.path().join("missing/gupd"));
        let env = |vars: &[(&str, &str)]| -> Vec<(String, String)> {
            vars.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let both = env(&[("XDG_STATE_HOME", "/state"), ("HOME", "/home/a")]);
        assert_eq!(default_dir(&writable, &both), writable);
        assert_eq!(default_dir(folder.path(), &both), folder.path());
        assert_eq!(default_dir(&unwritable, &both), Path::new("/state/gupd"));
        let relative = env(&[("XDG_STATE_HOME", "state"), ("HOME", "/home/a")]);
        assert_eq!(default_dir(&unwritable, &relative), Path::new("/home/a/.local/state/gupd"));
        assert_eq!(default_dir(&unwritable, &[]), unwritable);
    }
}
