//! The status page at `/` of the admin address: HTML made by the relay, with its own style and script and no request to
//! another host. It reads what the API reads, and shows it to the same requests (`auth::ReadAccess`). The script replaces
//! the content of a page by its newest version at each event of `live`.

mod actions;
mod chart;
mod clients;
mod content;
mod events;
mod inventory;
mod line;
mod live;
mod overview;
mod rates;
mod rollout;
mod session;
mod text;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use maud::{DOCTYPE, Markup, html};

pub use self::session::Sessions;
use super::{AdminApi, ErrorMessage};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("live.js");

/// Nothing but the page's own files may be loaded, and no other page may frame it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The pages in the order of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Overview,
    Clients,
    Content,
    Rollout,
    Line,
    Events,
}

impl Page {
    const ALL: [Self; 6] =
        [Self::Overview, Self::Clients, Self::Content, Self::Rollout, Self::Line, Self::Events];

    const fn path(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Clients => "/clients",
            Self::Content => "/content",
            Self::Rollout => "/rollout",
            Self::Line => "/line",
            Self::Events => "/events",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Clients => "Clients",
            Self::Content => "Content",
            Self::Rollout => "Rollout",
            Self::Line => "Line",
            Self::Events => "Events",
        }
    }
}

/// Returns the routes of the page.
pub(super) fn routes() -> Router<AdminApi> {
    Router::new()
        .route(Page::Overview.path(), get(overview::show))
        .route(Page::Clients.path(), get(clients::show))
        .route("/clients.csv", get(clients::csv))
        .route(Page::Content.path(), get(content::show))
        .route(Page::Rollout.path(), get(rollout::show).post(actions::command))
        .route("/inventory", post(inventory::upload))
        .route("/sign-in", post(actions::sign_in))
        .route("/sign-out", post(actions::sign_out))
        .route(Page::Line.path(), get(line::show))
        .route(Page::Events.path(), get(events::show))
        .route("/live", get(live::stream))
        .route("/style.css", get(async || asset("text/css; charset=utf-8", STYLE)))
        .route("/live.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
}

/// Returns the page for a request that may not read.
pub(super) fn refuse_reading(refusal: ErrorMessage) -> Response {
    match refusal {
        (StatusCode::UNAUTHORIZED, _) => sign_in_page(),
        refusal => not_available(refusal),
    }
}

/// Returns the page for a request of another machine without a session.
fn sign_in_page() -> Response {
    let content = html! { h1 { "gupd" } (actions::sign_in_form()) };
    document("Sign in", None, &content, StatusCode::UNAUTHORIZED)
}

/// Returns the page for a form that was not accepted.
fn refusal((status, message): ErrorMessage) -> Response {
    let content = html! {
        h1 { "Not done" }
        p { (message) }
        p { a href=(Page::Overview.path()) { "Back to the overview" } }
    };
    document("Not done", None, &content, status)
}

/// Returns the page for a request that may not read it.
fn not_available((status, message): ErrorMessage) -> Response {
    let content = html! {
        h1 { "Not available from this machine" }
        p { (message) }
        p { "The page answers requests of the relay's own machine: use a tunnel such as "
            code { "ssh -L 9467:127.0.0.1:9467 relay" } "." }
    };
    document("gupd", None, &content, status)
}

/// Returns a whole page.
fn respond(page: Page, content: &Markup) -> Response {
    document(page.title(), Some(page), content, StatusCode::OK)
}

fn document(title: &str, page: Option<Page>, content: &Markup, status: StatusCode) -> Response {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " – gupd" }
                link rel="stylesheet" href="/style.css";
                link rel="icon" href="data:,";
                script src="/live.js" defer {}
            }
            body {
                a class="skip" href="#main" { "Skip to content" }
                header {
                    strong { "gupd" }
                    @if page.is_some() {
                        nav aria-label="Pages" {
                            @for other in Page::ALL {
                                a href=(other.path()) aria-current=[(Some(other) == page).then_some("page")] {
                                    (other.title())
                                }
                            }
                        }
                    }
                }
                p id="notice" role="status" hidden {}
                main id="main" { (content) }
            }
        }
    };
    let mut response = (status, document.into_string()).into_response();
    set_headers(response.headers_mut(), "text/html; charset=utf-8");
    response
}

fn asset(media_type: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    set_headers(response.headers_mut(), media_type);
    response
}

/// Sets the fields of every page. `same-origin`: without a referrer, browsers send forms with `Origin: null`.
fn set_headers(headers: &mut HeaderMap, media_type: &'static str) {
    let fields: [(HeaderName, &'static str); 6] = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in fields {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
