//! `gupd rollout status`: prints the status of rollouts once, or every two seconds.

use std::io::{self, IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::super::admin_client::{AdminClient, AdminRequest};
use super::clients::{self, ListedClient};
use super::{AdminFlags, CommandError, MAX_RESPONSE, parse, print_line, table};
use crate::to_json;
use gupd_rollout::status::Status;

/// Interval of --watch.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Each status overwrites the one before line by line; clearing the screen first would flicker.
const CURSOR_HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_SCREEN: &str = "\x1b[2J";

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
    /// Also list each client; needs the admin token.
    #[arg(long)]
    clients: bool,
}

pub(super) fn run(flags: &StatusFlags) -> Result<(), CommandError> {
    let config = flags.admin.load()?;
    let admin = match flags.clients {
        true => flags.admin.client_with_token("rollout status --clients")?,
        false => AdminClient::new(&config)?,
    };
    if flags.json {
        return print_json(&admin, flags.clients);
    }
    let zone = &config.site.time_zone;
    if !flags.watch {
        print_line(&status_text(&admin, flags.clients, zone)?);
        return Ok(());
    }
    let mut first = true;
    loop {
        // The relay may be restarting.
        let text = status_text(&admin, flags.clients, zone).unwrap_or_else(|failure| match failure {
            CommandError::Configuration(message) | CommandError::Failed(message) => message,
        });
        match show(&text, first) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(CommandError::Failed(format!("standard output: {error}"))),
        }
        first = false;
        sleep(WATCH_INTERVAL);
    }
}

/// Overwrites the screen of a terminal; appends to any other output.
fn show(text: &str, first: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if !out.is_terminal() {
        writeln!(out, "{text}\n")?;
        return out.flush();
    }
    if first {
        write!(out, "{CLEAR_SCREEN}")?;
    }
    write!(out, "{CURSOR_HOME}")?;
    for line in text.lines() {
        writeln!(out, "{line}{CLEAR_LINE}")?;
    }
    write!(out, "{CLEAR_BELOW}")?;
    out.flush()
}

fn status_text(admin: &AdminClient, with_clients: bool, zone: &TimeZone) -> Result<String, CommandError> {
    let status: Status = parse(admin, &get(admin, "/api/v1/rollout")?)?;
    let mut text = table::table(&status, zone);
    if with_clients {
        let clients: Vec<ListedClient> = parse(admin, &get(admin, "/api/v1/rollout/clients")?)?;
        text.push_str("\n\n");
        text.push_str(&clients::table(&clients, zone));
    }
    Ok(text)
}

fn print_json(admin: &AdminClient, with_clients: bool) -> Result<(), CommandError> {
    let mut status: Value = parse(admin, &get(admin, "/api/v1/rollout?catalogs=true")?)?;
    if with_clients {
        let clients: Value = parse(admin, &get(admin, "/api/v1/rollout/clients")?)?;
        if let Value::Object(status) = &mut status {
            status.insert("client_list".to_owned(), clients);
        }
    }
    print_line(&to_json(&status)?);
    Ok(())
}

fn get(admin: &AdminClient, path: &str) -> Result<Bytes, CommandError> {
    admin.send(AdminRequest { method: Method::GET, path, body: Bytes::new(), max_response: MAX_RESPONSE })
}
