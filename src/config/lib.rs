//! What an administrator may set: the settings as types that cannot be wrong. `document` finds a setting in the flag,
//! environment variable or `file` that gives it; `settings`, `tables`, `network`, `group`, `health` and `refresh` read
//! them all, with the numbers of `defaults`, and name every `problem`; `units` reads sizes and times, `week` and `limit`
//! what differs by time of the week. Nothing here opens a socket, or a file other than the configuration and the system's
//! time zones.

mod binding;
pub mod clock;
pub mod content;
mod defaults;
mod denials;
mod document;
mod file;
mod group;
mod guard;
mod health;
mod limit;
mod network;
mod networks;
pub mod pattern;
mod peer;
pub mod policy;
mod problem;
mod refresh;
mod ring;
mod rollout;
mod settings;
mod tables;
mod tls;
pub mod units;
mod upstream_id;
pub mod week;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use binding::Binding;
pub use clock::Clock;
pub use denials::PolicySettings;
pub use group::{GroupSettings, OutsideWindow};
pub use guard::{Fallback, GuardSettings};
pub use health::HealthSettings;
pub use limit::{Ceiling, RateSchedule};
pub use network::{LanSettings, SiteSettings, WanLimit, WanMatch, WanSettings};
pub use networks::Networks;
pub use peer::PeerSettings;
pub use problem::{Location, Problem, Problems};
pub use refresh::{PrefetchSettings, Recurrence, RefreshSettings};
pub use ring::{Gate, RingSettings, Steps};
pub use rollout::RolloutSettings;
pub use tls::{Pin, Trust};
pub use units::UnitError;
pub use upstream_id::UpstreamId;
pub use week::{Week, WeekMinute, WeekWindows};

/// What flags say; an empty list and `None` say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen ADDR`, any number of times.
    pub listen: Vec<String>,
    /// `--upstream URL`, any number of times, by priority. In place of every upstream of the file.
    pub upstream: Vec<String>,
    /// `--store DIR`
    pub store: Option<String>,
    /// `--admin ADDR`
    pub admin: Option<String>,
    /// `--tls-cert PEM`
    pub tls_cert: Option<String>,
    /// `--tls-key PEM`
    pub tls_key: Option<String>,
    /// `--wan-limit RATE`
    pub wan_limit: Option<String>,
}

impl Overrides {
    // Section, key, flag and values of each flag that was given.
    fn entries(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, &[String])> {
        [
            ("server", "listen", "--listen", self.listen.as_slice()),
            ("upstream", "url", "--upstream", self.upstream.as_slice()),
            ("store", "dir", "--store", self.store.as_slice()),
            ("server", "admin", "--admin", self.admin.as_slice()),
            ("server", "tls_cert", "--tls-cert", self.tls_cert.as_slice()),
            ("server", "tls_key", "--tls-key", self.tls_key.as_slice()),
            ("wan", "limit", "--wan-limit", self.wan_limit.as_slice()),
        ]
        .into_iter()
        .filter(|(_, _, _, values)| !values.is_empty())
    }
}

/// The process's environment, for [`Config::load`]. Bytes that are not UTF-8 are replaced, so that such a value is
/// refused by its setting; `std::env::vars` would panic on any such variable, ours or not.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// Everything a relay is told. Built by [`Config::load`], which checks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect, and how patient the relay is with them.
    pub server: ServerSettings,
    /// Where content is kept, and how much of it.
    pub store: StoreSettings,
    /// How content is fetched.
    pub fill: FillSettings,
    /// How the relay learns which upstreams answer.
    pub health: HealthSettings,
    /// How long responses that say nothing themselves stay fresh.
    pub cache: CacheSettings,
    /// Log format and level.
    pub log: LogSettings,
    /// The managers, by priority. Never empty, but of [`Config::load_without_upstreams`].
    pub upstreams: Vec<UpstreamSettings>,
    /// The other relays of the site, asked before the managers.
    pub peers: Vec<PeerSettings>,
    /// Which paths go to which managers. Never empty; the longest prefix wins.
    pub routes: Vec<RouteSettings>,
    /// Content types besides the built-in ones.
    pub content_types: Vec<ContentType>,
    /// Class rules besides the built-in ones; asked before them.
    pub rules: Vec<Rule>,
    /// What clients get of what they are not to have.
    pub denials: PolicySettings,
    /// Where the relay stands.
    pub site: SiteSettings,
    /// What the line to the upstreams may carry.
    pub wan: WanSettings,
    /// Narrower limits by path; the first that fits holds, besides `wan.limit`.
    pub wan_limits: Vec<WanLimit>,
    /// What clients may be sent.
    pub lan: LanSettings,
    /// Sets of clients; the first that takes a client is its. One without matchers takes all, and is the last.
    pub groups: Vec<GroupSettings>,
    /// Stages in which clients come to see a new revision; without any, they see it at once.
    pub rings: Vec<RingSettings>,
    /// How many revisions are kept, and what is taken for trouble.
    pub rollout: RolloutSettings,
    /// When catalogs are revalidated without being asked for.
    pub refresh: RefreshSettings,
    /// What is fetched before a client asks.
    pub prefetch: PrefetchSettings,
    /// What clients get while no worker serves.
    pub guard: GuardSettings,
    /// What is legal but odd, by place: for `gupd check` and the log.
    pub warnings: Vec<Problem>,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// Addresses clients connect to. Never empty.
    pub listen: Vec<SocketAddr>,
    /// Address of metrics and health.
    pub admin: SocketAddr,
    /// The file whose first line whoever changes something over the admin address must know; without it nobody can.
    pub admin_token_file: Option<PathBuf>,
    /// Threads that serve clients, 1 to 1,024; by default one for each core.
    pub workers: usize,
    /// Certificate and key; with them every `listen` speaks TLS.
    pub tls: Option<CertificateFiles>,
    /// The issuers of certificates that clients may show over TLS.
    pub client_ca: Option<PathBuf>,
    /// Connections at once, in all, 1 to 1,000,000.
    pub max_connections: usize,
    /// Bytes of a request's head, 8 KiB to 1 MiB.
    pub max_header_bytes: usize,
    /// Bytes of a request's target, 256 B to 64 KiB.
    pub max_uri_bytes: usize,
    /// Time for a request's head to arrive, and for a kept-alive connection to send its next one; 1 s to 1 h.
    pub header_timeout: Duration,
    /// Time in which a client must take, or in a request's body send, at least one byte; 1 s to 1 h.
    pub stall_timeout: Duration,
    /// Time running downloads get to finish after SIGTERM, 0 to 24 h.
    pub drain_timeout: Duration,
}

/// Paths of a PEM certificate chain and its key.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq)]
pub struct StoreSettings {
    /// The store's folder.
    pub dir: PathBuf,
    /// Bytes on disk, at most; 64 MiB to 1,024 TiB.
    pub quota: u64,
    /// Bytes the store leaves free on its file system, 0 to 1,024 TiB.
    pub min_free: u64,
    /// An object nobody asked for in this time is removed; 1 h to 3,650 d.
    pub max_unused: Duration,
    /// Bytes of hot chunks in memory, at most; 16 MiB to 1 TiB.
    pub memory: u64,
    /// Time in which the scrub verifies the whole store, 1 h to 365 d; `None` without a scrub.
    pub scrub_period: Option<Duration>,
    /// Bytes a second the scrub reads, at most; 64 KiB/s to 1 TiB/s.
    pub scrub_rate: u64,
}

/// `[fill]`
#[derive(Clone, Debug, PartialEq)]
pub struct FillSettings {
    /// Time to connect to an upstream, 1 s to 5 m.
    pub connect_timeout: Duration,
    /// Time from a request to the upstream's response head, 1 s to 1 h.
    pub head_timeout: Duration,
    /// Time to find an upstream that answers, all tries of one request together; 1 s to 1 h.
    pub total_timeout: Duration,
    /// Time without a byte after which an upstream's transfer counts as broken off; 1 s to 1 h.
    pub idle_timeout: Duration,
    /// When to fetch what no client waits for.
    pub finish: FinishPolicy,
    /// Attempts in a row without one new byte, at each upstream, before a fill is given up; 1 to 100.
    pub attempts: u32,
    /// Fills at once, 1 to 65,536; further ones wait.
    pub max_concurrent: usize,
}

/// `[cache]`: used where the response itself does not say, or where its class overrules it.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheSettings {
    /// Catalogs are revalidated after this time, 0 to 1 d.
    pub catalog_fresh: Duration,
    /// A missing catalog (404) is believed this long, 0 to 1 d.
    pub catalog_negative: Duration,
    /// A missing payload (404) is believed this long, 0 to 1 h.
    pub payload_negative: Duration,
    /// Other negative responses are believed this long, 0 to 1 d.
    pub generic_negative: Duration,
    /// Largest heuristic freshness for generic content (RFC 9111 §4.2.2), 0 to 365 d.
    pub heuristic_max: Duration,
    /// Stale content may be served this long while no upstream answers (RFC 5861), 0 to 365 d.
    pub stale_if_error: Duration,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
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

/// `fill.finish`: when to fetch what no client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishPolicy {
    /// Always.
    Always,
    /// Once at least so many percent are there, 1 to 99.
    Above(u8),
    /// Never; what is there is kept for the next client.
    Never,
}

/// `[[upstream]]`
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// Its name in routes, logs and metrics; by default its authority.
    pub name: String,
    /// `http` or `https`, host, optional port; no path, no credentials.
    pub url: http::Uri,
    /// What it may send, within `wan.limit`.
    pub limit: RateSchedule,
    /// How clients reach it, where that is not `url`; the same form.
    pub public_url: Option<http::Uri>,
    /// How it is known, if it is `https`.
    pub trust: Trust,
    /// The proxy between the relay and it.
    pub proxy: Option<HttpProxy>,
    /// Smaller is asked first, and those of one priority share; 1 to 1,000. By default its place in the route's list.
    pub priority: Option<u32>,
    /// The path asked to see whether it is well; without one a connection is enough.
    pub check: Option<http::uri::PathAndQuery>,
}

impl UpstreamSettings {
    /// Its URL for clients.
    pub fn client_url(&self) -> &http::Uri {
        self.public_url.as_ref().unwrap_or(&self.url)
    }
}

/// A proxy toward an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProxy {
    /// `http`, host, optional port; no path, no credentials.
    pub url: http::Uri,
    /// The file whose first line is `user:password`.
    pub auth_file: Option<PathBuf>,
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSettings {
    /// Unique name in keys, logs and metrics; by default host and prefix.
    pub name: String,
    /// Begins with `/` and ends without, but for `/` itself; matches whole path segments, without regard to case.
    pub prefix: String,
    /// Requests with this `Host` only (without port, lower case).
    pub host: Option<String>,
    /// Indices into [`Config::upstreams`], by priority. Never empty.
    pub upstreams: Vec<usize>,
    /// The rules that class this route's paths.
    pub profile: Profile,
    /// What its clients get while no worker serves, if not `guard.answer`.
    pub fallback: Option<Fallback>,
    /// Names of content types that are neither fetched nor served here.
    pub deny_download: Vec<String>,
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
    /// Name in logs and metrics: lower case, digits, `-`. Several may share one.
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
