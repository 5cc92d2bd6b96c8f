//! What clients are told, part by part: the text, where it is entered, and how sure we are that clients honour it. Only
//! what is publicly documented counts as known; how update clients behave is their vendor's to change.

use std::fmt;

use http::Uri;
use http::uri::Scheme;

use gupd_config::Config;
use gupd_config::{OutsideWindow, Profile};

/// A relay, as its clients see it.
pub(super) struct Site<'a> {
    pub(super) config: &'a Config,
    /// A name or an address, this one in brackets if it is IPv6.
    pub(super) host: String,
    pub(super) port: u16,
    /// Whether the relay speaks TLS to clients.
    pub(super) tls: bool,
}

/// How sure we are that clients honour something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    /// The vendor's documentation says so.
    Documented,
    /// It follows from what is documented.
    Inferred,
    /// Nothing public says so.
    Unverified,
}

/// One thing to tell clients.
pub(super) struct Part {
    title: &'static str,
    clients: &'static str,
    entered: &'static str,
    certainty: Certainty,
    why: String,
    /// What is entered; or why there is nothing to enter.
    pub(super) text: Result<String, String>,
}

pub(super) fn liveupdate(site: &Site<'_>) -> Part {
    let mut text = format!("1. gupd {}\n", site.url());
    for (at, (name, url)) in site.upstreams(|profile| profile != Profile::Sep).enumerate() {
        text += &format!("{}. {name} {}\n", at + 2, origin(url));
    }
    Part {
        title: "LiveUpdate server list",
        clients: "Windows, Mac, Linux",
        entered: "LiveUpdate Settings policy, Server Settings, \"Use a LiveUpdate server\", internal server: name \
                  and URL, in this order",
        certainty: Certainty::Documented,
        why: "The policy takes several servers by http or https, for failover. Clients that take content from a \
              LiveUpdate server do not follow a revision that is named on the manager. Leave out what is no LiveUpdate \
              server: a SEPM is none."
            .to_owned(),
        text: match site.upstreams(|profile| profile != Profile::Sep).next() {
            Some(_) => Ok(text),
            None => Err("no route is for LiveUpdate: all are of profile \"sep\"".to_owned()),
        },
    }
}

pub(super) fn gup(site: &Site<'_>) -> Part {
    let text = format!("host {}\nport {}\nbypass after 3 days\n", site.bare_host(), site.port);
    let mut why = "A single (or backup) provider is a host and a port in the policy; that clients take one that is no \
                   client of the manager follows from that, and is documented nowhere: test it with one client. The \
                   explicit list likely takes only providers that the manager has listed itself. The bypass time is how \
                   long a client tries without any success before it goes to the manager; the vendor recommends 3 \
                   days, and \"never\" leaves clients without content when the relay is gone."
        .to_owned();
    if site.defers() {
        why += " It must be longer than the longest wait that groups' windows and spread bring about, or clients go \
                around them.";
    }
    Part {
        title: "Group Update Provider",
        clients: "Windows",
        entered: "LiveUpdate Settings policy, Server Settings, \"Use a Group Update Provider\", single provider",
        certainty: Certainty::Inferred,
        why,
        text: match site.upstreams(|profile| matches!(profile, Profile::Sep | Profile::Auto)).next() {
            _ if site.tls => {
                Err("providers speak plain HTTP, and every listen address of this relay speaks TLS"
                    .to_owned())
            }
            None => Err("no route is for a manager: none is of profile \"sep\" or \"auto\"".to_owned()),
            Some(_) => Ok(text),
        },
    }
}

pub(super) fn pac(site: &Site<'_>) -> Part {
    let mut served = Vec::new();
    for (_, url) in site.upstreams(|_| true).filter(|(_, url)| url.scheme() == Some(&Scheme::HTTP)) {
        let host = url.host().unwrap_or_default().to_ascii_lowercase();
        // A URL with the default port may be spelled without it.
        match url.port_u16() {
            Some(port) if port != 80 => served.push(format!("http://{host}:{port}/")),
            _ => served.extend([format!("http://{host}/"), format!("http://{host}:80/")]),
        }
    }
    served.dedup();
    let list = served.iter().map(|url| format!("        \"{url}\"")).collect::<Vec<_>>().join(",\n");
    let text = format!(
        "// Updates by way of the relay, or directly if it does not answer; everything else directly.\n\
         function FindProxyForURL(url, host) {{\n    \
             var served = [\n{list}\n    ];\n    \
             for (var i = 0; i < served.length; i++) {{\n        \
                 if (url.toLowerCase().indexOf(served[i]) === 0) {{\n            \
                     return \"PROXY {}:{}; DIRECT\";\n        \
                 }}\n    \
             }}\n    \
             return \"DIRECT\";\n\
         }}\n",
        site.host, site.port
    );
    Part {
        title: "PAC file",
        clients: "any that read one",
        entered: "proxy settings of the system, as an automatic configuration script; or the policy's proxy settings for \
                  LiveUpdate, \"use the system's\"",
        certainty: Certainty::Unverified,
        why: "The policy can name a proxy, or have clients use the system's. Whether the update client reads a PAC file, \
              and asks DIRECT when the proxy is down, nothing public says. The relay is a proxy for its upstreams' http \
              URLs alone: https goes past it, as it does not look into TLS."
            .to_owned(),
        text: match served.is_empty() {
            _ if site.tls => Err("a PAC file names a proxy by plain HTTP, and every listen address speaks TLS".to_owned()),
            true => Err("no upstream is http, and https cannot be cached by a proxy".to_owned()),
            false => Ok(text),
        },
    }
}

pub(super) fn linux(site: &Site<'_>) -> Part {
    let mut text = format!("hosts/0/url={}/\n", site.url());
    for (at, (_, url)) in site.upstreams(|profile| profile != Profile::Sep).enumerate() {
        text += &format!("hosts/{}/url={}/\n", at + 1, origin(url));
    }
    Part {
        title: "liveupdate.conf",
        clients: "old Linux (Java LiveUpdate)",
        entered: "/etc/liveupdate.conf, in place of its hosts/ lines",
        certainty: Certainty::Unverified,
        why: "The file and some of its keys are documented, these are not. Newer Linux clients take their servers from the \
              policy: use the list above."
            .to_owned(),
        text: match site.upstreams(|profile| profile != Profile::Sep).next() {
            Some(_) => Ok(text),
            None => Err("no route is for LiveUpdate: all are of profile \"sep\"".to_owned()),
        },
    }
}

pub(super) fn dns(site: &Site<'_>) -> Part {
    let record = match site.bare_host().parse() {
        Ok(std::net::IpAddr::V4(address)) => format!("A {address}"),
        Ok(std::net::IpAddr::V6(address)) => format!("AAAA {address}"),
        // A name alone, as machines have, is one of the same zone; with a dot behind it, it would be nobody's.
        Err(_) if !site.host.contains('.') => format!("CNAME {}", site.host),
        Err(_) => format!("CNAME {}.", site.host.trim_end_matches('.')),
    };
    Part {
        title: "DNS",
        clients: "all",
        entered: "the site's zone, if clients shall know the relay by a name of its own; then give that as --host",
        certainty: Certainty::Inferred,
        why: "Names are looked up like any other. With two addresses the load is shared, but it is not documented whether \
              clients try the second when the first does not answer: for a pair see deploy/haproxy and deploy/keepalived."
            .to_owned(),
        text: Ok(format!("gupd 300 IN {record}\n")),
    }
}

impl Site<'_> {
    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Upstreams of routes with such a profile, each once, in the order in which they are asked.
    fn upstreams(&self, fits: impl Fn(Profile) -> bool) -> impl Iterator<Item = (&str, &Uri)> {
        let mut seen = Vec::new();
        let routes = self.config.routes.iter().filter(|route| fits(route.profile));
        for index in routes.flat_map(|route| &route.upstreams) {
            if !seen.contains(index) {
                seen.push(*index);
            }
        }
        let upstreams = seen.into_iter().filter_map(|index| self.config.upstreams.get(index));
        upstreams.map(|upstream| (upstream.name.as_str(), upstream.client_url()))
    }

    /// Whether some clients have to wait for their turn.
    fn defers(&self) -> bool {
        let waits = |group: &gupd_config::GroupSettings| {
            group.outside != OutsideWindow::Ignore
                && (group.windows.as_constant().is_none() || !group.spread.is_zero())
        };
        self.config.groups.iter().any(waits)
    }
}

/// Without the slash that a URL of a host alone shows.
fn origin(url: &Uri) -> String {
    url.to_string().trim_end_matches('/').to_owned()
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== {} ==", self.title)?;
        writeln!(f, "clients: {}", self.clients)?;
        match &self.text {
            Err(why) => return writeln!(f, "not for this relay: {why}\n"),
            Ok(_) => writeln!(f, "enter at: {}", self.entered)?,
        }
        let certainty = match self.certainty {
            Certainty::Documented => "documented",
            Certainty::Inferred => "inference, test it with one client first",
            Certainty::Unverified => "unverified, test it with one client first",
        };
        writeln!(f, "certainty: {certainty}. {}", self.why)?;
        writeln!(f)?;
        self.text.iter().flat_map(|text| text.lines()).try_for_each(|line| writeln!(f, "    {line}"))
    }
}
