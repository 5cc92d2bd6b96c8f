//! Test vectors of a profile: requests with their expected results. `policy` evaluates them as the relay does.

use std::fmt;

use super::format::hex_bytes;
use super::{FORMS, PayloadForm};
use crate::Class;
use crate::content::CLASSES;
use crate::document::{Document, Section};
use crate::problem::Location;
use crate::reader::{boolean, choice, host, label};

/// A request with its expected result. Results that are not set are not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestVector {
    /// Line in the file.
    pub line: Option<usize>,
    /// Path, as a client sends it.
    pub path: String,
    /// Query, if there is one.
    pub query: Option<String>,
    /// Host of the route.
    pub host: Option<String>,
    /// Expected class.
    pub class: Class,
    /// Whether the path is closed to clients.
    pub is_closed: Option<bool>,
    /// Expected content type.
    pub content_type: Option<String>,
    /// Expected form.
    pub form: Option<PayloadForm>,
    /// Expected revision number; `none` for a path without one.
    pub revision: Option<String>,
    /// Expected form of the list of digests; `none` without one.
    pub digests: Option<String>,
    /// First bytes of a response.
    pub beginning: Option<Vec<u8>>,
    /// Whether these can be the file; `true` or `false`.
    pub plausible: Option<bool>,
    /// Expected origin server: a host, `none` or `refused`.
    pub origin: Option<String>,
    /// Expected request fields of the key, in lower case and separated by commas; empty for none.
    pub key_fields: Option<String>,
    /// Expected query of the key; empty for none.
    pub key_query: Option<String>,
}

/// A result that differs from the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorFailure {
    /// Line of the vector.
    pub line: Option<usize>,
    /// Requested path.
    pub path: String,
    /// Result that differs.
    pub result: &'static str,
    /// Its expected value.
    pub expected: String,
    /// Its value.
    pub found: String,
}

impl fmt::Display for VectorFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, result, expected, found, .. } = self;
        write!(f, "test {path:?}: {result} is {found}, expected {expected}: correct the rule or the test")
    }
}

pub(super) fn read_vectors(document: &mut Document) -> Vec<TestVector> {
    let mut vectors = Vec::new();
    for mut s in document.take_tables("test", None) {
        vectors.extend(read_vector(&mut s));
        document.close(s);
    }
    vectors
}

fn read_vector(s: &mut Section) -> Option<TestVector> {
    let target = s.read_required("request", target);
    let host = s.read("host", host);
    let class = s.read_required("class", |text| choice(text, &CLASSES));
    let is_closed = s.read("closed", boolean);
    let content_type = s.read("content_type", label);
    let form = s.read("form", |text| choice(text, &FORMS));
    let revision = s.read("revision", |text| Ok(text.to_owned()));
    let digests = s.read("digests", |text| Ok(text.to_owned()));
    let beginning = s.read("beginning", hex_bytes);
    let plausible = s.read("plausible", boolean);
    if plausible.is_some() != beginning.is_some() {
        s.refuse("beginning", "is set without plausible, or the reverse: set both or neither");
    }
    let origin = s.read("origin", |text| Ok(text.to_owned()));
    let key_fields = s.read("key_fields", |text| Ok(text.to_ascii_lowercase()));
    let key_query = s.read("key_query", |text| Ok(text.to_owned()));
    let line = match s.location() {
        Some(Location::File(_, line)) => *line,
        _ => None,
    };
    let (path, query) = target?;
    Some(TestVector {
        line,
        path,
        query,
        host,
        class: class?,
        is_closed,
        content_type,
        form,
        revision,
        digests,
        beginning,
        plausible,
        origin,
        key_fields,
        key_query,
    })
}

/// Splits a request target into path and query.
fn target(text: &str) -> Result<(String, Option<String>), String> {
    if !text.starts_with('/') || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("{text:?} is not a request target: write it like /path/file?query"));
    }
    Ok(match text.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (text.to_owned(), None),
    })
}
