//! `gupd store purge`: removes objects one key at a time, so an interrupted purge leaves a consistent store. A running
//! relay has the store locked and removes them itself, at the request of this command.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use bytes::Bytes;
use clap::Args;
use http::Method;
use indicatif::BinaryBytes;

use super::list::{ListFormat, print_list};
use super::selection::Selection;
use super::{CommandError, OpenedStore, StoreLocation, object_bar};
use crate::admin_client::{AdminClient, AdminRequest};
use crate::admin_flags::AdminAccess;
use crate::{print_line, rollout, to_json};
use gupd_admin::PurgeRequest;
use gupd_cache::ObjectSelection;
use gupd_cache::fill::PurgeReport;
use gupd_config::Config;
use gupd_config::Quantity;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_store::{Inventory, Object, ObjectKey, StoreError};

/// Maximum bytes of the relay's response.
const MAX_RESPONSE: usize = 64 << 10;

/// Flags of a purge.
#[derive(Debug, Args)]
pub(crate) struct PurgeFlags {
    /// Only list the objects.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON: the counts, or the objects of --dry-run.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: AdminAccess,
    /// Reason, for the audit log of the running relay.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) fn run(
    location: &StoreLocation,
    selection: &Selection,
    flags: PurgeFlags,
) -> Result<(), CommandError> {
    let conditions = conditions(selection)?;
    let PurgeFlags { dry_run, json, access, reason } = flags;
    if dry_run {
        let inventory = location.open(selection)?;
        let format = if json { ListFormat::Json } else { ListFormat::Table };
        return print_list(&inventory, |object, now| is_purged(&conditions, object, now), format);
    }
    let (config, inventory) = location.open_with(access.overrides(), selection)?;
    let report = match OpenedStore::open(&config.store) {
        Ok(opened) => purge_opened(&opened, &inventory, &conditions)?,
        Err(StoreError::Locked { path }) => {
            let context = format!("store folder {}: in use by another gupd", path.display());
            let admin = access.client_with_token(&config, &location.file, &context)?;
            purge_running(&admin, &config, conditions, reason)
                .map_err(|error| error.with_context(&context))?
        }
        Err(error) => return Err(error.into()),
    };
    print_line(&if json { to_json(&report)? } else { report_line(report) });
    Ok(())
}

fn purge_opened(
    OpenedStore { store, runtime }: &OpenedStore,
    inventory: &Inventory,
    selection: &ObjectSelection,
) -> Result<PurgeReport, CommandError> {
    let now = Clock::system().now();
    let mut keys = BTreeSet::<ObjectKey>::new();
    for object in inventory.objects() {
        let object = object?;
        if is_purged(selection, &object, now) {
            keys.insert(object.key);
        }
    }
    store.discard_unfinished_if(|object, len| selection.matches_unfinished(object, len, now));
    let mut report = PurgeReport::default();
    let bar = object_bar("removing", keys.len());
    for key in &keys {
        let removed = runtime.block_on(store.remove(key))?;
        report.objects += removed.objects;
        report.bytes += removed.bytes;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(report)
}

fn purge_running(
    admin: &AdminClient,
    config: &Config,
    select: ObjectSelection,
    reason: Option<String>,
) -> Result<PurgeReport, CommandError> {
    let folder = fs::metadata(&config.store.dir).ok().map(|folder| (folder.dev(), folder.ino()));
    let request = PurgeRequest { by: rollout::author(), reason, folder, select };
    let body = serde_json::to_vec(&request)
        .map_err(|error| CommandError::Failed(format!("purge: cannot be written as JSON: {error}")))?;
    let (path, body) = ("/api/v1/store/purge", Bytes::from(body));
    let body = admin.send(AdminRequest { method: Method::POST, path, body, max_response: MAX_RESPONSE })?;
    serde_json::from_slice(&body).map_err(|error| admin.invalid_response(&error))
}

fn report_line(PurgeReport { objects, bytes, fills }: PurgeReport) -> String {
    let removed = format!("removed {}, {} on disk", Quantity(objects, "object"), BinaryBytes(bytes));
    let fills = match fills {
        0 => String::new(),
        fills => format!("; {} will not be stored", Quantity(fills, "running download")),
    };
    format!("{removed}{fills}")
}

/// A copy belongs to a revision, and is removed with it.
fn is_purged(selection: &ObjectSelection, object: &Object, now: UnixMillis) -> bool {
    selection.matches(object, now) && !object.is_copy()
}

/// Rejects an empty selection: a forgotten flag must not empty a store.
fn conditions(selection: &Selection) -> Result<ObjectSelection, CommandError> {
    let conditions = selection.conditions();
    if conditions.is_empty() {
        return Err(CommandError::Configuration(
            "purge: no condition: pass --path, --content-type or --revision, or --path '**' for all objects"
                .to_owned(),
        ));
    }
    Ok(conditions)
}
