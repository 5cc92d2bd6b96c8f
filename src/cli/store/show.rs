//! `gupd store ls`: objects as a table for people, or as JSON for programs. Written as they are read, so a million take
//! no memory; a reader that has seen enough and goes away ends it without a complaint.

use std::io::{self, BufWriter, Write};

use indicatif::{BinaryBytes, HumanCount};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::selection::{Selection, age};
use super::{Failure, Place};
use gupd_config::clock::{Clock, UnixMillis};
use gupd_http::key;
use gupd_store::{Inventory, Object};

pub(super) fn run(place: &Place, selection: &Selection, as_json: bool) -> Result<(), Failure> {
    let inventory = Inventory::open(&place.load()?.dir)?;
    let form = if as_json { Form::Json } else { Form::Table };
    list(&inventory, |object, now| selection.has(object, now), form)
}

/// How a list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Table,
    Json,
}

/// Writes the objects that are meant to standard output.
pub(super) fn list(
    inventory: &Inventory,
    is_meant: impl Fn(&Object, UnixMillis) -> bool,
    form: Form,
) -> Result<(), Failure> {
    let now = Clock::system().now();
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut objects, mut bytes) = (0, 0);
    let seen_enough = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Failed(format!("cannot write the list: {error}"))),
        Ok(()) => Ok(true),
    };
    if !seen_enough(begin(&mut out, form))? {
        return Ok(());
    }
    for object in inventory.objects() {
        let object = object?;
        if !is_meant(&object, now) {
            continue;
        }
        let written = match form {
            Form::Table => line(&mut out, &object, now),
            Form::Json => write!(out, "{}{}", if objects == 0 { "\n" } else { ",\n" }, described(&object)),
        };
        if !seen_enough(written)? {
            return Ok(());
        }
        objects += 1;
        bytes += object.len;
    }
    let ended = match form {
        Form::Table => writeln!(out, "{} objects, {}", HumanCount(objects), BinaryBytes(bytes)),
        Form::Json => writeln!(out, "\n]"),
    };
    seen_enough(ended.and_then(|()| out.flush())).map(drop)
}

fn begin(out: &mut impl Write, form: Form) -> io::Result<()> {
    match form {
        Form::Table => {
            writeln!(
                out,
                "{:>11} {:>5} {:>6} {:>6} {:<24} PATH",
                "SIZE", "AGE", "UNUSED", "STATUS", "CONTENT TYPE"
            )
        }
        Form::Json => write!(out, "["),
    }
}

fn line(out: &mut impl Write, object: &Object, now: UnixMillis) -> io::Result<()> {
    let (mark, copied) = object.copy_mark();
    let target = key::split_key(copied).target;
    let space = if mark.is_empty() { "" } else { " " };
    writeln!(
        out,
        "{:>11} {:>5} {:>6} {:>6} {:<24} {mark}{space}{}",
        BinaryBytes(object.len).to_string(),
        rounded(age(object.response_time, now)),
        rounded(age(object.last_used(), now)),
        object.status.as_u16(),
        object.content_type,
        target.escape_debug(),
    )
}

fn described(object: &Object) -> Value {
    let (mark, copied) = object.copy_mark();
    let key::KeyParts { route, binding, target } = key::split_key(copied);
    let time = |millis: UnixMillis| Timestamp::from_millisecond(millis).ok().map(|time| time.to_string());
    json!({
        "route": route,
        "binding": binding,
        "path": target,
        "copy": (!mark.is_empty()).then_some(mark),
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

/// In its largest unit, as a person would say it.
fn rounded(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
