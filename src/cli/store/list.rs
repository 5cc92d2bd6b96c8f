//! `gupd store ls`: objects as a table or as JSON. Each is written as it is read, so a million objects take no memory.
//! A reader that closes the pipe ends the list without an error.

use std::io::{self, BufWriter, Write};

use indicatif::BinaryBytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::selection::Selection;
use super::{CommandError, StoreLocation};
use gupd_cache::age;
use gupd_config::Quantity;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_guard::log::escape_invisible;
use gupd_http::key;
use gupd_store::{Inventory, Object};

pub(super) fn run(
    location: &StoreLocation,
    selection: &Selection,
    as_json: bool,
) -> Result<(), CommandError> {
    let inventory = location.open(selection)?;
    let format = if as_json { ListFormat::Json } else { ListFormat::Table };
    let selection = selection.conditions();
    print_list(&inventory, |object, now| selection.matches(object, now), format)
}

/// Format of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListFormat {
    Table,
    Json,
}

/// Writes the objects that `is_listed` selects to standard output.
pub(super) fn print_list(
    inventory: &Inventory,
    is_listed: impl Fn(&Object, UnixMillis) -> bool,
    format: ListFormat,
) -> Result<(), CommandError> {
    let now = Clock::system().now();
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut objects, mut bytes) = (0, 0);
    let is_open = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CommandError::Failed(format!("standard output: {error}"))),
        Ok(()) => Ok(true),
    };
    if !is_open(write_start(&mut out, format))? {
        return Ok(());
    }
    for object in inventory.objects() {
        let object = object?;
        if !is_listed(&object, now) {
            continue;
        }
        let written = match format {
            ListFormat::Table => write_line(&mut out, &object, now),
            ListFormat::Json => {
                let (before, json) = (if objects == 0 { "\n" } else { ",\n" }, to_json(&object).to_string());
                write!(out, "{before}{}", escape_invisible(&json))
            }
        };
        if !is_open(written)? {
            return Ok(());
        }
        objects += 1;
        bytes += object.len;
    }
    let ended = match format {
        ListFormat::Table => writeln!(out, "{}, {}", Quantity(objects, "object"), BinaryBytes(bytes)),
        ListFormat::Json => writeln!(out, "\n]"),
    };
    is_open(ended.and_then(|()| out.flush())).map(drop)
}

fn write_start(out: &mut impl Write, format: ListFormat) -> io::Result<()> {
    match format {
        ListFormat::Table => {
            writeln!(
                out,
                "{:>11} {:>5} {:>6} {:>6} {:<24} PATH",
                "SIZE", "AGE", "UNUSED", "STATUS", "CONTENT TYPE"
            )
        }
        ListFormat::Json => write!(out, "["),
    }
}

fn write_line(out: &mut impl Write, object: &Object, now: UnixMillis) -> io::Result<()> {
    let (mark, copied) = object.copy_mark();
    let target = key::split_key(copied).target;
    let space = if mark.is_empty() { "" } else { " " };
    writeln!(
        out,
        "{:>11} {:>5} {:>6} {:>6} {:<24} {mark}{space}{}",
        BinaryBytes(object.len).to_string(),
        format_age(age(object.response_time, now)),
        format_age(age(object.last_used(), now)),
        object.status.as_u16(),
        object.content_type,
        target.escape_debug(),
    )
}

fn to_json(object: &Object) -> Value {
    let (mark, copied) = object.copy_mark();
    let key::KeyParts { route, binding, target } = key::split_key(copied);
    let time = |millis: UnixMillis| Timestamp::from_millisecond(millis).ok().map(|time| time.to_string());
    json!({
        "route": route,
        "binding": binding,
        "path": target,
        "copy": object.is_copy().then_some(mark),
        "held": object.is_held(),
        "selecting": object.selecting,
        "status": object.status.as_u16(),
        "content_type": &*object.content_type,
        "upstream": &*object.upstream,
        "bytes": object.len,
        "sha256": object.blob.to_string(),
        "response_time": time(object.response_time),
        "last_used": time(object.last_used()),
    })
}

/// Formats a duration in its largest unit.
fn format_age(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
