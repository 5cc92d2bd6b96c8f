//! `gupd check`: validates a configuration as `serve` does, and prints all problems and warnings. With `--probe` it
//! also sends a request to each upstream.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode, Version};
use serde::Serialize;

use super::machine::Machine;
use super::screen::with_spinner;
use super::{CommandError, CommonFlags, fitness, new_runtime, print_line, to_json};
use gupd_config::Quantity;
use gupd_config::policy::{Policy, evaluate_vectors};
use gupd_config::{Clock, Config, Profiles, UpstreamSettings};
use gupd_guard::sandbox::{Restrictions, Sandbox};
use gupd_net::listen::ClientListeners;
use gupd_net::metrics::NetMetrics;
use gupd_net::shape::{BandwidthClass, WanLimiter};
use gupd_net::upstream::{UpstreamRequest, Upstreams};

/// What a valid configuration gives.
#[derive(Debug, Serialize)]
struct CheckReport {
    warnings: Vec<String>,
    /// `None` if it is off.
    sandbox: Option<SandboxReport>,
    /// Answers of the upstreams, with `--probe`.
    upstreams: Vec<UpstreamAnswer>,
}

#[derive(Debug, Serialize)]
struct SandboxReport {
    files: String,
    calls: String,
}

#[derive(Debug, Serialize)]
struct UpstreamAnswer {
    name: String,
    url: String,
    status: u16,
    millis: u64,
    hint: &'static str,
}

pub(super) fn run(flags: &CommonFlags, probe: bool, json: bool) -> Result<(), CommandError> {
    let config = flags.load()?;
    let configuration = |error: &dyn std::fmt::Display| CommandError::Configuration(error.to_string());
    Policy::new(&config).map_err(|error| configuration(&error))?;
    ClientListeners::load(&config.server).map_err(|error| configuration(&error))?;
    let metrics = NetMetrics::register(&prometheus::Registry::new())
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    let wan = Arc::new(WanLimiter::unlimited(&config, Clock::system()));
    let upstreams = Upstreams::new(&config, Clock::system(), wan, Arc::new(metrics))
        .map_err(|error| configuration(&error))?;
    let of_machine = fitness::warnings(&config, &Machine::read(&config));
    let redirects = config.redirect_warnings();
    let warnings = config.warnings.iter().chain(&redirects).chain(&of_machine);
    let mut report = CheckReport {
        warnings: warnings.map(ToString::to_string).collect(),
        sandbox: None,
        upstreams: Vec::new(),
    };
    if config.server.is_sandboxed {
        let tried = Sandbox::probe(&config, flags.file.path());
        let Restrictions { files, calls } =
            tried.map_err(|error| CommandError::Failed(format!("sandbox: cannot be tried: {error}")))?;
        report.sandbox = Some(SandboxReport { files: files.to_string(), calls: calls.to_string() });
    }
    let probed = if probe { probe_upstreams(&config, &upstreams, &mut report.upstreams) } else { Ok(()) };
    print_line(&if json { to_json(&report)? } else { report.text() });
    probed
}

impl CheckReport {
    fn text(&self) -> String {
        let mut lines: Vec<String> =
            self.warnings.iter().map(|warning| format!("warning: {warning}")).collect();
        lines.push("configuration is valid".to_owned());
        if let Some(SandboxReport { files, calls }) = &self.sandbox {
            lines.push(format!("sandbox of this machine: files {files}; system calls {calls}"));
        }
        lines.extend(self.upstreams.iter().map(|UpstreamAnswer { name, url, status, millis, hint }| {
            let hint = if hint.is_empty() { String::new() } else { format!(": {hint}") };
            format!("upstream {name} ({url}): status {status} after {millis} ms{hint}")
        }));
        lines.join("\n")
    }
}

fn probe_upstreams(
    config: &Config,
    upstreams: &Upstreams,
    answers: &mut Vec<UpstreamAnswer>,
) -> Result<(), CommandError> {
    let runtime = new_runtime()?;
    let mut headers = HeaderMap::new();
    upstreams.instance().mark(&mut headers, Version::HTTP_11);
    let root = UpstreamRequest::get(PathAndQuery::from_static("/"), headers, BandwidthClass::default());
    // Any status shows that the upstream answers.
    let request = UpstreamRequest { method: Method::HEAD, ..root };
    let mut failed = Vec::new();
    for (upstream, configured) in upstreams.iter().zip(&config.upstreams) {
        let started = Instant::now();
        let waiting = format!("waiting for upstream {}", upstream.name);
        match runtime.block_on(with_spinner(&waiting, upstreams.send_to(upstream, &request))) {
            Ok(reply) => answers.push(UpstreamAnswer {
                name: upstream.name.to_string(),
                url: configured.url.to_string(),
                status: reply.response.status().as_u16(),
                millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                hint: status_hint(configured, reply.response.status()),
            }),
            Err(error) => failed.push(format!("{error} ({})", configured.url)),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(CommandError::Failed(failed.join("\n"))) }
}

/// Returns what a status of `HEAD /` says about the URL. Web servers answer plain HTTP on their TLS port, and proxies
/// requests that are not for them, with `400`.
fn status_hint(upstream: &UpstreamSettings, status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST if upstream.url.scheme() == Some(&Scheme::HTTP) => {
            "check that its port is for http, and not for https or a proxy"
        }
        _ => "",
    }
}

/// Validates a profile as a reload does, and runs its test vectors: `gupd check --profile`.
pub(super) fn run_profile(file: &Path) -> Result<(), CommandError> {
    let (profiles, profile) = Profiles::with_file(file)?;
    let failures = evaluate_vectors(&profile, &profiles)
        .map_err(|error| CommandError::Configuration(format!("{}: {error}", file.display())))?;
    let lines = failures.iter().map(|failure| {
        let line = failure.line.map(|line| format!(":{line}")).unwrap_or_default();
        format!("{}{line}: {failure}", file.display())
    });
    let lines: Vec<_> = lines.collect();
    if !lines.is_empty() {
        return Err(CommandError::Failed(lines.join("\n")));
    }
    if profile.vectors.is_empty() {
        print_line(&format!("warning: {}: has no [[test]]: add one for each rule", file.display()));
    }
    print_line(&format!(
        "profile {} is valid: {}, {} passed",
        profile.name,
        Quantity(profile.paths.len(), "rule"),
        Quantity(profile.vectors.len(), "test")
    ));
    Ok(())
}
