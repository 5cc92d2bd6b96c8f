//! The daily summary: at the local time of the site, once a day, in the store's folder and as a notification.

use std::time::{Duration, Instant};

use gupd_config::Trust;
use gupd_net::webhook::post_json;
use serde_json::Value;

use crate::support::{
    Authority, Front, Identity, Manager, PATIENCE, PAYLOAD, Resource, Response, Site, bytes, get,
};

fn summary(site: &Site) -> Option<Value> {
    let text = std::fs::read_to_string(site.config.store.dir.join("summary.json")).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

fn text(response: Response) -> String {
    String::from_utf8(response.expect_body()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_of_a_day_is_written_and_sent_once() {
    let receiver = Manager::start();
    receiver.put("/hook", Resource::new("thanks"));
    let url = format!("{}/hook?key=1", receiver.url());
    let site = Site::with_config(|config| {
        config.site.time_zone = jiff::tz::TimeZone::UTC;
        config.summary.webhook = Some(url.parse().unwrap());
    });
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 3 << 20)));
    site.get(PAYLOAD).await.expect_body();
    site.wait_for_fills().await;
    site.get(PAYLOAD).await.expect_body();
    assert_eq!(summary(&site), None);
    // The time of the next summary is known before the relay notes its start.
    let deadline = Instant::now() + PATIENCE;
    while !text(get(site.relay().admin(), "/api/v1/events").await).contains("started") {
        assert!(Instant::now() < deadline, "the start is not noted");
    }
    // The relay reads its clock every few seconds.
    site.clock.advance(Duration::from_secs(86_400));
    receiver.wait_for_requests("/hook", 1).await;
    let sent = receiver.requests_for("/hook").remove(0);
    let sent: Value = serde_json::from_slice(&sent.body).unwrap();
    while summary(&site).as_ref() != Some(&sent) {
        assert!(Instant::now() < deadline, "{:?}", summary(&site));
    }
    assert_eq!(
        (&sent["wan_received"], &sent["lan_sent"]),
        (&(3 << 20).into(), &(6 << 20).into()),
        "{sent:#}"
    );
    assert_eq!((&sent["saved_percent"], &sent["requests"]), (&50.into(), &2.into()), "{sent:#}");
    assert!(sent["sentence"].as_str().unwrap().starts_with("serving; "), "{sent:#}");
    assert!(sent["alarms"].is_array() && sent["alarms_raised"].is_u64(), "{sent:#}");
    // Set back by half a day, the time comes again.
    site.clock.set_back(Duration::from_secs(43_200));
    site.clock.set_forward(Duration::from_secs(43_200));
    site.clock.advance(Duration::from_secs(86_400));
    receiver.wait_for_requests("/hook", 2).await;
    assert_eq!(receiver.request_count("/hook"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_is_sent_over_tls_to_a_service_of_the_site() {
    let (receiver, authority, folder) = (Manager::start(), Authority::new(), tempfile::tempdir().unwrap());
    receiver.put("/hook", Resource::new("thanks"));
    let front = Front::start(receiver.address(), authority.issue("127.0.0.1")).await;
    let (issuers, url) = (folder.path().join("ca.pem"), format!("{}/hook", front.url()));
    std::fs::write(&issuers, authority.pem()).unwrap();
    let site = Site::with_config(|config| {
        config.site.time_zone = jiff::tz::TimeZone::UTC;
        config.summary.webhook = Some(url.parse().unwrap());
        config.summary.webhook_ca = Some(issuers);
    });
    let deadline = Instant::now() + PATIENCE;
    while !text(get(site.relay().admin(), "/api/v1/events").await).contains("started") {
        assert!(Instant::now() < deadline, "the start is not noted");
    }
    site.clock.advance(Duration::from_secs(86_400));
    receiver.wait_for_requests("/hook", 1).await;
    let sent: Value = serde_json::from_slice(&receiver.requests_for("/hook")[0].body).unwrap();
    assert!(sent["sentence"].as_str().unwrap().starts_with("serving"), "{sent:#}");
    assert_eq!(front.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_is_not_sent_to_an_untrusted_service() {
    let (receiver, authority, folder) = (Manager::start(), Authority::new(), tempfile::tempdir().unwrap());
    receiver.put("/hook", Resource::new("thanks"));
    let issuers = folder.path().join("ca.pem");
    std::fs::write(&issuers, authority.pem()).unwrap();
    let of_site = Trust { ca: Some(issuers), ..Trust::default() };
    for (identity, trust) in [
        (authority.issue("127.0.0.1"), Trust::default()),
        (authority.issue("other.example"), of_site.clone()),
        (Authority::new().issue("127.0.0.1"), of_site.clone()),
        (Identity::self_signed(), of_site),
    ] {
        let front = Front::start(receiver.address(), identity).await;
        let url = format!("{}/hook", front.url()).parse().unwrap();
        let refused = post_json(&url, &trust, "{}".to_owned()).await.unwrap_err().to_string();
        assert!(refused.contains("certificate"), "{refused}");
    }
    assert_eq!(receiver.request_count("/hook"), 0);
}
