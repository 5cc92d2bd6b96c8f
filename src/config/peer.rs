//! `[[peer]]`: the other relays of the site.

use http::Uri;

use super::document::Document;
use super::tables::{name, origin};
use super::tls::{Trust, trust};
use super::{RateSchedule, UpstreamSettings};

/// Peers, at most: each costs every miss a request on the site's own network, and more relays than this are served
/// better by one above them.
const MAX_PEERS: usize = 8;

/// `[[peer]]`
#[derive(Clone, Debug, PartialEq)]
pub struct PeerSettings {
    /// Its name in logs, metrics and the index; by default its authority.
    pub name: String,
    /// `http` or `https`, host, optional port; no path, no credentials.
    pub url: Uri,
    /// How it is known, and the relay to it, if it is https.
    pub trust: Trust,
}

impl PeerSettings {
    /// How it is connected to: like an upstream, without a proxy between, and without limits.
    pub fn as_upstream(&self) -> UpstreamSettings {
        let Self { name, url, trust } = self.clone();
        let limit = RateSchedule::unlimited();
        UpstreamSettings {
            name,
            url,
            limit,
            public_url: None,
            trust,
            proxy: None,
            priority: None,
            check: None,
        }
    }
}

pub(super) fn peers(document: &mut Document, upstreams: &[UpstreamSettings]) -> Vec<PeerSettings> {
    let mut peers: Vec<PeerSettings> = Vec::new();
    for (at, mut s) in document.tables("peer", None).into_iter().enumerate() {
        let url = s.required("url", |text| origin(text, "http://relay2:2967"));
        let named = s.one("name", name);
        let trust = trust(&mut s, url.as_ref());
        if at == MAX_PEERS {
            s.refuse("url", format!("is the url of more than {MAX_PEERS} peers; give fewer"));
        }
        if let Some(url) = url {
            let name = named.or_else(|| Some(url.authority()?.as_str().to_ascii_lowercase()));
            let name = name.unwrap_or_default();
            if peers.iter().any(|other| other.name == name) {
                s.refuse("name", format!("{name:?} is the name of two peers; give each its own"));
            }
            let is_there = |upstream: &&UpstreamSettings| {
                upstream.url.scheme() == url.scheme() && upstream.url.authority() == url.authority()
            };
            if upstreams.iter().any(|upstream| is_there(&upstream)) {
                s.refuse("url", format!("{url} is an upstream too; a relay is one or the other"));
            } else if upstreams.iter().any(|upstream| upstream.name == name) {
                s.refuse("name", format!("{name:?} is the name of an upstream; give the peer its own"));
            }
            peers.push(PeerSettings { name, url, trust });
        }
        document.close(s);
    }
    peers
}
