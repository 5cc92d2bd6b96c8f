//! `gupd rollout status`: asks the relay, once or every two seconds, and shows what it says.

use std::io::{self, IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::super::admin_client::{AdminClient, AdminRequest};
use super::clients::{self, Client};
use super::{CommandError, CommonFlags, MAX_ANSWER, print_line, read, table};
use crate::to_json;
use gupd_rollout::status::Status;

/// Between two looks with --watch.
const PAUSE: Duration = Duration::from_secs(2);

/// From the top left, line by line over what was there: clearing first would flicker.
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";
const CLEAR: &str = "\x1b[2J";

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    common: CommonFlags,
    /// JSON, with the hashes of catalogs.
    #[arg(long)]
    json: bool,
    /// Again every two seconds, until Ctrl-C.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Each client too; needs the admin token.
    #[arg(long)]
    clients: bool,
}

pub(super) fn run(asked: &Show) -> Result<(), CommandError> {
    let config = asked.common.load_without_upstreams()?;
    let admin = match asked.clients {
        true => AdminClient::with_token(&config, "rollout status --clients")?,
        false => AdminClient::new(&config)?,
    };
    if asked.json {
        return as_json(&admin, asked.clients);
    }
    let zone = &config.site.time_zone;
    if !asked.watch {
        print_line(&shown(&admin, asked.clients, zone)?);
        return Ok(());
    }
    let mut first = true;
    loop {
        // A relay that restarts is back soon.
        let text = shown(&admin, asked.clients, zone).unwrap_or_else(|failure| match failure {
            CommandError::Configuration(why) | CommandError::Failed(why) => why,
        });
        match renew(&text, first) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(CommandError::Failed(format!("cannot write the status: {error}"))),
        }
        first = false;
        sleep(PAUSE);
    }
}

/// On a terminal in the place of what is there; elsewhere below it.
fn renew(text: &str, first: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if !out.is_terminal() {
        writeln!(out, "{text}\n")?;
        return out.flush();
    }
    if first {
        write!(out, "{CLEAR}")?;
    }
    write!(out, "{HOME}")?;
    for line in text.lines() {
        writeln!(out, "{line}{REST_OF_LINE}")?;
    }
    write!(out, "{REST_OF_SCREEN}")?;
    out.flush()
}

fn shown(admin: &AdminClient, with_clients: bool, zone: &TimeZone) -> Result<String, CommandError> {
    let status: Status = read(admin, &get(admin, "/api/v1/rollout")?)?;
    let mut text = table::table(&status, zone);
    if with_clients {
        let told: Vec<Client> = read(admin, &get(admin, "/api/v1/rollout/clients")?)?;
        text.push_str("\n\n");
        text.push_str(&clients::table(&told, zone));
    }
    Ok(text)
}

fn as_json(admin: &AdminClient, with_clients: bool) -> Result<(), CommandError> {
    let mut status: Value = read(admin, &get(admin, "/api/v1/rollout?catalogs=true")?)?;
    if with_clients {
        let told: Value = read(admin, &get(admin, "/api/v1/rollout/clients")?)?;
        if let Value::Object(status) = &mut status {
            status.insert("client_list".to_owned(), told);
        }
    }
    print_line(&to_json(&status)?);
    Ok(())
}

fn get(admin: &AdminClient, path: &str) -> Result<Bytes, CommandError> {
    admin.send(AdminRequest { method: Method::GET, path, body: Bytes::new(), max_response: MAX_ANSWER })
}
