//! `gupd store export` and `import`: transfer of content to a site in a file instead of over the WAN.

use std::path::Path;

use indicatif::{BinaryBytes, HumanCount};
use jiff::{Timestamp, civil, tz::TimeZone};
use serde_json::json;

use super::{CommandError, OpenedStore, StoreLocation, bar};
use crate::{print_line, to_json};
use gupd_config::Quantity;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::units::Time;
use gupd_store::Inventory;
use gupd_store::bundle::{self, BundleError};

/// Value of `--since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    At(UnixMillis),
    Ago(Time),
}

/// Parses a duration, a day (its start in UTC), or a time with its zone.
pub(super) fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = text.parse() {
        return Ok(Since::Ago(ago));
    }
    // A time without a zone is ambiguous and rejected.
    let is_day = text.len() == "2026-11-20".len();
    let day = || text.parse::<civil::Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp());
    match text.parse::<Timestamp>().ok().or_else(|| is_day.then(day)?) {
        Some(time) => Ok(Since::At(time.as_millisecond())),
        None => {
            Err(format!("{text:?} is not a time: use a form such as 7d, 2026-11-20 or 2026-11-20T18:00:00Z"))
        }
    }
}

pub(super) fn export(
    location: &StoreLocation,
    since: Option<Since>,
    output: &Path,
    as_json: bool,
) -> Result<(), CommandError> {
    let now = Clock::system().now();
    let since = match since {
        None => UnixMillis::MIN,
        Some(Since::At(time)) => time,
        Some(Since::Ago(Time(ago))) => now.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)),
    };
    let inventory = Inventory::open(&location.load()?.dir)?;
    let bar = bar("exporting", inventory.bytes()?);
    let exported = bundle::export(&inventory, since, now, output, |bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    let bundle::ExportSummary { objects, blobs, bytes, damaged } = &exported;
    let text = format!(
        "exported {}, {} in {}, to {}",
        Quantity(*objects, "object"),
        BinaryBytes(*bytes),
        Quantity(*blobs, "blob"),
        output.display()
    );
    let damaged: Vec<_> = damaged.iter().map(ToString::to_string).collect();
    let json = json!({ "objects": objects, "bytes": bytes, "blobs": blobs, "damaged": damaged });
    print_line(&if as_json { to_json(&json)? } else { text });
    let omitted = exported
        .damaged
        .iter()
        .map(|blob| format!("blob {blob}: damaged and not exported: run gupd store verify"));
    match omitted.collect::<Vec<_>>() {
        lines if lines.is_empty() => Ok(()),
        lines => Err(CommandError::Failed(lines.join("\n"))),
    }
}

pub(super) fn import(location: &StoreLocation, path: &Path, as_json: bool) -> Result<(), CommandError> {
    let (config, now) = (location.load()?, Clock::system().now());
    // Fail early if a relay has the store, but create a new store only for a valid bundle.
    let early = if config.dir.exists() { Some(OpenedStore::open(&config)?) } else { None };
    // The content is compressed already, so the size of the file is close to its size.
    let verifying = bar("verifying", std::fs::metadata(path).map_or(0, |file| file.len()));
    let contents = bundle::check(path, config.quota, now, |bytes| verifying.inc(bytes))?;
    verifying.finish_and_clear();
    let OpenedStore { store, runtime } = early.map_or_else(|| OpenedStore::open(&config), Ok)?;
    let importing = bar("importing", contents.bytes);
    let imported =
        bundle::import(&store, runtime.handle(), path, config.quota, now, |bytes| importing.inc(bytes))?;
    importing.finish_and_clear();
    let bundle::ImportSummary { objects, bytes, skipped } = imported;
    let text = format!(
        "imported {}, {}; {} already stored",
        Quantity(objects, "object"),
        BinaryBytes(bytes),
        HumanCount(skipped),
    );
    let json = json!({ "objects": objects, "bytes": bytes, "skipped": skipped });
    print_line(&if as_json { to_json(&json)? } else { text });
    Ok(())
}

impl From<BundleError> for CommandError {
    fn from(error: BundleError) -> Self {
        Self::Failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_accepts_duration_day_and_time_with_zone() {
        assert_eq!(since("7d").map(|since| matches!(since, Since::Ago(_))), Ok(true));
        assert_eq!(since("1970-01-02"), Ok(Since::At(86_400_000)));
        assert_eq!(since("1970-01-01T02:00:01+02:00"), Ok(Since::At(1_000)));
        for text in ["", "yesterday", "7", "2026-13-01", "2026-11-20T18:00"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
