//! Sign-in, and rollout commands from the page: each is first shown with its effect on clients, then confirmed. A command
//! goes the way of `gupd rollout`, with its author and reason in the audit log.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use maud::{Markup, html};
use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use super::session::{is_same_origin, is_secure_page};
use super::{Page, document, refusal};
use crate::auth::authorize;
use crate::listener::OverTls;
use crate::request_body::check_author;
use crate::{AdminApi, ErrorMessage, query_pairs};
use gupd_config::Quantity;
use gupd_rollout::clients::{ClientFilter, MAX_LISTED};
use gupd_rollout::command::{AttributedCommand, RolloutCommand};
use gupd_rollout::dry_run::DryRun;
use gupd_rollout::status::Status;

/// Maximum bytes of a form.
const MAX_FORM: usize = 16 << 10;

/// Time-out for the body of a form.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// Fields of a form.
pub(super) type Form = HashMap<String, String>;

/// Returns the sign-in form, or the forms of commands for a request with a session.
pub(super) fn forms(api: &AdminApi, headers: &HeaderMap, status: &Status) -> Markup {
    match api.sessions.form_token(headers) {
        Some(token) => commands(&token, status),
        None => sign_in_form(),
    }
}

pub(super) fn sign_in_form() -> Markup {
    html! {
        h2 { "Sign in" }
        form method="post" action="/sign-in" {
            label for="token" { "Admin token" }
            input type="password" id="token" name="token" autocomplete="off" required;
            button type="submit" { "Sign in" }
        }
        p class="quiet" { "Commands and other machines need the token of " code { "server.admin_token_file" } "." }
    }
}

pub(super) async fn sign_in(State(api): State<AdminApi>, request: Request) -> Response {
    let (page, form) = match read_form(request, MAX_FORM).await {
        Ok(read) => read,
        Err(error) => return refusal(error),
    };
    if !api.sessions.may_try() {
        let message = "too many failed attempts: try again in a minute";
        return refusal((StatusCode::TOO_MANY_REQUESTS, message.to_owned()));
    }
    let bearer = format!("Bearer {}", form.get("token").map_or("", |token| token.trim()));
    let given = HeaderValue::from_str(&bearer).unwrap_or(HeaderValue::from_static(""));
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, given)]);
    if let Err((status, message)) = authorize(api.token_file.clone(), &headers).await {
        api.sessions.count_failure();
        tracing::warn!(status = status.as_u16(), "sign-in refused");
        return refusal((
            status,
            if status == StatusCode::UNAUTHORIZED { "wrong admin token".to_owned() } else { message },
        ));
    }
    tracing::info!("administrator signed in");
    redirect(api.sessions.open(is_secure_page(&page)))
}

pub(super) async fn sign_out(State(api): State<AdminApi>, request: Request) -> Response {
    match read_form(request, MAX_FORM).await {
        Ok((headers, _)) => redirect(api.sessions.close(&headers, is_secure_page(&headers))),
        Err(error) => refusal(error),
    }
}

/// Shows the effect of a command, or executes a confirmed one.
pub(super) async fn command(
    State(api): State<AdminApi>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (headers, form) = match read_form(request, MAX_FORM).await {
        Ok(read) => read,
        Err(error) => return refusal(error),
    };
    if let Err(error) = session_token(&api, &headers, &form) {
        return refusal(error);
    }
    let (command, by, reason) = match parse(&form) {
        Ok(parsed) => parsed,
        Err(message) => return refusal((StatusCode::BAD_REQUEST, message)),
    };
    if form.contains_key("confirmed") {
        let from = from.ip().to_canonical().to_string();
        return match api.rollouts.execute(AttributedCommand { command, by, from, reason }).await {
            Ok(outcome) => result(&html! { p { (outcome.effect) } }),
            Err(error) => refusal((StatusCode::CONFLICT, error.to_string())),
        };
    }
    let clients = api.rollouts.clients().list(&ClientFilter::default(), MAX_LISTED).await;
    match api.rollouts.dry_run(&command, &clients, api.clock.now()) {
        Ok(dry_run) => result(&preview(&dry_run, &form)),
        Err(error) => refusal((StatusCode::CONFLICT, error.to_string())),
    }
}

fn commands(token: &str, status: &Status) -> Markup {
    let groups = || html! { @for group in &status.groups { option value=(group.name) { (group.name) } } };
    let common = |order: &str, words: &str, fields: Markup| {
        html! {
            form method="post" action="/rollout" class="command" {
                input type="hidden" name="form_token" value=(token);
                input type="hidden" name="order" value=(order);
                (fields)
                input name="by" placeholder="your name" aria-label=(format!("{words}: your name")) required maxlength="100";
                input name="reason" placeholder="reason" aria-label=(format!("{words}: reason")) maxlength="1000";
                button type="submit" { (words) " …" }
            }
        }
    };
    html! {
        h2 { "Commands" }
        p class="quiet" { "Each command first shows which clients see what." }
        @if status.halted.is_some() { (common("resume", "Resume", html! {})) }
        @else { (common("halt", "Halt", html! {})) }
        (common("release", "Release", html! {
            select name="group" aria-label="Group to release" { option value="" { "all groups" } (groups()) }
            label { input type="checkbox" name="now" value="true"; " now, whatever the rings say" }
        }))
        (common("hold", "Hold", html! {
            select name="group" aria-label="Group to hold" { (groups()) }
            input name="revision" placeholder="revision" aria-label="Revision to hold at" required;
        }))
        (common("rollback", "Roll back", html! {
            select name="group" aria-label="Group to roll back" { (groups()) }
            input name="revision" placeholder="the one before" aria-label="Revision to roll back to";
        }))
        (common("promote", "Promote", html! {
            select name="ring" aria-label="Ring to promote" {
                @for ring in &status.rings { option value=(ring.name) { (ring.name) } }
            }
        }))
        form method="post" action="/sign-out" { button type="submit" { "Sign out" } }
    }
}

fn preview(dry_run: &DryRun, form: &Form) -> Markup {
    let mut fields: Vec<_> = form.iter().collect();
    fields.sort_unstable();
    html! {
        p { (dry_run.outcome.effect) }
        p { (Quantity(dry_run.clients.len(), "known client").with_verb("sees", "see")) " another revision, now or later." }
        form method="post" action="/rollout" {
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            input type="hidden" name="confirmed" value="true";
            button type="submit" { "Do it" }
            a href=(Page::Rollout.path()) { "Cancel" }
        }
    }
}

fn result(content: &Markup) -> Response {
    let content = html! { h1 { "Rollout command" } (content) p { a href=(Page::Rollout.path()) { "Back to the rollout" } } };
    document("Rollout command", Some(Page::Rollout), &content, StatusCode::OK)
}

fn redirect(cookie: std::io::Result<HeaderValue>) -> Response {
    match cookie {
        Ok(cookie) => {
            let location = HeaderValue::from_static(Page::Rollout.path());
            (StatusCode::SEE_OTHER, [(header::SET_COOKIE, cookie), (header::LOCATION, location)])
                .into_response()
        }
        Err(error) => refusal((StatusCode::INTERNAL_SERVER_ERROR, format!("session: {error}"))),
    }
}

/// Checks that a form is of an open session.
pub(super) fn session_token(api: &AdminApi, headers: &HeaderMap, form: &Form) -> Result<(), ErrorMessage> {
    match api.sessions.form_token(headers) {
        Some(token) if form.get("form_token") == Some(&token) => Ok(()),
        _ => Err((StatusCode::FORBIDDEN, "the session has ended: sign in again".to_owned())),
    }
}

/// Reads a form of this page.
pub(super) async fn read_form(request: Request, max: usize) -> Result<(HeaderMap, Form), ErrorMessage> {
    let (head, body) = request.into_parts();
    let over_tls = head.extensions.get::<OverTls>().is_some();
    if !is_same_origin(&head.headers, over_tls) {
        let message = "Origin: not this page: open the page again and repeat it there";
        return Err((StatusCode::FORBIDDEN, message.to_owned()));
    }
    let incomplete = || (StatusCode::BAD_REQUEST, "form: incomplete or too large: send it again".to_owned());
    let body = timeout(FORM_TIMEOUT, Limited::new(body, max).collect()).await;
    let body = body.map_err(|_| incomplete())?.map_err(|_| incomplete())?.to_bytes();
    let text = std::str::from_utf8(&body).map_err(|_| incomplete())?;
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    Ok((head.headers, query_pairs(Some(text)).map(|(name, value)| (decode(name), decode(value))).collect()))
}

/// Returns the command of a form, its author and reason. An empty field is an absent one.
fn parse(form: &Form) -> Result<(RolloutCommand, String, Option<String>), String> {
    let field = |name: &str| form.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let required = |name: &str| field(name).map(str::to_owned).ok_or_else(|| format!("{name}: is missing"));
    let command = match field("order") {
        Some("halt") => RolloutCommand::Halt,
        Some("resume") => RolloutCommand::Resume,
        Some("release") => {
            RolloutCommand::Release { group: field("group").map(str::to_owned), now: field("now").is_some() }
        }
        Some("hold") => RolloutCommand::Hold { group: required("group")?, revision: required("revision")? },
        Some("rollback") => RolloutCommand::Rollback {
            group: required("group")?,
            revision: field("revision").map(str::to_owned),
        },
        Some("promote") => RolloutCommand::Promote { ring: required("ring")? },
        _ => return Err("order: unknown: open the page again".to_owned()),
    };
    let reason = field("reason").map(str::to_owned);
    let by = check_author(field("by").unwrap_or_default(), reason.as_deref())?;
    Ok((command, by, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Form {
        query_pairs(Some(text)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn forms_become_commands() {
        for (text, expected) in [
            ("order=halt", Some(RolloutCommand::Halt)),
            ("order=release&group=&now=true", Some(RolloutCommand::Release { group: None, now: true })),
            (
                "order=rollback&group=a&revision=",
                Some(RolloutCommand::Rollback { group: "a".to_owned(), revision: None }),
            ),
            ("order=promote&ring=r", Some(RolloutCommand::Promote { ring: "r".to_owned() })),
            ("order=hold&group=a", None),
            ("order=format", None),
            ("", None),
        ] {
            let parsed = parse(&form(&format!("{text}&by=anna")));
            assert_eq!(parsed.ok().map(|(command, ..)| command), expected, "{text}");
        }
        assert!(parse(&form("order=halt")).is_err(), "no author");
    }
}
