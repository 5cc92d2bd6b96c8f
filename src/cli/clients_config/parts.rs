//! Client settings that belong to no vendor, one function each: the text, the place to enter it, and the certainty that
//! clients honour it. Only publicly documented behaviour counts as certain, because vendors may change any other.

use std::fmt;

use http::Uri;
use http::uri::Scheme;
use serde_json::{Value, json};

use gupd_config::Config;
use gupd_config::profile::Certainty;
use gupd_config::{OutsideWindow, RouteSettings};

/// Address of the relay, as its clients see it.
pub(super) struct RelayAddress<'a> {
    pub(super) config: &'a Config,
    /// Host name or address; IPv6 in brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Clients connect with TLS.
    pub(super) has_tls: bool,
}

/// A setting of clients, with its explanation.
pub(super) struct ClientSetting {
    pub(super) title: String,
    pub(super) clients: String,
    pub(super) place: String,
    pub(super) certainty: Certainty,
    pub(super) explanation: String,
    /// Text to enter; or the reason why this setting does not apply.
    pub(super) text: Result<String, String>,
}

pub(super) fn pac(address: &RelayAddress<'_>) -> ClientSetting {
    let mut served = Vec::new();
    for (_, url) in address.upstreams(|_| true).filter(|(_, url)| url.scheme() == Some(&Scheme::HTTP)) {
        let host = url.host().unwrap_or_default().to_ascii_lowercase();
        // Clients may omit the default port.
        match url.port_u16() {
            Some(port) if port != 80 => served.push(format!("http://{host}:{port}/")),
            _ => served.extend([format!("http://{host}/"), format!("http://{host}:80/")]),
        }
    }
    served.dedup();
    let list = served.iter().map(|url| format!("        \"{url}\"")).collect::<Vec<_>>().join(",\n");
    let text = format!(
        "// Updates through the relay, or directly if it is down; everything else directly.\n\
         function FindProxyForURL(url, host) {{\n    \
             var served = [\n{list}\n    ];\n    \
             for (var i = 0; i < served.length; i++) {{\n        \
                 if (url.toLowerCase().indexOf(served[i]) === 0) {{\n            \
                     return \"PROXY {}:{}; DIRECT\";\n        \
                 }}\n    \
             }}\n    \
             return \"DIRECT\";\n\
         }}\n",
        address.host, address.port
    );
    ClientSetting {
        title: "PAC file".to_owned(),
        clients: "any that support PAC files".to_owned(),
        place: "system proxy settings, automatic configuration script; or the policy's LiveUpdate proxy settings, \
                \"use the system's\""
            .to_owned(),
        certainty: Certainty::Unverified,
        explanation: "The policy can set a proxy, or use the system's. No public document says whether the update client \
              reads a PAC file and falls back to DIRECT. The relay is a proxy for HTTP URLs of its upstreams only: HTTPS \
              passes it by, because it does not intercept TLS."
            .to_owned(),
        text: match served.is_empty() {
            _ if address.has_tls => Err("PAC files name plain HTTP proxies, but every listen address has TLS".to_owned()),
            true => Err("no upstream uses HTTP, and a proxy cannot cache HTTPS".to_owned()),
            false => Ok(text),
        },
    }
}

pub(super) fn dns(address: &RelayAddress<'_>) -> ClientSetting {
    let record = match address.bare_host().parse() {
        Ok(std::net::IpAddr::V4(address)) => format!("A {address}"),
        Ok(std::net::IpAddr::V6(address)) => format!("AAAA {address}"),
        // A host name without a domain is relative to the zone; a trailing dot would make it absolute.
        Err(_) if !address.host.contains('.') => format!("CNAME {}", address.host),
        Err(_) => format!("CNAME {}.", address.host.trim_end_matches('.')),
    };
    ClientSetting {
        title: "DNS".to_owned(),
        clients: "all".to_owned(),
        place: "zone of the site, if the relay gets a name of its own; then pass that name as --host".to_owned(),
        certainty: Certainty::Inferred,
        explanation: "Two addresses share the load, but no document says whether clients try the second when the first is \
              down: for a pair of relays see deploy/haproxy and deploy/keepalived."
            .to_owned(),
        text: Ok(format!("gupd 300 IN {record}\n")),
    }
}

impl RelayAddress<'_> {
    pub(super) fn url(&self) -> String {
        let scheme = if self.has_tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    pub(super) fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the upstreams of the routes that match, each once, in order of use.
    pub(super) fn upstreams(
        &self,
        is_match: impl Fn(&RouteSettings) -> bool,
    ) -> impl Iterator<Item = (&str, &Uri)> {
        let mut seen = Vec::new();
        let routes = self.config.routes.iter().filter(|route| is_match(route));
        for index in routes.flat_map(|route| &route.upstreams) {
            if !seen.contains(index) {
                seen.push(*index);
            }
        }
        let upstreams = seen.into_iter().filter_map(|index| self.config.upstreams.get(index));
        upstreams.map(|upstream| (upstream.name.as_str(), upstream.client_url()))
    }

    /// Returns true if windows or a spread can defer clients.
    pub(super) fn can_defer(&self) -> bool {
        let can_wait = |group: &gupd_config::GroupSettings| {
            group.outside != OutsideWindow::Ignore
                && (group.windows.as_constant().is_none() || !group.spread.is_zero())
        };
        self.config.groups.iter().any(can_wait)
    }
}

/// Formats a URL without the trailing slash of an empty path.
pub(super) fn origin(url: &Uri) -> String {
    url.to_string().trim_end_matches('/').to_owned()
}

impl ClientSetting {
    pub(super) fn to_json(&self) -> Value {
        let Self { title, clients, place, certainty, explanation, text } = self;
        json!({
            "title": title,
            "clients": clients,
            "enter_in": place,
            "certainty": certainty.as_str(),
            "explanation": explanation,
            "text": text.as_ref().ok(),
            "not_applicable": text.as_ref().err(),
        })
    }
}

impl fmt::Display for ClientSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== {} ==", self.title)?;
        writeln!(f, "clients: {}", self.clients)?;
        match &self.text {
            Err(reason) => return writeln!(f, "not applicable: {reason}\n"),
            Ok(_) => writeln!(f, "enter in: {}", self.place)?,
        }
        let certainty = match self.certainty {
            Certainty::Documented => "documented".to_owned(),
            other => format!("{other}, test with one client first"),
        };
        writeln!(f, "certainty: {certainty}. {}", self.explanation)?;
        writeln!(f)?;
        self.text.iter().flat_map(|text| text.lines()).try_for_each(|line| writeln!(f, "    {line}"))
    }
}
