//! Gives an order to the running relay, and says what came of it or what would.

use std::env;

use bytes::Bytes;
use http::Method;
use nix::unistd::{Uid, User};
use serde_json::Value;

use super::super::admin_client::{AdminClient, AdminRequest};
use super::{CommandError, How, MAX_ANSWER, preview, print_line, read};
use crate::to_json;
use gupd_rollout::orders::{Done, Order};
use gupd_rollout::preview::Preview;

/// Where orders go.
const PATH: &str = "/api/v1/rollout";

pub(super) fn give(command: &str, order: &Order, how: &How) -> Result<(), CommandError> {
    let config = how.common.load_without_upstreams()?;
    let admin = AdminClient::with_token(&config, &format!("rollout {command}"))?;
    let body = Bytes::from(body(order, how)?);
    let told =
        admin.send(AdminRequest { method: Method::POST, path: PATH, body, max_response: MAX_ANSWER })?;
    if how.dry_run {
        let told: Preview = read(&admin, &told)?;
        print_line(&if how.json { to_json(&told)? } else { preview::table(&told) });
        return Ok(());
    }
    let done: Done = read(&admin, &told)?;
    if how.json {
        print_line(&to_json(&done)?);
        return Ok(());
    }
    print_line(&done.what);
    for warning in &done.warnings {
        print_line(&format!("warning: {warning}"));
    }
    Ok(())
}

/// The order with who gives it and why.
fn body(order: &Order, how: &How) -> Result<Vec<u8>, CommandError> {
    let failed = |error| CommandError::Failed(format!("the order cannot be written as JSON: {error}"));
    let mut body = serde_json::to_value(order).map_err(failed)?;
    if let Value::Object(body) = &mut body {
        body.insert(
            "by".to_owned(),
            who(&user(), Uid::current().is_root(), env::var("SUDO_USER").ok()).into(),
        );
        body.insert("dry_run".to_owned(), how.dry_run.into());
        body.extend(how.reason.clone().map(|reason| ("reason".to_owned(), reason.into())));
    }
    serde_json::to_vec(&body).map_err(failed)
}

/// Who calls the command, as the system knows them: the name, or the number of who has none.
fn user() -> String {
    let id = Uid::current();
    match User::from_uid(id) {
        Ok(Some(user)) => user.name,
        _ => id.to_string(),
    }
}

/// Whom the audit log names: with sudo who called that, since root is everyone.
fn who(user: &str, is_root: bool, sudo: Option<String>) -> String {
    match sudo.filter(|name| is_root && !name.is_empty() && name != user) {
        Some(name) => format!("{name} as {user}"),
        None => user.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_orders_something_by_sudo_is_named_and_nobody_who_only_says_so() {
        for (user, is_root, sudo, expected) in [
            ("root", true, Some("anna"), "anna as root"),
            ("root", true, Some("root"), "root"),
            ("root", true, Some(""), "root"),
            ("root", true, None, "root"),
            ("ben", false, Some("anna"), "ben"),
        ] {
            assert_eq!(who(user, is_root, sudo.map(str::to_owned)), expected);
        }
    }
}
