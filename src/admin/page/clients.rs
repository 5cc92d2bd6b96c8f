//! The clients with their lights, revisions and errors, by search, and the same as CSV.

use std::collections::HashMap;
use std::fmt::Write;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use percent_encoding::percent_decode_str;

use super::text::{bytes, time};
use super::{Page, inventory, respond};
use crate::auth::ReadAccess;
use crate::{AdminApi, query_pairs};
use gupd_config::Quantity;
use gupd_rollout::clients::{ClientFilter, ClientReport, ClientStatus, MAX_LISTED};
use jiff::tz::TimeZone;

/// Clients on one page.
const MAX_SHOWN: usize = 1_000;

/// Milliseconds for which deferrals are counted.
const DEFERRALS_FOR: i64 = 86_400_000;

/// Maximum characters of a search.
const MAX_SEARCH: usize = 100;

/// Search and light of the request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Selection {
    text: String,
    light: Option<ClientStatus>,
}

pub(super) async fn show(
    _: ReadAccess,
    State(api): State<AdminApi>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let selection = Selection::parse(uri.query());
    let zone = api.generations.load().config.site.time_zone.clone();
    let content = if api.rollouts.has_rings() {
        let clients = selection.find(&api).await;
        let shown = &clients[..clients.len().min(MAX_SHOWN)];
        html! {
            h1 { "Clients" }
            (form(&selection))
            p aria-live="polite" {
                (Quantity(clients.len(), "client"))
                @if clients.len() > MAX_SHOWN { "; the latest seen " (MAX_SHOWN) " are shown" }
                ". " a href="/clients.csv" { "All as CSV" }
            }
            (table(shown, &deferrals(&api).await, &zone))
        }
    } else {
        html! {
            h1 { "Clients" }
            p { "Clients are not tracked: there are no rings. A " code { "[[ring]]" }
                " in the configuration turns tracking on." }
        }
    };
    let inventory = inventory::show(api.inventory().await, api.sessions.form_token(&headers).as_deref());
    respond(Page::Clients, &html! { (content) (inventory) })
}

pub(super) async fn csv(_: ReadAccess, State(api): State<AdminApi>) -> Response {
    let clients = Selection::default().find(&api).await;
    let mut response = csv_text(&clients, &deferrals(&api).await).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"gupd-clients.csv\""),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns how often each client was deferred, by its address. A ledger that cannot be read is a finding of its own.
async fn deferrals(api: &AdminApi) -> HashMap<String, u64> {
    api.ledger.deferrals(api.clock.now() - DEFERRALS_FOR).await.unwrap_or_default()
}

impl Selection {
    /// Reads the query of a form. What it does not know is ignored: a bookmark must not become an error.
    fn parse(query: Option<&str>) -> Self {
        let mut selection = Self::default();
        for (name, value) in query_pairs(query) {
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8_lossy();
            match name {
                "q" => selection.text = value.trim().chars().take(MAX_SEARCH).collect(),
                "light" => {
                    selection.light = ClientStatus::ALL.into_iter().find(|light| light.as_str() == value);
                }
                _ => {}
            }
        }
        selection
    }

    async fn find(&self, api: &AdminApi) -> Vec<ClientReport> {
        let filter = ClientFilter { status: self.light, ..ClientFilter::default() };
        let mut clients = api.rollouts.clients().list(&filter, MAX_LISTED).await;
        let text = self.text.to_lowercase();
        if !text.is_empty() {
            clients.retain(|client| {
                let fields =
                    [client.client.to_string(), client.address.to_string(), client.group.to_string()];
                fields.iter().any(|field| field.to_lowercase().contains(&text))
            });
        }
        clients
    }
}

fn form(selection: &Selection) -> Markup {
    html! {
        form method="get" action=(Page::Clients.path()) role="search" {
            label for="q" { "Address, name or group" }
            input type="search" id="q" name="q" value=(selection.text) maxlength=(MAX_SEARCH);
            label for="light" { "State" }
            select id="light" name="light" {
                option value="" { "all" }
                @for light in ClientStatus::ALL {
                    option value=(light.as_str()) selected[selection.light == Some(light)] { (words(light)) }
                }
            }
            button type="submit" { "Search" }
        }
    }
}

const fn words(light: ClientStatus) -> &'static str {
    match light {
        ClientStatus::Green => "current",
        ClientStatus::Yellow => "behind",
        ClientStatus::Red => "failing",
        ClientStatus::Grey => "unseen",
    }
}

fn table(clients: &[ClientReport], deferrals: &HashMap<String, u64>, zone: &TimeZone) -> Markup {
    let revision = |number: Option<gupd_rollout::revision::RevisionNumber>| {
        number.map_or_else(|| "–".to_owned(), |number| number.to_string())
    };
    html! {
        div class="scroll" tabindex="0" role="region" aria-label="Clients" {
            table {
                thead { tr {
                    th scope="col" { "Client" } th scope="col" { "State" } th scope="col" { "Group" }
                    th scope="col" class="number" { "Has" } th scope="col" class="number" { "Sees" }
                    th scope="col" { "Last seen" } th scope="col" class="number" { "Bytes" }
                    th scope="col" class="number" { "Deferred in 24 h" }
                    th scope="col" class="number" { "Errors" } th scope="col" { "Trouble" }
                } }
                tbody {
                    @for client in clients {
                        tr {
                            th scope="row" { (client.client) }
                            td class=(client.status.as_str()) { (words(client.status)) }
                            td { (client.group) }
                            td class="number" { (revision(client.revision)) }
                            td class="number" { (revision(client.sees)) }
                            td { (time(client.last_seen.0, zone, "%F %H:%M")) }
                            td class="number" { (bytes(client.bytes)) }
                            td class="number" { (deferrals.get(&client.address.to_string()).copied().unwrap_or(0)) }
                            td class="number" { (client.errors) }
                            td { (client.trouble.join(", ")) }
                        }
                    }
                }
            }
        }
    }
}

fn csv_text(clients: &[ClientReport], deferrals: &HashMap<String, u64>) -> String {
    let mut text = String::from(
        "client,address,group,state,has,sees,last_seen,bytes,errors,trouble,deferred_in_24h\r\n",
    );
    for client in clients {
        let number = |number: Option<gupd_rollout::revision::RevisionNumber>| {
            number.map(|number| number.to_string()).unwrap_or_default()
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{},{},{},{},{},{},{},{},{},{},{}\r\n",
            cell(&client.client.to_string()),
            client.address,
            cell(&client.group),
            words(client.status),
            number(client.revision),
            number(client.sees),
            time(client.last_seen.0, &TimeZone::UTC, "%FT%H:%M:%SZ"),
            client.bytes,
            client.errors,
            client.trouble.join(" "),
            deferrals.get(&client.address.to_string()).copied().unwrap_or(0)
        );
    }
    text
}

/// Quotes a text (RFC 4180). A text that a spreadsheet would run as a formula begins with an apostrophe.
fn cell(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_query_is_ignored() {
        let selection = Selection::parse(Some("q=10.0.0.1+%3Cscript%3E&light=red&x=1"));
        let expected = Selection { text: "10.0.0.1 <script>".to_owned(), light: Some(ClientStatus::Red) };
        assert_eq!(selection, expected);
        assert_eq!(Selection::parse(Some("light=blue&q=%ff")).light, None);
        assert_eq!(Selection::parse(Some(&format!("q={}", "a".repeat(500)))).text.len(), MAX_SEARCH);
    }

    #[test]
    fn searched_text_is_escaped_in_the_form() {
        let selection = Selection { text: "\"><script>".to_owned(), light: None };
        let text = form(&selection).into_string();
        assert!(text.contains("value=\"&quot;&gt;&lt;script&gt;\""), "{text}");
    }

    #[test]
    fn csv_cells_are_quoted_and_no_formulas() {
        for (text, expected) in
            [("pc-1", "\"pc-1\""), ("a\"b", "\"a\"\"b\""), ("=1+1", "\"'=1+1\""), ("@x", "\"'@x\"")]
        {
            assert_eq!(cell(text), expected);
        }
    }
}
