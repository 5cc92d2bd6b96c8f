//! The configuration file as values with their lines. Reads the file and parses its TOML; keys and their meaning are up
//! to the sections.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml_edit::{Item, TableLike, TomlError};

use crate::duplicate::{self, Duplicate};
use crate::problem::{Location, Problem};
use crate::units::MIB;

/// Maximum size of a configuration file: twice that of 100,000 subnets. A wrong path, such as a log or a device, then
/// gives a clear message and takes no memory.
const MAX_FILE: u64 = 8 * MIB;

/// A top-level item of the file.
pub(crate) struct Block {
    pub(crate) name: String,
    pub(crate) location: Location,
    pub(crate) body: BlockBody,
}

/// Form of a top-level item.
pub(crate) enum BlockBody {
    /// `[name]`
    Table(Vec<Setting>),
    /// `[[name]]`
    Tables(Vec<(Location, Vec<Setting>)>),
    /// `name = …`
    Value,
}

/// A key and its value, from the file, a flag or a variable.
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) location: Location,
    pub(crate) value: Value,
}

/// Value of a key. Scalars are text: `4096` and `"4096"` are the same number.
pub(crate) enum Value {
    Text(String),
    List(Vec<(Location, String)>),
    /// A form that no setting has, by name.
    Unfit(&'static str),
}

impl Setting {
    /// Returns the value as a list, with text split at commas.
    ///
    /// # Errors
    /// The name of the value's form if it is no list.
    pub(crate) fn into_list(self) -> Result<Vec<(Location, String)>, &'static str> {
        match self.value {
            Value::List(list) => Ok(list),
            Value::Text(text) => Ok(split(&self.location, &text)),
            Value::Unfit(form) => Err(form),
        }
    }
}

/// Splits a list written with commas.
fn split(location: &Location, text: &str) -> Vec<(Location, String)> {
    text.split(',').map(|part| (location.clone(), part.trim().to_owned())).collect()
}

/// Reads the top-level items of a file in their order.
///
/// # Errors
/// A file that cannot be read, or the first syntax error with its line.
pub(crate) fn read(path: &Path) -> Result<Vec<Block>, Problem> {
    let name: Arc<str> = path.display().to_string().into();
    let problem =
        |line, message| Problem { location: Some(Location::File(name.clone(), line)), key: None, message };
    let text = String::from_utf8(read_bytes(path).map_err(|message| problem(None, message))?);
    let text = text.map_err(|error| {
        let (bytes, valid) = (error.as_bytes(), error.utf8_error().valid_up_to());
        problem(Some(line_of(bytes, valid)), not_text(bytes, valid))
    })?;
    parse(&name, &text)
}

/// Parses the top-level items of a file's text in their order.
///
/// # Errors
/// The first syntax error with its line.
pub(crate) fn parse(name: &Arc<str>, text: &str) -> Result<Vec<Block>, Problem> {
    let starts = text.match_indices('\n').map(|(at, _)| at.saturating_add(1)).collect();
    let lines = Lines { file: name, starts };
    let document = toml_edit::Document::parse(text).map_err(|error| lines.problem(text, &error))?;
    let root = document.as_table();
    Ok(root
        .iter()
        .map(|(name, item)| {
            let location = lines.location(root.key(name).and_then(toml_edit::Key::span).or(item.span()));
            Block { name: name.to_owned(), location, body: lines.body(item) }
        })
        .collect())
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => ": check the path",
            ErrorKind::PermissionDenied => ": make it readable for this user, or run the command with sudo",
            _ => "",
        };
        format!("cannot open file: {error}{remedy}")
    })?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot read file: {error}"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err("file is larger than 8MiB: check that the path is that of a configuration".to_owned());
    }
    Ok(bytes)
}

/// Returns the number of the line that has the byte at `position`.
fn line_of(bytes: &[u8], position: usize) -> usize {
    bytes.iter().take(position).filter(|byte| **byte == b'\n').count().saturating_add(1)
}

/// Message about a file whose byte at `position` is not text in UTF-8.
fn not_text(bytes: &[u8], position: usize) -> String {
    let form = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "the file is in UTF-16".to_owned(),
        _ => match bytes.get(position) {
            Some(byte) => format!("byte 0x{byte:02x} is not UTF-8"),
            None => "the text is not UTF-8".to_owned(),
        },
    };
    format!("{form}: save the file as UTF-8")
}

/// Returns the remedy for a syntax error that the parser describes in terms of TOML.
fn remedy(message: &str) -> &'static str {
    for (part, remedy) in [
        ("must be quoted", ": write it in double quotation marks"),
        ("escaped value", ": write two backslashes for one, or the text in single quotation marks"),
        ("invalid boolean", ": write true or false"),
        ("key with no value", ": write key = value"),
    ] {
        if message.contains(part) {
            return remedy;
        }
    }
    ""
}

struct Lines<'a> {
    file: &'a Arc<str>,
    /// Offset of each line except the first.
    starts: Vec<usize>,
}

impl Lines<'_> {
    /// Describes a syntax error. The parser says of a duplicate key only that it is one.
    fn problem(&self, text: &str, error: &TomlError) -> Problem {
        let duplicate = error.span().filter(|_| error.message() == "duplicate key");
        let duplicate = duplicate.and_then(|span| duplicate::find(text, span));
        let (key, message) = match duplicate {
            None => (None, format!("{}{}", error.message(), remedy(error.message()))),
            Some(Duplicate { key, first, remedy }) => {
                (Some(key), format!("duplicate key: line {} has it already: {remedy}", self.number(&first)))
            }
        };
        Problem { location: Some(self.location(error.span())), key, message }
    }

    fn number(&self, span: &Range<usize>) -> usize {
        self.starts.partition_point(|start| *start <= span.start).saturating_add(1)
    }

    fn location(&self, span: Option<Range<usize>>) -> Location {
        Location::File(Arc::clone(self.file), span.map(|span| self.number(&span)))
    }

    fn body(&self, item: &Item) -> BlockBody {
        if let Some(table) = item.as_table_like() {
            return BlockBody::Table(self.entries(table));
        }
        if let Some(tables) = item.as_array_of_tables() {
            return BlockBody::Tables(
                tables.iter().map(|t| (self.location(t.span()), self.entries(t))).collect(),
            );
        }
        let inline = |value: &toml_edit::Value| {
            value.as_inline_table().map(|table| (self.location(value.span()), self.entries(table)))
        };
        match item.as_array().map(|array| array.iter().map(inline).collect::<Option<Vec<_>>>()) {
            Some(Some(tables)) => BlockBody::Tables(tables),
            _ => BlockBody::Value,
        }
    }

    fn entries(&self, table: &dyn TableLike) -> Vec<Setting> {
        table
            .iter()
            .map(|(key, item)| {
                let span = table.key(key).and_then(toml_edit::Key::span).or(item.span());
                Setting { key: key.to_owned(), location: self.location(span), value: self.value(item) }
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
                .map(|value| Ok((self.location(value.span()), scalar(value)?)))
                .collect::<Result<_, _>>()
                .map_or_else(Value::Unfit, Value::List),
            Item::Value(value) => scalar(value).map_or_else(Value::Unfit, Value::Text),
            Item::None | Item::Table(_) | Item::ArrayOfTables(_) => Value::Unfit("a table"),
        }
    }
}
