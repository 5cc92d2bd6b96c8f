//! Held content, which is kept aside because nothing proves it: `GET /api/v1/store/held` lists it, `POST` releases or rejects one object. A decision needs the admin token,
//! and its line in the audit log comes first: a release that cannot be audited does not happen.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::ReadAccess;
use super::openapi::Failure;
use super::request_body::{check_author, read_command};
use super::{AdminApi, ErrorMessage, internal_error, json_response, problem};
use gupd_cache::digest::{HeldDecision, HeldObject, is_held_prefix};
use gupd_rollout::audit::{AuditEntry, AuditOutcome};
use gupd_rollout::command::AttributedCommand;
use gupd_store::Object;

/// Request of a decision about held content.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldRequest {
    /// Author.
    pub by: String,
    /// Reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Decision.
    pub decision: HeldDecision,
    /// SHA-256 of the content, or the first 8 digits or more.
    pub sha256: String,
}

/// A decision as the audit log has it.
#[derive(Clone, Debug, Serialize)]
// `order` is the name of commands in the audit log.
#[serde(tag = "order", rename_all = "kebab-case")]
enum HeldCommand {
    ReleaseHeld { sha256: String, path: String },
    RejectHeld { sha256: String, path: String },
}

#[utoipa::path(
    get, path = "/api/v1/store/held", operation_id = "list_held",
    responses((status = 200, body = Vec<HeldObject>), Failure),
)]
pub(super) async fn list(_: ReadAccess, State(api): State<AdminApi>) -> Response {
    match api.fills.digests().held().await {
        Ok(held) => json_response(&held.iter().map(HeldObject::new).collect::<Vec<_>>()),
        Err(error) => problem::respond((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

#[utoipa::path(
    post, path = "/api/v1/store/held", operation_id = "decide_held",
    security(("token" = [])),
    request_body = HeldRequest,
    responses((status = 200, body = HeldObject), Failure),
)]
pub(super) async fn decide(
    State(api): State<AdminApi>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let request = match read_command(&api, request, parse).await {
        Ok(request) => request,
        Err(refusal) => return problem::respond(refusal),
    };
    let from = from.ip().to_canonical().to_string();
    // A task of its own: this future is dropped with the requester's connection.
    match tokio::spawn(execute(api, request, from)).await {
        Ok(Ok(held)) => json_response(&held),
        Ok(Err(refusal)) => problem::respond(refusal),
        Err(error) => internal_error(&error),
    }
}

fn parse(body: &[u8]) -> Result<HeldRequest, String> {
    const EXAMPLE: &str = r#"send JSON such as {"by": "anna", "decision": "release", "sha256": "0a1b2c3d"}"#;
    let request: HeldRequest =
        serde_json::from_slice(body).map_err(|error| format!("held: invalid: {error}: {EXAMPLE}"))?;
    if !is_held_prefix(&request.sha256) {
        return Err("sha256: must have 8 to 64 hexadecimal digits: see gupd store held".to_owned());
    }
    let by = check_author(&request.by, request.reason.as_deref())?;
    Ok(HeldRequest { by, ..request })
}

async fn execute(api: AdminApi, request: HeldRequest, from: String) -> Result<HeldObject, ErrorMessage> {
    let HeldRequest { by, reason, decision, sha256 } = request;
    let unavailable = |error: String| (StatusCode::SERVICE_UNAVAILABLE, error);
    let digests = api.fills.digests();
    let found = digests.find_held(&sha256).await.map_err(|error| unavailable(error.to_string()))?;
    let object = the_only(&found, &sha256)?;
    let held = HeldObject::new(object);
    let (sha256, path) = (held.sha256.clone(), held.path.clone());
    let (command, effect) = match decision {
        HeldDecision::Release => (HeldCommand::ReleaseHeld { sha256, path }, "the content is released"),
        HeldDecision::Reject => (HeldCommand::RejectHeld { sha256, path }, "the content is removed"),
    };
    let command = AttributedCommand { command, by, from, reason };
    let now = api.clock.now();
    let entry = |outcome| vec![AuditEntry::for_command(now, &command, outcome)];
    let audit = api.rollouts.audit_log();
    // Written first; a failure adds a line.
    let written = audit.write(entry(AuditOutcome::Done(effect.to_owned()))).await;
    written.map_err(|error| unavailable(error.to_string()))?;
    // A running fill of the name would replace the result by the unproven content of its upstream.
    if let Some(key) = object.held_key() {
        api.fills.detach(&key);
    }
    let AttributedCommand { by, from, reason, .. } = &command;
    match digests.decide_held(object, decision).await {
        Ok(true) => {
            let (sha256, path, reason) = (&*held.sha256, &*held.path, reason.as_deref());
            tracing::warn!(by, from, reason, sha256, path, effect, "held content decided");
            // Listing updates the metric of held objects.
            let _held = digests.held().await;
            Ok(held)
        }
        outcome => {
            let error = outcome.map_or_else(|error| error.to_string(), |_| "it is no longer held".to_owned());
            if let Err(error) = audit.write(entry(AuditOutcome::Failed(error.clone()))).await {
                tracing::error!(%error, "audit log entry lost");
            }
            Err(unavailable(format!("held: not done: {error}")))
        }
    }
}

/// Returns the one object that was found.
fn the_only<'a>(found: &'a [Object], sha256: &str) -> Result<&'a Object, ErrorMessage> {
    match found {
        [object] => Ok(object),
        [] => Err((StatusCode::NOT_FOUND, format!("held: no held content has the SHA-256 {sha256}"))),
        _ => Err((
            StatusCode::CONFLICT,
            format!(
                "held: {} objects have the SHA-256 {sha256}: pass more of it, or reject one by its path with gupd store purge",
                found.len()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_decision_is_one_line_error() {
        for (body, expected) in [
            ("", "held: invalid"),
            (r#"{"by":"a","decision":"release"}"#, "missing field `sha256`"),
            (r#"{"by":"a","decision":"keep","sha256":"0a1b2c3d"}"#, "unknown variant `keep`"),
            (r#"{"by":"a","decision":"release","sha256":"0a1b2c3"}"#, "sha256: must have 8"),
            (r#"{"by":"a","decision":"release","sha256":"0a1b2c3x"}"#, "sha256: must have 8"),
            (r#"{"by":" ","decision":"reject","sha256":"0a1b2c3d"}"#, "by: must have"),
            (r#"{"by":"a","decision":"reject","sha256":"0a1b2c3d","all":1}"#, "unknown field `all`"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{body}: {error}");
        }
    }
}
