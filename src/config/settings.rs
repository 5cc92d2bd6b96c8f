//! Reads the sections `[server]`, `[store]`, `[fill]`, `[cache]` and `[log]` into their types, with defaults, ranges
//! and the checks of one setting against another. Every problem is recorded in the document; a value that was refused
//! is replaced by its default, so that the reading goes on and finds the next problem.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use super::defaults::{self, Bounds};
use super::document::{Document, Section};
use super::units::{Rate, Size, Time};
use super::{
    CacheSettings, CertificateFiles, Config, FillSettings, FinishPolicy, LogFormat, LogSettings, Overrides,
    Problems, ServerSettings, StoreSettings, UnitError, denials, group, guard, health, network, peer,
    refresh, ring, rollout, tables,
};

impl Config {
    /// Reads every setting: `overrides`, else `GUPD_…` in `env`, else `file`, else its default.
    ///
    /// # Errors
    /// All problems at once, by place.
    pub fn load(
        overrides: &Overrides,
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        let (mut document, config) = Self::read(overrides, file, env)?;
        if document.gave_none("upstream") {
            document.missing("no upstream: give --upstream URL or [[upstream]]");
        }
        Ok(Self { warnings: document.finish()?, ..config })
    }

    /// The same for commands that can do without upstreams: those of the result may be none.
    ///
    /// # Errors
    /// All problems at once, by place.
    pub fn load_without_upstreams(
        overrides: &Overrides,
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        let (document, config) = Self::read(overrides, file, env)?;
        document.finish()?;
        Ok(config)
    }

    fn read(
        overrides: &Overrides,
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Document, Self), Problems> {
        let env: Vec<_> = env.collect();
        let store_dir = store_dir(Path::new(defaults::STORE_DIR), &env);
        let mut document = Document::open(overrides, file, env.into_iter())?;
        let server = server(&mut document);
        let store = store(&mut document, store_dir);
        let fill = fill(&mut document);
        let health = health::health(&mut document);
        let cache = cache(&mut document);
        let log = log(&mut document);
        let site = network::site(&mut document);
        let wan = network::wan(&mut document);
        let lan = network::lan(&mut document);
        let upstreams = tables::upstreams(&mut document, &wan, &health);
        let peers = peer::peers(&mut document, &upstreams);
        let content_types = tables::content_types(&mut document);
        let routes = tables::routes(&mut document, &upstreams, &content_types);
        let rules = tables::rules(&mut document);
        let wan_limits = network::wan_limits(&mut document, &wan, &content_types);
        let denials = denials::denials(&mut document);
        let groups = group::groups(&mut document, &server, &wan, &lan, &content_types, &upstreams, &routes);
        let rollout = rollout::rollout(&mut document);
        let rings = ring::rings(&mut document, &groups, &rollout);
        let refresh = refresh::refresh(&mut document, &wan);
        let prefetch = refresh::prefetch(&mut document);
        let guard = guard::guard(&mut document);
        let warnings = Vec::new();
        let config = Self {
            server,
            store,
            fill,
            health,
            cache,
            log,
            upstreams,
            peers,
            routes,
            content_types,
            rules,
            denials,
            site,
            wan,
            wan_limits,
            lan,
            groups,
            rings,
            rollout,
            refresh,
            prefetch,
            guard,
            warnings,
        };
        network::check_time_zone(&mut document, &config);
        Ok((document, config))
    }

    /// All defaults, with these upstreams by priority. What a relay without a file is.
    ///
    /// # Errors
    /// What is wrong with the URLs.
    pub fn for_upstreams(urls: &[&str]) -> Result<Self, Problems> {
        let overrides =
            Overrides { upstream: urls.iter().map(|&url| url.to_owned()).collect(), ..Overrides::default() };
        Self::load(&overrides, None, super::environment().filter(|(name, _)| !name.starts_with("GUPD_")))
    }
}

fn server(document: &mut Document) -> ServerSettings {
    let mut s = document.section("server");
    let listen = s.many("listen", address).unwrap_or_else(|| vec![defaults::LISTEN]);
    let admin = s.one("admin", address).unwrap_or(defaults::ADMIN);
    let admin_token_file = s.one("admin_token_file", path);
    if let Some(twice) = listen.iter().enumerate().find(|(i, a)| listen[..*i].iter().any(|b| clash(a, b))) {
        s.refuse("listen", format!("{} is covered twice; give each port once", twice.1));
    }
    if let Some(listen) = listen.iter().find(|listen| clash(listen, &admin)) {
        s.refuse("admin", format!("{admin} is taken by listen ({listen}); give it a port of its own"));
    }
    let tls = match (s.one("tls_cert", path), s.one("tls_key", path)) {
        (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
        (Some(_), None) => {
            s.refuse("tls_cert", "is given without tls_key; give both or neither");
            None
        }
        (None, Some(_)) => {
            s.refuse("tls_key", "is given without tls_cert; give both or neither");
            None
        }
        (None, None) => None,
    };
    let client_ca = s.one("client_ca", path);
    if client_ca.is_some() && !s.given("tls_cert") {
        s.refuse("client_ca", "is given without tls_cert; clients show certificates over TLS only");
    }
    let workers = s.one("workers", workers).unwrap_or_else(cores);
    let max_header_bytes = size(&mut s, "max_header_bytes", defaults::MAX_HEADER_BYTES);
    let max_uri_bytes = size(&mut s, "max_uri_bytes", defaults::MAX_URI_BYTES);
    if max_uri_bytes > max_header_bytes {
        s.refuse("max_uri_bytes", "is more than max_header_bytes, which counts the target too");
    }
    let server = ServerSettings {
        listen,
        admin,
        admin_token_file,
        workers,
        tls,
        client_ca,
        max_connections: count(&mut s, "max_connections", defaults::MAX_CONNECTIONS),
        // Both are at most 1 MiB.
        max_header_bytes: usize::try_from(max_header_bytes).unwrap_or(usize::MAX),
        max_uri_bytes: usize::try_from(max_uri_bytes).unwrap_or(usize::MAX),
        header_timeout: time(&mut s, "header_timeout", defaults::HEADER_TIMEOUT),
        stall_timeout: time(&mut s, "stall_timeout", defaults::STALL_TIMEOUT),
        drain_timeout: time(&mut s, "drain_timeout", defaults::DRAIN_TIMEOUT),
    };
    document.close(s);
    server
}

fn store(document: &mut Document, default_dir: PathBuf) -> StoreSettings {
    let mut s = document.section("store");
    let store = StoreSettings {
        dir: s.one("dir", path).unwrap_or(default_dir),
        quota: size(&mut s, "quota", defaults::QUOTA),
        min_free: size(&mut s, "min_free", defaults::MIN_FREE),
        max_unused: time(&mut s, "max_unused", defaults::MAX_UNUSED),
        memory: size(&mut s, "memory", defaults::MEMORY),
        scrub_period: s.one("scrub_period", period).unwrap_or(Some(defaults::SCRUB_PERIOD.default)),
        scrub_rate: s.one("scrub_rate", rate).unwrap_or(defaults::SCRUB_RATE.default),
    };
    document.close(s);
    store
}

fn fill(document: &mut Document) -> FillSettings {
    let mut s = document.section("fill");
    let fill = FillSettings {
        connect_timeout: time(&mut s, "connect_timeout", defaults::CONNECT_TIMEOUT),
        head_timeout: time(&mut s, "head_timeout", defaults::HEAD_TIMEOUT),
        total_timeout: time(&mut s, "total_timeout", defaults::TOTAL_TIMEOUT),
        idle_timeout: time(&mut s, "idle_timeout", defaults::IDLE_TIMEOUT),
        finish: s.one("finish", finish).unwrap_or(FinishPolicy::Always),
        attempts: count(&mut s, "attempts", defaults::ATTEMPTS),
        max_concurrent: count(&mut s, "max_concurrent", defaults::MAX_CONCURRENT),
    };
    if fill.head_timeout > fill.total_timeout {
        let total = Time(fill.total_timeout);
        s.warn("head_timeout", format!("is longer than fill.total_timeout, {total}, which ends a try first"));
    }
    document.close(s);
    fill
}

fn cache(document: &mut Document) -> CacheSettings {
    let mut s = document.section("cache");
    let cache = CacheSettings {
        catalog_fresh: time(&mut s, "catalog_fresh", defaults::CATALOG_FRESH),
        catalog_negative: time(&mut s, "catalog_negative", defaults::CATALOG_NEGATIVE),
        payload_negative: time(&mut s, "payload_negative", defaults::PAYLOAD_NEGATIVE),
        generic_negative: time(&mut s, "generic_negative", defaults::GENERIC_NEGATIVE),
        heuristic_max: time(&mut s, "heuristic_max", defaults::HEURISTIC_MAX),
        stale_if_error: time(&mut s, "stale_if_error", defaults::STALE_IF_ERROR),
    };
    document.close(s);
    cache
}

fn log(document: &mut Document) -> LogSettings {
    let mut s = document.section("log");
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    let log = LogSettings {
        format: s.one("format", |text| choice(text, &formats)).unwrap_or(LogFormat::Auto),
        level: s.one("level", level).unwrap_or_else(|| defaults::LOG_LEVEL.to_owned()),
        access: s.one("access", |text| choice(text, &[("true", true), ("false", false)])).unwrap_or(true),
    };
    document.close(s);
    log
}

/// One of a few words.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        format!("{text:?} is not one of {}", words.join(", "))
    })
}

fn finish(text: &str) -> Result<FinishPolicy, String> {
    match (text, text.strip_suffix('%').map(str::parse)) {
        ("always", _) => Ok(FinishPolicy::Always),
        ("never", _) => Ok(FinishPolicy::Never),
        (_, Some(Ok(percent @ 1..=99))) => Ok(FinishPolicy::Above(percent)),
        _ => Err(format!("{text:?} is not \"always\", \"never\" or a share from 1% to 99%")),
    }
}

pub(super) fn size(s: &mut Section, key: &'static str, bounds: Bounds<u64>) -> u64 {
    let read = |text: &str| {
        let Size(bytes) = text.parse().map_err(|error: UnitError| error.to_string())?;
        within(text, bytes, bounds, Size)
    };
    s.one(key, read).unwrap_or(bounds.default)
}

pub(super) fn time(s: &mut Section, key: &'static str, bounds: Bounds<Duration>) -> Duration {
    let read = |text: &str| {
        let Time(time) = text.parse().map_err(|error: UnitError| error.to_string())?;
        within(text, time, bounds, Time)
    };
    s.one(key, read).unwrap_or(bounds.default)
}

fn period(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" {
        return Ok(None);
    }
    let Time(time) = text.parse().map_err(|error: UnitError| format!("{error}, or off"))?;
    within(text, time, defaults::SCRUB_PERIOD, Time).map(Some)
}

fn rate(text: &str) -> Result<u64, String> {
    let Rate(rate) = text.parse().map_err(|error: UnitError| error.to_string())?;
    within(text, rate, defaults::SCRUB_RATE, Rate)
}

pub(super) fn count<T: Copy + PartialOrd + Display + FromStr>(
    s: &mut Section,
    key: &'static str,
    bounds: Bounds<T>,
) -> T {
    s.one(key, |text| number(text, bounds)).unwrap_or(bounds.default)
}

pub(super) fn number<T: Copy + PartialOrd + Display + FromStr>(
    text: &str,
    bounds: Bounds<T>,
) -> Result<T, String> {
    let refused =
        || format!("{text:?} is not a whole number; give one from {} to {}", bounds.least, bounds.most);
    within(text, text.parse().map_err(|_| refused())?, bounds, |value| value)
}

pub(super) fn within<T: PartialOrd, S: Display>(
    text: &str,
    value: T,
    bounds: Bounds<T>,
    show: impl Fn(T) -> S,
) -> Result<T, String> {
    if value < bounds.least {
        Err(format!("{text} is too little; the least is {}", show(bounds.least)))
    } else if value > bounds.most {
        Err(format!("{text} is too much; the most is {}", show(bounds.most)))
    } else {
        Ok(value)
    }
}

fn workers(text: &str) -> Result<usize, String> {
    if text == "auto" { Ok(cores()) } else { number(text, defaults::WORKERS) }
}

fn cores() -> usize {
    std::thread::available_parallelism()
        .map_or(defaults::WORKERS.default, |cores| cores.get().min(defaults::WORKERS.most))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an address with a port; write it like 0.0.0.0:2967 or [::1]:2967")
    })
}

// A wildcard address covers every other of its family and port. Port 0 is a free port each time.
fn clash(a: &SocketAddr, b: &SocketAddr) -> bool {
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is an empty path".to_owned()) } else { Ok(PathBuf::from(text)) }
}

// A bare word that is no level would be taken for a module and silence the rest.
fn level(text: &str) -> Result<String, String> {
    let refused = || format!("{text:?} is not a log level; write it like info, debug or info,gupd=debug");
    let bare_is_level = |part: &str| part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok();
    if !text.split(',').all(|part| !part.trim().is_empty() && bare_is_level(part.trim())) {
        return Err(refused());
    }
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|_| refused())
}

// The service's folder if it can be written, else the user's of the XDG Base Directory Specification.
fn store_dir(system: &Path, env: &[(String, String)]) -> PathBuf {
    let variable = |name: &str| {
        let value = env.iter().find(|(given, _)| given == name).map(|(_, value)| PathBuf::from(value));
        value.filter(|path| path.is_absolute())
    };
    let state = || variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    if writable(system) {
        return system.to_owned();
    }
    state().map_or_else(|| system.to_owned(), |state| state.join("gupd"))
}

fn writable(dir: &Path) -> bool {
    let may_write = |path: &Path| {
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
    };
    may_write(dir) || (!dir.exists() && dir.parent().is_some_and(may_write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_stands_in_the_users_state_folder_where_the_services_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let (writable, unwritable) = (folder.path().join("gupd"), folder.path().join("missing/gupd"));
        let env = |vars: &[(&str, &str)]| -> Vec<(String, String)> {
            vars.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let both = env(&[("XDG_STATE_HOME", "/state"), ("HOME", "/home/a")]);
        assert_eq!(store_dir(&writable, &both), writable);
        assert_eq!(store_dir(folder.path(), &both), folder.path());
        assert_eq!(store_dir(&unwritable, &both), Path::new("/state/gupd"));
        let relative = env(&[("XDG_STATE_HOME", "state"), ("HOME", "/home/a")]);
        assert_eq!(store_dir(&unwritable, &relative), Path::new("/home/a/.local/state/gupd"));
        assert_eq!(store_dir(&unwritable, &[]), unwritable);
    }
}
