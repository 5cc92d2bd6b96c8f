//! Commands that have a running relay do something as a whole, and say what came of it: `gupd reload`, `gupd upgrade`,
//! `gupd drain`.

use clap::Args;
use http::Method;

use super::{Failure, Settings, answer, ask};

/// `gupd drain`.
#[derive(Debug, Args)]
pub(super) struct Drain {
    #[command(flatten)]
    settings: Settings,
    /// Send who comes to the manager, too.
    #[arg(long)]
    redirect: bool,
    /// Serve again.
    #[arg(long, conflicts_with = "redirect")]
    end: bool,
}

pub(super) fn reload(settings: &Settings) -> Result<(), Failure> {
    order(settings, "reload", &Method::POST, "/api/v1/reload")
}

pub(super) fn upgrade(settings: &Settings) -> Result<(), Failure> {
    order(settings, "upgrade", &Method::POST, "/api/v1/upgrade")
}

pub(super) fn drain(drain: &Drain) -> Result<(), Failure> {
    let (method, path) = match (drain.end, drain.redirect) {
        (true, _) => (Method::DELETE, "/api/v1/drain"),
        (false, true) => (Method::POST, "/api/v1/drain?redirect=true"),
        (false, false) => (Method::POST, "/api/v1/drain"),
    };
    order(&drain.settings, "drain", &method, path)
}

fn order(settings: &Settings, command: &str, method: &Method, path: &str) -> Result<(), Failure> {
    let (_, body) = ask::relay(settings, command, method, path)?;
    answer(String::from_utf8_lossy(&body).trim());
    Ok(())
}
