//! The output of a dry run: the number of clients of each group whose view would change, and then the clients.
//! Revisions are numbers; `-` is none.

use std::fmt::Write;

use indicatif::HumanCount;

use crate::table::{self, printable};
use gupd_rollout::dry_run::{DryRun, VisibleChange};
use gupd_rollout::revision::RevisionNumber;

/// Maximum clients in the table; JSON has all.
const MAX_LINES: usize = 1_000;

pub(super) fn table(preview: &DryRun) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(preview, &mut out);
    out.truncate(out.trim_end().len());
    out
}

fn write(preview: &DryRun, out: &mut String) -> std::fmt::Result {
    writeln!(out, "dry run, nothing changed: {}", preview.outcome.effect)?;
    for warning in &preview.outcome.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    let headings = ["GROUP", "CLIENTS", "SEES", "AT ONCE", "IN TIME", "OTHERWISE"];
    let mut groups = table::new(&headings, &[1, 2, 3, 4, 5]);
    for group in &preview.groups {
        let cells = [group.group.to_string(), HumanCount(group.clients).to_string()];
        groups.add_row(cells.into_iter().chain(revisions(&group.visible)));
    }
    writeln!(out, "\n{}", table::text(&groups))?;
    if preview.clients.is_empty() {
        return writeln!(out, "\nNo known client would see another revision.");
    }
    let shown = &preview.clients[..preview.clients.len().min(MAX_LINES)];
    let headings = ["CLIENT", "GROUP", "SEES", "AT ONCE", "IN TIME", "OTHERWISE"];
    let mut clients = table::new(&headings, &[2, 3, 4, 5]);
    for client in shown {
        let cells = [printable(&client.client), client.group.to_string()];
        clients.add_row(cells.into_iter().chain(revisions(&client.visible)));
    }
    writeln!(out, "\n{}", table::text(&clients))?;
    match preview.clients.len() - shown.len() {
        0 => Ok(()),
        more => writeln!(out, "{} more: pass --json to see all", HumanCount(more as u64)),
    }
}

fn revisions(visible: &VisibleChange) -> [String; 4] {
    let of =
        |number: Option<RevisionNumber>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    [visible.before, visible.after, visible.eventually, visible.otherwise].map(of)
}
