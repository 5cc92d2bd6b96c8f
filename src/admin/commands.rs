//! Commands of an administrator: `POST` of `/api/v1/refresh`, `/reload` and `/upgrade`, `POST` and `DELETE` of
//! `/api/v1/drain`. All need the admin token, and each is answered with its result when it is done.
//!
//! Refresh and drain concern the relay. Reload and upgrade concern the process, so they go through [`ProcessCommands`]
//! to the code that runs it.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use tokio::sync::{mpsc, oneshot};

use super::auth::authorize;
use super::openapi::Failure;
use super::{AdminApi, ErrorMessage, json_response, problem, text_response};
use gupd_net::redirect::DrainMode;
use gupd_refresh::RefreshReport;

/// Maximum number of commands that wait to be taken.
const MAX_PENDING: usize = 4;

/// Channel of commands to the code that runs the process.
#[derive(Clone, Debug)]
pub struct ProcessCommands(mpsc::Sender<CommandRequest>);

/// A command and the channel for its result.
#[derive(Debug)]
pub struct CommandRequest {
    /// The command.
    pub command: ProcessCommand,
    /// Takes the line that the administrator reads.
    pub reply: CommandReply,
}

/// Channel for the result of a command, in words.
pub type CommandReply = oneshot::Sender<Result<String, String>>;

/// A command that concerns the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessCommand {
    /// Read the configuration again.
    Reload,
    /// Hand over to the program on disk.
    Upgrade,
}

impl ProcessCommands {
    /// Creates the channel.
    pub fn channel() -> (Self, mpsc::Receiver<CommandRequest>) {
        let (sender, receiver) = mpsc::channel(MAX_PENDING);
        (Self(sender), receiver)
    }

    async fn send(&self, command: ProcessCommand) -> Result<String, String> {
        let (reply, result) = oneshot::channel();
        let busy = || "the relay is busy or stopping: try again".to_owned();
        self.0.try_send(CommandRequest { command, reply }).map_err(|_| busy())?;
        result.await.map_err(|_| busy())?
    }
}

#[utoipa::path(
    post, path = "/api/v1/refresh", operation_id = "refresh",
    security(("token" = [])),
    responses((status = 200, body = RefreshReport), Failure),
)]
pub(super) async fn refresh(State(api): State<AdminApi>, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorize(api.token_file, &headers).await {
        return problem::respond(refusal);
    }
    match api.refresher.refresh().await {
        Ok(report) => json_response(&report),
        Err(error) => problem::respond((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

#[utoipa::path(
    post, path = "/api/v1/reload", operation_id = "reload",
    security(("token" = [])),
    responses(
        (status = 200, content_type = "text/plain; charset=utf-8", description = "The result in words", body = String),
        Failure,
    ),
)]
pub(super) async fn reload(State(api): State<AdminApi>, headers: HeaderMap) -> Response {
    result_response(send(api, &headers, ProcessCommand::Reload).await)
}

#[utoipa::path(
    post, path = "/api/v1/upgrade", operation_id = "upgrade",
    security(("token" = [])),
    responses(
        (status = 200, content_type = "text/plain; charset=utf-8", description = "The result in words", body = String),
        Failure,
    ),
)]
pub(super) async fn upgrade(State(api): State<AdminApi>, headers: HeaderMap) -> Response {
    result_response(send(api, &headers, ProcessCommand::Upgrade).await)
}

#[utoipa::path(
    post, path = "/api/v1/drain", operation_id = "start_drain",
    security(("token" = [])),
    params(("redirect" = Option<bool>, Query, description = "Also redirects new requests to the manager")),
    responses(
        (status = 200, content_type = "text/plain; charset=utf-8", description = "The result in words", body = String),
        Failure,
    ),
)]
pub(super) async fn start_drain(State(api): State<AdminApi>, uri: Uri, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorize(api.token_file, &headers).await {
        return problem::respond(refusal);
    }
    let (mode, effect) = match uri.query() {
        None | Some("redirect=false") => {
            (DrainMode::Unready, "/readyz answers 503, clients are still served")
        }
        Some("redirect=true") => (DrainMode::Redirecting, "new requests are redirected to the manager"),
        Some(_) => {
            let message = "invalid query: use /api/v1/drain or /api/v1/drain?redirect=true";
            return problem::respond((StatusCode::BAD_REQUEST, message.to_owned()));
        }
    };
    api.drain.set(mode);
    tracing::info!(redirect = mode == DrainMode::Redirecting, "drain started by an administrator");
    result_response(Ok(format!("draining: {effect}; open connections: {}", api.exposition.connections())))
}

#[utoipa::path(
    delete, path = "/api/v1/drain", operation_id = "end_drain",
    security(("token" = [])),
    responses(
        (status = 200, content_type = "text/plain; charset=utf-8", description = "The result in words", body = String),
        Failure,
    ),
)]
pub(super) async fn end_drain(State(api): State<AdminApi>, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorize(api.token_file, &headers).await {
        return problem::respond(refusal);
    }
    api.drain.set(DrainMode::Off);
    tracing::info!("drain ended by an administrator");
    result_response(Ok("serving".to_owned()))
}

async fn send(api: AdminApi, headers: &HeaderMap, command: ProcessCommand) -> Result<String, ErrorMessage> {
    authorize(api.token_file, headers).await?;
    let conflict = |message: String| (StatusCode::CONFLICT, message);
    let Some(commands) = api.commands else {
        return Err(conflict("this relay is embedded in another program, which controls it".to_owned()));
    };
    commands.send(command).await.map_err(conflict)
}

fn result_response(result: Result<String, ErrorMessage>) -> Response {
    result.map_or_else(problem::respond, |text| text_response(&text))
}
