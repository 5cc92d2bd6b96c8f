//! `/api/v1/rollout`: the status of rollouts, the view of one client, and rollout commands. The module parses commands
//! and writes results; `gupd_rollout` decides. A command needs the admin token and is recorded with its sender and
//! reason.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;

use super::auth::ReadAccess;
use super::openapi::{Failure, RolloutRequest};
use super::request_body::{check_author, read_command};
use super::{AdminApi, internal_error, json_response, problem, query_pairs};
use gupd_rollout::clients::{ClientFilter, MAX_LISTED};
use gupd_rollout::command::{AttributedCommand, CommandOutcome, RolloutCommand};
use gupd_rollout::engine::ExecuteError;
use gupd_rollout::rings::Rings;
use gupd_rollout::status::{Status, ViewStatus};

/// Fields of a command request besides the command.
#[derive(Debug, Deserialize)]
struct Envelope {
    by: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// `GET /api/v1/rollout`; `?catalogs=true` adds the hashes of catalogs.
#[utoipa::path(
    get, path = "/api/v1/rollout", operation_id = "rollout_status",
    params(("catalogs" = Option<bool>, Query, description = "Adds the hashes of catalogs")),
    responses((status = 200, body = Status), Failure),
)]
pub(super) async fn status(_: ReadAccess, State(api): State<AdminApi>, uri: Uri) -> Response {
    let catalogs = match uri.query() {
        None | Some("catalogs=false") => false,
        Some("catalogs=true") => true,
        Some(_) => {
            let message = "invalid query: use /api/v1/rollout or /api/v1/rollout?catalogs=true";
            return problem::respond((StatusCode::BAD_REQUEST, message.to_owned()));
        }
    };
    let (snapshot, now) = (api.rollouts.snapshot(), api.clock.now());
    let Some(rings) = snapshot.rings.clone() else {
        return problem::respond((StatusCode::NOT_FOUND, Rings::NONE.to_owned()));
    };
    let clients = api.rollouts.clients().summary().await;
    let response =
        spawn_blocking(move || json_response(&Status::new(&snapshot, &rings, &clients, catalogs, now)));
    response.await.unwrap_or_else(|error| internal_error(&error))
}

/// `GET /api/v1/rollout/view?client=ADDR&group=NAME`.
#[utoipa::path(
    get, path = "/api/v1/rollout/view", operation_id = "rollout_view",
    params(
        ("client" = String, Query, description = "Address", format = "ipv4"),
        ("group" = String, Query, description = "Name of the group"),
    ),
    responses((status = 200, body = ViewStatus), Failure),
)]
pub(super) async fn view(_: ReadAccess, State(api): State<AdminApi>, uri: Uri) -> Response {
    let (mut client, mut group) = (None, None);
    for (name, value) in query_pairs(uri.query()) {
        match name {
            "client" => client = value.parse::<IpAddr>().ok(),
            "group" => group = Some(value),
            _ => {}
        }
    }
    let (Some(client), Some(group)) = (client, group) else {
        let message = "invalid query: use /api/v1/rollout/view?client=ADDRESS&group=NAME";
        return problem::respond((StatusCode::BAD_REQUEST, message.to_owned()));
    };
    let view = api.rollouts.view();
    let Some(view) = &*view else { return problem::respond((StatusCode::NOT_FOUND, Rings::NONE.to_owned())) };
    if !view.has_group(group) {
        let message = format!("group {group:?}: unknown to this relay: run gupd reload if it is new");
        return problem::respond((StatusCode::NOT_FOUND, message));
    }
    match ViewStatus::for_client(view, group, client.to_canonical(), api.clock.now()) {
        Some(status) => json_response(&status),
        None => problem::respond((StatusCode::NOT_FOUND, "there is no revision yet".to_owned())),
    }
}

/// `POST /api/v1/rollout`: a command as JSON with `by`, and optionally `reason` and `dry_run`.
#[utoipa::path(
    post, path = "/api/v1/rollout", operation_id = "rollout_command",
    security(("token" = [])),
    request_body = RolloutRequest,
    responses(
        (status = 200, description = "The outcome; of a dry run also its groups and clients", body = CommandOutcome),
        Failure,
    ),
)]
pub(super) async fn command(
    State(api): State<AdminApi>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (command, Envelope { by, reason, dry_run }) = match read_command(&api, request, parse_command).await {
        Ok(parsed) => parsed,
        Err(refusal) => return problem::respond(refusal),
    };
    if dry_run {
        return answer_dry_run(&api, command).await;
    }
    let from = from.ip().to_canonical().to_string();
    match api.rollouts.execute(AttributedCommand { command, by, from, reason }).await {
        Ok(outcome) => json_response(&outcome),
        Err(error) => command_error(&error),
    }
}

async fn answer_dry_run(api: &AdminApi, command: RolloutCommand) -> Response {
    let (rollouts, now) = (api.rollouts.clone(), api.clock.now());
    let clients = rollouts.clients().list(&ClientFilter::default(), MAX_LISTED).await;
    match spawn_blocking(move || rollouts.dry_run(&command, &clients, now)).await {
        Ok(Ok(dry_run)) => json_response(&dry_run),
        Ok(Err(error)) => command_error(&error),
        Err(error) => internal_error(&error),
    }
}

/// Parses a command and its envelope; an error is one line.
fn parse_command(body: &[u8]) -> Result<(RolloutCommand, Envelope), String> {
    const EXAMPLE: &str = r#"send JSON such as {"order": "halt", "by": "anna", "reason": "…"}"#;
    let invalid = |error: serde_json::Error| format!("command: invalid: {error}: {EXAMPLE}");
    let mut order: Map<String, Value> = serde_json::from_slice(body).map_err(invalid)?;
    let mut envelope = Map::new();
    for key in ["by", "reason", "dry_run"] {
        envelope.extend(order.remove(key).map(|value| (key.to_owned(), value)));
    }
    let mut envelope: Envelope = serde_json::from_value(envelope.into()).map_err(invalid)?;
    let keys: Vec<String> = order.keys().cloned().collect();
    let order: RolloutCommand = serde_json::from_value(order.into()).map_err(invalid)?;
    // serde accepts unknown fields of a variant without fields.
    let known = serde_json::to_value(&order).map_err(invalid)?;
    if let Some(unknown) = keys.iter().find(|key| known.get(key.as_str()).is_none()) {
        return Err(format!("command: unknown field {unknown:?}: remove it"));
    }
    envelope.by = check_author(&envelope.by, envelope.reason.as_deref())?;
    Ok((order, envelope))
}

fn command_error(error: &ExecuteError) -> Response {
    let status = match error {
        ExecuteError::NoRings | ExecuteError::Refused(_) => StatusCode::CONFLICT,
        ExecuteError::Audit(_) | ExecuteError::Store(_) | ExecuteError::Stopping => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    problem::respond((status, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_body::MAX_REASON;

    #[test]
    fn command_is_parsed_with_sender_and_reason() {
        let body = br#"{"order":"release","now":true,"by":" anna ","reason":"worm"}"#;
        let (order, envelope) = parse_command(body).unwrap();
        assert_eq!(order, RolloutCommand::Release { group: None, now: true });
        assert_eq!(
            (&*envelope.by, envelope.reason.as_deref(), envelope.dry_run),
            ("anna", Some("worm"), false)
        );
        let (order, envelope) = parse_command(br#"{"order":"halt","by":"anna","dry_run":true}"#).unwrap();
        assert_eq!((order, envelope.dry_run), (RolloutCommand::Halt, true));
    }

    #[test]
    fn invalid_command_is_one_line_error() {
        let long = format!(r#"{{"order":"halt","by":"anna","reason":"{}"}}"#, "a".repeat(MAX_REASON + 1));
        for (body, expected) in [
            ("", "command: invalid"),
            ("[]", "command: invalid"),
            ("{\"order\":\n\"jump\",\"by\":\"a\"}", "unknown variant `jump`"),
            (r#"{"order":"halt"}"#, "missing field `by`"),
            (r#"{"order":"halt","by":" "}"#, "by: must have"),
            (r#"{"order":"halt","by":"a","group":"b"}"#, r#"unknown field "group""#),
            (r#"{"order":"hold","by":"a","group":"b"}"#, "missing field `revision`"),
            (r#"{"order":"promote","by":"a","ring":"b","x":1}"#, "unknown field `x`"),
            (r#"{"order":"name","by":"a","revision":-1,"name":"b"}"#, "invalid value"),
            (&long, "reason: must have"),
        ] {
            let error = parse_command(body.as_bytes()).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{body}: {error}");
        }
    }
}
