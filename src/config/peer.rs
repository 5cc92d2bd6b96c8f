//! `[[peer]]`: the other relays of the site, asked before the upstreams.

use http::Uri;
use http::uri::Scheme;

use crate::document::Document;
use crate::limit::RateSchedule;
use crate::reader::{choice, name, name_or_authority, origin};
use crate::server_url::warn_doubtful;
use crate::tls::{Trust, read_trust};
use crate::upstream::UpstreamSettings;

/// Maximum number of peers. Each costs every miss a request on the site's network; a site with more relays is served
/// better by one relay above them.
const MAX_PEERS: usize = 8;

/// `[[peer]]`
#[derive(Clone, Debug, PartialEq)]
pub struct PeerSettings {
    /// Name in logs, metrics and the index; its authority by default.
    pub name: String,
    /// `http` or `https`, host, optional port; no path, no credentials.
    pub url: Uri,
    /// Certificate rules, both ways, if the URL is `https`.
    pub trust: Trust,
    /// Content that the relay takes from it.
    pub verify: PeerVerification,
}

/// Content that the relay takes from a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerVerification {
    /// Any that it offers.
    #[default]
    Off,
    /// Payloads with a SHA-256 that a catalog lists, and nothing else.
    Listed,
}

const VERIFICATIONS: [(&str, PeerVerification); 2] =
    [("off", PeerVerification::Off), ("listed", PeerVerification::Listed)];

impl PeerSettings {
    /// Returns the settings of its connections: those of an upstream without a proxy and without limits.
    pub fn as_upstream(&self) -> UpstreamSettings {
        let Self { name, url, trust, verify: _ } = self.clone();
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

pub(crate) fn read_peers(document: &mut Document, upstreams: &[UpstreamSettings]) -> Vec<PeerSettings> {
    let mut peers: Vec<PeerSettings> = Vec::new();
    for (at, mut s) in document.take_tables("peer", None).into_iter().enumerate() {
        let url = s.read_required("url", |text| origin(text, "http://relay2:2967"));
        let given_name = s.read("name", name);
        let trust = read_trust(&mut s, url.as_ref());
        if let Some(url) = &url {
            warn_doubtful(&mut s, "url", url);
        }
        let verify = s.read("verify", |text| choice(text, &VERIFICATIONS));
        if url.as_ref().is_some_and(|url| url.scheme() == Some(&Scheme::HTTP)) && !s.is_given("verify") {
            s.warn(
                "url",
                "is http: any host that answers there decides what clients get: use https with pin or ca, or set \
                 verify to \"listed\", or to \"off\" to accept that",
            );
        }
        if at == MAX_PEERS {
            s.refuse("url", format!("too many peers: configure at most {MAX_PEERS}"));
        }
        if let Some(url) = url {
            let name = name_or_authority(given_name, &url);
            if peers.iter().any(|other| other.name == name) {
                s.refuse("name", format!("duplicate name {name:?}: give each peer its own name"));
            }
            let has_same_address = |upstream: &UpstreamSettings| {
                upstream.url.scheme() == url.scheme() && upstream.url.authority() == url.authority()
            };
            if upstreams.iter().any(has_same_address) {
                s.refuse("url", format!("{url} is also an upstream: remove it from peers or upstreams"));
            } else if upstreams.iter().any(|upstream| upstream.name == name) {
                s.refuse("name", format!("{name:?} is the name of an upstream: give the peer its own name"));
            }
            peers.push(PeerSettings { name, url, trust, verify: verify.unwrap_or_default() });
        }
        document.close(s);
    }
    peers
}
