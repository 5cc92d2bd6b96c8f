//! Faults of a disk, injected: a layer under the program that makes calls on the store's files fail, and file systems
//! of a few MiB that can be filled up or taken away. The program knows nothing of either.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The C library's numbers on Linux.
pub(crate) const EIO: i32 = 5;
pub(crate) const EROFS: i32 = 30;
pub(crate) const ENOSPC: i32 = 28;

/// What makes the calls of one process on one folder fail.
pub(crate) struct FaultLayer {
    folder: TempDir,
    under: PathBuf,
}

impl FaultLayer {
    /// For calls on files under this folder; none fails yet.
    pub(crate) fn new(under: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("fault_layer.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-x", "c", "-", "-o"]).arg(&library).arg("-ldl");
        let mut compiling = compiler.stdin(Stdio::piped()).spawn().unwrap();
        compiling.stdin.take().unwrap().write_all(include_bytes!("fault_layer.c")).unwrap();
        assert!(compiling.wait().unwrap().success());
        Self { folder, under: under.to_owned() }
    }

    /// Puts the layer under a process that is about to start.
    pub(crate) fn put_under<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("LD_PRELOAD", self.folder.path().join("fault_layer.so"))
            .env("FAULT_UNDER", &self.under)
            .env("FAULT_FILE", self.file())
    }

    /// From now on calls of these kinds (`r`, `w`) fail with this error.
    pub(crate) fn fail(&self, kinds: &str, error: i32) {
        let whole = self.folder.path().join("next");
        fs::write(&whole, format!("{kinds} {error}")).unwrap();
        fs::rename(whole, self.file()).unwrap();
    }

    /// The end of the fault.
    pub(crate) fn mend(&self) {
        fs::remove_file(self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("fault")
    }
}

/// A mounted file system, or a folder mounted again elsewhere; unmounted at the end.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// A file system of so many MiB; `None`, and it is told, where tests may not mount.
    pub(crate) fn of_size(at: &Path, mib: u32) -> Option<Self> {
        Self::on(at, &["-t", "tmpfs", "-o", &format!("size={mib}m"), "none"])
    }

    /// What is in `of`, here too.
    pub(crate) fn bind(at: &Path, of: &Path) -> Option<Self> {
        Self::on(at, &["--bind", of.to_str().unwrap()])
    }

    /// A disk of so many MiB, which is this file; made if it is not there.
    pub(crate) fn of_image(at: &Path, image: &Path, mib: u64) -> Option<Self> {
        if !image.exists() {
            fs::File::create(image).unwrap().set_len(mib << 20).unwrap();
            let made = Command::new("mkfs.ext4").arg("-q").arg(image).status();
            assert!(made.unwrap().success());
        }
        Self::on(at, &["-o", "loop", image.to_str().unwrap()])
    }

    /// Pulls it away under those who use it.
    pub(crate) fn pull_away(self) {}

    fn on(at: &Path, what: &[&str]) -> Option<Self> {
        let mounted = Command::new("mount").args(what).arg(at).stderr(Stdio::null()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        println!("SKIPPED: mounting needs root");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.unwrap().success());
    }
}

/// Takes the room that is left on a file system until dropped.
pub(crate) struct Filler(PathBuf);

impl Filler {
    pub(crate) fn new(at: &Path) -> Self {
        let mut filler = Self(at.join("filler"));
        filler.go_on();
        filler
    }

    /// Leaves so many bytes to others.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        let file = fs::File::options().append(true).open(&self.0).unwrap();
        file.set_len(file.metadata().unwrap().len() - bytes as u64).unwrap();
    }

    /// Takes what has become free again.
    pub(crate) fn go_on(&mut self) {
        let mut file = fs::File::options().append(true).create(true).open(&self.0).unwrap();
        for piece in [1 << 20, 4096] {
            while file.write_all(&vec![1; piece]).is_ok() {}
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}
