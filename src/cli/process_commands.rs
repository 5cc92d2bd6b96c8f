//! `gupd refresh`, `reload`, `upgrade` and `drain`: commands to a running relay. Each prints its result.

use clap::Args;
use http::Method;
use serde_json::json;

use super::{AdminFlags, CommandError, print_line, to_json};
use gupd_config::Quantity;
use gupd_refresh::RefreshReport;

/// Flags of `gupd refresh`.
#[derive(Debug, Args)]
pub(super) struct RefreshFlags {
    #[command(flatten)]
    admin: AdminFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `gupd reload` and `upgrade`.
#[derive(Debug, Args)]
pub(super) struct ProcessFlags {
    #[command(flatten)]
    admin: AdminFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `gupd drain`.
#[derive(Debug, Args)]
pub(super) struct Drain {
    #[command(flatten)]
    flags: ProcessFlags,
    /// Also redirect new requests to the manager.
    #[arg(long)]
    redirect: bool,
    /// End the drain and serve again.
    #[arg(long, conflicts_with = "redirect")]
    end: bool,
}

pub(super) fn refresh(flags: &RefreshFlags) -> Result<(), CommandError> {
    let admin = flags.admin.client_with_token("refresh")?;
    let body = admin.command(Method::POST, "/api/v1/refresh")?;
    let report: RefreshReport =
        serde_json::from_slice(&body).map_err(|error| admin.invalid_response(&error))?;
    let RefreshReport { asked, changed, failed, revision } = report;
    let revision = revision.map(|number| format!("; published as revision {number}")).unwrap_or_default();
    let catalogs = Quantity(asked, "catalog");
    let text = format!("refreshed {catalogs}: {changed} changed, {failed} failed{revision}");
    print_line(&if flags.json { to_json(&report)? } else { text });
    if failed == 0 {
        return Ok(());
    }
    Err(CommandError::Failed(format!("refresh: {failed} of {catalogs} failed: see the relay's log")))
}

pub(super) fn reload(flags: &ProcessFlags) -> Result<(), CommandError> {
    send(flags, "reload", Method::POST, "/api/v1/reload")
}

pub(super) fn upgrade(flags: &ProcessFlags) -> Result<(), CommandError> {
    send(flags, "upgrade", Method::POST, "/api/v1/upgrade")
}

pub(super) fn drain(drain: &Drain) -> Result<(), CommandError> {
    let (method, path) = match (drain.end, drain.redirect) {
        (true, _) => (Method::DELETE, "/api/v1/drain"),
        (false, true) => (Method::POST, "/api/v1/drain?redirect=true"),
        (false, false) => (Method::POST, "/api/v1/drain"),
    };
    send(&drain.flags, "drain", method, path)
}

fn send(flags: &ProcessFlags, command: &str, method: Method, path: &str) -> Result<(), CommandError> {
    let body = flags.admin.client_with_token(command)?.command(method, path)?;
    let result = String::from_utf8_lossy(&body);
    let result = result.trim();
    print_line(&if flags.json { to_json(&json!({ "result": result }))? } else { result.to_owned() });
    Ok(())
}
