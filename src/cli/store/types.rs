//! `gupd store ls --by-type`: the sums of each content type, as a table or as JSON. The most bytes come first; copies
//! of catalogs count with the others, because they take room too.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;

use super::selection::Selection;
use super::{CommandError, StoreLocation};
use crate::table::{self, printable};
use crate::{print_line, to_json};
use gupd_config::clock::Clock;

/// The objects of one content type.
#[derive(Debug, Serialize)]
struct TypeSums {
    content_type: String,
    objects: u64,
    bytes: u64,
}

pub(super) fn run(
    location: &StoreLocation,
    selection: &Selection,
    as_json: bool,
) -> Result<(), CommandError> {
    let inventory = location.open(selection)?;
    let (selection, now) = (selection.conditions(), Clock::system().now());
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for object in inventory.objects() {
        let object = object?;
        if selection.matches(&object, now) {
            let (objects, bytes) = sums.entry(object.content_type.to_string()).or_default();
            (*objects, *bytes) = (*objects + 1, *bytes + object.len);
        }
    }
    let types =
        sums.into_iter().map(|(content_type, (objects, bytes))| TypeSums { content_type, objects, bytes });
    let mut types: Vec<_> = types.collect();
    types.sort_by_key(|sums| Reverse(sums.bytes));
    print_line(&if as_json { to_json(&types)? } else { text(&types) });
    Ok(())
}

fn text(types: &[TypeSums]) -> String {
    let mut table = table::new(&["CONTENT TYPE", "OBJECTS", "BYTES"], &[1, 2]);
    for TypeSums { content_type, objects, bytes } in types {
        let row =
            [printable(content_type), HumanCount(*objects).to_string(), BinaryBytes(*bytes).to_string()];
        table.add_row(row);
    }
    table::text(&table)
}
