//! The first of two equal keys or sections of a file. The parser reports the second, and the text before its line is
//! valid, so it is parsed again to find the first.

use std::ops::Range;

use toml_edit::{Document, Item, Key, TableLike};

/// A key or section that a file has twice.
pub(crate) struct Duplicate {
    /// Its name, such as `store.quota`.
    pub(crate) key: String,
    /// Position of the first one.
    pub(crate) first: Range<usize>,
    pub(crate) remedy: &'static str,
}

/// Returns the duplicate with its second key at `second`; `None` if the first is on the same line.
pub(crate) fn find(text: &str, second: Range<usize>) -> Option<Duplicate> {
    let name = text.get(second.clone())?.trim_matches(['"', '\'']);
    let line_start = text.get(..second.start)?.rfind('\n').map_or(0, |at| at.saturating_add(1));
    let (before, line) = text.split_at_checked(line_start)?;
    let document = Document::parse(before).ok()?;
    let root = document.as_table();
    if let Some(form) = header(line.lines().next()?) {
        let (section, item) = root.get_key_value(name)?;
        return Some(Duplicate {
            key: name.to_owned(),
            first: start(section, item)?,
            remedy: form.remedy(item),
        });
    }
    let section = before.lines().rev().find_map(|line| Some(header_name(line, header(line)?)));
    let (table, key): (&dyn TableLike, _) = match section {
        None => (root, name.to_owned()),
        Some(section) => (table(root.get(section)?)?, format!("{section}.{name}")),
    };
    let (first, item) = table.get_key_value(name)?;
    Some(Duplicate { key, first: start(first, item)?, remedy: "remove one of the two lines" })
}

/// Form of a section's line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderForm {
    Table,
    List,
}

impl HeaderForm {
    /// Returns what to do about a second section, of this form, of the name of `first`.
    fn remedy(self, first: &Item) -> &'static str {
        match (self, first.is_array_of_tables()) {
            (Self::Table, true) => "write this line with two brackets, as a further one of the list",
            (Self::List, _) => "write this line with one bracket, and move its settings there",
            (Self::Table, false) => "move these settings there, and remove this line",
        }
    }
}

/// Returns the form of a section's line. Elements of a list over several lines are none: they hold no bare word.
fn header(line: &str) -> Option<HeaderForm> {
    let line = line.trim();
    let form = if line.starts_with("[[") { HeaderForm::List } else { HeaderForm::Table };
    let name = header_name(line, form);
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (line.starts_with('[') && !name.is_empty() && name.bytes().all(is_bare)).then_some(form)
}

fn header_name(line: &str, form: HeaderForm) -> &str {
    let brackets = if form == HeaderForm::List { 2 } else { 1 };
    let rest = line.trim().get(brackets..).unwrap_or_default();
    rest.split(']').next().unwrap_or_default().trim()
}

/// Returns the table that a key after the last section's line belongs to.
fn table(item: &Item) -> Option<&dyn TableLike> {
    match item.as_array_of_tables() {
        Some(tables) => tables.iter().last().map(|table| table as &dyn TableLike),
        None => item.as_table_like(),
    }
}

/// Returns the position of a key or section. A list of tables has that of its first table.
fn start(key: &Key, item: &Item) -> Option<Range<usize>> {
    key.span().or_else(|| item.span())
}
