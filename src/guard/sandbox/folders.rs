//! The folders that a sandboxed relay may read, and those that it may change. Whole folders, because files are replaced
//! by renames (a renewed certificate, `/etc/resolv.conf` after DHCP), and Landlock knows the file of the moment only.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use gupd_config::{Config, DEFAULT_FILE, TierLocation, TierSettings};

/// Folders that any program reads: libraries of the resolver, its configuration, certificates, time zones, the state
/// of this process and its control group. Whatever is secret there, its owner alone may read.
const SYSTEM: [&str; 14] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/dev/urandom",
    "/proc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/var/lib/ca-certificates",
];

/// Files of `/etc` that may be links out of it.
const LINKS: [&str; 6] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/localtime",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// Variables with files and folders of certificates, which the TLS library reads.
const CERTIFICATE_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Folders by access.
#[derive(Debug)]
pub(super) struct Folders {
    readable: Vec<PathBuf>,
    writable: Vec<PathBuf>,
}

impl Folders {
    /// Returns the folders of a configuration that was read from `config_file`.
    pub(super) fn new(config: &Config, config_file: Option<&Path>) -> Self {
        let default_file = Path::new(DEFAULT_FILE);
        let configured = config.files.iter().map(|file| file.path.as_path());
        let variables = CERTIFICATE_VARIABLES.into_iter().filter_map(std::env::var_os).map(PathBuf::from);
        let mut readable: Vec<PathBuf> = SYSTEM.into_iter().map(PathBuf::from).collect();
        readable.extend(LINKS.into_iter().flat_map(|link| folders_of(Path::new(link))));
        readable.extend(config_file.into_iter().chain([default_file]).chain(configured).flat_map(folders_of));
        readable.extend(variables.flat_map(|path| folders_of(&path)));
        readable.sort();
        readable.dedup();
        let mut writable = vec![writable_folder(&config.store.dir), PathBuf::from("/dev/null")];
        if let Some(TierSettings { location: TierLocation::Folder(folder), .. }) = &config.tier {
            writable.push(writable_folder(existing_ancestor(folder)));
        }
        Self { readable, writable }
    }

    pub(super) fn readable(&self) -> &[PathBuf] {
        &self.readable
    }

    pub(super) fn writable(&self) -> &[PathBuf] {
        &self.writable
    }

    /// Returns true if the file is in a readable folder. A file that does not exist is an error elsewhere.
    pub(super) fn contain(&self, file: &Path) -> bool {
        let Ok(file) = fs::canonicalize(file) else { return true };
        let folders = self.readable.iter().chain(&self.writable);
        folders.filter_map(|folder| fs::canonicalize(folder).ok()).any(|folder| file.starts_with(folder))
    }
}

/// Returns the folder of a file by its name and that of the file that it links to; a folder itself if it is one. Only
/// the file, if it is in the root folder.
fn folders_of(path: &Path) -> Vec<PathBuf> {
    let absolute = std::path::absolute(path).ok();
    let folder = |path: PathBuf| match path.parent() {
        Some(parent) if !path.is_dir() && parent.parent().is_some() => parent.to_owned(),
        _ => path,
    };
    absolute.into_iter().chain(fs::canonicalize(path).ok()).map(folder).collect()
}

/// Returns the folder itself or the nearest one above it that exists: a share may be mounted later.
fn existing_ancestor(folder: &Path) -> &Path {
    folder.ancestors().find(|one| one.is_dir() && one.parent().is_some()).unwrap_or(folder)
}

/// Returns the store's folder; its parent if it is a mount point, because a repaired disk may be mounted there again.
fn writable_folder(store: &Path) -> PathBuf {
    let status = statx(CWD, store, AtFlags::empty(), StatxFlags::empty());
    let is_mount_point =
        status.is_ok_and(|status| status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    let store = std::path::absolute(store).unwrap_or_else(|_| store.to_owned());
    match store.parent().filter(|parent| is_mount_point && parent.parent().is_some()) {
        Some(parent) => parent.to_owned(),
        None => store,
    }
}
