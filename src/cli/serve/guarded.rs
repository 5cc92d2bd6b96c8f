//! `gupd serve --guard`: starts the guard, and tells it how to start workers: this program, with these arguments and one
//! that nobody else gives.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::{Failure, GUARD, RESUMED, Settings, WORKER};
use gupd_guard::{self as guard, log};
use gupd_guard::{GuardError, Outcome, Program, Setup};

pub(super) fn run(settings: Settings, resumed: bool) -> Result<(), Failure> {
    let config = settings.load()?;
    let log = log::init(&config.log).map_err(|error| Failure::Configuration(error.to_string()))?;
    if !resumed {
        for warning in config.redirect_warnings() {
            tracing::warn!(%warning, "the configuration is odd");
        }
    }
    let program = program()
        .map_err(|error| Failure::Failed(format!("the guard does not find its own program: {error}")))?;
    let load = Box::new(move || settings.load());
    match guard::run(Setup { config, load, program, resumed, log })? {
        Outcome::Stopped => Ok(()),
        // The worker has said why.
        Outcome::Refused => Err(Failure::Configuration(String::new())),
    }
}

/// The program as it was called, if that says where it is: behind a link there may be another one later. Else the file
/// that runs; its name as of now.
fn program() -> io::Result<Program> {
    let mut arguments = std::env::args_os();
    let called = arguments.next().map(PathBuf::from).filter(|path| path.components().count() > 1);
    let path = match called {
        Some(path) => std::path::absolute(path)?,
        None => std::env::current_exe()?,
    };
    let given: Vec<OsString> =
        arguments.filter(|given| ![GUARD, RESUMED].iter().any(|own| given == own)).collect();
    let with = |own: &[&str]| given.iter().cloned().chain(own.iter().map(OsString::from)).collect();
    Ok(Program { path, worker: with(&[WORKER]), guard: with(&[GUARD, RESUMED]) })
}

impl From<GuardError> for Failure {
    fn from(error: GuardError) -> Self {
        match error {
            GuardError::Tls(_)
            | GuardError::Policy(_)
            | GuardError::Connect(_)
            | GuardError::TooManyAddresses => Self::Configuration(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}
