//! Disk fault injection: a preloaded library that makes calls on the store's files fail, and file systems of a few MiB
//! that can be filled or unmounted. The program contains no test code for either.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Error numbers on Linux.
pub(crate) const EIO: i32 = 5;
pub(crate) const EROFS: i32 = 30;
pub(crate) const ENOSPC: i32 = 28;

/// Makes file calls of one process under one folder fail.
pub(crate) struct FaultLayer {
    folder: TempDir,
    under: PathBuf,
}

impl FaultLayer {
    /// A layer for files under this folder, without a fault.
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

    /// Adds the layer to a process that is about to start.
    pub(crate) fn add_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("LD_PRELOAD", self.folder.path().join("fault_layer.so"))
            .env("FAULT_UNDER", &self.under)
            .env("FAULT_FILE", self.file())
            // The library reads that file inside the process.
            .env("GUPD_SERVER_SANDBOX", "off")
    }

    /// Makes calls of these kinds (`r`, `w`) fail with this error from now on.
    pub(crate) fn fail(&self, kinds: &str, error: i32) {
        let whole = self.folder.path().join("next");
        fs::write(&whole, format!("{kinds} {error}")).unwrap();
        fs::rename(whole, self.file()).unwrap();
    }

    /// Ends the fault.
    pub(crate) fn end_fault(&self) {
        fs::remove_file(self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("fault")
    }
}

/// A mounted file system or bind mount; unmounted when dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Mounts a file system of so many MiB; returns `None` and prints a notice where mounting is not permitted.
    pub(crate) fn new_tmpfs(at: &Path, mib: u32) -> Option<Self> {
        Self::mount_with(at, &["-t", "tmpfs", "-o", &format!("size={mib}m"), "none"])
    }

    /// Bind-mounts the folder `of`.
    pub(crate) fn bind(at: &Path, of: &Path) -> Option<Self> {
        Self::mount_with(at, &["--bind", of.to_str().unwrap()])
    }

    /// Mounts a disk image of so many MiB, which is created if it does not exist.
    pub(crate) fn new_image(at: &Path, image: &Path, mib: u64) -> Option<Self> {
        if !image.exists() {
            fs::File::create(image).unwrap().set_len(mib << 20).unwrap();
            let made = Command::new("mkfs.ext4").arg("-q").arg(image).status();
            assert!(made.unwrap().success());
        }
        Self::mount_with(at, &["-o", "loop", image.to_str().unwrap()])
    }

    /// Unmounts it while it is in use.
    pub(crate) fn detach(self) {}

    fn mount_with(at: &Path, arguments: &[&str]) -> Option<Self> {
        let mounted = Command::new("mount").args(arguments).arg(at).stderr(Stdio::null()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        println!("SKIPPED: mounting needs root");
        if let Some(list) = std::env::var_os("SKIPPED_TESTS") {
            let test = std::env::var("NEXTEST_TEST_NAME")
                .or(std::thread::current().name().ok_or(()).map(str::to_owned));
            let mut list = fs::File::options().append(true).create(true).open(list).unwrap();
            writeln!(list, "test {} (mounting is not permitted)", test.unwrap_or_default()).unwrap();
        }
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.unwrap().success());
    }
}

/// Fills a file system until dropped.
pub(crate) struct Filler(PathBuf);

impl Filler {
    pub(crate) fn new(at: &Path) -> Self {
        let mut filler = Self(at.join("filler"));
        filler.fill_up();
        filler
    }

    /// Frees so many bytes.
    pub(crate) fn free(&mut self, bytes: usize) {
        let file = fs::File::options().append(true).open(&self.0).unwrap();
        file.set_len(file.metadata().unwrap().len() - bytes as u64).unwrap();
    }

    /// Fills the space that has become free.
    pub(crate) fn fill_up(&mut self) {
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
