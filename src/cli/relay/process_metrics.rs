//! Metrics of the program and its configuration: the build, the last reload, and the expiry of certificates in files.

use std::path::Path;

use gupd_config::Config;
use gupd_config::clock::Clock;
use gupd_net::metrics::NetMetrics;
use gupd_net::pem;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

/// Revision that the packager set at build time; empty without one.
const REVISION: &str = match option_env!("GUPD_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// Result and time of the last reload.
#[derive(Debug)]
pub(super) struct ReloadMetrics {
    pub(super) successful: IntGauge,
    success_time: IntGauge,
}

/// Registers `gupd_build_info`, which is always 1.
pub(super) fn register_build_info(registry: &Registry) -> Result<(), prometheus::Error> {
    let opts = Opts::new("gupd_build_info", "Version, revision and compiler of the program; always 1.");
    let info = IntGaugeVec::new(opts, &["version", "revision", "rustc"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION"), REVISION, env!("GUPD_RUSTC")]).set(1);
    registry.register(Box::new(info))
}

impl ReloadMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        Ok(Self {
            successful: gauge(
                "gupd_config_last_reload_successful",
                "1 if the last reload, or the start, applied the configuration; 0 if it was refused.",
            )?,
            success_time: gauge(
                "gupd_config_last_reload_success_timestamp_seconds",
                "Time at which the configuration in force was applied.",
            )?,
        })
    }

    /// Records that a configuration is in force.
    pub(super) fn record_success(&self, clock: &Clock) {
        self.successful.set(1);
        self.success_time.set(clock.now() / 1_000);
    }

    /// Records that a configuration was refused.
    pub(super) fn record_refusal(&self) {
        self.successful.set(0);
    }
}

/// Sets the expiry of the certificates in the files of a configuration. Series of files that it no longer names, or that
/// cannot be read, are removed.
pub(super) fn update_certificates(config: &Config, before: Option<&Config>, metrics: &NetMetrics) {
    let expiry = &metrics.certificate_expiry;
    for (labels, _) in before.iter().flat_map(|config| certificate_files(config)) {
        // A label without a series is fine.
        let _absent = expiry.remove_label_values(&labels);
    }
    for name in before.iter().flat_map(|config| servers(config)) {
        if !servers(config).any(|other| other == name) {
            let _absent = expiry.remove_label_values(&["upstream", name]);
        }
    }
    for (labels, path) in certificate_files(config) {
        if let Some(path) = path
            && let Ok(until) = pem::read_earliest_expiry(path)
        {
            expiry.with_label_values(&labels).set(until / 1_000);
        }
    }
}

/// Returns the names of the servers that the relay connects to.
fn servers(config: &Config) -> impl Iterator<Item = &str> {
    let peers = config.peers.iter().map(|peer| &*peer.name);
    config.upstreams.iter().map(|upstream| &*upstream.name).chain(peers)
}

/// Returns the labels of every certificate that the configuration may have, with its file. The server's certificate of an
/// upstream is in no file: it is known from the first connection on.
fn certificate_files(config: &Config) -> Vec<([&str; 2], Option<&Path>)> {
    let server = &config.server;
    let own = [
        (["listener", ""], server.tls.as_ref().map(|files| files.cert.as_path())),
        (["client_ca", ""], server.client_ca.as_deref()),
    ];
    let trusts = config.upstreams.iter().map(|upstream| (&*upstream.name, &upstream.trust));
    let peers = config.peers.iter().map(|peer| (&*peer.name, &peer.trust));
    let of_upstreams = trusts.chain(peers).flat_map(|(name, trust)| {
        let client = trust.client.as_ref().map(|files| files.cert.as_path());
        [(["upstream_ca", name], trust.ca.as_deref()), (["upstream_client", name], client)]
    });
    own.into_iter().chain(of_upstreams).collect()
}
