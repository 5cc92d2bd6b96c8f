//! `gupd store held`, `release` and `reject`: content that is kept aside. The list is read from the store itself, beside a
//! running relay. A decision is made by the relay that has the store: it has the audit log.

use bytes::Bytes;
use clap::Args;
use http::Method;
use indicatif::BinaryBytes;

use super::{CommandError, StoreLocation};
use crate::admin_client::AdminRequest;
use crate::admin_flags::AdminAccess;
use crate::{print_line, rollout, to_json};
use gupd_admin::{HeldDecision, HeldRequest};
use gupd_cache::digest::HeldObject;
use gupd_store::Inventory;

/// Maximum bytes of the relay's response.
const MAX_RESPONSE: usize = 64 << 10;

/// Digits of a SHA-256 in the table.
const DIGITS: usize = 12;

/// Flags of a decision about held content.
#[derive(Debug, Args)]
pub(crate) struct DecisionFlags {
    /// SHA-256 of the content, or its first 8 digits or more.
    #[arg(value_name = "SHA256")]
    sha256: String,
    #[command(flatten)]
    access: AdminAccess,
    /// Reason, for the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// Prints all held content.
pub(super) fn list(location: &StoreLocation, as_json: bool) -> Result<(), CommandError> {
    let inventory = Inventory::open(&location.load()?.dir)?;
    let mut held = Vec::new();
    for object in inventory.objects() {
        let object = object?;
        if object.is_held() {
            held.push(HeldObject::new(&object));
        }
    }
    if as_json {
        print_line(&to_json(&held)?);
        return Ok(());
    }
    print_line(&format!("{:<DIGITS$} {:>11} {:<20} PATH: REASON", "SHA-256", "SIZE", "UPSTREAM"));
    for HeldObject { sha256, bytes, upstream, path, reason, .. } in &held {
        let (digits, size) = (sha256.get(..DIGITS).unwrap_or(sha256), BinaryBytes(*bytes).to_string());
        print_line(&format!("{digits} {size:>11} {upstream:<20} {}: {reason}", path.escape_debug()));
    }
    print_line(&format!("{} held", held.len()));
    Ok(())
}

/// Has the running relay release or reject one object.
pub(super) fn decide(
    location: &StoreLocation,
    flags: DecisionFlags,
    decision: HeldDecision,
) -> Result<(), CommandError> {
    let DecisionFlags { sha256, access, reason, json } = flags;
    let config = location.load_with(access.overrides())?;
    let (command, done) = match decision {
        HeldDecision::Release => ("store release", "released"),
        HeldDecision::Reject => ("store reject", "rejected"),
    };
    let admin = access.client_with_token(&config, &location.file, command)?;
    let request = HeldRequest { by: rollout::author(), reason, decision, sha256 };
    let body = serde_json::to_vec(&request)
        .map_err(|error| CommandError::Failed(format!("held: cannot be written as JSON: {error}")))?;
    let (path, body) = ("/api/v1/store/held", Bytes::from(body));
    let body = admin.send(AdminRequest { method: Method::POST, path, body, max_response: MAX_RESPONSE })?;
    let held: HeldObject = serde_json::from_slice(&body).map_err(|error| admin.invalid_response(&error))?;
    let text = format!("{done} {} (sha256 {})", held.path.escape_debug(), held.sha256);
    print_line(&if json { to_json(&held)? } else { text });
    Ok(())
}
