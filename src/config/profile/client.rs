//! Settings of a vendor's clients, which `gupd clients-config` prints for the addresses of a relay and its upstreams.

use super::{Certainty, Template};
use crate::document::Document;
use crate::document::Section;
use crate::profile::CERTAINTIES;
use crate::reader::{boolean, choice, label, line, text};

/// Placeholders of `text`.
const RELAY: [&str; 3] = ["url", "host", "port"];
/// Placeholders of `upstream_text`.
const UPSTREAM: [&str; 4] = ["index", "position", "name", "url"];

/// A setting of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInstruction {
    /// Name for `--only`: lower-case letters, digits, `-`.
    pub name: String,
    /// Heading.
    pub title: String,
    /// Clients that it is for.
    pub clients: String,
    /// Place at which an administrator enters it.
    pub place: String,
    /// Certainty that clients honour it.
    pub certainty: Certainty,
    /// Explanation for administrators.
    pub explanation: String,
    /// Further explanation for a relay that defers clients.
    pub deferral_note: Option<String>,
    /// Whether its clients cannot use TLS toward the relay.
    pub is_plain_http: bool,
    /// Lines for the relay: `{url}`, `{host}`, `{port}`.
    pub text: Template,
    /// Line for each upstream: `{index}` and `{position}` count from the relay as 0 and as 1, `{name}`, `{url}`.
    pub upstream_text: Option<Template>,
}

pub(super) fn read_clients(document: &mut Document) -> Vec<ClientInstruction> {
    let mut clients: Vec<ClientInstruction> = Vec::new();
    for mut s in document.take_tables("client", None) {
        let read = read_client(&mut s);
        if let Some(client) = read {
            if clients.iter().any(|other| other.name == client.name) {
                s.refuse("name", format!("duplicate name {:?}: give each table its own name", client.name));
            }
            clients.push(client);
        }
        document.close(s);
    }
    clients
}

fn read_client(s: &mut Section) -> Option<ClientInstruction> {
    let name = s.read_required("name", label);
    let title = s.read_required("title", line);
    let clients = s.read_required("clients", line);
    let place = s.read_required("place", line);
    let certainty = s.read_required("certainty", |text| choice(text, &CERTAINTIES));
    let explanation = s.read_required("explanation", line);
    let deferral_note = s.read("deferral_note", line);
    let is_plain_http = s.read("plain_http", boolean).unwrap_or(false);
    let relay = s.read_required("text", |value| Template::parse(&text(value)?, &RELAY));
    let upstream_text = s.read("upstream_text", |value| Template::parse(&line(value)?, &UPSTREAM));
    Some(ClientInstruction {
        name: name?,
        title: title?,
        clients: clients?,
        place: place?,
        certainty: certainty?,
        explanation: explanation?,
        deferral_note,
        is_plain_http,
        text: relay?,
        upstream_text,
    })
}
