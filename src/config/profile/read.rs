//! Reading of a profile file. Every problem is recorded with its line; unknown keys and sections are problems.

use std::sync::Arc;

use http::{HeaderName, header};

use super::client::read_clients;
use super::format::read_formats;
use super::origin::read_origin;
use super::vector::read_vectors;
use super::{CERTAINTIES, Certainty, DIGEST_LISTS, FORMS, HostPattern, PathRule, PayloadForm, Profile};
use super::{QuerySelection, RevisionPattern};
use crate::Class;
use crate::content::{CLASSES, ContentGuid, guid};
use crate::defaults;
use crate::document::{Document, Section};
use crate::file::Block;
use crate::pass::read_pass;
use crate::pattern;
use crate::problem::{Location, Problem, Problems};
use crate::reader::{boolean, choice, label, line, number, parameter, time_within};

/// Maximum number of fields that select a response.
const MAX_KEY_FIELDS: usize = 4;

/// Request fields that never select content.
const UNFIT_FIELDS: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// A profile of a file, and the names of the profiles that it includes.
#[derive(Clone, Debug)]
pub(super) struct ProfileFile {
    pub(super) profile: Profile,
    pub(super) includes: Vec<String>,
    /// Location of its name.
    pub(super) location: Location,
}

impl ProfileFile {
    /// Reads the items of a file.
    pub(super) fn read(file: &Arc<str>, blocks: Vec<Block>) -> Result<Self, Problems> {
        let mut document = Document::of_blocks(blocks);
        let profile = read_profile(&mut document, file);
        let problems = match document.finish() {
            Ok(_) => match profile {
                Some(profile) => return Ok(profile),
                None => {
                    Problems::from(Problem { location: None, key: None, message: "no profile".to_owned() })
                }
            },
            Err(problems) => problems,
        };
        // Something that is missing everywhere is missing in this file.
        Err(problems.with_location(&Location::File(Arc::clone(file), None)))
    }
}

fn read_profile(document: &mut Document, file: &Arc<str>) -> Option<ProfileFile> {
    let mut s = document.take_section("profile");
    let name = s.read_required("name", label);
    let title = s.read_required("title", line);
    let includes = s.read_list("include", label).unwrap_or_default();
    let refuses_ambiguous_paths = s.read("refuse_ambiguous_paths", boolean).unwrap_or_default();
    let pass = read_pass(&mut s).unwrap_or_default();
    let location = s.location().cloned().unwrap_or_else(|| Location::File(Arc::clone(file), None));
    document.close(s);
    let paths = read_paths(document);
    let revisions = read_revisions(document);
    let origin = read_origin(document);
    let guids = read_guids(document);
    let formats = read_formats(document);
    let clients = read_clients(document);
    let vectors = read_vectors(document);
    let (name, title) = (name?, title?);
    let profile = Profile {
        name,
        title,
        refuses_ambiguous_paths,
        pass,
        paths,
        revisions,
        origin,
        guids,
        formats,
        clients,
        vectors,
    };
    Some(ProfileFile { profile, includes, location })
}

fn read_paths(document: &mut Document) -> Vec<PathRule> {
    let mut paths: Vec<PathRule> = Vec::new();
    for mut s in document.take_tables("path", None) {
        let read = read_path(&mut s);
        if let Some(rule) = read {
            if paths.iter().any(|other| other.pattern == rule.pattern && other.hosts == rule.hosts) {
                s.refuse(
                    "pattern",
                    "is the pattern of an earlier table: the first that matches wins, remove one",
                );
            }
            paths.push(rule);
        }
        document.close(s);
    }
    paths
}

fn read_path(s: &mut Section) -> Option<PathRule> {
    let pattern = s.read_required("pattern", path_pattern);
    let hosts = s.read_list("hosts", HostPattern::parse).unwrap_or_default();
    let class = s.read_required("class", |text| choice(text, &CLASSES));
    let is_closed = s.read("closed", boolean).unwrap_or_default();
    let content_type = s.read("content_type", label);
    let form = s.read("form", |text| choice(text, &FORMS));
    let stamp_digits = s.read("stamp_digits", |text| number(text, defaults::STAMP_DIGITS));
    let negative = s.read("negative", |text| time_within(text, defaults::GENERIC_NEGATIVE));
    let key_query = read_key_query(s);
    let key_fields = s.read_list("key_fields", key_field).unwrap_or_default();
    if key_fields.len() > MAX_KEY_FIELDS {
        s.refuse(
            "key_fields",
            format!("more than {MAX_KEY_FIELDS} fields: each costs every lookup a comparison"),
        );
    }
    let digests = s.read("digests", |text| choice(text, &DIGEST_LISTS));
    let certainty = read_certainty(s);
    if digests.is_some() && class.is_some_and(|class| class != Class::Catalog) {
        s.refuse("digests", "is set for a class other than catalog: remove it");
    }
    for (key, is_set) in [("form", form.is_some()), ("stamp_digits", stamp_digits.is_some())] {
        if is_set && class.is_some_and(|class| class != Class::Payload) {
            s.refuse(key, "is set for a class other than payload: remove it");
        }
    }
    if class == Some(Class::Private)
        && (negative.is_some() || key_query != QuerySelection::All || !key_fields.is_empty())
    {
        s.refuse("class", "private paths are never stored: remove negative, key_query and key_fields");
    }
    if is_closed && class.is_some_and(|class| class != Class::Private) {
        s.refuse("closed", "is set for a class other than private: closed paths are never stored");
    }
    Some(PathRule {
        pattern: pattern?,
        hosts,
        class: class?,
        is_closed,
        content_type,
        form: form.unwrap_or(PayloadForm::Other),
        stamp_digits,
        negative,
        key_query,
        key_fields,
        digests,
        certainty: certainty?,
    })
}

fn read_key_query(s: &mut Section) -> QuerySelection {
    match s.read_list("key_query", parameter) {
        None => QuerySelection::All,
        Some(names) if names == ["all"] => QuerySelection::All,
        Some(names) if names == ["none"] => QuerySelection::Only(Vec::new()),
        Some(names) => {
            if names.iter().any(|name| matches!(name.as_str(), "all" | "none")) {
                s.refuse(
                    "key_query",
                    "has all or none beside names: write \"all\", \"none\" or a list of names",
                );
            }
            if names.iter().enumerate().any(|(at, name)| names.iter().take(at).any(|other| other == name)) {
                s.refuse("key_query", "repeats a name: list each once");
            }
            QuerySelection::Only(names)
        }
    }
}

pub(super) fn read_certainty(s: &mut Section) -> Option<Certainty> {
    s.read_required("certainty", |text| choice(text, &CERTAINTIES))
}

fn read_revisions(document: &mut Document) -> Vec<RevisionPattern> {
    let mut revisions = Vec::new();
    for mut s in document.take_tables("revision", None) {
        revisions.extend(s.read_required("pattern", RevisionPattern::parse));
        read_certainty(&mut s);
        document.close(s);
    }
    revisions
}

fn read_guids(document: &mut Document) -> Vec<ContentGuid> {
    let mut guids: Vec<ContentGuid> = Vec::new();
    for mut s in document.take_tables("content_type", None) {
        let name = s.read_required("name", label);
        let guid = s.read_required("guid", guid);
        read_certainty(&mut s);
        if let (Some(name), Some(guid)) = (name, guid) {
            if guids.iter().any(|other| other.guid == guid) {
                s.refuse("guid", "is the GUID of an earlier table: remove one");
            }
            guids.push(ContentGuid { guid, name });
        }
        document.close(s);
    }
    guids
}

fn key_field(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text
        .parse()
        .map_err(|_| format!("{text:?} is not the name of a request field: write it like User-Agent"))?;
    if UNFIT_FIELDS.contains(&name) {
        return Err(format!("{text:?} cannot select content: credentials, ranges and conditions never do"));
    }
    Ok(name)
}

fn path_pattern(text: &str) -> Result<globset::Glob, String> {
    if !text.starts_with('/') && !text.starts_with("**/") {
        return Err(format!("pattern {text:?} matches no path: begin it with / or **/"));
    }
    pattern::compile(text).map_err(|error| format!("invalid pattern {text:?}: {}", error.kind()))
}
