//! The configuration file as values that know their line. Owns the reading of the file and its TOML; which keys there
//! are, and what their values mean, is not known here.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml_edit::{Item, TableLike};

use super::problem::{Location, Problem};
use super::units::MIB;

/// Bytes of a configuration file, at most: twice what 100,000 subnets take, so that a wrong path (a log, a device) is a
/// clear line and not memory.
const MAX_FILE: u64 = 8 * MIB;

/// A top-level item of the file.
pub(super) struct Block {
    pub(super) name: String,
    pub(super) place: Location,
    pub(super) body: Body,
}

pub(super) enum Body {
    /// `[name]`
    Table(Vec<Entry>),
    /// `[[name]]`
    Tables(Vec<(Location, Vec<Entry>)>),
    /// `name = …`
    Value,
}

/// A key, what was said for it, and where: in the file, a flag or a variable.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Location,
    pub(super) value: Value,
}

/// Scalars are text, wherever they come from: `4096` and `"4096"` are the same number.
pub(super) enum Value {
    Text(String),
    List(Vec<(Location, String)>),
    /// Nothing a setting can be, by name.
    Unfit(&'static str),
}

impl Entry {
    /// The value as a list: text is split at commas. `Err` says what it is instead.
    pub(super) fn values(self) -> Result<Vec<(Location, String)>, &'static str> {
        match self.value {
            Value::List(list) => Ok(list),
            Value::Text(text) => Ok(split(&self.place, &text)),
            Value::Unfit(what) => Err(what),
        }
    }
}

/// The parts of a list written with commas.
pub(super) fn split(place: &Location, text: &str) -> Vec<(Location, String)> {
    text.split(',').map(|part| (place.clone(), part.trim().to_owned())).collect()
}

/// Reads a file's items in their order.
///
/// # Errors
/// A file that cannot be read, or is not TOML: then the first error of syntax and its line.
pub(super) fn read(path: &Path) -> Result<Vec<Block>, Problem> {
    let name: Arc<str> = path.display().to_string().into();
    text(path)
        .map_err(|message| (None, message))
        .and_then(|text| parse(&name, &text))
        .map_err(|(line, message)| Problem { place: Some(Location::File(name, line)), key: None, message })
}

fn text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MAX_FILE {
        return Err("is larger than 8MiB; is this the configuration?".to_owned());
    }
    Ok(text)
}

// The error is a line, if there is one, and what is wrong there.
fn parse(file: &Arc<str>, text: &str) -> Result<Vec<Block>, (Option<usize>, String)> {
    let starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    let lines = Lines { file, starts };
    let document = toml_edit::Document::parse(text)
        .map_err(|error| (error.span().map(|span| lines.number(&span)), error.message().to_owned()))?;
    let root = document.as_table();
    Ok(root
        .iter()
        .map(|(name, item)| {
            let place = lines.place(root.key(name).and_then(toml_edit::Key::span).or(item.span()));
            Block { name: name.to_owned(), place, body: lines.body(item) }
        })
        .collect())
}

struct Lines<'a> {
    file: &'a Arc<str>,
    /// Where each line but the first begins.
    starts: Vec<usize>,
}

impl Lines<'_> {
    fn number(&self, span: &Range<usize>) -> usize {
        self.starts.partition_point(|start| *start <= span.start) + 1
    }

    fn place(&self, span: Option<Range<usize>>) -> Location {
        Location::File(Arc::clone(self.file), span.map(|span| self.number(&span)))
    }

    fn body(&self, item: &Item) -> Body {
        if let Some(table) = item.as_table_like() {
            return Body::Table(self.entries(table));
        }
        if let Some(tables) = item.as_array_of_tables() {
            return Body::Tables(tables.iter().map(|t| (self.place(t.span()), self.entries(t))).collect());
        }
        let inline = |value: &toml_edit::Value| {
            value.as_inline_table().map(|table| (self.place(value.span()), self.entries(table)))
        };
        match item.as_array().map(|array| array.iter().map(inline).collect::<Option<Vec<_>>>()) {
            Some(Some(tables)) => Body::Tables(tables),
            _ => Body::Value,
        }
    }

    fn entries(&self, table: &dyn TableLike) -> Vec<Entry> {
        table
            .iter()
            .map(|(key, item)| {
                let span = table.key(key).and_then(toml_edit::Key::span).or(item.span());
                Entry { key: key.to_owned(), place: self.place(span), value: self.value(item) }
            })
            .collect()
    }

    fn value(&self, item: &Item) -> Value {
        use toml_edit::Value as Toml;
        let scalar = |value: &Toml| match value {
            Toml::String(text) => Ok(text.value().clone()),
            Toml::Integer(number) => Ok(number.value().to_string()),
            Toml::Float(number) => Ok(number.value().to_string()),
            Toml::Boolean(yes) => Ok(yes.value().to_string()),
            Toml::Datetime(time) => Ok(time.value().to_string()),
            Toml::Array(_) => Err("a list"),
            Toml::InlineTable(_) => Err("a table"),
        };
        match item {
            Item::Value(Toml::Array(array)) => array
                .iter()
                .map(|value| Ok((self.place(value.span()), scalar(value)?)))
                .collect::<Result<_, _>>()
                .map_or_else(Value::Unfit, Value::List),
            Item::Value(value) => scalar(value).map_or_else(Value::Unfit, Value::Text),
            Item::None | Item::Table(_) | Item::ArrayOfTables(_) => Value::Unfit("a table"),
        }
    }
}
