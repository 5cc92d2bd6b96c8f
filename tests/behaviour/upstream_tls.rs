//! Authentication of TLS upstreams, and the relay's own client certificate.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gupd_cli::relay::Relay;
use gupd_config::{CertificateFiles, ClientCertificates, ListenerTls, Trust};
use gupd_config::{Clock, Config};
use gupd_net::metrics::NetMetrics;
use gupd_net::shape::WanLimiter;
use gupd_net::upstream::Upstreams;
use tempfile::TempDir;

use crate::support::{Authority, Front, Identity, Manager, PAYLOAD, Resource, Site, bytes};

/// Connects to the upstream, or returns the reason of the failure.
async fn reach(url: &str, trust: Trust) -> Result<(), String> {
    let upstreams = upstreams(url, trust)?;
    upstreams.iter().next().unwrap().test_connection().await.map_err(|error| error.to_string())
}

fn upstreams(url: &str, trust: Trust) -> Result<Upstreams, String> {
    let mut config = Config::for_upstreams(&[url]).unwrap();
    config.fill.connect_timeout = Duration::from_secs(20);
    config.upstreams[0].trust = trust;
    let wan = Arc::new(WanLimiter::unlimited(&config, Clock::system()));
    let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new()).unwrap());
    Upstreams::new(&config, Clock::system(), wan, metrics).map_err(|error| error.to_string())
}

fn pinned(identity: &Identity) -> Trust {
    Trust { pins: vec![identity.pin()], ..Trust::default() }
}

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_certificate_is_trusted_despite_name_and_date() {
    let manager = Manager::start();
    let identity = Identity::self_signed();
    let trust = pinned(&identity);
    let front = Front::start(manager.address(), identity).await;
    let url = front.url();
    let site = Site::for_manager(manager, |config| {
        config.upstreams = Config::for_upstreams(&[&url]).unwrap().upstreams;
        config.upstreams[0].trust = trust;
    });
    let body = bytes(80, 3_000_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()).cut(1_000_000, 1));
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    assert_eq!(front.accepted(), 2, "one connection, and another one after the break");
}

#[tokio::test(flavor = "multi_thread")]
async fn unpinned_certificate_is_refused_and_named() {
    let manager = Manager::start();
    let (pinned_one, other) = (Identity::self_signed(), Identity::self_signed());
    let seen = other.pin();
    let front = Front::start(manager.address(), other).await;
    let error = reach(&front.url(), pinned(&pinned_one)).await.unwrap_err();
    assert!(error.contains(&format!("its certificate is {seen}, which is not pinned: ")), "{error}");
    // The pin of the certificate that the log names.
    let both = Trust { pins: vec![pinned_one.pin(), seen], ..Trust::default() };
    reach(&front.url(), both).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_certificate_without_its_key_is_refused() {
    let manager = Manager::start();
    let identity = Identity::self_signed();
    let front = Front::start(manager.address(), Identity::stolen(identity.certificate.clone())).await;
    let error = reach(&front.url(), pinned(&identity)).await.unwrap_err();
    assert!(error.contains("BadSignature"), "{error}");
    assert_eq!(front.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_issuer_replaces_system_roots() {
    let manager = Manager::start();
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let trust = Trust { ca: Some(file(&folder, "ca.pem", &authority.pem())), ..Trust::default() };
    let front = Front::start(manager.address(), authority.issue("127.0.0.1")).await;
    reach(&front.url(), trust.clone()).await.unwrap();
    let misnamed = Front::start(manager.address(), authority.issue("another-name")).await;
    let error = reach(&misnamed.url(), trust.clone()).await.unwrap_err();
    assert!(error.contains("which is not trusted") && error.contains("127.0.0.1"), "{error}");
    let foreign = Authority::new().issue("127.0.0.1");
    let seen = foreign.pin();
    let foreign = Front::start(manager.address(), foreign).await;
    let error = reach(&foreign.url(), trust).await.unwrap_err();
    assert!(error.contains(&format!("its certificate is {seen}, which is not trusted")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_issuer_and_pin_both_must_hold() {
    let manager = Manager::start();
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let ca = Some(file(&folder, "ca.pem", &authority.pem()));
    let identity = authority.issue("127.0.0.1");
    let trust = Trust { ca: ca.clone(), ..pinned(&identity) };
    let front = Front::start(manager.address(), identity).await;
    reach(&front.url(), trust.clone()).await.unwrap();
    let renewed = Front::start(manager.address(), authority.issue("127.0.0.1")).await;
    assert!(reach(&renewed.url(), trust).await.unwrap_err().contains("which is not pinned"));
    let foreign = Identity::self_signed();
    let trust = Trust { ca, ..pinned(&foreign) };
    let foreign = Front::start(manager.address(), foreign).await;
    assert!(reach(&foreign.url(), trust).await.unwrap_err().contains("which is not trusted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_presents_certificate_when_upstream_requests_it() {
    let manager = Manager::start();
    let body = bytes(81, 100_000);
    manager.put(PAYLOAD, Resource::new(body.clone()));
    let (clients, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let (cert, key) = clients.issue("relay").write_files(folder.path());
    let identity = Identity::self_signed();
    let stranger = pinned(&identity);
    let known = Trust { client: Some(CertificateFiles { cert, key }), ..stranger.clone() };
    let front = Front::start_with_client_auth(manager.address(), identity, &clients).await;
    let url = front.url();
    for (trust, status) in [(known, 200), (stranger, 502)] {
        let site = Site::for_manager(Manager::start(), |config| {
            config.upstreams = Config::for_upstreams(&[&url]).unwrap().upstreams;
            config.upstreams[0].trust = trust;
        });
        assert_eq!(site.get(PAYLOAD).await.status, status);
    }
    assert_eq!(manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_reads_tls_files_again() {
    let manager = Manager::start();
    manager.put(PAYLOAD, Resource::new("content"));
    let (old, new, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let ca = file(&folder, "ca.pem", &old.pem());
    let front = Front::start(manager.address(), new.issue("127.0.0.1")).await;
    let url = front.url();
    let mut site = Site::for_manager(manager, |config| {
        config.upstreams = Config::for_upstreams(&[&url]).unwrap().upstreams;
        config.upstreams[0].trust.ca = Some(ca.clone());
    });
    assert_eq!(site.get(PAYLOAD).await.status, 504);
    let config = site.config.clone();
    std::fs::write(&ca, "-----BEGIN CERTIFICATE-----\n").unwrap();
    let error = site.relay_mut().reload(config.clone()).unwrap_err().to_string();
    assert!(error.contains("ca.pem: cannot read certificates"), "{error}");
    std::fs::write(&ca, new.pem()).unwrap();
    site.relay_mut().reload(config).unwrap();
    assert_eq!(site.get(PAYLOAD).await.expect_body(), b"content");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_expiries_are_exposed() {
    let manager = Manager::start();
    manager.put(PAYLOAD, Resource::new("content"));
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let (expired, client) = (Identity::self_signed(), authority.issue("relay"));
    let (cert, key) = client.write_files(folder.path());
    let (files, ca) = (CertificateFiles { cert, key }, file(&folder, "ca.pem", &authority.pem()));
    // The earliest of a file's certificates counts.
    let both = file(&folder, "both.pem", &format!("{}{}", authority.pem(), expired.pem()));
    let pin = expired.pin();
    let front = Front::start(manager.address(), expired).await;
    let url = front.url();
    let mut site = Site::for_manager(manager, |config| {
        config.upstreams = Config::for_upstreams(&[&url]).unwrap().upstreams;
        config.upstreams[0].trust =
            Trust { pins: vec![pin], client: Some(files.clone()), ..Trust::default() };
    });
    let name = site.config.upstreams[0].name.clone();
    let series = |certificate: &str, upstream: &str| {
        let labels = format!("certificate=\"{certificate}\",upstream=\"{upstream}\"");
        format!("gupd_certificate_expiry_timestamp_seconds{{{labels}}}")
    };
    let in_2001 = 978_307_200.0;
    let of_client = (gupd_net::pem::expiry(&client.certificate).unwrap() / 1_000) as f64;
    assert_eq!(site.metric(&series("upstream_client", &name)).await, of_client);
    for unknown in [
        series("listener", ""),
        series("client_ca", ""),
        series("upstream_ca", &name),
        series("upstream", &name),
    ] {
        assert_eq!(site.metric(&unknown).await, 0.0, "{unknown}");
    }
    let server = reach(&url, Trust { pins: vec![pin], ..Trust::default() }).await;
    assert_eq!(server, Ok(()));
    site.get(PAYLOAD).await;
    assert_eq!(site.metric(&series("upstream", &name)).await, in_2001, "seen at the first connection");

    site.config.upstreams[0].trust = Trust { ca: Some(ca), pins: vec![pin], client: None };
    site.config.server.tls = Some(ListenerTls {
        client_certificates: ClientCertificates::Optional,
        client_ca: Some(both),
        ..files.into()
    });
    let config = site.config.clone();
    site.relay_mut().reload(config).unwrap();
    assert!(site.metric(&series("upstream_ca", &name)).await > in_2001);
    assert_eq!(site.metric(&series("listener", "")).await, of_client);
    assert_eq!(site.metric(&series("client_ca", "")).await, in_2001);
    assert_eq!(site.metric(&series("upstream_client", &name)).await, 0.0, "no longer configured");
    assert_eq!(site.metric(&series("upstream", &name)).await, in_2001);
}

#[test]
fn bad_tls_file_is_one_error_line() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), tempfile::tempdir().unwrap());
    let (cert, key) = authority.issue("relay").write_files(folder.path());
    let (_, foreign_key) = authority.issue("relay").write_files(other.path());
    let empty = file(&folder, "empty.pem", "nothing\n");
    let missing = folder.path().join("missing.pem");
    let ca = |path: &PathBuf| Trust { ca: Some(path.clone()), ..Trust::default() };
    let client = |cert: &PathBuf, key: &PathBuf| {
        let client = Some(CertificateFiles { cert: cert.clone(), key: key.clone() });
        Trust { client, ..pinned(&authority.issue("manager")) }
    };
    for (trust, expected) in [
        (ca(&missing), "missing.pem: cannot read certificates"),
        (ca(&empty), "empty.pem: cannot read certificates: it has none"),
        (client(&empty, &key), "empty.pem: cannot read certificates: it has none"),
        (client(&cert, &missing), "missing.pem: cannot read a private key"),
        (client(&cert, &foreign_key), "certificate and key do not match"),
    ] {
        let error = upstreams("https://manager:8443", trust.clone()).unwrap_err();
        assert!(error.starts_with("upstream manager:8443: "), "{error}");
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        let mut config = Config::for_upstreams(&["https://manager:8443"]).unwrap();
        config.upstreams[0].trust = trust;
        config.store.dir = folder.path().join("store");
        assert_eq!(Relay::start(config, Clock::system()).unwrap_err().to_string(), error);
        assert!(!folder.path().join("store").exists(), "no store is created");
    }
}
