//! `gupd rollout status`: prints the status of rollouts once, or every two seconds.

use bytes::Bytes;
use clap::Args;
use http::Method;
use jiff::tz::TimeZone;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::super::admin_client::{AdminClient, AdminRequest};
use super::clients::{self, ListedClient};
use super::{AdminFlags, CommandError, MAX_RESPONSE, parse, print_line, table};
use crate::{screen, to_json};
use gupd_rollout::clients::MAX_LISTED;
use gupd_rollout::status::Status;

/// Clients of one response.
const PAGE: usize = 1_000;

#[derive(Debug, Args)]
pub(crate) struct StatusFlags {
    #[command(flatten)]
    admin: AdminFlags,
    /// Print JSON with the hashes of catalogs.
    #[arg(long)]
    json: bool,
    /// Repeat every two seconds until Ctrl-C.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Also list each client.
    #[arg(long)]
    clients: bool,
}

pub(super) fn run(flags: &StatusFlags) -> Result<(), CommandError> {
    let config = flags.admin.load()?;
    let admin = flags.admin.client_for_reading()?;
    if flags.json {
        return print_json(&admin, flags.clients);
    }
    let zone = &config.site.time_zone;
    if !flags.watch {
        print_line(&status_text(&admin, flags.clients, zone)?);
        return Ok(());
    }
    screen::watch(|| status_text(&admin, flags.clients, zone))
}

fn status_text(admin: &AdminClient, with_clients: bool, zone: &TimeZone) -> Result<String, CommandError> {
    let status: Status = parse(admin, &get(admin, "/api/v1/rollout")?)?;
    let mut text = table::table(&status, zone);
    if with_clients {
        let clients: Vec<ListedClient> = serde_json::from_value(all_clients(admin)?.into())
            .map_err(|error| admin.invalid_response(&error))?;
        text.push_str("\n\n");
        text.push_str(&clients::table(clients, zone));
    }
    Ok(text)
}

fn print_json(admin: &AdminClient, with_clients: bool) -> Result<(), CommandError> {
    let mut status: Value = parse(admin, &get(admin, "/api/v1/rollout?catalogs=true")?)?;
    if with_clients {
        let clients = all_clients(admin)?.into();
        if let Value::Object(status) = &mut status {
            status.insert("client_list".to_owned(), clients);
        }
    }
    print_line(&to_json(&status)?);
    Ok(())
}

/// Returns every client, page by page.
fn all_clients(admin: &AdminClient) -> Result<Vec<Value>, CommandError> {
    let mut clients: Vec<Value> = Vec::new();
    loop {
        let last = clients.last().and_then(|last| last.get("client")?.as_str()).unwrap_or_default();
        let after = utf8_percent_encode(last, NON_ALPHANUMERIC);
        let next = if last.is_empty() { String::new() } else { format!("&after={after}") };
        let page: Vec<Value> =
            parse(admin, &get(admin, &format!("/api/v1/rollout/clients?limit={PAGE}{next}"))?)?;
        let is_last = page.len() < PAGE;
        clients.extend(page);
        if is_last || clients.len() >= MAX_LISTED {
            return Ok(clients);
        }
    }
}

fn get(admin: &AdminClient, path: &str) -> Result<Bytes, CommandError> {
    admin.send(AdminRequest { method: Method::GET, path, body: Bytes::new(), max_response: MAX_RESPONSE })
}
