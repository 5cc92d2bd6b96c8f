//! The temporary folder of a demo: readable by its owner only, and removed with its content when dropped.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process;

/// Number of names tried. A name is taken if a demo with the same process id was killed before.
const MAX_NAMES: u32 = 100;

/// A folder that is removed when dropped.
#[derive(Debug)]
pub(super) struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Creates a folder in `TMPDIR`. An existing folder is never used.
    pub(super) fn create() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
        for number in 0..MAX_NAMES {
            let path = parent.join(format!("gupd-demo-{}-{number}", process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
                Err(error) => return Err(error),
            }
        }
        Err(taken)
    }

    /// Returns its path.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // The system cleans its temporary folder later.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn folder_is_private_and_removed_with_its_content() {
        let (one, other) = (TemporaryFolder::create().unwrap(), TemporaryFolder::create().unwrap());
        let path = one.path().to_owned();
        assert_ne!(path, other.path());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(path.join("file"), b"x").unwrap();
        drop(one);
        assert!(!path.exists() && other.path().exists());
    }
}
