//! `POST /api/v1/store/purge`: removes selected objects from the running relay. It needs the admin token, and its line in
//! the audit log comes first: what cannot be audited is not purged. Once begun, a purge ends also if its requester leaves.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::openapi::Failure;
use super::request_body::{check_author, read_command};
use super::{AdminApi, ErrorMessage, internal_error, json_response, problem};
use gupd_cache::ObjectSelection;
use gupd_cache::fill::PurgeReport;
use gupd_rollout::audit::{AuditEntry, AuditOutcome};
use gupd_rollout::command::AttributedCommand;

/// Request of a purge.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// Author.
    pub by: String,
    /// Reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Device and inode of the store's folder. A relay with another store refuses the purge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<u64>>)]
    pub folder: Option<(u64, u64)>,
    /// Objects to remove; at least one condition.
    pub select: ObjectSelection,
}

/// A command on the store, as the audit log has it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
enum StoreCommand {
    Purge(ObjectSelection),
}

#[utoipa::path(
    post, path = "/api/v1/store/purge", operation_id = "purge",
    security(("token" = [])),
    request_body = PurgeRequest,
    responses((status = 200, body = PurgeReport), Failure),
)]
pub(super) async fn purge(
    State(api): State<AdminApi>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let request = match read_command(&api, request, parse).await {
        Ok(request) => request,
        Err(refusal) => return problem::respond(refusal),
    };
    if request.folder.is_some_and(|folder| api.store.folder_id().ok() != Some(folder)) {
        let message = "this relay has another store: pass the --config or --admin of the relay of that store";
        return problem::respond((StatusCode::CONFLICT, message.to_owned()));
    }
    let from = from.ip().to_canonical().to_string();
    let PurgeRequest { by, reason, select, .. } = request;
    let command = AttributedCommand { command: StoreCommand::Purge(select), by, from, reason };
    // A task of its own: this future is dropped with the requester's connection.
    match tokio::spawn(execute(api, command)).await {
        Ok(Ok(report)) => json_response(&report),
        Ok(Err(refusal)) => problem::respond(refusal),
        Err(error) => internal_error(&error),
    }
}

fn parse(body: &[u8]) -> Result<PurgeRequest, String> {
    const EXAMPLE: &str = r#"send JSON such as {"by": "anna", "select": {"path": "**/full.zip"}}"#;
    let request: PurgeRequest =
        serde_json::from_slice(body).map_err(|error| format!("purge: invalid: {error}: {EXAMPLE}"))?;
    if request.select.is_empty() {
        return Err("purge: no condition: use the path \"**\" for all objects".to_owned());
    }
    let by = check_author(&request.by, request.reason.as_deref())?;
    Ok(PurgeRequest { by, ..request })
}

async fn execute(
    api: AdminApi,
    command: AttributedCommand<StoreCommand>,
) -> Result<PurgeReport, ErrorMessage> {
    let unavailable = |error: String| (StatusCode::SERVICE_UNAVAILABLE, error);
    api.store.check_writable().map_err(|error| unavailable(error.to_string()))?;
    let now = api.clock.now();
    let entry = |outcome| vec![AuditEntry::for_command(now, &command, outcome)];
    let (audit, StoreCommand::Purge(select)) = (api.rollouts.audit_log(), &command.command);
    let effect = AuditOutcome::Done("matching objects are removed".to_owned());
    audit.write(entry(effect)).await.map_err(|error| unavailable(error.to_string()))?;
    let AttributedCommand { by, from, reason, .. } = &command;
    let reason = reason.as_deref();
    match api.fills.purge(select).await {
        Ok(report) => {
            let PurgeReport { objects, bytes, fills } = report;
            tracing::info!(by, from, reason, objects, bytes, fills, "stored content purged");
            Ok(report)
        }
        Err(error) => {
            tracing::error!(by, from, reason, %error, "purge failed");
            if let Err(error) = audit.write(entry(AuditOutcome::Failed(error.to_string()))).await {
                tracing::error!(%error, "audit log entry lost");
            }
            Err(unavailable(format!("purge: not completed: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_purge_is_one_line_error() {
        for (body, expected) in [
            ("", "purge: invalid"),
            ("[]", "purge: invalid"),
            (r#"{"by":"a"}"#, "missing field `select`"),
            (r#"{"select":{"path":"**"}}"#, "missing field `by`"),
            (r#"{"by":" ","select":{"path":"**"}}"#, "by: must have"),
            (r#"{"by":"a","select":{}}"#, "no condition"),
            (r#"{"by":"a","select":{"paht":"**"}}"#, "unknown field `paht`"),
            (r#"{"by":"a","select":{"path":"[x"}}"#, "purge: invalid"),
            (r#"{"by":"a","force":true,"select":{"path":"**"}}"#, "unknown field `force`"),
            (r#"{"by":"a","folder":[1],"select":{"path":"**"}}"#, "purge: invalid"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{body}: {error}");
        }
        let request = parse(br#"{"by":" anna ","reason":"portal","select":{"path":"**"}}"#).unwrap();
        assert_eq!((&*request.by, request.reason.as_deref()), ("anna", Some("portal")));
    }
}
