//! `gupd check`: validates a configuration as `serve` does, and prints all problems and warnings. With `--probe` it
//! also sends a request to each upstream.

use std::sync::Arc;
use std::time::Instant;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode, Version};

use super::machine::Machine;
use super::{CommandError, CommonFlags, fitness, new_runtime, print_line};
use gupd_config::policy::Policy;
use gupd_config::{Clock, Config, UpstreamSettings};
use gupd_guard::sandbox::{Restrictions, Sandbox};
use gupd_net::listen::ClientListeners;
use gupd_net::metrics::NetMetrics;
use gupd_net::shape::{BandwidthClass, WanLimiter};
use gupd_net::upstream::{UpstreamRequest, Upstreams};

pub(super) fn run(flags: &CommonFlags, probe: bool) -> Result<(), CommandError> {
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
    for warning in config.warnings.iter().chain(&config.redirect_warnings()).chain(&of_machine) {
        print_line(&format!("warning: {warning}"));
    }
    print_line("configuration is valid");
    if config.server.is_sandboxed {
        let tried = Sandbox::probe(&config, flags.file.path());
        let Restrictions { files, calls } =
            tried.map_err(|error| CommandError::Failed(format!("sandbox: cannot be tried: {error}")))?;
        print_line(&format!("sandbox of this machine: files {files}; system calls {calls}"));
    }
    if probe { probe_upstreams(&config, &upstreams) } else { Ok(()) }
}

fn probe_upstreams(config: &Config, upstreams: &Upstreams) -> Result<(), CommandError> {
    let runtime = new_runtime()?;
    let mut headers = HeaderMap::new();
    upstreams.instance().mark(&mut headers, Version::HTTP_11);
    let root = UpstreamRequest::get(PathAndQuery::from_static("/"), headers, BandwidthClass::default());
    // Any status shows that the upstream answers.
    let request = UpstreamRequest { method: Method::HEAD, ..root };
    let mut failed = Vec::new();
    for (upstream, configured) in upstreams.iter().zip(&config.upstreams) {
        let started = Instant::now();
        match runtime.block_on(upstreams.send_to(upstream, &request)) {
            Ok(reply) => print_line(&format!(
                "upstream {} ({}): status {} after {} ms{}",
                upstream.name,
                configured.url,
                reply.response.status().as_u16(),
                started.elapsed().as_millis(),
                status_hint(configured, reply.response.status())
            )),
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
            ": check that its port is for http, and not for https or a proxy"
        }
        _ => "",
    }
}
