//! The inventory: a list of expected clients is compared with those that the relay has seen. A broken list changes nothing.

use serde_json::Value;

use crate::process::Relay;
use crate::rollout::Place;
use crate::support::{Request, Response, get};

const PATH: &str = "/api/v1/inventory";

fn text(response: Response) -> String {
    String::from_utf8(response.expect_body()).unwrap()
}

async fn send(relay: &Relay, method: &str, list: &str) -> Response {
    let request = Request::new(method, PATH).header("Authorization", "Bearer s3cret-of-the-site");
    request.body(list.as_bytes()).send(relay.admin).await
}

async fn report(relay: &Relay) -> Value {
    serde_json::from_slice(&get(relay.admin, PATH).await.expect_body()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn inventory_names_missing_and_unexpected_clients() {
    let (_place, relay) = Place::published().await;
    crate::rollout::views(&relay).await;
    assert_eq!(get(relay.admin, PATH).await.status, 404);
    let list = "name,address\r\npc-1,127.0.0.2\r\npc-2,127.0.0.77\r\n";
    let unsigned = Request::new("PUT", PATH).body(list.as_bytes()).send(relay.admin).await;
    assert_eq!(unsigned.status, 401);
    assert_eq!(text(send(&relay, "PUT", list).await), "inventory: 2 clients are expected\n");
    let expected = report(&relay).await;
    assert_eq!((&expected["expected"], &expected["never_seen"]), (&2.into(), &1.into()), "{expected:#}");
    assert_eq!(expected["never_seen_clients"], serde_json::json!(["pc-2"]));
    assert!(expected["unexpected_clients"].as_array().unwrap().contains(&"127.0.0.3".into()), "{expected:#}");
    let many = "10.0.0.1\n".repeat(100_001);
    for (broken, words) in [
        ("127.0.0.2\n<script>\n", "line 2"),
        ("127.0.0.2\r\n\r\n<script>\r\n", "line 3"),
        ("127.0.0.2;\"pc\n127.0.0.3\n", "line 1: a field has a line break"),
        ("", "no row has a name"),
        (&many, "more than 100000 rows"),
        (&" ".repeat((8 << 20) + 1), "larger than 8 MiB"),
    ] {
        let refused = send(&relay, "PUT", broken).await;
        assert!((400..500).contains(&refused.status), "{refused:?}");
        let detail = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(detail.contains(words) && detail.contains("nothing has changed"), "{detail}");
        assert_eq!(report(&relay).await, expected);
    }
    let page = text(get(relay.admin, "/clients").await);
    assert!(page.contains("Expected, never seen (1)") && page.contains("<li>pc-2</li>"), "{page}");
    assert!(!page.contains("type=\"file\""), "the upload needs a sign-in");
    let most = "pc\n".repeat(100_000);
    assert_eq!(text(send(&relay, "PUT", &most).await), "inventory: 100,000 clients are expected\n");
    assert_eq!(report(&relay).await["never_seen_clients"].as_array().unwrap().len(), 1_000);
    assert_eq!(send(&relay, "DELETE", "").await.status, 200);
    assert_eq!(get(relay.admin, PATH).await.status, 404);
}
