//! The restriction of files and ports by Landlock (landlock(7)). A file that is open already, such as a listening
//! socket or standard output, is not affected.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};

use super::Restriction;
use super::folders::Folders;
use gupd_config::ServerSettings;

/// Version of Landlock that names the restricted kinds of access, of Linux 6.12. Older kernels restrict what they know;
/// those before 5.19 forbid the renames of the store and therefore get no restriction.
const VERSION: ABI = ABI::V6;

/// Restricts this thread. Files may be read in one set of folders and changed in another; ports may be bound only if
/// the configuration names them; signals reach this process only.
pub(super) fn restrict(folders: &Folders, server: &ServerSettings) -> Result<Restriction, RulesetError> {
    let read: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let change = read
        | make_bitflags!(AccessFs::{
            WriteFile | RemoveDir | RemoveFile | MakeDir | MakeReg | Refer | Truncate
        });
    let addresses = server.listen.iter().chain([&server.admin]);
    let ports =
        addresses.map(|address| Ok::<_, RulesetError>(NetPort::new(address.port(), AccessNet::BindTcp)));
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(folders.readable(), read))?
        .add_rules(path_beneath_rules(folders.writable(), change))?
        .add_rules(ports)?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Restriction::Full,
        RulesetStatus::PartiallyEnforced => Restriction::Partial,
        RulesetStatus::NotEnforced => {
            Restriction::Missing("the kernel has no Landlock of Linux 5.19".to_owned())
        }
    })
}
