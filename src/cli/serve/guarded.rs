//! `gupd serve --guard`: runs the guard. Its workers are this program with the same arguments and `--guarded`.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::{CommandError, CommonFlags, GUARD, RESUMED, UNCONFIGURED, WORKER, init_log};
use gupd_guard::sandbox::restrict_guard;
use gupd_guard::{self as guard, GuardOutcome, Program, Setup};

pub(super) fn run(flags: CommonFlags, resumed: bool, may_be_unconfigured: bool) -> Result<(), CommandError> {
    let config = if may_be_unconfigured { flags.load_for_start()? } else { flags.load()? };
    let restriction = restrict_guard(&config, resumed);
    let log = init_log(&config.log)?;
    tracing::debug!(calls = %restriction, "guard restricted");
    if !resumed {
        for warning in config.redirect_warnings() {
            tracing::warn!(%warning, "configuration warning");
        }
    }
    let program =
        program().map_err(|error| CommandError::Failed(format!("guard: path of the program: {error}")))?;
    let load = Box::new(move || flags.load());
    match guard::run(Setup { config, load, program, is_replacement: resumed, log })? {
        GuardOutcome::Stopped => Ok(()),
        // The worker has printed the problems.
        GuardOutcome::ConfigRejected => Err(CommandError::Configuration(String::new())),
    }
}

/// Returns the path that the program was called with if it has a folder, because a link there may point to a newer
/// program later. Otherwise returns the path of the running file.
fn program() -> io::Result<Program> {
    let mut arguments = std::env::args_os();
    let called = arguments.next().map(PathBuf::from).filter(|path| path.components().count() > 1);
    let path = match called {
        Some(path) => std::path::absolute(path)?,
        None => std::env::current_exe()?,
    };
    let given: Vec<OsString> =
        arguments.filter(|given| ![GUARD, RESUMED, UNCONFIGURED].iter().any(|own| given == own)).collect();
    let with = |own: &[&str]| given.iter().cloned().chain(own.iter().map(OsString::from)).collect();
    Ok(Program {
        path,
        worker: with(&[WORKER]),
        guard: with(&[GUARD, RESUMED]),
        unconfigured: UNCONFIGURED.into(),
    })
}
