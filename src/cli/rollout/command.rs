//! Sends a rollout command to the running relay and prints its result or its preview.

use std::env;

use bytes::Bytes;
use http::Method;
use nix::unistd::{Uid, User};
use serde_json::Value;

use super::super::admin_client::AdminRequest;
use super::{CommandError, MAX_RESPONSE, RolloutFlags, parse, preview, print_line};
use crate::to_json;
use gupd_rollout::command::{CommandOutcome, RolloutCommand};
use gupd_rollout::dry_run::DryRun;

/// Path of the API.
const PATH: &str = "/api/v1/rollout";

pub(super) fn send(command: &str, order: &RolloutCommand, flags: &RolloutFlags) -> Result<(), CommandError> {
    let admin = flags.admin.client_with_token(&format!("rollout {command}"))?;
    let body = Bytes::from(body(order, flags)?);
    let response =
        admin.send(AdminRequest { method: Method::POST, path: PATH, body, max_response: MAX_RESPONSE })?;
    if flags.dry_run {
        let preview: DryRun = parse(&admin, &response)?;
        print_line(&if flags.json { to_json(&preview)? } else { preview::table(&preview) });
        return Ok(());
    }
    let done: CommandOutcome = parse(&admin, &response)?;
    if flags.json {
        print_line(&to_json(&done)?);
        return Ok(());
    }
    print_line(&done.effect);
    for warning in &done.warnings {
        print_line(&format!("warning: {warning}"));
    }
    Ok(())
}

/// Returns the request body: the command with its sender and reason.
fn body(order: &RolloutCommand, flags: &RolloutFlags) -> Result<Vec<u8>, CommandError> {
    let invalid = |error| CommandError::Failed(format!("command: cannot be written as JSON: {error}"));
    let mut body = serde_json::to_value(order).map_err(invalid)?;
    if let Value::Object(body) = &mut body {
        body.insert("by".to_owned(), author().into());
        body.insert("dry_run".to_owned(), flags.dry_run.into());
        body.extend(flags.reason.clone().map(|reason| ("reason".to_owned(), reason.into())));
    }
    serde_json::to_vec(&body).map_err(invalid)
}

/// Returns the author of a command, for the audit log.
pub(crate) fn author() -> String {
    sender(&user(), Uid::current().is_root(), env::var("SUDO_USER").ok())
}

/// Returns the name of the calling user, or the user id if it has none.
fn user() -> String {
    let id = Uid::current();
    match User::from_uid(id) {
        Ok(Some(user)) => user.name,
        _ => id.to_string(),
    }
}

/// Returns the name for the audit log. Under sudo it includes the calling user, because root may be anyone.
fn sender(user: &str, is_root: bool, sudo: Option<String>) -> String {
    match sudo.filter(|name| is_root && !name.is_empty() && name != user) {
        Some(name) => format!("{name} as {user}"),
        None => user.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audit_log_names_sudo_user_and_ignores_forged_one() {
        for (user, is_root, sudo, expected) in [
            ("root", true, Some("anna"), "anna as root"),
            ("root", true, Some("root"), "root"),
            ("root", true, Some(""), "root"),
            ("root", true, None, "root"),
            ("ben", false, Some("anna"), "ben"),
        ] {
            assert_eq!(sender(user, is_root, sudo.map(str::to_owned)), expected);
        }
    }
}
