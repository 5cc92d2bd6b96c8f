//! The demo's folder: made for one run, for its owner only, and removed with everything in it when dropped.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process;

/// Names tried; one is taken only if a demo with the same process number was killed before.
const NAMES: u32 = 100;

/// A folder that lives as long as the value.
#[derive(Debug)]
pub(super) struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Makes one in the system's folder for such (`TMPDIR`). An existing one is never used, whoever made it.
    pub(super) fn create() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
        for number in 0..NAMES {
            let path = parent.join(format!("gupd-demo-{}-{number}", process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
                Err(error) => return Err(error),
            }
        }
        Err(taken)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean; there is nobody left to tell.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_is_its_owners_alone_and_goes_with_what_is_in_it() {
        let (one, other) = (TemporaryFolder::create().unwrap(), TemporaryFolder::create().unwrap());
        let path = one.path().to_owned();
        assert_ne!(path, other.path());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(path.join("file"), b"x").unwrap();
        drop(one);
        assert!(!path.exists() && other.path().exists());
    }
}
