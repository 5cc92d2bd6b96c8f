//! `GET`, `PUT` and `DELETE` of `/api/v1/inventory`: the clients that the site should have, from a CSV list, compared with
//! those that the relay has seen. A list replaces the one before only if every row is valid. It stands in the folder of the
//! store in the form that is compared. Lists name clients: reading needs this machine or the admin token, changing the token.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::auth::{ReadAccess, authorize};
use super::openapi::Failure;
use super::{AdminApi, ErrorMessage, internal_error, json_response, problem, text_response};
use gupd_config::Quantity;
use gupd_rollout::clients::{ClientFilter, MAX_LISTED};

/// Maximum bytes of a list.
pub(crate) const MAX_BYTES: usize = 8 << 20;

/// Maximum number of rows: twice the clients that a relay tracks.
const MAX_ROWS: usize = 100_000;

/// Maximum length of a name (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;

/// Clients of each kind in a report.
const MAX_NAMED: usize = 1_000;

/// Time-out for the body of a list.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Name of the file in the folder of the store.
const FILE: &str = "inventory.csv";

/// Headings of columns with names and addresses, in lower case.
const HEADINGS: [&str; 14] = [
    "address",
    "ip",
    "ip address",
    "ip-address",
    "ipaddress",
    "ip_address",
    "name",
    "hostname",
    "host",
    "host name",
    "computer",
    "computer name",
    "computername",
    "client",
];

/// Clients that the site should have. A client has one or more identifiers: addresses and names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExpectedClients(Vec<Vec<String>>);

/// The list, compared with the clients that the relay has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InventoryReport {
    /// Number of expected clients.
    pub expected: usize,
    /// Number of expected clients that were never seen.
    pub never_seen: usize,
    /// At most 1,000 of them.
    pub never_seen_clients: Vec<String>,
    /// Number of clients that were seen and are not expected.
    pub unexpected: usize,
    /// At most 1,000 of them.
    pub unexpected_clients: Vec<String>,
}

/// Counts lines up to records, one after another. The reader's own count is that of the line break before a record.
#[derive(Debug, Default)]
struct LineCounter {
    breaks: u64,
    counted: usize,
}

impl LineCounter {
    /// Returns the number of the line with the record that begins at this byte, or behind the line breaks there.
    fn line_at(&mut self, text: &[u8], begin: usize) -> u64 {
        let rest = text.get(begin..).unwrap_or_default();
        let begin = begin + rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let between = text.get(self.counted..begin).unwrap_or_default();
        self.breaks += between.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.counted = begin;
        self.breaks + 1
    }
}

impl ExpectedClients {
    /// Reads a CSV list (RFC 4180), with commas, semicolons or tabs. With a line of headings the columns of names and
    /// addresses count, else the first column. An error is one line with the number of the line.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let keep = "nothing has changed: correct it and send the list again";
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("inventory: line {line}: not UTF-8; {keep}")
        })?;
        let text = text.trim_start_matches('\u{feff}');
        let first = text.lines().next().unwrap_or_default();
        let delimiter =
            [b';', b'\t'].into_iter().find(|byte| first.as_bytes().contains(byte)).unwrap_or(b',');
        let mut builder = csv::ReaderBuilder::new();
        let mut reader = builder
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .delimiter(delimiter)
            .from_reader(text.as_bytes());
        let (mut columns, mut rows, mut lines) = (None, Vec::new(), LineCounter::default());
        for record in reader.records() {
            let record = record.map_err(|error| format!("inventory: {error}; {keep}"))?;
            let begin = record.position().map_or(0, csv::Position::byte);
            let line = lines.line_at(text.as_bytes(), usize::try_from(begin).unwrap_or(usize::MAX));
            if record.iter().any(|field| field.contains('\n')) {
                return Err(format!(
                    "inventory: line {line}: a field has a line break: close its quote; {keep}"
                ));
            }
            let Some(columns) = &columns else {
                let headings = headings(&record);
                let has_headings = !headings.is_empty();
                columns = Some(if has_headings { headings } else { vec![0] });
                if !has_headings {
                    rows.extend(row(&record, &[0], line).map_err(|error| format!("{error}; {keep}"))?);
                }
                continue;
            };
            if rows.len() >= MAX_ROWS {
                return Err(format!(
                    "inventory: more than {MAX_ROWS} rows; {keep}: list the clients of this site only"
                ));
            }
            rows.extend(row(&record, columns, line).map_err(|error| format!("{error}; {keep}"))?);
        }
        if rows.is_empty() {
            return Err(format!("inventory: no row has a name or an address; {keep}"));
        }
        Ok(Self(rows))
    }

    /// Compares with the clients that were seen: the identifiers of each, the first of them for the report.
    fn compare(&self, seen: &[Vec<String>]) -> InventoryReport {
        let known: HashSet<&str> = seen.iter().flatten().map(String::as_str).collect();
        let expected: HashSet<&str> = self.0.iter().flatten().map(String::as_str).collect();
        let is_in = |set: &HashSet<&str>, client: &Vec<String>| client.iter().any(|one| set.contains(&**one));
        let missing: Vec<_> = self.0.iter().filter(|client| !is_in(&known, client)).collect();
        let unexpected: Vec<_> = seen.iter().filter(|client| !is_in(&expected, client)).collect();
        let names = |clients: &[&Vec<String>]| {
            clients.iter().take(MAX_NAMED).filter_map(|client| client.first().cloned()).collect()
        };
        InventoryReport {
            expected: self.0.len(),
            never_seen: missing.len(),
            never_seen_clients: names(&missing),
            unexpected: unexpected.len(),
            unexpected_clients: names(&unexpected),
        }
    }

    fn text(&self) -> String {
        // No identifier has a comma or quotes.
        self.0.iter().map(|client| client.join(",") + "\n").collect()
    }

    fn read_back(text: &str) -> Self {
        Self(text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect())
    }
}

/// Returns the columns of names and addresses; none if the record is no line of headings.
fn headings(record: &csv::StringRecord) -> Vec<usize> {
    let is_known = |cell: &str| HEADINGS.contains(&&*cell.to_ascii_lowercase());
    record.iter().enumerate().filter(|(_, cell)| is_known(cell)).map(|(column, _)| column).collect()
}

/// Returns the identifiers of a row; `None` for an empty one.
fn row(record: &csv::StringRecord, columns: &[usize], line: u64) -> Result<Option<Vec<String>>, String> {
    let cells = columns.iter().filter_map(|column| record.get(*column)).filter(|cell| !cell.is_empty());
    let client: Vec<String> = cells
        .map(|cell| {
            identifier(cell).ok_or_else(|| {
                let cell: String = cell.chars().take(40).collect();
                format!("inventory: line {line}: {cell:?} is neither a name nor an address")
            })
        })
        .collect::<Result<_, _>>()?;
    Ok((!client.is_empty()).then_some(client))
}

/// Returns the form of a name or address that is compared.
fn identifier(text: &str) -> Option<String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical().to_string());
    }
    let is_name = text.len() <= MAX_NAME
        && text.chars().all(|char| char.is_alphanumeric() || matches!(char, '-' | '_' | '.' | '$'))
        && text.chars().any(char::is_alphanumeric);
    is_name.then(|| text.to_lowercase())
}

impl AdminApi {
    /// Compares the list with the clients that were seen; `None` without a list.
    pub(crate) async fn inventory(&self) -> std::io::Result<Option<InventoryReport>> {
        let file = self.inventory_file();
        let read = spawn_blocking(move || match std::fs::read_to_string(file) {
            Ok(text) => Ok(Some(ExpectedClients::read_back(&text))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        });
        let Some(inventory) = read.await.map_err(std::io::Error::other)?? else { return Ok(None) };
        let seen = self.seen_clients().await;
        let compared = spawn_blocking(move || inventory.compare(&seen)).await;
        compared.map(Some).map_err(std::io::Error::other)
    }

    /// Replaces the list. Returns a sentence about it.
    pub(crate) async fn replace_inventory(&self, list: Vec<u8>) -> Result<String, ErrorMessage> {
        let file = self.inventory_file();
        let replaced = spawn_blocking(move || {
            let inventory =
                ExpectedClients::parse(&list).map_err(|message| (StatusCode::BAD_REQUEST, message))?;
            let new = file.with_extension("new");
            let written = std::fs::write(&new, inventory.text()).and_then(|()| std::fs::rename(&new, &file));
            let failed = |error| {
                let message = format!("inventory: cannot be written: {error}; the list before is in force");
                (StatusCode::SERVICE_UNAVAILABLE, message)
            };
            written.map_err(failed)?;
            Ok(format!(
                "inventory: {} expected",
                Quantity(inventory.0.len(), "client").with_verb("is", "are")
            ))
        });
        let failed = |error| Err((StatusCode::INTERNAL_SERVER_ERROR, format!("inventory: {error}")));
        replaced.await.unwrap_or_else(failed)
    }

    /// Removes the list.
    pub(crate) async fn remove_inventory(&self) -> std::io::Result<()> {
        let file = self.inventory_file();
        let removed = spawn_blocking(move || match std::fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        });
        removed.await.map_err(std::io::Error::other)?
    }

    fn inventory_file(&self) -> PathBuf {
        self.generations.load().config.store.dir.join(FILE)
    }

    /// Returns the identifiers of the tracked clients; without rings those of the last day's ledger.
    async fn seen_clients(&self) -> Vec<Vec<String>> {
        if self.rollouts.has_rings() {
            let clients = self.rollouts.clients().list(&ClientFilter::default(), MAX_LISTED).await;
            let identifiers = |client: String, address: IpAddr| {
                let mut all = vec![client.to_lowercase(), address.to_canonical().to_string()];
                all.dedup();
                all
            };
            return clients.into_iter().map(|one| identifiers(one.client.to_string(), one.address)).collect();
        }
        let incidents = self.ledger.incidents().await.unwrap_or_default();
        incidents.seen.into_iter().map(|client| vec![client]).collect()
    }
}

#[utoipa::path(
    get, path = "/api/v1/inventory", operation_id = "inventory",
    responses((status = 200, body = InventoryReport), Failure),
)]
pub(super) async fn show(_: ReadAccess, State(api): State<AdminApi>) -> Response {
    match api.inventory().await {
        Ok(Some(report)) => json_response(&report),
        Ok(None) => {
            let message = "there is no inventory: PUT a CSV list";
            problem::respond((StatusCode::NOT_FOUND, message.to_owned()))
        }
        Err(error) => internal_error(&error),
    }
}

#[utoipa::path(
    put, path = "/api/v1/inventory", operation_id = "replace_inventory",
    security(("token" = [])),
    request_body(content = String, content_type = "text/csv", description = "Names and addresses of the clients"),
    responses(
        (status = 200, content_type = "text/plain; charset=utf-8", description = "The result in words", body = String),
        Failure,
    ),
)]
pub(super) async fn replace(State(api): State<AdminApi>, request: Request) -> Response {
    if let Err(refusal) = authorize(api.token_file.clone(), request.headers()).await {
        return problem::respond(refusal);
    }
    let body = timeout(BODY_TIMEOUT, Limited::new(request.into_body(), MAX_BYTES).collect()).await;
    let Ok(Ok(body)) = body else {
        let message =
            format!("inventory: incomplete or larger than {} MiB; nothing has changed", MAX_BYTES >> 20);
        return problem::respond((StatusCode::PAYLOAD_TOO_LARGE, message));
    };
    match api.replace_inventory(body.to_bytes().to_vec()).await {
        Ok(message) => text_response(&message),
        Err(refusal) => problem::respond(refusal),
    }
}

#[utoipa::path(
    delete, path = "/api/v1/inventory", operation_id = "remove_inventory",
    security(("token" = [])),
    responses(
        (status = 200, content_type = "text/plain; charset=utf-8", description = "The result in words", body = String),
        Failure,
    ),
)]
pub(super) async fn remove(State(api): State<AdminApi>, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorize(api.token_file.clone(), &headers).await {
        return problem::respond(refusal);
    }
    match api.remove_inventory().await {
        Ok(()) => text_response("inventory: removed"),
        Err(error) => internal_error(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Vec<String>>, String> {
        ExpectedClients::parse(text.as_bytes()).map(|inventory| inventory.0)
    }

    #[test]
    fn lists_of_spreadsheets_and_plain_lists_are_read() {
        for (text, expected) in [
            ("10.0.0.1\n10.0.0.2\r\n\n", &[&["10.0.0.1"][..], &["10.0.0.2"]][..]),
            (
                "Computer Name;IP Address;OS\nPC-1;10.0.0.1;Windows\nPC-2;;\n",
                &[&["pc-1", "10.0.0.1"], &["pc-2"]],
            ),
            ("\u{feff}name\r\n\"pc-3.example\"\r\n", &[&["pc-3.example"]]),
            ("site\tip\nA\t::ffff:10.0.0.7\n", &[&["10.0.0.7"]]),
            ("2001:DB8::0001", &[&["2001:db8::1"]]),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text:?}");
            let inventory = ExpectedClients::parse(text.as_bytes()).unwrap();
            assert_eq!(ExpectedClients::read_back(&inventory.text()), inventory);
        }
    }

    #[test]
    fn broken_list_is_one_line_with_its_place() {
        let many = "10.0.0.1\n".repeat(MAX_ROWS + 1);
        for (text, expected) in [
            ("", "no row has a name"),
            ("name\n", "no row has a name"),
            ("10.0.0.1\n\"10.0.0.2\n10.0.0.3\n", "line 2: "),
            ("pc-1\npc 2 <script>\n", "line 2: \"pc 2 <script>\""),
            (&many, "more than 100000 rows"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected) && error.contains("nothing has changed"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let error = ExpectedClients::parse(b"10.0.0.1\n\xff\xfe\n").unwrap_err();
        assert!(error.contains("line 2: not UTF-8"), "{error}");
        assert_eq!(parse(&"10.0.0.1\n".repeat(MAX_ROWS)).unwrap().len(), MAX_ROWS);
    }

    #[test]
    fn comparison_finds_missing_and_unexpected_clients() {
        let inventory =
            ExpectedClients::parse(b"name,address\npc-1,10.0.0.1\npc-2,10.0.0.2\npc-3,\n").unwrap();
        let seen = [&["pc-2.example", "10.0.0.2"][..], &["pc-3"], &["10.9.0.9"]];
        let seen = seen.map(|client| client.iter().map(|one| (*one).to_owned()).collect());
        let report = inventory.compare(&seen);
        assert_eq!((report.expected, report.never_seen, report.unexpected), (3, 1, 1));
        assert_eq!(
            (report.never_seen_clients, report.unexpected_clients),
            (vec!["pc-1".to_owned()], vec!["10.9.0.9".to_owned()])
        );
    }
}
