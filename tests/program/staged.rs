//! A staged rollout while the disk fails, and while one process takes over from another: no client sees another
//! revision for it.

use std::time::Instant;

use crate::fault_layer::{EIO, FaultLayer};
use crate::guarded::{is_running, wait_for_worker};
use crate::process::{PATIENCE, Relay, gupd};
use crate::rollout::{CATALOG, Place, order, post, views};
use crate::support::{PAYLOAD, Request, Resource, WireClient, bytes};

const HALT: &str = "{\"order\":\"halt\",\"by\":\"anna\"}";
const RESUME: &str = "{\"order\":\"resume\",\"by\":\"anna\"}";
const RELEASE: &str = "{\"order\":\"release\",\"now\":true,\"by\":\"anna\"}";

#[tokio::test(flavor = "multi_thread")]
async fn views_and_rollouts_are_frozen_while_the_disk_fails() {
    let (place, mut relay) = Place::published().await;
    assert_eq!(views(&relay).await, ["3", "1"]);
    relay.process.kill();
    let layer = FaultLayer::new(&place.file().with_file_name("store"));
    let relay = Relay::start(layer.add_to(gupd(["serve", "--config"]).arg(place.file())));
    let held = "{\"order\":\"hold\",\"group\":\"default\",\"revision\":\"1\",\"by\":\"anna\"}";
    assert_eq!(order(held).send(relay.admin).await.status, 200);
    let next = PAYLOAD.replace("261121001", "261121002");
    for path in [PAYLOAD, &next] {
        place.manager.put(path, Resource::new(bytes(1, 50_000)));
    }
    assert_eq!(relay.get(PAYLOAD).await.status, 200);
    assert_eq!(views(&relay).await, ["3", "1"]);

    layer.fail("w", EIO);
    place.manager.put(CATALOG, Resource::new("4"));
    for _ in 0..3 {
        for body in [RELEASE, HALT] {
            let refused = order(body).send(relay.admin).await;
            assert!(refused.status >= 400, "{refused:?}");
        }
        let refreshed = post("/api/v1/refresh", "").send(relay.admin).await;
        assert!(!String::from_utf8(refreshed.expect_body()).unwrap().contains("\"failed\":0"));
        assert_eq!(views(&relay).await, ["3", "1"]);
        assert_eq!(relay.get(&next).await.status, 503, "a held group does not get newer payloads");
    }

    // Unreadable content is not replaced by other content.
    layer.fail("rw", EIO);
    for (client, own) in [([127, 0, 0, 2], "3"), ([127, 0, 0, 3], "1")] {
        let mut client = WireClient::connect_from(client.into(), relay.address).await;
        let response = client.send(&Request::get(CATALOG)).await.unwrap();
        assert!(response.status == 503 || response.expect_body() == own.as_bytes());
    }

    layer.end_fault();
    let deadline = Instant::now() + PATIENCE;
    while order(HALT).send(relay.admin).await.status != 200 {
        assert!(Instant::now() < deadline, "the relay does not notice that the disk works again");
    }
    assert_eq!(order(RESUME).send(relay.admin).await.status, 200);
    assert_eq!(views(&relay).await, ["3", "1"]);
    while post("/api/v1/refresh", "")
        .send(relay.admin)
        .await
        .expect_body()
        .windows(10)
        .all(|part| part != b"\"failed\":0")
    {
        assert!(Instant::now() < deadline, "no revision is published after the fault");
    }
    assert_eq!(views(&relay).await, ["4", "1"]);
    assert_eq!(order(RELEASE).send(relay.admin).await.status, 200);
    assert_eq!(views(&relay).await, ["4", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_process_keeps_the_view_of_each_client() {
    let (place, mut first) = Place::published().await;
    first.process.kill();
    let relay = Relay::start(gupd(["serve", "--guard", "--config"]).arg(place.file()));
    assert_eq!(views(&relay).await, ["3", "1"]);
    let mut client = WireClient::connect_from([127, 0, 0, 3].into(), relay.address).await;
    for (body, expected) in [(HALT, ["3", "1"]), (RESUME, ["3", "1"]), (RELEASE, ["3", "3"])] {
        assert_eq!(order(body).send(relay.admin).await.status, 200);
        let old = wait_for_worker(&relay).await;
        relay.process.signal("USR2");
        let deadline = Instant::now() + PATIENCE;
        loop {
            // On any connection, served by either process.
            assert_eq!(views(&relay).await, expected);
            match client.send(&Request::get(CATALOG)).await {
                Ok(response) => assert_eq!(response.expect_body(), expected[1].as_bytes()),
                Err(_) => client = WireClient::connect_from([127, 0, 0, 3].into(), relay.address).await,
            }
            if wait_for_worker(&relay).await != old && !is_running(old) {
                break;
            }
            assert!(Instant::now() < deadline, "{old} still serves");
        }
        assert_eq!(views(&relay).await, expected);
    }
}
