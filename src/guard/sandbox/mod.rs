//! The sandbox of a process: Landlock for files and ports, seccomp for system calls, no new privileges, no core dumps.
//! A process enters it before it starts threads, because each thread has restrictions of its own and passes them on.
//! Parts that the kernel lacks are left out, and [`Restrictions`] names them: an old kernel is no reason not to serve.

mod calls;
mod files;
mod folders;

use std::fmt;
use std::io;
use std::path::Path;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use self::folders::Folders;
use gupd_config::{Config, ConfiguredFile};

/// The sandbox of a relay process.
#[derive(Debug)]
pub struct Sandbox {
    folders: Folders,
    restrictions: Restrictions,
}

/// Restrictions of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restrictions {
    /// Files and ports, by Landlock.
    pub files: Restriction,
    /// System calls, by seccomp.
    pub calls: Restriction,
}

/// State of one kind of restriction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restriction {
    /// Everything that this version knows is in force.
    Full,
    /// The kernel is older than this version: newer kinds of access are not restricted.
    Partial,
    /// The kernel does not offer it, with the reason.
    Missing(String),
    /// The configuration switches it off.
    Off,
}

impl Sandbox {
    /// Restricts this thread and those that it starts to the files, ports and system calls that a relay of this
    /// configuration needs, and forbids core dumps. `config_file` is where the configuration was read.
    pub fn enter(config: &Config, config_file: Option<&Path>) -> Self {
        if !config.server.is_sandboxed {
            let restrictions = Restrictions { files: Restriction::Off, calls: Restriction::Off };
            return Self { folders: Folders::new(config, config_file), restrictions };
        }
        // Landlock knows existing folders only. The store reports why its folder cannot be created.
        let _reported = std::fs::create_dir_all(&config.store.dir);
        let folders = Folders::new(config, config_file);
        forbid_core_dumps();
        Self { restrictions: restrict(&folders, config), folders }
    }

    /// Returns the restrictions that a relay of this configuration would have on this machine. Tries them in a thread
    /// of its own.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn probe(config: &Config, config_file: Option<&Path>) -> io::Result<Restrictions> {
        let folders = Folders::new(config, config_file);
        std::thread::scope(|scope| {
            let tried = std::thread::Builder::new().spawn_scoped(scope, || restrict(&folders, config))?;
            tried.join().map_err(|_| io::Error::other("the thread ended early"))
        })
    }

    /// Returns the restrictions in force.
    pub fn restrictions(&self) -> &Restrictions {
        &self.restrictions
    }

    /// Returns the first file of a later configuration that this process cannot read.
    pub fn hidden_file<'a>(&self, config: &'a Config) -> Option<&'a ConfiguredFile> {
        match self.restrictions.files {
            Restriction::Full | Restriction::Partial => {
                config.files.iter().find(|file| !self.folders.contain(&file.path))
            }
            Restriction::Missing(_) | Restriction::Off => None,
        }
    }
}

/// Restricts the process of a guard. What it forbids itself it forbids to every later version of the program, which it
/// starts: only system calls that no relay needs are forbidden, and no files. A guard that takes over from another one
/// inherits them.
pub fn restrict_guard(config: &Config, is_replacement: bool) -> Restriction {
    if !config.server.is_sandboxed {
        return Restriction::Off;
    }
    // A new program can be dumped again.
    forbid_core_dumps();
    if is_replacement { Restriction::Full } else { enforced(calls::forbid_dangerous()) }
}

fn restrict(folders: &Folders, config: &Config) -> Restrictions {
    let files = match files::restrict(folders, &config.server) {
        Ok(restriction) => restriction,
        Err(error) => Restriction::Missing(error.to_string()),
    };
    // The filter comes last: it forbids the calls of Landlock.
    Restrictions { files, calls: enforced(calls::allow_needed()) }
}

fn enforced(result: Result<(), seccompiler::Error>) -> Restriction {
    match result {
        Ok(()) => Restriction::Full,
        Err(error) => Restriction::Missing(error.to_string()),
    }
}

/// Keeps keys and tokens out of core dumps, and out of reach of other processes of the account. The limit alone would
/// not do: the kernel ignores it when dumps go to a program.
fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Neither fails for a process itself.
    let _kept = setrlimit(Resource::Core, none);
    let _kept = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

impl fmt::Display for Restriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Partial => f.write_str("partial: the kernel is older"),
            Self::Missing(reason) => write!(f, "none: {reason}"),
            Self::Off => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests;
