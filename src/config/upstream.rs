//! `[[upstream]]`: the managers, their URLs, certificates, limits and priorities.

use std::collections::BTreeSet;
use std::path::PathBuf;

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

use crate::binding::Binding;
use crate::defaults;
use crate::document::{Document, Section};
use crate::group::GroupSettings;
use crate::health::HealthSettings;
use crate::limit::{RateSchedule, read_rate_schedule, warn_above};
use crate::problem::Location;
use crate::reader::{file, name, name_or_authority, number, origin};
use crate::route::RouteSettings;
use crate::server::ServerSettings;
use crate::server_url::{refuse_own_address, warn_doubtful};
use crate::tls::{Trust, read_trust};
use crate::wan::WanSettings;

/// `[[upstream]]`
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// Name in routes, logs and metrics; its authority by default.
    pub name: String,
    /// `http` or `https`, host, optional port; no path, no credentials.
    pub url: Uri,
    /// Limit of its downloads, within `wan.limit`.
    pub limit: RateSchedule,
    /// URL at which clients reach it, if that is not `url`; the same form.
    pub public_url: Option<Uri>,
    /// Rules that verify its certificate if the URL is `https`.
    pub trust: Trust,
    /// Proxy between the relay and it.
    pub proxy: Option<HttpProxy>,
    /// Smaller is asked first, and upstreams of one priority share requests; 1 to 1,000. By default its position in the
    /// route's list.
    pub priority: Option<u32>,
    /// Path that a health check requests; without one a connection is enough.
    pub check: Option<PathAndQuery>,
}

impl UpstreamSettings {
    /// Returns the URL at which clients reach the upstream.
    pub fn client_url(&self) -> &Uri {
        self.public_url.as_ref().unwrap_or(&self.url)
    }
}

/// A proxy toward an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProxy {
    /// `http`, host, optional port; no path, no credentials.
    pub url: Uri,
    /// File with `user:password` on its first line.
    pub auth_file: Option<PathBuf>,
}

/// The tables of upstreams, open until it is known which of them are used.
pub(crate) struct UpstreamTables(Vec<(Section, Option<usize>)>);

pub(crate) fn read_upstreams(
    document: &mut Document,
    server: &ServerSettings,
    wan: &WanSettings,
    health: &HealthSettings,
) -> (Vec<UpstreamSettings>, UpstreamTables) {
    let tables = document.take_tables("upstream", Some("url"));
    let mut upstreams: Vec<UpstreamSettings> = Vec::with_capacity(tables.len());
    let mut open = UpstreamTables(Vec::with_capacity(tables.len()));
    for mut s in tables {
        let url = s.read_required("url", |text| origin(text, "http://manager:8014"));
        let given_name = s.read("name", name);
        let limit = read_rate_schedule(&mut s, "limit");
        let public_url = s.read("public_url", |text| origin(text, "https://manager.example"));
        check_urls(&mut s, url.as_ref(), public_url.as_ref(), server);
        warn_above(&mut s, "limit", &limit, "wan.limit", &wan.limit);
        let trust = read_trust(&mut s, url.as_ref());
        let proxy = read_proxy(&mut s);
        let priority = s.read("priority", |text| number(text, defaults::PRIORITY));
        let check = s.read("check", check_path);
        if check.is_some() && health.interval.is_none() {
            s.warn("check", "has no effect while health.interval is off");
        }
        let index = url.is_some().then_some(upstreams.len());
        if let Some(url) = url {
            let name = name_or_authority(given_name, &url);
            if upstreams.iter().any(|other| other.name == name) {
                s.refuse("name", format!("duplicate name {name:?}: give each upstream its own name"));
            }
            upstreams.push(UpstreamSettings { name, url, limit, priority, check, public_url, trust, proxy });
        }
        open.0.push((s, index));
    }
    (upstreams, open)
}

impl UpstreamTables {
    /// Returns the flag or variable that gave the upstreams; `None` for those of the file.
    pub(crate) fn replaced_by(&self) -> Option<&Location> {
        let location = self.0.first().and_then(|(s, _)| s.location());
        location.filter(|location| !matches!(location, Location::File(..)))
    }

    /// Closes the tables, with a warning for each upstream that no route and no group uses.
    pub(crate) fn close(self, document: &mut Document, routes: &[RouteSettings], groups: &[GroupSettings]) {
        let of_routes = routes.iter().flat_map(|route| &route.upstreams);
        let of_groups =
            groups.iter().filter_map(|group| group.binding.as_deref()).flat_map(Binding::upstreams);
        let used: BTreeSet<usize> = of_routes.chain(of_groups).copied().collect();
        for (mut s, index) in self.0 {
            if index.is_some_and(|index| !used.contains(&index)) {
                s.warn("url", "is used by no [[route]] and no [[group]]: add its name to upstreams of one, or remove it");
            }
            document.close(s);
        }
    }
}

fn check_urls(s: &mut Section, url: Option<&Uri>, public_url: Option<&Uri>, server: &ServerSettings) {
    for (key, url) in [("url", url), ("public_url", public_url)] {
        if let Some(url) = url {
            warn_doubtful(s, key, url);
            refuse_own_address(s, key, url, server);
        }
    }
}

/// The upstreams that routes and groups can name.
#[derive(Clone, Copy)]
pub(crate) struct KnownUpstreams<'a> {
    pub(crate) list: &'a [UpstreamSettings],
    /// The flag or variable that replaces those of the file.
    pub(crate) replaced_by: Option<&'a Location>,
}

impl KnownUpstreams<'_> {
    /// Returns the position of the upstream with this name.
    pub(crate) fn find(&self, text: &str) -> Result<usize, String> {
        self.list.iter().position(|upstream| upstream.name == text).ok_or_else(|| {
            let names: Vec<_> = self.list.iter().map(|upstream| upstream.name.as_str()).collect();
            let known = match names[..] {
                [] => "no upstream is configured".to_owned(),
                _ => format!("known upstreams are {}", names.join(", ")),
            };
            let reason = self.replaced_by.map(|by| format!(", because {by} replaces those of the file"));
            format!("unknown upstream {text:?}: {known}{}", reason.unwrap_or_default())
        })
    }
}

fn read_proxy(s: &mut Section) -> Option<HttpProxy> {
    let url = s.read("proxy", |text| match origin(text, "http://proxy:3128")? {
        url if url.scheme() == Some(&Scheme::HTTP) => Ok(url),
        _ => Err(format!("{text:?} is not an http URL: write it like http://proxy:3128")),
    });
    if let Some(url) = &url {
        warn_doubtful(s, "proxy", url);
    }
    let auth_file = file(s, "proxy_auth_file");
    if auth_file.is_some() && !s.is_given("proxy") {
        s.refuse("proxy_auth_file", "is set without proxy: set both or remove it");
    }
    Some(HttpProxy { url: url?, auth_file })
}

fn check_path(text: &str) -> Result<PathAndQuery, String> {
    let path = text.parse().ok().filter(|_| text.starts_with('/'));
    path.ok_or_else(|| format!("{text:?} is not a path: write it like /secars/secars.dll?hello,secars"))
}
