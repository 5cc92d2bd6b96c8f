//! Events and alarms: each condition is raised once and cleared once, in sentences with the action to take, on the
//! Events page, in `gupd status` and in the API. A restart repeats none.

use std::net::Ipv4Addr;
use std::time::Instant;

use serde_json::Value;

use crate::fault_layer::{EIO, FaultLayer};
use crate::process::{PATIENCE, Process, Relay, gupd, parse_line, serve};
use crate::rollout::{Place, order};
use crate::support::{Manager, PAYLOAD, RefusingPort, Request, Resource, WireClient, bytes, get};

async fn events(relay: &Relay) -> Value {
    serde_json::from_slice(&get(relay.admin, "/api/v1/events").await.expect_body()).unwrap()
}

async fn page(relay: &Relay) -> String {
    String::from_utf8(get(relay.admin, "/events").await.expect_body()).unwrap()
}

/// The changes of the alarms of a kind, the latest first.
fn changes(report: &Value, kind: &str) -> Vec<String> {
    let events = report["events"].as_array().unwrap().iter();
    events
        .filter(|event| event["kind"] == kind)
        .map(|event| event["change"].as_str().unwrap().to_owned())
        .collect()
}

fn report_ids(report: &Value) -> Vec<i64> {
    report["events"].as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap()).collect()
}

/// Waits until an alarm of this kind is raised, and returns it with its report.
async fn wait_for_alarm(relay: &Relay, kind: &str) -> (Value, Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let report = events(relay).await;
        let alarm = report["alarms"].as_array().unwrap().iter().find(|alarm| alarm["kind"] == kind).cloned();
        if let Some(alarm) = alarm {
            return (alarm, report);
        }
        assert!(Instant::now() < deadline, "no {kind}: {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alarm_is_raised_and_cleared_once_across_a_restart() {
    let (place, mut relay) = Place::published().await;
    assert!(!page(&relay).await.contains("rollouts are halted"));
    let halt = order(r#"{"order":"halt","by":"anna"}"#).send(relay.admin).await;
    assert_eq!(halt.status, 200);
    let (alarm, report) = wait_for_alarm(&relay, "rollouts-halted").await;
    assert_eq!(alarm["severity"], "warning");
    assert_eq!(alarm["message"], "rollouts are halted");
    assert!(alarm["action"].as_str().unwrap().starts_with("gupd rollout resume"));
    assert_eq!(changes(&report, "rollouts-halted"), ["raised"]);
    let since = alarm["since"].clone();
    assert!(since.is_string(), "{alarm}");
    let logged = relay.process.wait_for_line(|line| line.contains("\"kind\":\"rollouts-halted\""));
    let logged = parse_line(&logged.unwrap());
    assert_eq!((&logged["message"], &logged["alarm"]), (&"alarm raised".into(), &alarm["message"]));
    relay.process.kill();
    relay = Relay::start(gupd(["serve", "--config"]).arg(place.file()));
    let (alarm, report) = wait_for_alarm(&relay, "rollouts-halted").await;
    assert_eq!((&alarm["since"], changes(&report, "rollouts-halted")), (&since, vec!["raised".to_owned()]));
    assert_eq!(changes(&report, "started").len(), 2, "{report:#}");
    assert_eq!(order(r#"{"order":"resume","by":"anna"}"#).send(relay.admin).await.status, 200);
    let report = events(&relay).await;
    assert_eq!(changes(&report, "rollouts-halted"), ["cleared", "raised"]);
    let cleared = report["events"].as_array().unwrap().iter().find(|event| event["change"] == "cleared");
    assert_eq!(cleared.unwrap()["raised"], since);
    let page = page(&relay).await;
    assert!(page.contains("Over after ") && page.contains(": rollouts are halted"), "{page}");
    let limited = get(relay.admin, "/api/v1/events?limit=1").await.expect_body();
    let limited: Value = serde_json::from_slice(&limited).unwrap();
    assert_eq!(limited["events"].as_array().unwrap().len(), 1);
    let earlier = format!("/api/v1/events?limit=9&before={}", limited["events"][0]["id"]);
    let earlier: Value = serde_json::from_slice(&get(relay.admin, &earlier).await.expect_body()).unwrap();
    let all = report_ids(&events(&relay).await);
    assert_eq!(report_ids(&earlier)[..], all[1..]);
    assert_eq!(get(relay.admin, "/api/v1/events?since=1h").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_upstream_is_an_alarm_with_its_name_and_action() {
    let (refusing, manager, folder) = (RefusingPort::new(), Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 1 << 20)));
    let mut command = serve(&manager, folder.path());
    command.args(["--upstream", &refusing.url()]);
    let relay = Relay::start(command.env("GUPD_HEALTH_INTERVAL", "1s").env("GUPD_HEALTH_FAILURES", "1"));
    let (alarm, report) = wait_for_alarm(&relay, "upstream-failing").await;
    assert_eq!(alarm["severity"], "warning");
    let name = alarm["subject"].as_str().unwrap();
    assert_eq!(alarm["message"], format!("upstream {name} does not answer"));
    assert_eq!(changes(&report, "upstream-failing"), ["raised"]);
    let ended = Process::start(&mut gupd(["status", "--admin", &relay.admin.to_string()])).wait_for_exit();
    assert!(ended.lines[0].contains(&format!("upstream {name} does not answer: check it")), "{ended:#?}");
    let page = page(&relay).await;
    assert!(
        page.contains(&format!("upstream {name} does not answer")) && page.contains(", since "),
        "{page}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_without_upstream_says_what_to_add() {
    let folder = tempfile::tempdir().unwrap();
    let (file, store) = (folder.path().join("gupd.toml"), folder.path().join("store"));
    let settings =
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[store]\nmin_free = \"0B\"\n";
    std::fs::write(&file, format!("{settings}dir = {store:?}\n")).unwrap();
    let relay = Relay::start(gupd(["serve", "--config"]).arg(&file));
    let (alarm, _) = wait_for_alarm(&relay, "not-configured").await;
    assert_eq!(alarm["severity"], "critical");
    let ended = Process::start(&mut gupd(["status", "--admin", &relay.admin.to_string()])).wait_for_exit();
    let expected =
        "serving; no upstream is configured: clients get 503: add [[upstream]] to the configuration file";
    assert!(ended.lines[0].contains(expected), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_client_of_another_site_is_named() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 1 << 20)));
    let mut command = serve(&manager, folder.path());
    // The manager and the tests are on the other addresses.
    let relay = Relay::start(command.env("GUPD_SERVER_DENY", "127.0.0.9"));
    let mut client =
        WireClient::connect_from(Ipv4Addr::new(127, 0, 0, 9).octets().into(), relay.address).await;
    let _refused = client.send(&Request::get(PAYLOAD)).await;
    let (alarm, _) = wait_for_alarm(&relay, "foreign-client").await;
    assert_eq!((&alarm["subject"], &alarm["severity"]), (&"refused".into(), &"notice".into()));
    let message = alarm["message"].as_str().unwrap();
    assert!(
        message.starts_with("1 client of another site refused") && message.contains("127.0.0.9"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn proxied_request_is_not_of_this_machine() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    for path in [
        "/",
        "/clients",
        "/content",
        "/rollout",
        "/line",
        "/events",
        "/clients.csv",
        "/api/v1/events",
        "/api/v1/status",
    ] {
        assert_eq!(get(relay.admin, path).await.status, 200, "{path}");
        for field in ["Forwarded", "X-Forwarded-For", "X-Real-IP"] {
            let request = Request::get(path).header(field, "for=203.0.113.9");
            assert_eq!(request.send(relay.admin).await.status, 403, "{path} {field}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_disk_is_an_alarm_and_an_event_once_it_works_again() {
    const METRIC: &str = "gupd_alarm_active{alarm=\"store-degraded\"}";
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let layer = FaultLayer::new(folder.path());
    let relay = Relay::start(layer.add_to(&mut serve(&manager, folder.path())));
    assert!(relay.metrics().await.contains(&format!("{METRIC} 0\n")));
    layer.fail("w", EIO);
    let fill = async |number: u32| {
        let path = PAYLOAD.replace("261121001", &number.to_string());
        manager.put(&path, Resource::new(bytes(1, 200_000)));
        relay.get(&path).await.expect_body()
    };
    fill(1).await;
    let (alarm, _) = wait_for_alarm(&relay, "store-degraded").await;
    assert_eq!(alarm["severity"], "critical", "{alarm}");
    assert!(relay.metrics().await.contains(&format!("{METRIC} 1\n")));
    let ended = Process::start(&mut gupd(["status", "--admin", &relay.admin.to_string()])).wait_for_exit();
    assert!(ended.lines[0].contains(alarm["message"].as_str().unwrap()), "{ended:#?}");
    assert!(page(&relay).await.contains(alarm["message"].as_str().unwrap()));
    layer.end_fault();
    // The ledger is on the same disk: it has the events now.
    let deadline = Instant::now() + PATIENCE;
    for number in 2.. {
        fill(number).await;
        let report = events(&relay).await;
        // A write that failed before the end of the fault may raise it once more.
        let changes = changes(&report, "store-degraded");
        if let [newest, .., oldest] = &*changes
            && (&**newest, &**oldest) == ("cleared", "raised")
        {
            break;
        }
        assert!(Instant::now() < deadline, "{report:#}");
    }
    assert!(relay.metrics().await.contains(&format!("{METRIC} 0\n")));
}
