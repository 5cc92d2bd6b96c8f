//! What an administrator may set: the settings as types that cannot be wrong. `document` finds a setting in the flag,
//! environment variable or file that gives it, `settings` reads them all and names every problem, `units` reads
//! sizes, rates and times. Nothing here opens a socket or a file other than the configuration itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything a relay is told. Built by [`Config::load`] only, so a value of this type has been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect, and how patient the relay is with them.
    pub server: Server,
    /// Where content is kept, and how much of it.
    pub store: Store,
    /// How content is fetched.
    pub fill: Fill,
    /// How long responses that say nothing themselves stay fresh.
    pub cache: Cache,
    /// Log format and level.
    pub log: Log,
    /// The managers, by priority. Never empty.
    pub upstreams: Vec<Upstream>,
    /// Which paths go to which managers. Never empty; the longest prefix wins.
    pub routes: Vec<Route>,
    /// Content types besides the built-in ones.
    pub content_types: Vec<ContentType>,
    /// Class rules besides the built-in ones; asked before them.
    pub rules: Vec<Rule>,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Addresses clients connect to. Never empty.
    pub listen: Vec<SocketAddr>,
    /// Address of metrics and health.
    pub admin: SocketAddr,
    /// Threads that serve clients, 1 to 1,024; by default one for each core.
    pub workers: usize,
    /// Certificate and key; with them every `listen` speaks TLS.
    pub tls: Option<Tls>,
    /// Connections at once, in all.
    pub max_connections: usize,
    /// Bytes of a request's head, 8 KiB to 1 MiB.
    pub max_header_bytes: usize,
    /// Bytes of a request's target, 256 B to 64 KiB.
    pub max_uri_bytes: usize,
    /// Time for a request's head to arrive, and for a kept-alive connection to send its next one.
    pub header_timeout: Duration,
    /// Time in which a client must take, or in a request's body send, at least one byte.
    pub stall_timeout: Duration,
    /// Time running downloads get to finish after SIGTERM.
    pub drain_timeout: Duration,
}

/// Paths of a PEM certificate chain and its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// The store's folder.
    pub dir: PathBuf,
    /// Bytes on disk, at most.
    pub quota: u64,
    /// Bytes the store leaves free on its file system.
    pub min_free: u64,
    /// An object nobody asked for in this time is removed.
    pub max_unused: Duration,
    /// Bytes of hot chunks in memory, at most.
    pub memory: u64,
}

/// `[fill]`
#[derive(Clone, Debug, PartialEq)]
pub struct Fill {
    /// Time to connect to an upstream.
    pub connect_timeout: Duration,
    /// Time from a request to the upstream's response head.
    pub head_timeout: Duration,
    /// Time without a byte after which an upstream's transfer counts as broken off.
    pub idle_timeout: Duration,
    /// Attempts in a row without one new byte before a fill is given up, 1 to 100.
    pub attempts: u32,
    /// Fills at once; further ones wait.
    pub max_concurrent: usize,
}

/// `[cache]`: used where the response itself does not say, or where its class overrules it.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Catalogs are revalidated after this time.
    pub catalog_fresh: Duration,
    /// A missing catalog (404) is believed this long.
    pub catalog_negative: Duration,
    /// A missing payload (404) is believed this long.
    pub payload_negative: Duration,
    /// Other negative responses are believed this long.
    pub generic_negative: Duration,
    /// Largest heuristic freshness for generic content (RFC 9111 §4.2.2).
    pub heuristic_max: Duration,
    /// Stale content may be served this long while no upstream answers (RFC 5861).
    pub stale_if_error: Duration,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Text, JSON, or text on a terminal and JSON elsewhere.
    pub format: LogFormat,
    /// A `tracing` filter directive, such as `info` or `gupd=debug`.
    pub level: String,
    /// One line for each request.
    pub access: bool,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[[upstream]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name in routes, logs and metrics; by default its authority.
    pub name: String,
    /// `http` or `https`, host, optional port; no path, no credentials.
    pub url: http::Uri,
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Name in keys, logs and metrics; by default the prefix.
    pub name: String,
    /// Begins with `/`; matches whole path segments.
    pub prefix: String,
    /// Requests with this `Host` only (without port, lower case).
    pub host: Option<String>,
    /// Indices into [`Config::upstreams`], by priority. Never empty.
    pub upstreams: Vec<usize>,
    /// The rules that class this route's paths.
    pub profile: Profile,
}

/// Which built-in rules class a route's paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `sep`, then `liveupdate`, then `generic`: what a relay without a file does.
    Auto,
    /// SyLink content of a SEPM.
    Sep,
    /// A LiveUpdate server.
    LiveUpdate,
    /// RFC 9111 only.
    Generic,
}

/// `[[content_type]]`
#[derive(Clone, Debug, PartialEq)]
pub struct ContentType {
    /// Name in logs and metrics: lower case, digits, `-`.
    pub name: String,
    /// What marks it.
    pub matches: ContentMatch,
}

/// What marks a content type.
#[derive(Clone, Debug, PartialEq)]
pub enum ContentMatch {
    /// A content GUID, lower case, with braces.
    Guid(String),
    /// A glob over the path, without regard to case.
    Pattern(String),
}

/// `[[rule]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// A glob over the path, without regard to case.
    pub pattern: String,
    /// The class of paths that match.
    pub class: Class,
}

/// Content class: what a path's content is, and so how long it is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Immutable by name.
    Payload,
    /// A mutable index.
    Catalog,
    /// Never cached, passed through.
    Private,
    /// RFC 9111 decides.
    Generic,
}

impl Class {
    /// The one spelling used in config, logs, metrics and the index.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Catalog => "catalog",
            Self::Private => "private",
            Self::Generic => "generic",
        }
    }
}
