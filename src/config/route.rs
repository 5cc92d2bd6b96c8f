//! `[[route]]`: path prefixes, the upstreams they go to and the rules that class their paths. A configuration without
//! routes has one for all paths, to every upstream.

use std::sync::Arc;

use http::uri::Scheme;

use crate::access::{AccessSettings, read_access};
use crate::content::TypeNames;
use crate::defaults;
use crate::document::{Document, Section};
use crate::guard::{FALLBACKS, Fallback};
use crate::pass::{PassRules, read_pass};
use crate::profile::{Profile, Profiles};
use crate::reader::{choice, count, host, name, size};
use crate::upstream::KnownUpstreams;
use crate::verify::{VERIFICATIONS, Verification, VerifySettings};

/// `[[route]]`
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSettings {
    /// Unique name in keys, logs and metrics; host and prefix by default.
    pub name: String,
    /// Starts with `/` and ends without, except for `/` itself. Matches whole path segments, case-insensitive.
    pub prefix: String,
    /// Requests with this `Host` only (without port, lower case).
    pub host: Option<String>,
    /// Indices into [`Config::upstreams`](crate::Config::upstreams), by priority. Never empty.
    pub upstreams: Vec<usize>,
    /// Rules that class the paths of this route.
    pub profile: Arc<Profile>,
    /// Response while no worker serves, if not `guard.answer`.
    pub fallback: Option<Fallback>,
    /// Content types that are neither fetched nor served here.
    pub deny_download: Vec<String>,
    /// Clients that are served here, of those that the server serves.
    pub access: AccessSettings,
    /// Requests that reach the upstreams, if not those of the profile.
    pub pass: Option<PassRules>,
    /// Maximum bytes of a request body, 0 to 1 TiB.
    pub max_upload: u64,
    /// Maximum number of requests that pass through uncached at once, 1 to 65,536.
    pub max_pass_through: usize,
    /// Proof that its content needs.
    pub verification: Verification,
}

impl RouteSettings {
    /// A route with the defaults.
    pub(crate) fn new(prefix: &str, upstreams: Vec<usize>, profile: Arc<Profile>) -> Self {
        Self {
            name: prefix.to_owned(),
            prefix: prefix.to_owned(),
            host: None,
            upstreams,
            profile,
            fallback: None,
            deny_download: Vec::new(),
            access: AccessSettings::default(),
            pass: None,
            max_upload: defaults::MAX_UPLOAD.default,
            max_pass_through: defaults::MAX_PASS_THROUGH.default,
            verification: Verification::Off,
        }
    }

    /// Returns true if the prefix contains this path.
    pub(crate) fn contains(&self, path: &str) -> bool {
        let prefix = self.prefix.trim_end_matches('/');
        path.split_at_checked(prefix.len())
            .is_some_and(|(begin, rest)| begin.eq_ignore_ascii_case(prefix) && rest.starts_with('/'))
    }
}

pub(crate) fn read_routes(
    document: &mut Document,
    known: KnownUpstreams<'_>,
    types: &TypeNames,
    profiles: &Profiles,
    verify: &VerifySettings,
) -> Vec<RouteSettings> {
    let tables = document.take_tables("route", None);
    let all_upstreams: Vec<usize> = (0..known.list.len()).collect();
    if tables.is_empty() {
        return vec![RouteSettings::new("/", all_upstreams, profiles.default_profile())];
    }
    let mut routes: Vec<RouteSettings> = Vec::with_capacity(tables.len());
    for mut s in tables {
        let prefix = s.read_required("prefix", prefix);
        let host = s.read("host", host);
        let given_name = s.read("name", name);
        let profile = s.read("profile", |text| profile(text, profiles));
        let profile = profile.unwrap_or_else(|| profiles.default_profile());
        let fallback = s.read("fallback", |text| choice(text, &FALLBACKS));
        let upstreams = s.read_list("upstreams", |text| known.find(text));
        let verification = s.read("verify", |text| choice(text, &VERIFICATIONS)).unwrap_or_default();
        let deny_download = types.read_list(&mut s, "deny_download");
        let (access, pass) = (read_access(&mut s), read_pass(&mut s));
        let max_upload = size(&mut s, "max_upload", defaults::MAX_UPLOAD);
        let max_pass_through = count(&mut s, "max_pass_through", defaults::MAX_PASS_THROUGH);
        if let Some(prefix) = prefix {
            let name =
                given_name.unwrap_or_else(|| format!("{}{prefix}", host.as_deref().unwrap_or_default()));
            let upstreams = upstreams.unwrap_or_else(|| all_upstreams.clone());
            let route = RouteSettings {
                name,
                host,
                fallback,
                deny_download,
                access,
                pass,
                max_upload,
                max_pass_through,
                verification,
                ..RouteSettings::new(&prefix, upstreams, profile)
            };
            check_route(&mut s, &route, &routes);
            check_verification(&mut s, &route, known, verify);
            routes.push(route);
        }
        document.close(s);
    }
    routes
}

// The name is part of the cache key: two routes of one name would share objects.
fn check_route(s: &mut Section, route: &RouteSettings, others: &[RouteSettings]) {
    let has_same_prefix =
        |other: &&RouteSettings| other.host == route.host && other.prefix.eq_ignore_ascii_case(&route.prefix);
    if let Some(other) = others.iter().find(has_same_prefix) {
        let host = route.host.as_deref().map(|host| format!(" for host {host}")).unwrap_or_default();
        s.refuse(
            "prefix",
            format!("duplicate prefix {:?}{host}: route {:?} already has it", route.prefix, other.name),
        );
    } else if others.iter().any(|other| other.name == route.name) {
        s.refuse("name", format!("duplicate name {:?}: give each route its own name", route.name));
    }
    for (mark, marked) in [('@', "copies"), ('!', "held content")] {
        if route.name.starts_with(mark) {
            let remedy = format!("{:?} starts with {mark}, which marks cache keys of {marked}", route.name);
            s.refuse("name", format!("{remedy}: use another name"));
        }
    }
    if let Some((at, _)) = route
        .upstreams
        .iter()
        .enumerate()
        .find(|(i, upstream)| route.upstreams.iter().take(*i).any(|other| other == *upstream))
    {
        s.refuse("upstreams", format!("entry {} repeats an upstream: list each once", at.saturating_add(1)));
    }
}

// Content without a proof would never be stored, which a forgotten setting must not cause unseen.
fn check_verification(
    s: &mut Section,
    route: &RouteSettings,
    known: KnownUpstreams<'_>,
    verify: &VerifySettings,
) {
    if !route.verification.needs_proof() {
        return;
    }
    if verify.roots.is_empty() && route.profile.paths.iter().any(|rule| rule.digests.is_some()) {
        s.warn("verify", "without verify.roots no signed catalog can be proven, and none is stored");
    }
    let upstreams = route.upstreams.iter().filter_map(|at| known.list.get(*at));
    let plain = upstreams.into_iter().find(|upstream| upstream.url.scheme() == Some(&Scheme::HTTP));
    let is_listed = route.profile.paths.iter().any(|rule| rule.digests.is_some());
    // Content of revisions is that of managers, which no catalog lists.
    if let Some(plain) = plain.filter(|_| !is_listed || !route.profile.revisions.is_empty()) {
        let (name, profile) = (&plain.name, &route.profile.name);
        s.warn(
            "verify",
            format!(
                "upstream {name:?} is http, and profile {profile} has content that no signed catalog lists: it is not \
                 stored: use https, or another route for it"
            ),
        );
    }
}

// Kept without its last slash: `/content/` and `/content` match the same whole segments.
fn prefix(text: &str) -> Result<String, String> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err(format!("{text:?} does not start with /: write it like /content"));
    };
    if rest.is_empty() {
        return Ok(text.to_owned());
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(format!("{text:?} has an empty, \".\" or \"..\" segment, which no request path has"));
    }
    if !rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%' | b'*' | b'\\')) {
        return Err(format!(
            "{text:?} is not a path prefix: write it like /content, without ?, #, %, * or spaces"
        ));
    }
    Ok(format!("/{rest}"))
}

fn profile(text: &str, profiles: &Profiles) -> Result<Arc<Profile>, String> {
    profiles.find(text).cloned().ok_or_else(|| {
        let names: Vec<_> = profiles.iter().map(|profile| profile.name.as_str()).collect();
        format!("invalid value {text:?}: use one of {}", names.join(", "))
    })
}
