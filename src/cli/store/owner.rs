//! The account of a store. A command that root runs changes to the owner of the store's folder before it opens it: the
//! owner could put links there, through which root would write to any file. Of root's rights only that to read remains,
//! because the folder of a service stands below one that its own account cannot enter (`/var/lib/private`).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities};

use gupd_store::StoreError;

/// Changes from root to the owner of this folder for the rest of the process. Must run before other threads are started,
/// which inherit the rights. Without root's rights, for a folder of root's own and for a missing one nothing changes.
pub(super) fn become_owner(dir: &Path) -> Result<(), StoreError> {
    let Ok(folder) = fs::metadata(dir) else { return Ok(()) };
    if !Uid::effective().is_root() || folder.uid() == 0 {
        return Ok(());
    }
    change_to(Uid::from_raw(folder.uid()), Gid::from_raw(folder.gid())).map_err(|source| StoreError::Io {
        doing: "change to the user of",
        path: dir.to_owned(),
        source,
    })
}

fn change_to(user: Uid, group: Gid) -> io::Result<()> {
    set_keep_capabilities(true)?;
    setgroups(&[group])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    // A container may have withheld it from root.
    let kept = capabilities(None)?.permitted & CapabilitySet::DAC_READ_SEARCH;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: none })?;
    Ok(set_keep_capabilities(false)?)
}
