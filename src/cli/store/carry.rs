//! `gupd store export` and `import`: content carried to a site by hand instead of by the line.

use std::path::Path;

use indicatif::{BinaryBytes, HumanCount};
use jiff::{Timestamp, civil, tz::TimeZone};

use super::{Failure, Opened, Place, bar};
use crate::answer;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::units::Time;
use gupd_store::Inventory;
use gupd_store::bundle::{self, BundleError};

/// From when on objects are exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    At(UnixMillis),
    Ago(Time),
}

/// A duration, a day (its begin in UTC), or a moment with its zone.
pub(super) fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = text.parse() {
        return Ok(Since::Ago(ago));
    }
    // A day alone: a time without its zone would be half believed.
    let is_day = text.len() == "2026-11-20".len();
    let day = || text.parse::<civil::Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp());
    match text.parse::<Timestamp>().ok().or_else(|| is_day.then(day)?) {
        Some(time) => Ok(Since::At(time.as_millisecond())),
        None => Err(format!("{text:?} is no time; write it like 7d, 2026-11-20 or 2026-11-20T18:00:00Z")),
    }
}

pub(super) fn export(place: &Place, since: Option<Since>, output: &Path) -> Result<(), Failure> {
    let now = Clock::system().now();
    let since = match since {
        None => UnixMillis::MIN,
        Some(Since::At(time)) => time,
        Some(Since::Ago(Time(ago))) => now.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)),
    };
    let inventory = Inventory::open(&place.load()?.dir)?;
    let bar = bar("exporting", inventory.bytes()?);
    let exported = bundle::export(&inventory, since, now, output, |bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    answer(&format!(
        "exported {} objects, {} in {} blobs, to {}",
        HumanCount(exported.objects),
        BinaryBytes(exported.bytes),
        HumanCount(exported.blobs),
        output.display()
    ));
    let left_out = exported
        .damaged
        .iter()
        .map(|blob| format!("blob {blob} is damaged and was left out; run gupd store verify"));
    match left_out.collect::<Vec<_>>() {
        lines if lines.is_empty() => Ok(()),
        lines => Err(Failure::Failed(lines.join("\n"))),
    }
}

pub(super) fn import(place: &Place, path: &Path) -> Result<(), Failure> {
    let (config, now) = (place.load()?, Clock::system().now());
    // A relay that has the store is told of before the bundle is read, a new store begun only after.
    let early = if config.dir.exists() { Some(Opened::open(&config)?) } else { None };
    // As good as its content's size, which is compressed already.
    let verifying = bar("verifying", std::fs::metadata(path).map_or(0, |file| file.len()));
    let contents = bundle::check(path, config.quota, now, |bytes| verifying.inc(bytes))?;
    verifying.finish_and_clear();
    let Opened { store, runtime } = early.map_or_else(|| Opened::open(&config), Ok)?;
    let importing = bar("importing", contents.bytes);
    let imported =
        bundle::import(&store, runtime.handle(), path, config.quota, now, |bytes| importing.inc(bytes))?;
    importing.finish_and_clear();
    answer(&format!(
        "imported {} objects, {}; {} were there already",
        HumanCount(imported.objects),
        BinaryBytes(imported.bytes),
        HumanCount(imported.skipped),
    ));
    Ok(())
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        Self::Failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_a_day_or_a_moment() {
        assert_eq!(since("7d").map(|since| matches!(since, Since::Ago(_))), Ok(true));
        assert_eq!(since("1970-01-02"), Ok(Since::At(86_400_000)));
        assert_eq!(since("1970-01-01T02:00:01+02:00"), Ok(Since::At(1_000)));
        for text in ["", "yesterday", "7", "2026-13-01", "2026-11-20T18:00"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
