//! The inventory on the Clients page: expected clients that were never seen, seen ones that are not expected, and the upload
//! of a list.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};

use super::actions::{read_form, session_token};
use super::{Page, document, refusal};
use crate::inventory::MAX_BYTES;
use crate::{AdminApi, InventoryReport};
use gupd_config::Quantity;

/// Maximum bytes of the form: each byte of a list may take three.
const MAX_FORM: usize = 3 * MAX_BYTES + 1_024;

/// Shows the comparison, and to an administrator the upload.
pub(super) fn show(report: std::io::Result<Option<InventoryReport>>, form_token: Option<&str>) -> Markup {
    html! {
        h2 id="inventory" { "Inventory" }
        @match report {
            Err(error) => p class="critical" { "The inventory cannot be read: " (error.to_string()) },
            Ok(None) => p class="quiet" { "No list of expected clients has been uploaded." },
            Ok(Some(report)) => {
                p { (Quantity(report.expected, "client").with_verb("is", "are")) " expected, "
                    (report.never_seen) " of them never seen; "
                    (Quantity(report.unexpected, "other").with_verb("was", "were")) " seen." }
                (names("Expected, never seen", report.never_seen, &report.never_seen_clients))
                (names("Seen, not expected", report.unexpected, &report.unexpected_clients))
            }
        }
        @if let Some(token) = form_token { (upload_form(token)) }
    }
}

fn names(heading: &str, count: usize, names: &[String]) -> Markup {
    html! {
        @if count > 0 {
            details {
                summary { (heading) " (" (count) ")" }
                ul class="names" { @for name in names { li { (name) } } }
                @if count > names.len() { p class="quiet" { "The first " (names.len()) " are shown." } }
            }
        }
    }
}

fn upload_form(token: &str) -> Markup {
    html! {
        form method="post" action="/inventory" {
            input type="hidden" name="form_token" value=(token);
            label for="inventory-file" { "CSV list of names or addresses" }
            input type="file" id="inventory-file" accept=".csv,.txt,text/csv,text/plain" data-into="inventory-list";
            label for="inventory-list" { "or paste it" }
            textarea id="inventory-list" name="list" rows="3" cols="40" {}
            button type="submit" { "Upload" }
            button type="submit" name="remove" value="true" { "Remove the list" }
        }
    }
}

/// Replaces or removes the list.
pub(super) async fn upload(State(api): State<AdminApi>, request: Request) -> Response {
    let (headers, mut form) = match read_form(request, MAX_FORM).await {
        Ok(read) => read,
        Err(error) => return refusal(error),
    };
    if let Err(error) = session_token(&api, &headers, &form) {
        return refusal(error);
    }
    let done = if form.contains_key("remove") {
        let removed = api.remove_inventory().await.map(|()| "inventory: removed".to_owned());
        removed.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, format!("inventory: {error}")))
    } else {
        let list = form.remove("list").unwrap_or_default();
        api.replace_inventory(list.into_bytes()).await
    };
    match done {
        Ok(sentence) => {
            let content = html! {
                h1 { "Inventory" }
                p { (sentence) }
                p { a href=(Page::Clients.path()) { "Back to the clients" } }
            };
            document("Inventory", Some(Page::Clients), &content, StatusCode::OK)
        }
        Err(error) => refusal(error),
    }
}
