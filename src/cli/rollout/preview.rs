//! The output of a dry run: the number of clients of each group whose view would change, and then the clients.
//! Revisions are numbers; `-` is none.

use std::fmt::Write;

use indicatif::HumanCount;

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
    let width = width("GROUP", preview.groups.iter().map(|group| &*group.group));
    writeln!(out, "\n{:<width$}  {:>9}  {}", "GROUP", "CLIENTS", headings())?;
    for group in &preview.groups {
        let clients = HumanCount(group.clients).to_string();
        writeln!(out, "{:<width$}  {clients:>9}  {}", group.group, columns(&group.visible))?;
    }
    if preview.clients.is_empty() {
        return writeln!(out, "\nNo known client would see another revision.");
    }
    let shown = &preview.clients[..preview.clients.len().min(MAX_LINES)];
    let group_width = self::width("GROUP", shown.iter().map(|client| &*client.group));
    let width = self::width("CLIENT", shown.iter().map(|client| client.client.as_str()));
    writeln!(out, "\n{:<width$}  {:<group_width$}  {}", "CLIENT", "GROUP", headings())?;
    for client in shown {
        let name = &client.client;
        writeln!(out, "{name:<width$}  {:<group_width$}  {}", client.group, columns(&client.visible))?;
    }
    match preview.clients.len() - shown.len() {
        0 => Ok(()),
        more => writeln!(out, "{} more: pass --json to see all", HumanCount(more as u64)),
    }
}

fn width<'a>(heading: &str, names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|name| name.chars().count()).chain([heading.len()]).max().unwrap_or(0)
}

fn headings() -> String {
    format!("{:>8}  {:>8}  {:>8}  {:>9}", "SEES", "AT ONCE", "IN TIME", "OTHERWISE")
}

fn columns(visible: &VisibleChange) -> String {
    let of =
        |number: Option<RevisionNumber>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let [sees, would, in_time, otherwise] =
        [visible.before, visible.after, visible.eventually, visible.otherwise].map(of);
    format!("{sees:>8}  {would:>8}  {in_time:>8}  {otherwise:>9}")
}
