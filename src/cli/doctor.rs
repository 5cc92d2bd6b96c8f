//! `gupd doctor`: examines the machine, the configuration, the upstreams and the running relay, and says what to do about
//! each finding. It changes nothing; the disk's speed is measured with a file that is removed at once. `content` has the
//! findings that need a transfer, `modules` that about SELinux and AppArmor.

mod content;
mod modules;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Version, header};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use tokio::runtime::Runtime;

use self::content::Sources;
use super::admin_client::{AdminClient, AdminRequest};
use super::machine::Machine;
use super::screen::spinner;
use super::table::{self, bytes, printable};
use super::{CommandError, CommonFlags, fitness, new_runtime, print_line, to_json};
use gupd_admin::{Severity, StatusReport};
use gupd_config::Quantity;
use gupd_config::policy::Policy;
use gupd_config::{Clock, Config};
use gupd_http::date;
use gupd_ledger::TrafficReport;
use gupd_net::listen::ClientListeners;
use gupd_net::metrics::NetMetrics;
use gupd_net::shape::{BandwidthClass, WanLimiter};
use gupd_net::upstream::{UpstreamRequest, UpstreamResponse, Upstreams};

/// Bytes that are written to measure the disk.
const SAMPLE: usize = 16 << 20;

/// Bytes a second below which a disk slows fills down: a line of 100 Mbit/s.
const SLOW_DISK: u64 = 12 << 20;

/// Difference from an upstream's clock that matters: freshness is counted in seconds.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(30);

/// Descriptors that a relay needs beside connections.
const OWN_FILES: u64 = 512;

/// Time-out of requests to the relay.
const RELAY_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `gupd doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gupd doctor\n  gupd doctor --config /etc/gupd/gupd.toml --json\n  \
                        gupd doctor --object /packages/agent.msi\n\n\
                        Exit status: 0 without a problem, 1 with one, 2 for an invalid configuration.")]
pub(super) struct DoctorFlags {
    #[command(flatten)]
    common: CommonFlags,
    /// Test object, as clients request it [default: the one that clients took most in 7 days, or a catalog of
    /// refresh.catalogs].
    #[arg(long, value_name = "PATH")]
    object: Option<PathAndQuery>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Result of one examination.
#[derive(Debug, Serialize)]
struct Diagnosis {
    state: State,
    subject: String,
    finding: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    Warning,
    Problem,
}

/// The findings so far.
#[derive(Default)]
struct Examination(Vec<Diagnosis>);

pub(super) fn run(flags: &DoctorFlags) -> Result<(), CommandError> {
    let config = flags.common.load()?;
    let mut examination = Examination::default();
    let spinner = spinner("examining");
    examination.configuration(&config)?;
    examination.files(&config);
    examination.disk(&config.store.dir);
    examination.0.push(modules::examine());
    let (upstreams, runtime) = (connect(&config)?, new_runtime()?);
    examination.upstreams(&config, &upstreams, &runtime);
    examination.relay(&config)?;
    match flags.object.clone().or_else(|| find_object(&config)) {
        Some(object) => {
            let (config, upstreams, runtime) = (&config, &upstreams, &runtime);
            examination.content(&Sources { config, upstreams, runtime, object: &object });
        }
        None => examination.bad(
            State::Warning,
            "end to end",
            "no object to test with: no client has taken one yet",
            "name one that an upstream has by --object",
        ),
    }
    spinner.finish_and_clear();
    let problems = examination.0.iter().filter(|diagnosis| diagnosis.state == State::Problem).count();
    if flags.json {
        print_line(&to_json(&examination.0)?);
    } else {
        print_line(&examination.text());
    }
    match problems {
        0 => Ok(()),
        _ => Err(CommandError::Failed(format!("doctor: {}", Quantity(problems, "problem")))),
    }
}

impl Examination {
    fn good(&mut self, subject: &str, finding: impl Into<String>) {
        self.0.push(Diagnosis {
            state: State::Good,
            subject: subject.to_owned(),
            finding: finding.into(),
            remedy: None,
        });
    }

    fn bad(&mut self, state: State, subject: &str, finding: impl Into<String>, remedy: impl Into<String>) {
        let (finding, remedy) = (finding.into(), Some(remedy.into()));
        self.0.push(Diagnosis { state, subject: subject.to_owned(), finding, remedy });
    }

    fn text(&self) -> String {
        let mut table = table::new(&["STATE", "SUBJECT", "FINDING", "REMEDY"], &[]);
        for Diagnosis { state, subject, finding, remedy } in &self.0 {
            let state = match state {
                State::Good => "good",
                State::Warning => "warning",
                State::Problem => "problem",
            };
            table.add_row([state, subject, &printable(finding), &printable(remedy.as_deref().unwrap_or(""))]);
        }
        table::text(&table)
    }

    fn configuration(&mut self, config: &Config) -> Result<(), CommandError> {
        let invalid = |error: &dyn std::fmt::Display| CommandError::Configuration(error.to_string());
        Policy::new(config).map_err(|error| invalid(&error))?;
        ClientListeners::load(&config.server).map_err(|error| invalid(&error))?;
        let of_machine = fitness::warnings(config, &Machine::read(config));
        let redirects = config.redirect_warnings();
        let warnings: Vec<_> = config.warnings.iter().chain(&redirects).chain(&of_machine).collect();
        for warning in &warnings {
            let warning = warning.to_string();
            // The remedy stands behind the last colon of a warning.
            let (finding, remedy) = warning.rsplit_once(": ").unwrap_or((&warning, "gupd check"));
            self.bad(State::Warning, "configuration", finding, remedy);
        }
        if warnings.is_empty() {
            self.good("configuration", "valid, and it fits the machine");
        }
        Ok(())
    }

    fn files(&mut self, config: &Config) {
        let limit = getrlimit(Resource::Nofile);
        let needed = config.server.max_connections as u64 * 2 + OWN_FILES;
        match limit.current {
            Some(limit) if limit < needed => self.bad(
                State::Warning,
                "open files",
                format!("this shell may open {limit} files; the relay may need {needed}"),
                "set LimitNOFILE of the service above it, or lower server.max_connections",
            ),
            limit => {
                let limit = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
                self.good("open files", format!("limit {limit}, at most {needed} needed"));
            }
        }
    }

    fn disk(&mut self, dir: &Path) {
        match measure_disk(dir) {
            Ok(speed) if speed < SLOW_DISK => self.bad(
                State::Warning,
                "disk",
                format!("{} writes {} a second", dir.display(), bytes(speed)),
                "use a faster disk for store.dir: fills wait for it",
            ),
            Ok(speed) => self.good("disk", format!("{} writes {} a second", dir.display(), bytes(speed))),
            Err(error) => self.bad(
                State::Warning,
                "disk",
                format!("{} cannot be written by this user: {error}", dir.display()),
                "run gupd doctor as the user of the relay, or with sudo",
            ),
        }
    }

    fn upstreams(&mut self, config: &Config, upstreams: &Upstreams, runtime: &Runtime) {
        let mut headers = HeaderMap::new();
        upstreams.instance().mark(&mut headers, Version::HTTP_11);
        for (upstream, configured) in upstreams.iter().zip(&config.upstreams) {
            let target = configured.check.clone().unwrap_or(PathAndQuery::from_static("/"));
            let root = UpstreamRequest::get(target, headers.clone(), BandwidthClass::default());
            let request = UpstreamRequest { method: Method::HEAD, ..root };
            let (started, subject) = (Instant::now(), format!("upstream {}", upstream.name));
            match runtime.block_on(upstreams.send_to(upstream, &request)) {
                Ok(answer) => {
                    let (status, millis) = (answer.response.status().as_u16(), started.elapsed().as_millis());
                    self.good(&subject, format!("{} answers {status} after {millis} ms", configured.url));
                    self.clock(&subject, &answer);
                }
                Err(error) => {
                    let error = error.to_string();
                    let remedy = "check name, address, port, firewall and certificate of this upstream";
                    self.bad(State::Problem, &subject, format!("{}: {error}", configured.url), remedy);
                }
            }
        }
    }

    fn clock(&mut self, subject: &str, answer: &UpstreamResponse) {
        let Some(date) = date::from_headers(answer.response.headers(), header::DATE) else { return };
        let difference = Duration::from_millis(answer.response_time.abs_diff(date));
        if difference > CLOCK_DIFFERENCE {
            let finding = format!("its clock and this machine's differ by {} s", difference.as_secs());
            self.bad(
                State::Warning,
                subject,
                finding,
                "synchronise both clocks: freshness and windows use them",
            );
        }
    }

    fn relay(&mut self, config: &Config) -> Result<(), CommandError> {
        let admin = AdminClient::for_reading(config)?;
        let (method, path) = (Method::GET, "/api/v1/status");
        let request = AdminRequest { method, path, body: Bytes::new(), max_response: 8 << 20 };
        let report = match admin.try_send(request, RELAY_TIMEOUT) {
            Ok((StatusCode::OK, body)) => serde_json::from_slice::<StatusReport>(&body).ok(),
            Ok((status, _)) => {
                let finding = format!("{} answers {status}", admin.address());
                self.bad(State::Warning, "relay", finding, "run gupd doctor with sudo, or upgrade the relay");
                return Ok(());
            }
            Err(error) => {
                let finding = format!("{} does not answer: {error}", admin.address());
                self.bad(State::Warning, "relay", finding, "start it, or pass its --config or --admin");
                return Ok(());
            }
        };
        let Some(report) = report else {
            self.bad(State::Warning, "relay", "it is of another version", "upgrade it: gupd upgrade");
            return Ok(());
        };
        for finding in &report.findings {
            let state = if finding.severity == Severity::Critical { State::Problem } else { State::Warning };
            self.bad(state, "relay", &finding.message, &finding.action);
        }
        if report.findings.is_empty() {
            self.good("relay", report.sentence);
        }
        Ok(())
    }
}

/// Creates the upstreams, without limits. Connects to none.
fn connect(config: &Config) -> Result<Upstreams, CommandError> {
    let metrics = NetMetrics::register(&prometheus::Registry::new())
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    let wan = Arc::new(WanLimiter::unlimited(config, Clock::system()));
    Upstreams::new(config, Clock::system(), wan, Arc::new(metrics))
        .map_err(|error| CommandError::Configuration(error.to_string()))
}

/// Returns the object that clients of the relay took most lately, else a catalog of the configuration.
fn find_object(config: &Config) -> Option<PathAndQuery> {
    let most_taken = || {
        let (method, path) = (Method::GET, "/api/v1/traffic?since=7d&top=20");
        let request = AdminRequest { method, path, body: Bytes::new(), max_response: 8 << 20 };
        let (_, body) = AdminClient::for_reading(config).ok()?.try_send(request, RELAY_TIMEOUT).ok()?;
        let report: TrafficReport = serde_json::from_slice(&body).ok()?;
        let is_object = |path: &PathAndQuery| path.as_str().starts_with('/');
        report.objects.iter().filter_map(|row| row.object.parse().ok()).find(is_object)
    };
    most_taken().or_else(|| config.refresh.catalogs.first().cloned())
}

/// Writes a file in the folder, or in the nearest parent that exists, and returns the bytes a second.
fn measure_disk(dir: &Path) -> io::Result<u64> {
    let folder = dir.ancestors().find(|folder| folder.is_dir()).unwrap_or(dir);
    let path = folder.join(format!(".gupd-doctor-{}", std::process::id()));
    let (piece, started) = (vec![0x5a; 1 << 20], Instant::now());
    let mut file = File::create_new(&path)?;
    let written =
        (0..SAMPLE / piece.len()).try_for_each(|_| file.write_all(&piece)).and_then(|()| file.sync_all());
    let elapsed = started.elapsed();
    std::fs::remove_file(&path)?;
    written?;
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    Ok(SAMPLE as u64 * 1_000 / millis)
}
