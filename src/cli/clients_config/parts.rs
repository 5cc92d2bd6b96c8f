//! The client settings, one function each: the text, the place to enter it, and the certainty that clients honour it.
//! Only publicly documented behaviour counts as certain, because the vendor may change any other.

use std::fmt;

use http::Uri;
use http::uri::Scheme;

use gupd_config::Config;
use gupd_config::{OutsideWindow, Profile};

/// Address of the relay, as its clients see it.
pub(super) struct RelayAddress<'a> {
    pub(super) config: &'a Config,
    /// Host name or address; IPv6 in brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Clients connect with TLS.
    pub(super) has_tls: bool,
}

/// Certainty that clients honour a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    /// The vendor's documentation says so.
    Documented,
    /// It follows from what is documented.
    Inferred,
    /// No public document says so.
    Unverified,
}

/// A setting of clients, with its explanation.
pub(super) struct ClientSetting {
    title: &'static str,
    clients: &'static str,
    place: &'static str,
    certainty: Certainty,
    explanation: String,
    /// Text to enter; or the reason why this setting does not apply.
    pub(super) text: Result<String, String>,
}

pub(super) fn liveupdate(address: &RelayAddress<'_>) -> ClientSetting {
    let mut text = format!("1. gupd {}\n", address.url());
    for (index, (name, url)) in address.upstreams(|profile| profile != Profile::Sep).enumerate() {
        text += &format!("{}. {name} {}\n", index + 2, origin(url));
    }
    ClientSetting {
        title: "LiveUpdate server list",
        clients: "Windows, Mac, Linux",
        place: "LiveUpdate Settings policy, Server Settings, \"Use a LiveUpdate server\", internal server: name \
                  and URL, in this order",
        certainty: Certainty::Documented,
        explanation: "The policy takes several HTTP or HTTPS servers, for failover. Clients of a LiveUpdate server ignore \
              the content revision selected on the manager. Omit servers that are not LiveUpdate servers, such as a SEPM."
            .to_owned(),
        text: match address.upstreams(|profile| profile != Profile::Sep).next() {
            Some(_) => Ok(text),
            None => Err("every route has profile \"sep\": no LiveUpdate server".to_owned()),
        },
    }
}

pub(super) fn gup(address: &RelayAddress<'_>) -> ClientSetting {
    let text = format!("host {}\nport {}\nbypass after 3 days\n", address.bare_host(), address.port);
    let mut explanation = "The policy takes a single (or backup) provider as host and port. It follows that the provider \
                           need not be a client of the manager, but no document says so. The explicit list likely takes \
                           only providers that the manager has listed itself. The bypass time is the time that a client \
                           tries the provider without success before it uses the manager. The vendor recommends 3 days; \
                           with \"never\" clients get no content while the relay is down."
        .to_owned();
    if address.can_defer() {
        explanation += " It must be longer than the longest wait caused by the windows and spread of groups, or clients \
                        bypass them.";
    }
    ClientSetting {
        title: "Group Update Provider",
        clients: "Windows",
        place: "LiveUpdate Settings policy, Server Settings, \"Use a Group Update Provider\", single provider",
        certainty: Certainty::Inferred,
        explanation,
        text: match address.upstreams(|profile| matches!(profile, Profile::Sep | Profile::Auto)).next() {
            _ if address.has_tls => {
                Err("providers use plain HTTP, but every listen address has TLS".to_owned())
            }
            None => Err("no route has profile \"sep\" or \"auto\": no manager".to_owned()),
            Some(_) => Ok(text),
        },
    }
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
        title: "PAC file",
        clients: "any that support PAC files",
        place: "system proxy settings, automatic configuration script; or the policy's LiveUpdate proxy settings, \
                \"use the system's\"",
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

pub(super) fn linux(address: &RelayAddress<'_>) -> ClientSetting {
    let mut text = format!("hosts/0/url={}/\n", address.url());
    for (index, (_, url)) in address.upstreams(|profile| profile != Profile::Sep).enumerate() {
        text += &format!("hosts/{}/url={}/\n", index + 1, origin(url));
    }
    ClientSetting {
        title: "liveupdate.conf",
        clients: "old Linux (Java LiveUpdate)",
        place: "/etc/liveupdate.conf, replacing its hosts/ lines",
        certainty: Certainty::Unverified,
        explanation: "The file is documented, these keys are not. Newer Linux clients take their servers from the policy: \
              use the LiveUpdate server list."
            .to_owned(),
        text: match address.upstreams(|profile| profile != Profile::Sep).next() {
            Some(_) => Ok(text),
            None => Err("every route has profile \"sep\": no LiveUpdate server".to_owned()),
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
        title: "DNS",
        clients: "all",
        place: "zone of the site, if the relay gets a name of its own; then pass that name as --host",
        certainty: Certainty::Inferred,
        explanation: "Two addresses share the load, but no document says whether clients try the second when the first is \
              down: for a pair of relays see deploy/haproxy and deploy/keepalived."
            .to_owned(),
        text: Ok(format!("gupd 300 IN {record}\n")),
    }
}

impl RelayAddress<'_> {
    fn url(&self) -> String {
        let scheme = if self.has_tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the upstreams of routes whose profile matches, each once, in order of use.
    fn upstreams(&self, matches: impl Fn(Profile) -> bool) -> impl Iterator<Item = (&str, &Uri)> {
        let mut seen = Vec::new();
        let routes = self.config.routes.iter().filter(|route| matches(route.profile));
        for index in routes.flat_map(|route| &route.upstreams) {
            if !seen.contains(index) {
                seen.push(*index);
            }
        }
        let upstreams = seen.into_iter().filter_map(|index| self.config.upstreams.get(index));
        upstreams.map(|upstream| (upstream.name.as_str(), upstream.client_url()))
    }

    /// Returns true if windows or a spread can defer clients.
    fn can_defer(&self) -> bool {
        let can_wait = |group: &gupd_config::GroupSettings| {
            group.outside != OutsideWindow::Ignore
                && (group.windows.as_constant().is_none() || !group.spread.is_zero())
        };
        self.config.groups.iter().any(can_wait)
    }
}

/// Formats a URL without the trailing slash of an empty path.
fn origin(url: &Uri) -> String {
    url.to_string().trim_end_matches('/').to_owned()
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
            Certainty::Documented => "documented",
            Certainty::Inferred => "inferred, test with one client first",
            Certainty::Unverified => "unverified, test with one client first",
        };
        writeln!(f, "certainty: {certainty}. {}", self.explanation)?;
        writeln!(f)?;
        self.text.iter().flat_map(|text| text.lines()).try_for_each(|line| writeln!(f, "    {line}"))
    }
}
