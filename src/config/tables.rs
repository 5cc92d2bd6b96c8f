//! Reads the tables `[[upstream]]`, `[[route]]`, `[[content_type]]` and `[[rule]]` into their types. Every problem is
//! recorded in the document; a table with a problem is left out, and what only that would make wrong elsewhere is
//! not reported.

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

use super::document::{Document, Section};
use super::guard::FALLBACKS;
use super::network::warn_above;
use super::settings::{choice, number, path};
use super::tls::trust;
use super::{
    Class, ContentMatch, ContentType, HealthSettings, HttpProxy, Profile, RouteSettings, Rule,
    UpstreamSettings, WanSettings, defaults, denials, limit, pattern,
};

/// Bytes of a name that becomes a metric's label.
const MAX_NAME: usize = 128;

const PROFILES: [(&str, Profile); 4] = [
    ("auto", Profile::Auto),
    ("sep", Profile::Sep),
    ("liveupdate", Profile::LiveUpdate),
    ("generic", Profile::Generic),
];
const CLASSES: [(&str, Class); 4] = [
    (Class::Payload.as_str(), Class::Payload),
    (Class::Catalog.as_str(), Class::Catalog),
    (Class::Private.as_str(), Class::Private),
    (Class::Generic.as_str(), Class::Generic),
];

pub(super) fn upstreams(
    document: &mut Document,
    wan: &WanSettings,
    health: &HealthSettings,
) -> Vec<UpstreamSettings> {
    let tables = document.tables("upstream", Some("url"));
    let mut upstreams: Vec<UpstreamSettings> = Vec::with_capacity(tables.len());
    for mut s in tables {
        let url = s.required("url", |text| origin(text, "http://manager:8014"));
        let named = s.one("name", name);
        let limit = limit::limit(&mut s, "limit");
        let public_url = s.one("public_url", |text| origin(text, "https://manager.example"));
        warn_above(&mut s, "limit", &limit, "wan.limit", &wan.limit);
        let trust = trust(&mut s, url.as_ref());
        let proxy = proxy(&mut s);
        let priority = s.one("priority", |text| number(text, defaults::PRIORITY));
        let check = s.one("check", check);
        if check.is_some() && health.interval.is_none() {
            s.warn("check", "is not asked for while health.interval is off");
        }
        if let Some(url) = url {
            let name = named.or_else(|| Some(url.authority()?.as_str().to_ascii_lowercase()));
            let name = name.unwrap_or_default();
            if upstreams.iter().any(|other| other.name == name) {
                s.refuse("name", format!("{name:?} is the name of two upstreams; give each its own"));
            }
            upstreams.push(UpstreamSettings { name, url, limit, priority, check, public_url, trust, proxy });
        }
        document.close(s);
    }
    upstreams
}

fn proxy(s: &mut Section) -> Option<HttpProxy> {
    let url = s.one("proxy", |text| match origin(text, "http://proxy:3128")? {
        url if url.scheme() == Some(&Scheme::HTTP) => Ok(url),
        _ => Err(format!("{text:?} is not spoken to proxies; write it like http://proxy:3128")),
    });
    let auth_file = s.one("proxy_auth_file", path);
    if auth_file.is_some() && !s.given("proxy") {
        s.refuse("proxy_auth_file", "is given without proxy; give both, or leave it out");
    }
    Some(HttpProxy { url: url?, auth_file })
}

pub(super) fn routes(
    document: &mut Document,
    upstreams: &[UpstreamSettings],
    types: &[ContentType],
) -> Vec<RouteSettings> {
    let tables = document.tables("route", None);
    let every: Vec<usize> = (0..upstreams.len()).collect();
    if tables.is_empty() {
        return vec![RouteSettings {
            name: "/".to_owned(),
            prefix: "/".to_owned(),
            host: None,
            upstreams: every,
            profile: Profile::Auto,
            fallback: None,
            deny_download: Vec::new(),
        }];
    }
    let mut routes: Vec<RouteSettings> = Vec::with_capacity(tables.len());
    for mut s in tables {
        let prefix = s.required("prefix", prefix);
        let host = s.one("host", host);
        let named = s.one("name", name);
        let profile = s.one("profile", |text| choice(text, &PROFILES)).unwrap_or(Profile::Auto);
        let fallback = s.one("fallback", |text| choice(text, &FALLBACKS));
        let upstreams = s.many("upstreams", |text| upstream(text, upstreams));
        let deny_download = denials::types(&mut s, "deny_download", types);
        if let Some(prefix) = prefix {
            let name = named.unwrap_or_else(|| format!("{}{prefix}", host.as_deref().unwrap_or_default()));
            let upstreams = upstreams.unwrap_or_else(|| every.clone());
            let route = RouteSettings { name, prefix, host, upstreams, profile, fallback, deny_download };
            check_route(&mut s, &route, &routes);
            routes.push(route);
        }
        document.close(s);
    }
    routes
}

pub(super) fn content_types(document: &mut Document) -> Vec<ContentType> {
    let mut types: Vec<ContentType> = Vec::new();
    for mut s in document.tables("content_type", None) {
        let name = s.required("name", label);
        let guid = s.one("guid", guid);
        let pattern = s.one("pattern", glob);
        let given = s.given("guid") || s.given("pattern");
        let matches = match (guid, pattern) {
            (Some(guid), None) => Some(ContentMatch::Guid(guid)),
            (None, Some(pattern)) => Some(ContentMatch::Pattern(pattern)),
            (Some(_), Some(_)) => {
                s.refuse("pattern", "is given beside guid; write one [[content_type]] for each");
                None
            }
            (None, None) if given => None,
            (None, None) => {
                s.refuse("guid", "is missing; give a guid or a pattern");
                None
            }
        };
        if let (Some(name), Some(matches)) = (name, matches) {
            if types.iter().any(|other| other.matches == matches) {
                s.refuse("name", format!("{name:?} marks what another content type marks"));
            }
            types.push(ContentType { name, matches });
        }
        document.close(s);
    }
    types
}

pub(super) fn rules(document: &mut Document) -> Vec<Rule> {
    let mut rules = Vec::new();
    for mut s in document.tables("rule", None) {
        let pattern = s.required("pattern", glob);
        let class = s.required("class", |text| choice(text, &CLASSES));
        rules.extend(pattern.zip(class).map(|(pattern, class)| Rule { pattern, class }));
        document.close(s);
    }
    rules
}

// The name is part of the cache key: two routes of one name would share objects.
fn check_route(s: &mut Section, route: &RouteSettings, others: &[RouteSettings]) {
    let same_place =
        |other: &&RouteSettings| other.host == route.host && other.prefix.eq_ignore_ascii_case(&route.prefix);
    if let Some(other) = others.iter().find(same_place) {
        let host = route.host.as_deref().map(|host| format!(" for host {host}")).unwrap_or_default();
        s.refuse(
            "prefix",
            format!("{:?} is routed twice{host}; the first is {:?}", route.prefix, other.name),
        );
    } else if others.iter().any(|other| other.name == route.name) {
        s.refuse("name", format!("{:?} is the name of two routes; give each its own", route.name));
    }
    if route.name.starts_with('@') {
        s.refuse("name", format!("{:?} begins with @, as keys of copies do; give another", route.name));
    }
    if let Some((_, twice)) =
        route.upstreams.iter().enumerate().find(|(i, upstream)| route.upstreams[..*i].contains(upstream))
    {
        s.refuse("upstreams", format!("names upstream {} twice", twice + 1));
    }
}

// Credentials are never shown: problems end in logs.
pub(super) fn origin(text: &str, like: &str) -> Result<Uri, String> {
    let authority_end = text.find("://").map_or(0, |at| at + 3);
    let authority = text[authority_end..].split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("has credentials; leave them out of the URL".to_owned());
    }
    if text.contains(['?', '#']) {
        return Err(format!("{text:?} has a query or fragment; give scheme, host and port only"));
    }
    let refused = || format!("{text:?} is not a URL; write it like {like}");
    let uri: Uri = text.parse().map_err(|_| refused())?;
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => {}
        Some(scheme) => return Err(format!("{text:?} has scheme {scheme}; only http and https are spoken")),
        None => return Err(format!("{text:?} has no scheme; write it like {like}")),
    }
    if uri.path() != "/" {
        return Err(format!("{text:?} has a path; give scheme, host and port only, paths are [[route]]s"));
    }
    let port_is_sound = authority
        .rsplit_once(':')
        .is_none_or(|(_, port)| port.ends_with(']') || port.parse::<u16>().is_ok_and(|port| port > 0));
    if uri.host().is_none_or(str::is_empty) || !port_is_sound {
        return Err(refused());
    }
    Ok(uri)
}

fn check(text: &str) -> Result<PathAndQuery, String> {
    let path = text.parse().ok().filter(|_| text.starts_with('/'));
    path.ok_or_else(|| format!("{text:?} is not a path; write it like /secars/secars.dll?hello,secars"))
}

/// A name that becomes a metric's label.
pub(super) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(|b| b.is_ascii_graphic() && b != b',') {
        return Err(format!(
            "{text:?} is not a name; use 1 to {MAX_NAME} ASCII characters without spaces and commas"
        ));
    }
    Ok(text.to_owned())
}

/// A name of lower case, digits and `-`.
pub(super) fn label(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(allowed) {
        return Err(format!("{text:?} is not a name; use 1 to {MAX_NAME} of a-z, 0-9 and -"));
    }
    Ok(text.to_owned())
}

// Kept without its last slash: `/content/` and `/content` match the same whole segments.
fn prefix(text: &str) -> Result<String, String> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err(format!("{text:?} does not begin with /"));
    };
    if rest.is_empty() {
        return Ok(text.to_owned());
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(format!("{text:?} has an empty, \".\" or \"..\" segment, which no request may have"));
    }
    if !rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%' | b'*' | b'\\')) {
        return Err(format!(
            "{text:?} is not a path prefix; write it like /content, without ? # % * or spaces"
        ));
    }
    Ok(format!("/{rest}"))
}

fn host(text: &str) -> Result<String, String> {
    let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let sound = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    if !sound {
        return Err(format!("{text:?} is not a host; write it like updates.example, without a port"));
    }
    Ok(text.to_ascii_lowercase())
}

/// Which upstream has this name.
pub(super) fn upstream(text: &str, upstreams: &[UpstreamSettings]) -> Result<usize, String> {
    upstreams.iter().position(|upstream| upstream.name == text).ok_or_else(|| {
        let names: Vec<_> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        let known = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
        format!("{text:?} is not the name of an upstream; known: {known}")
    })
}

// 8-4-4-4-12 hex digits.
fn guid(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
    let groups: Vec<&str> = bare.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    if lengths != [8, 4, 4, 4, 12] || !groups.concat().bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!(
            "{text:?} is not a GUID; write it like {{07b590b3-9282-482f-bbaa-6d515d385869}}"
        ));
    }
    Ok(format!("{{{}}}", bare.to_ascii_lowercase()))
}

/// A pattern that compiles.
pub(super) fn glob(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is an empty pattern; write it like **/*.zip".to_owned());
    }
    pattern::compile(text).map(|_| text.to_owned()).map_err(|error| format!("{text:?}: {}", error.kind()))
}
