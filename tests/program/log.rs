//! The log of a running relay: the order of its lines under load, and the fields of access lines.

use std::time::Instant;

use serde_json::Value;

use crate::process::{Relay, parse_line, serve};
use crate::support::{Manager, PAYLOAD, Request, Resource, WireClient, bytes};

#[tokio::test(flavor = "multi_thread")]
async fn lines_under_load_are_in_order_of_time() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put("/minitri.flg", Resource::new("catalog"));
    let mut command = serve(&manager, folder.path());
    command.env("GUPD_LOG_LEVEL", "info,gupd=debug").env("GUPD_SERVER_WORKERS", "4");
    let relay = Relay::start(&mut command);
    let clients: Vec<_> = (0..16)
        .map(|client: u8| {
            let address = relay.address;
            tokio::spawn(async move {
                let mut wire = WireClient::connect(address).await;
                for request in 0..40 {
                    let path = match request % 4 {
                        0 => format!("/missing/{client}/{request}"),
                        _ => "/minitri.flg".to_owned(),
                    };
                    wire.send(&Request::get(&path)).await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    relay.process.signal("TERM");
    let ended = relay.process.wait_for_exit();
    let time = |line: &String| parse_line(line)["timestamp"].as_str().map(str::to_owned);
    let times: Vec<String> = ended.lines.iter().filter_map(time).collect();
    assert!(times.len() > 16 * 40 && times.len() == ended.lines.len(), "{} lines", times.len());
    assert!(times.is_sorted(), "{:#?}", ended.lines);
}

/// The access line of a request.
async fn access_line(relay: &mut Relay, request: Request) -> Value {
    request.send(relay.address).await;
    let line = relay.process.wait_for_line(|line| parse_line(line)["target"] == "gupd::access").unwrap();
    assert!(!line.contains(['\u{202e}', '\u{9b}', '\t']), "{line}");
    parse_line(&line)
}

#[tokio::test(flavor = "multi_thread")]
async fn access_line_has_group_upstream_agent_and_range() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let group = "[[group]]\nname = \"pilot\"\nsubnets = \"127.0.0.1\"\n[store]\nmin_free = \"0B\"\n";
    let file = folder.path().join("gupd.toml");
    std::fs::write(&file, group).unwrap();
    manager.put(PAYLOAD, Resource::new(bytes(1, 100_000)));
    manager.put("/secars/x", Resource::new("private"));
    let mut command = serve(&manager, &folder.path().join("store"));
    let mut relay = Relay::start(command.arg("--config").arg(file));
    let name = manager.address().to_string();
    let long = "x".repeat(300);
    let cut = format!("{}\u{2026}", "x".repeat(256));
    let agent = |request: Request, agent: &str| request.header("User-Agent", agent);
    for (request, cache, upstream, range, user_agent) in [
        (agent(Request::get(PAYLOAD), "Smc"), "miss", Some(&*name), None, Some("Smc")),
        (
            agent(Request::get(PAYLOAD).range("5-9"), "Smc/14"),
            "hit",
            Some(&*name),
            Some("bytes=5-9"),
            Some("Smc/14"),
        ),
        (Request::head(PAYLOAD), "hit", Some(&*name), None, None),
        (agent(Request::get("/secars/x"), &long), "bypass", Some(&*name), None, Some(&*cut)),
        (
            agent(Request::get(PAYLOAD), "a\u{202e}b\u{9b}2J"),
            "hit",
            Some(&*name),
            None,
            Some("a\u{202e}b\u{9b}2J"),
        ),
        (
            Request::get(PAYLOAD).header("User-Agent", "tab\there"),
            "hit",
            Some(&*name),
            None,
            Some("tab\there"),
        ),
        (Request::new("CONNECT", "elsewhere:443"), "refused", None, None, None),
    ] {
        let shown = format!("{request:?}");
        let line = access_line(&mut relay, request).await;
        relay.wait_for_fills().await;
        // A refused target has no group.
        let group = (cache != "refused").then_some("pilot");
        for (field, expected) in [
            ("cache", Some(cache)),
            ("group", group),
            ("upstream", upstream),
            ("range", range),
            ("user_agent", user_agent),
        ] {
            assert_eq!(line[field].as_str(), expected, "{field} of {shown}: {line}");
        }
        for number in ["status", "bytes", "stored_bytes", "duration_us"] {
            assert!(line[number].is_u64(), "{number}: {line}");
        }
    }
    relay.process.signal("TERM");
    assert!(relay.process.wait_for_exit().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn object_larger_than_quota_is_logged_once() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let content = bytes(1, 70 << 20);
    let paths = ["/files/a.bin", "/files/b.bin", "/files/c.bin"];
    for path in paths {
        manager.put(path, Resource::new(content.clone()).header("Cache-Control", "max-age=1000"));
    }
    let mut relay = Relay::start(serve(&manager, folder.path()).env("GUPD_STORE_QUOTA", "64MiB"));
    for path in paths.iter().cycle().take(3 * paths.len()) {
        let answer = Request::get(path).range("5-9").send(relay.address).await;
        assert_eq!(answer.expect_body(), content[5..10]);
    }
    assert!(relay.metrics().await.contains("gupd_fill_oversized_total 9\n"));
    relay.process.signal("TERM");
    relay.process.wait_for_log("stopped");
    assert_eq!(relay.process.count_log("passing through uncached"), paths.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_of_refused_connections_gets_few_lines() {
    const FLOOD: usize = 60;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("gupd.toml");
    std::fs::write(&file, "[server]\ndeny = [\"127.0.0.66\"]\n[store]\nmin_free = \"0B\"\n").unwrap();
    let mut command = serve(&manager, &folder.path().join("store"));
    let relay = Relay::start(command.arg("--config").arg(file));
    let begin = Instant::now();
    for _ in 0..FLOOD {
        let mut denied = WireClient::connect_from([127, 0, 0, 66].into(), relay.address).await;
        assert_eq!(denied.read_head().await.unwrap().status, 403);
        let mut unlisted = WireClient::connect(relay.address).await;
        unlisted.write(b"PROXY UNKNOWN\r\n\r\n").await.unwrap();
        unlisted.read_to_end(&mut Vec::new()).await;
    }
    let reasons = ["client-denied", "unlisted-proxy"];
    let metrics = relay.metrics().await;
    for reason in reasons {
        let counted = format!("gupd_refused_total{{reason=\"{reason}\"}} {FLOOD}\n");
        assert!(metrics.contains(&counted), "{reason}: every refusal is counted");
    }
    // Ten lines in ten seconds, of each reason.
    let intervals = usize::try_from(begin.elapsed().as_secs() / 10).unwrap() + 1;
    relay.process.signal("TERM");
    let lines: Vec<_> = relay.process.wait_for_exit().lines.iter().map(|line| parse_line(line)).collect();
    for reason in reasons {
        let count = lines.iter().filter(|line| line["reason"] == reason).count();
        assert!((10..=10 * intervals).contains(&count), "{reason}: {count} lines in {intervals} intervals");
    }
}
