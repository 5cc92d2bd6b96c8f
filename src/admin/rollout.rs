//! `/api/v1/rollout`: what is so of rollouts, what one client sees, and what an administrator orders. Owns how an order is
//! read from a body and how its outcome is answered; who decides is `rollout`. What names clients, and what changes
//! something, is only for who knows the admin token.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Admin;
use super::refresh::authorise;
use gupd_rollout::clients::{ClientFilter, MAX_LISTED};
use gupd_rollout::engine::{OrderError, Ordered};
use gupd_rollout::orders::Order;
use gupd_rollout::preview::{KnownClient, Preview};
use gupd_rollout::rings::Rings;
use gupd_rollout::status::{Beside, Status, ViewStatus};

/// Bytes of an order, many times what the longest one takes.
const MAX_ORDER: usize = 16 << 10;

/// Time for an order's body to come.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);

/// Characters of who gives an order: a line in the audit log is to be read.
const MAX_BY: usize = 100;

/// Characters of why.
const MAX_REASON: usize = 1_000;

/// What is answered instead of what was asked for: a status and a line.
type Refusal = (StatusCode, String);

/// Who gives an order, why, and whether it is meant.
#[derive(Debug, Deserialize)]
struct Envelope {
    by: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// `GET /api/v1/rollout`, with `?catalogs=true` the hashes of catalogs too.
pub(super) async fn status(State(admin): State<Admin>, uri: Uri) -> Response {
    let catalogs = match uri.query() {
        None | Some("catalogs=false") => false,
        Some("catalogs=true") => true,
        Some(_) => {
            return refuse((
                StatusCode::BAD_REQUEST,
                "ask for /api/v1/rollout, or for ?catalogs=true".to_owned(),
            ));
        }
    };
    let (current, now) = (admin.rollouts.current(), admin.clock.now());
    let Some(rings) = current.rings.clone() else {
        return refuse((StatusCode::NOT_FOUND, Rings::NONE.to_owned()));
    };
    let clients = admin.rollouts.clients().summary().await;
    let told = spawn_blocking(move || {
        let kept = |number| current.payloads.get(&number).copied().unwrap_or(0);
        let trouble = |revision, ring| current.troubles.get(&(revision, ring)).map(ToString::to_string);
        let beside = Beside { trouble: &trouble, kept: &kept, clients: &clients };
        written(&Status::of(&current.state, &rings, beside, catalogs, now))
    });
    told.await.unwrap_or_else(|error| refuse((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
}

/// `GET /api/v1/rollout/view?client=ADDR&group=NAME`.
pub(super) async fn view(State(admin): State<Admin>, uri: Uri) -> Response {
    let (mut client, mut group) = (None, None);
    for (name, value) in pairs(uri.query()) {
        match name {
            "client" => client = value.parse::<IpAddr>().ok(),
            "group" => group = Some(value),
            _ => {}
        }
    }
    let (Some(client), Some(group)) = (client, group) else {
        let why = "ask for /api/v1/rollout/view?client=ADDRESS&group=NAME";
        return refuse((StatusCode::BAD_REQUEST, why.to_owned()));
    };
    let views = admin.rollouts.views();
    let Some(views) = &*views else { return refuse((StatusCode::NOT_FOUND, Rings::NONE.to_owned())) };
    if !views.has_group(group) {
        let why =
            format!("this relay has no group {group:?}; if it is new in the configuration, run gupd reload");
        return refuse((StatusCode::NOT_FOUND, why));
    }
    match ViewStatus::of(views, group, client.to_canonical(), admin.clock.now()) {
        Some(view) => written(&view),
        None => refuse((StatusCode::NOT_FOUND, "there is no revision yet".to_owned())),
    }
}

/// `POST /api/v1/rollout`: an order as JSON, with `by`, and `reason` and `dry_run` if they are given.
pub(super) async fn order(
    State(admin): State<Admin>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    if let Err(refusal) = authorise(admin.token_file.clone(), request.headers()).await {
        return refuse(refusal);
    }
    let body = match body(request).await {
        Ok(body) => body,
        Err(refusal) => return refuse(refusal),
    };
    let (order, Envelope { by, reason, dry_run }) = match parse(&body) {
        Ok(parsed) => parsed,
        Err(why) => return refuse((StatusCode::BAD_REQUEST, why)),
    };
    if dry_run {
        return preview(&admin, order).await;
    }
    let from = from.ip().to_canonical().to_string();
    match admin.rollouts.order(Ordered { order, by, from, reason }).await {
        Ok(done) => written(&done),
        Err(error) => refuse(refusal(&error)),
    }
}

async fn preview(admin: &Admin, order: Order) -> Response {
    let (rollouts, now) = (admin.rollouts.clone(), admin.clock.now());
    let clients = rollouts.clients().list(&ClientFilter::default(), MAX_LISTED).await;
    let clients: Vec<KnownClient> = clients.iter().map(KnownClient::from).collect();
    let told = spawn_blocking(move || {
        let current = rollouts.current();
        let (done, before, after) = rollouts.preview(&order, now)?;
        let groups = current.rings.iter().flat_map(|rings| rings.groups());
        Ok(written(&Preview::of(done, (&before, &after), groups, &clients, now)))
    });
    match told.await {
        Ok(Ok(told)) => told,
        Ok(Err(error)) => refuse(refusal(&error)),
        Err(error) => refuse((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn body(request: Request) -> Result<Bytes, Refusal> {
    let body = Limited::new(request.into_body(), MAX_ORDER).collect();
    match timeout(ORDER_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => {
            let why = format!("the order did not come whole, or has more than {MAX_ORDER} bytes: {error}");
            Err((StatusCode::BAD_REQUEST, why))
        }
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the order did not come; send it at once".to_owned())),
    }
}

/// The order in a body, and what goes with it; or what is wrong with it, in one line.
fn parse(body: &[u8]) -> Result<(Order, Envelope), String> {
    const EXAMPLE: &str = r#"send one like {"order": "halt", "by": "anna", "reason": "…"}"#;
    let wrong = |error: serde_json::Error| format!("this is not an order: {error}; {EXAMPLE}");
    let mut order: Map<String, Value> = serde_json::from_slice(body).map_err(wrong)?;
    let mut envelope = Map::new();
    for key in ["by", "reason", "dry_run"] {
        envelope.extend(order.remove(key).map(|value| (key.to_owned(), value)));
    }
    let mut envelope: Envelope = serde_json::from_value(envelope.into()).map_err(wrong)?;
    let given: Vec<String> = order.keys().cloned().collect();
    let order: Order = serde_json::from_value(order.into()).map_err(wrong)?;
    // Of an order without parameters serde takes any.
    let known = serde_json::to_value(&order).map_err(wrong)?;
    if let Some(unknown) = given.iter().find(|key| known.get(key.as_str()).is_none()) {
        return Err(format!("this order has no {unknown:?}; leave it out"));
    }
    envelope.by = envelope.by.trim().to_owned();
    if envelope.by.is_empty() || envelope.by.chars().count() > MAX_BY {
        return Err(format!("say who gives the order, in 1 to {MAX_BY} characters: by"));
    }
    if envelope.reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON) {
        return Err(format!("the reason is too long; give it in {MAX_REASON} characters"));
    }
    Ok((order, envelope))
}

fn refusal(error: &OrderError) -> Refusal {
    let status = match error {
        OrderError::Off | OrderError::Refused(_) => StatusCode::CONFLICT,
        OrderError::Unwritten(_) | OrderError::Store(_) | OrderError::Stopping => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    (status, error.to_string())
}

/// Names and values of a query whose values need no encoding.
pub(super) fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

pub(super) fn refuse((status, why): Refusal) -> Response {
    (status, format!("{why}\n")).into_response()
}

pub(super) fn written(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => refuse((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_with_who_gives_it_and_why() {
        let body = br#"{"order":"release","now":true,"by":" anna ","reason":"worm"}"#;
        let (order, envelope) = parse(body).unwrap();
        assert_eq!(order, Order::Release { group: None, now: true });
        assert_eq!(
            (&*envelope.by, envelope.reason.as_deref(), envelope.dry_run),
            ("anna", Some("worm"), false)
        );
        let (order, envelope) = parse(br#"{"order":"halt","by":"anna","dry_run":true}"#).unwrap();
        assert_eq!((order, envelope.dry_run), (Order::Halt, true));
    }

    #[test]
    fn what_is_no_order_is_said_in_one_line() {
        let long = format!(r#"{{"order":"halt","by":"anna","reason":"{}"}}"#, "a".repeat(MAX_REASON + 1));
        for (body, says) in [
            ("", "not an order"),
            ("[]", "not an order"),
            ("{\"order\":\n\"jump\",\"by\":\"a\"}", "unknown variant `jump`"),
            (r#"{"order":"halt"}"#, "missing field `by`"),
            (r#"{"order":"halt","by":" "}"#, "say who gives the order"),
            (r#"{"order":"halt","by":"a","group":"b"}"#, r#"no "group""#),
            (r#"{"order":"hold","by":"a","group":"b"}"#, "missing field `revision`"),
            (r#"{"order":"promote","by":"a","ring":"b","x":1}"#, "unknown field `x`"),
            (r#"{"order":"name","by":"a","revision":-1,"name":"b"}"#, "invalid value"),
            (&long, "too long"),
        ] {
            let why = parse(body.as_bytes()).unwrap_err();
            assert!(why.contains(says) && !why.contains('\n'), "{body}: {why}");
        }
    }
}
