//! Metrics of the program and its configuration: the build, the last reload, and the expiry of certificates in files.

use std::path::{Path, PathBuf};

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
    for (labels, _) in before.iter().flat_map(|config| revocation_lists(config)) {
        let _absent = expiry.remove_label_values(&labels);
    }
    for name in before.iter().flat_map(|config| servers(config)) {
        if !servers(config).any(|other| other == name) {
            let _absent = expiry.remove_label_values(&["upstream", name]);
        }
    }
    for (labels, paths) in certificate_files(config) {
        let earliest = paths.into_iter().filter_map(|path| pem::read_earliest_expiry(path).ok()).min();
        if let Some(until) = earliest {
            expiry.with_label_values(&labels).set(until / 1_000);
        }
    }
    for (labels, paths) in revocation_lists(config) {
        let validities = paths.into_iter().filter_map(|path| pem::read_crl_validity(path).ok());
        if let Some(until) = validities.map(|validity| validity.until).min() {
            expiry.with_label_values(&labels).set(until / 1_000);
        }
    }
}

/// Returns the names of the servers that the relay connects to.
fn servers(config: &Config) -> impl Iterator<Item = &str> {
    let peers = config.peers.iter().map(|peer| &*peer.name);
    config.upstreams.iter().map(|upstream| &*upstream.name).chain(peers)
}

/// Returns the labels of every certificate that the configuration may have, with its files. The server's certificate of
/// an upstream is in no file: it is known from the first connection on.
fn certificate_files(config: &Config) -> Vec<([String; 2], Vec<&Path>)> {
    let server = &config.server;
    let named = server.listeners.iter().map(|listener| (&*listener.name, listener.tls.as_ref()));
    let of_listeners = [("", server.tls.as_ref())].into_iter().chain(named).flat_map(|(name, tls)| {
        let own = tls.iter().flat_map(|tls| &tls.certificates).map(|files| files.cert.as_path());
        let issuers = tls.and_then(|tls| tls.client_ca.as_deref());
        [("listener", name, own.collect()), ("client_ca", name, issuers.into_iter().collect())]
    });
    let trusts = config.upstreams.iter().map(|upstream| (&*upstream.name, &upstream.trust));
    let peers = config.peers.iter().map(|peer| (&*peer.name, &peer.trust));
    let of_upstreams = trusts.chain(peers).flat_map(|(name, trust)| {
        let client = trust.client.as_ref().map(|files| files.cert.as_path());
        let issuers = trust.ca.as_deref().into_iter().collect();
        [("upstream_ca", name, issuers), ("upstream_client", name, client.into_iter().collect())]
    });
    let labelled = |(usage, name, paths): (&str, &str, _)| ([usage.to_owned(), name.to_owned()], paths);
    of_listeners.chain(of_upstreams).map(labelled).collect()
}

/// Returns the labels of the revocation lists of every listener, with their files.
fn revocation_lists(config: &Config) -> Vec<([String; 2], Vec<&Path>)> {
    let server = &config.server;
    let named = server.listeners.iter().map(|listener| (&*listener.name, listener.tls.as_ref()));
    let all = [("", server.tls.as_ref())].into_iter().chain(named);
    all.filter_map(|(name, tls)| {
        let lists = tls?.client_crl.iter().map(PathBuf::as_path).collect();
        Some((["client_crl".to_owned(), name.to_owned()], lists))
    })
    .collect()
}
