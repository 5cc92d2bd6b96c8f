//! `gupd check`: reads a configuration as `serve` would and names every problem, and warns of what is odd;
//! with `--probe` also asks the upstreams.

use std::sync::Arc;
use std::time::Instant;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Version};

use super::{Failure, Settings, answer};
use gupd_config::policy::Policy;
use gupd_config::{Clock, Config};
use gupd_net::listen::tls;
use gupd_net::metrics::NetMetrics;
use gupd_net::shape::{BandwidthClass, WanLimiter};
use gupd_net::upstream::{CurrentUpstream, RequestBody, UpstreamRequest, Upstreams};

pub(super) fn run(settings: &Settings, probe: bool) -> Result<(), Failure> {
    let config = settings.load()?;
    let configuration = |error: &dyn std::fmt::Display| Failure::Configuration(error.to_string());
    Policy::new(&config).map_err(|error| configuration(&error))?;
    tls::load_acceptor(&config.server).map_err(|error| configuration(&error))?;
    let metrics = NetMetrics::register(&prometheus::Registry::new())
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let wan = Arc::new(WanLimiter::unlimited(&config, Clock::system()));
    let upstreams = Upstreams::new(&config, Clock::system(), wan, Arc::new(metrics))
        .map_err(|error| configuration(&error))?;
    for warning in config.warnings.iter().chain(&config.redirect_warnings()) {
        answer(&format!("warning: {warning}"));
    }
    answer("the configuration is good");
    if probe { ask_all(&config, &upstreams) } else { Ok(()) }
}

fn ask_all(config: &Config, upstreams: &Upstreams) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("the system gives no event queue: {error}")))?;
    let mut headers = HeaderMap::new();
    upstreams.instance().mark(&mut headers, Version::HTTP_11);
    let outgoing = UpstreamRequest {
        // Any answer will do: it shows that somebody speaks HTTP there.
        method: Method::HEAD,
        target: PathAndQuery::from_static("/"),
        headers,
        body: RequestBody::Empty,
        bandwidth: BandwidthClass::default(),
        current_upstream: CurrentUpstream::default(),
    };
    let mut silent = Vec::new();
    for (upstream, configured) in upstreams.iter().zip(&config.upstreams) {
        let begun = Instant::now();
        match runtime.block_on(upstreams.send_to(upstream, &outgoing)) {
            Ok(reply) => answer(&format!(
                "upstream {} ({}): answers {} in {} ms",
                upstream.name,
                configured.url,
                reply.response.status().as_u16(),
                begun.elapsed().as_millis()
            )),
            Err(error) => silent.push(format!("{error} ({})", configured.url)),
        }
    }
    if silent.is_empty() { Ok(()) } else { Err(Failure::Failed(silent.join("\n"))) }
}
