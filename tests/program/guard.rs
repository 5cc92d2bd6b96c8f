//! `gupd serve --guard`: clients get a response on the same port in every state of the worker.

use std::fs;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::guarded::{Catalog, Load, client_address, exchange, guarded, kill, suspend, wait_for_worker};
use crate::process::{Relay, gupd};
use crate::support::connection_auth::{ConnectionAuthServer, ask};
use crate::support::{Ending, Gate, Manager, PAYLOAD, Request, Resource, WireClient, bytes, get};

const KIB: usize = 1 << 10;

/// Mostly sizes of deltas and catalogs, some of full sets.
const SIZES: [usize; 20] = {
    let mut sizes = [8 * KIB; 20];
    sizes[0] = 2 << 20;
    sizes[1] = 512 * KIB;
    sizes[2] = 64 * KIB;
    sizes[3] = 100;
    sizes
};

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_dead_worker_are_redirected_until_next_one_serves() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new("content"));
    let mut command = guarded(&manager, folder.path());
    let mut relay = Relay::start(command.env("GUPD_GUARD_RESTART_MAX", "3s"));
    assert_eq!(relay.get(PAYLOAD).await.expect_body(), b"content");
    relay.wait_until_stored(PAYLOAD).await;
    assert!(relay.metrics().await.contains("gupd_guard_worker_starts_total 1\n"));
    // The first restart is immediate, later ones are delayed.
    for _ in 0..3 {
        kill(&relay).await;
    }
    let spelled = PAYLOAD.replace('{', "%7b") + "?a=%20b";
    for (method, status) in [("GET", 307), ("HEAD", 307), ("POST", 405), ("PUT", 405), ("TRACE", 405)] {
        let answer = exchange(relay.address, &Request::new(method, &spelled).body("")).await.unwrap();
        assert_eq!(answer.status, status, "{method}");
        assert_eq!(answer.header("connection"), Some("close"), "{method}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{method}");
        if status == 307 {
            assert_eq!(answer.header("location"), Some(&*format!("{}{spelled}", manager.url())), "{method}");
            assert_eq!(answer.header("content-length"), Some("0"), "{method}");
        }
    }
    for (request, status) in [
        (Request::get("http://elsewhere.example/"), 421),
        (Request::new("CONNECT", "elsewhere.example:443"), 405),
        (Request::get("/../etc"), 400),
        (Request::new("POST", "/secars/secars.dll?h=1").body(""), 307),
        (Request::get("/sepm/api"), 403),
        // A proxy request: a redirect would come back to the relay in a loop.
        (Request::get(&format!("{}{PAYLOAD}", manager.url())), 200),
    ] {
        assert_eq!(exchange(relay.address, &request).await.unwrap().status, status);
    }
    assert_eq!(get(relay.admin, "/healthz").await.status, 200);
    let ready = get(relay.admin, "/readyz").await;
    assert_eq!(ready.status, 503);
    let why = String::from_utf8(ready.body).unwrap();
    assert!(why.starts_with("the guard answers clients: the worker exited 3 times; "), "{why}");
    let metrics = relay.metrics().await;
    for line in [
        "gupd_guard_answering 1",
        "gupd_guard_responses_total{answer=\"redirect\"} 3",
        "gupd_guard_worker_ends_total{why=\"killed\"} 3",
    ] {
        assert!(metrics.contains(&format!("{line}\n")), "{line} in {metrics}");
    }
    wait_for_worker(&relay).await;
    assert!(
        relay.get(PAYLOAD).await.cache_status().starts_with("gupd; hit"),
        "stored content survives the restart"
    );
    let metrics = relay.metrics().await;
    for line in ["gupd_guard_answering 0", "gupd_guard_worker_starts_total 4"] {
        assert!(metrics.contains(&format!("{line}\n")), "{line} in {metrics}");
    }
    let ended = relay.process.wait_for_log("worker exited unexpectedly");
    assert_eq!((&ended["why"], &ended["signal"]), (&"killed".into(), &9.into()), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_reads_the_proxy_header_while_the_worker_is_away() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put("/secars/x", Resource::new("report"));
    let mut command = guarded(&manager, folder.path());
    command.env("GUPD_GUARD_RESTART_MAX", "30s").env("GUPD_GUARD_ANSWER", "relay");
    command.env("GUPD_SERVER_TRUSTED_PROXIES", "127.0.0.5").env("GUPD_SERVER_DENY", "10.2.0.0/16");
    let relay = Relay::start(&mut command);
    let ask = async |from: u8, begin: &str| {
        let mut client = WireClient::connect_from([127, 0, 0, from].into(), relay.address).await;
        client.write(begin.as_bytes()).await.unwrap();
        client.send(&Request::get("/secars/x")).await
    };
    let header = |client: &str| format!("PROXY TCP4 {client} 192.0.2.10 4711 2967\r\n");
    for is_worker_away in [false, true] {
        if is_worker_away {
            for _ in 0..3 {
                kill(&relay).await;
            }
        }
        assert_eq!(ask(5, &header("10.1.2.3")).await.unwrap().status, 200);
        let seen = manager.requests_for("/secars/x").pop().unwrap();
        assert_eq!(seen.header("x-forwarded-for"), Some("10.1.2.3"), "away: {is_worker_away}");
        assert_eq!(ask(6, "").await.unwrap().status, 200);
        let denied = ask(5, &header("10.2.0.1")).await;
        assert!(denied.is_err() || denied.unwrap().status == 403, "away: {is_worker_away}");
        assert!(ask(5, "").await.is_err(), "a proxy without header");
        let unlisted = ask(6, &header("10.1.2.3")).await;
        assert!(unlisted.is_err() || unlisted.unwrap().status == 400, "away: {is_worker_away}");
        assert_eq!(manager.request_count("/secars/x"), if is_worker_away { 4 } else { 2 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relaying_guard_passes_on_requests_and_bodies() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 3_000_000)));
    manager.put("/secars/echo", Resource::echo());
    let mut command = guarded(&manager, folder.path());
    command.env("GUPD_GUARD_RESTART_MAX", "3s").env("GUPD_GUARD_ANSWER", "relay");
    let relay = Relay::start(&mut command);
    for _ in 0..3 {
        kill(&relay).await;
    }
    let asked = Request::get(PAYLOAD).header("X-Own", "1").header("Connection", "X-Hop").header("X-Hop", "1");
    let passed = exchange(relay.address, &asked).await.unwrap();
    assert_eq!((passed.status, passed.header("connection")), (200, Some("close")));
    assert_eq!(passed.header("via"), Some("1.1 gupd"));
    assert!(passed.expect_body() == bytes(1, 3_000_000));
    let seen = manager.requests_for(PAYLOAD).pop().unwrap();
    assert_eq!((seen.header("x-own"), seen.header("x-hop")), (Some("1"), None));
    assert!(seen.header("via").unwrap().starts_with("1.1 gupd-"), "{seen:?}");
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    let upload = Request::new("POST", "/secars/echo").body(bytes(2, 500_000));
    let echo = exchange(relay.address, &upload).await.unwrap();
    assert!(echo.expect_body() == bytes(2, 500_000));
    let foreign = exchange(relay.address, &Request::get("http://elsewhere.example/")).await.unwrap();
    assert_eq!(foreign.status, 421);

    // A broken upstream response is broken for the client; an unreachable upstream is a 503.
    manager.put("/cut", Resource::new(bytes(3, 100_000)).cut(50_000, 9));
    assert_eq!(exchange(relay.address, &Request::get("/cut")).await.unwrap().ending, Ending::Broken);
    drop(manager);
    let gone = exchange(relay.address, &Request::get(PAYLOAD)).await.unwrap();
    assert_eq!((gone.status, gone.header("retry-after")), (503, Some("5")));
}

#[tokio::test(flavor = "multi_thread")]
async fn relaying_guard_lends_no_authenticated_connection() {
    let (server, folder) = (ConnectionAuthServer::start().await, tempfile::tempdir().unwrap());
    let mut command = gupd(["serve", "--guard", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.arg("--store").arg(folder.path()).env("GUPD_UPSTREAM", format!("http://{}", server.address));
    let relay = Relay::start(command.env("GUPD_GUARD_ANSWER", "relay").env("GUPD_STORE_MIN_FREE", "0"));
    for _ in 0..3 {
        kill(&relay).await;
    }
    for (credentials, status) in [("Negotiate ticket-alice", 200), ("", 401), ("NTLM begin", 401)] {
        let mut client = WireClient::connect(relay.address).await;
        assert_eq!(ask(&mut client, "/secars/me", credentials).await.0, status, "{credentials}");
    }
}

async fn assert_kills_cost_one_retry(answer: &str) {
    const CLIENTS: usize = 200;
    const KILLS: usize = 20;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let catalog = Catalog::publish(&manager, &SIZES);
    let mut command = guarded(&manager, folder.path());
    let relay = Relay::start(command.env("GUPD_GUARD_ANSWER", answer).env("GUPD_LOG_ACCESS", "false"));
    let mut load = Load::begin(&relay, catalog, CLIENTS);
    let begun = Instant::now();
    for _ in 0..KILLS {
        kill(&relay).await;
        // Only a download that begins when the worker is dead proves that its client has recovered. One that began
        // before may have broken off, and its retry must not meet the next kill.
        load.begin_disturbance();
        load.settle().await;
    }
    let seen = load.end().await;
    println!("{KILLS} kills in {:?}: {seen:?}", begun.elapsed());
    assert!(seen.downloads >= KILLS * CLIENTS);
    assert_eq!(seen.redirected > 0, answer == "redirect");
    wait_for_worker(&relay).await;
    let metrics = relay.metrics().await;
    assert!(
        !metrics.contains(&format!("gupd_guard_responses_total{{answer=\"{answer}\"}} 0\n")),
        "{metrics}"
    );
    assert!(
        metrics.contains(&format!("gupd_guard_worker_ends_total{{why=\"killed\"}} {KILLS}\n")),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_cost_one_retry_with_redirects() {
    assert_kills_cost_one_retry("redirect").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_cost_one_retry_with_relaying() {
    assert_kills_cost_one_retry("relay").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_of_one_client_do_not_stop_guard() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new("content"));
    let mut command = guarded(&manager, folder.path());
    let relay = Relay::start(command.env("GUPD_GUARD_RESTART_MAX", "1h"));
    // The first restart is immediate, the second not within this test.
    for _ in 0..2 {
        kill(&relay).await;
    }
    let mut silent = Vec::new();
    for number in 0..60 {
        let mut client = WireClient::connect_from([127, 0, 0, 66].into(), relay.address).await;
        let sent = ["", "G", "GET / HTTP/1.1\r\nHost: a\r\nX-"][number % 3];
        // A refused client may be gone already.
        let _refused = client.write(sent.as_bytes()).await;
        silent.push(client);
    }
    for _ in 0..10 {
        let answer = exchange(relay.address, &Request::get(PAYLOAD)).await.unwrap();
        assert_eq!(answer.status, 307);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn burst_from_one_address_is_answered() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let mut command = guarded(&manager, folder.path());
    let relay = Relay::start(command.env("GUPD_GUARD_RESTART_MAX", "1h"));
    for _ in 0..2 {
        kill(&relay).await;
    }
    // A proxy or NAT brings all clients of a site from one address.
    let mut clients = JoinSet::new();
    for _ in 0..200 {
        let address = relay.address;
        clients.spawn(async move { exchange(address, &Request::get(PAYLOAD)).await.unwrap().status });
    }
    while let Some(status) = clients.join_next().await {
        assert_eq!(status.unwrap(), 307);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_worker_is_killed_and_clients_are_answered() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new("content"));
    let mut command = guarded(&manager, folder.path());
    let mut relay = Relay::start(command.env("GUPD_GUARD_WATCHDOG", "2s"));
    let hung = wait_for_worker(&relay).await;
    suspend(hung).await;
    // No process accepts this connection before the guard does.
    let answered = exchange(relay.address, &Request::get(PAYLOAD)).await;
    let killed = relay.process.wait_for_log("killing worker that sent no heartbeat");
    assert_eq!(killed["level"], "ERROR");
    assert_eq!(relay.process.wait_for_log("worker exited unexpectedly")["why"], "hung");
    match answered {
        Ok(answered) => assert!([200, 307].contains(&answered.status)),
        // A replacement that gets no processor time for the watchdog's length is killed with its connections.
        Err(_) => drop(relay.process.wait_for_log("killing worker that sent no heartbeat")),
    }
    assert_ne!(wait_for_worker(&relay).await, hung);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_worker_is_restarted_until_it_serves() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new("content"));
    let store = folder.path().join("store");
    let mut relay = Relay::start(&mut guarded(&manager, &store));
    assert_eq!(relay.get(PAYLOAD).await.expect_body(), b"content");
    relay.wait_until_stored(PAYLOAD).await;
    let away = folder.path().join("away");
    fs::rename(&store, &away).unwrap();
    fs::write(&store, "in the way").unwrap();
    kill(&relay).await;
    for _ in 0..5 {
        let ended = relay.process.wait_for_line(|line| line.contains("worker exited unexpectedly")).unwrap();
        assert!(ended.contains("ERROR"), "{ended}");
        assert_eq!(exchange(relay.address, &Request::get(PAYLOAD)).await.unwrap().status, 307);
    }
    fs::remove_file(&store).unwrap();
    fs::rename(&away, &store).unwrap();
    wait_for_worker(&relay).await;
    assert!(relay.get(PAYLOAD).await.cache_status().starts_with("gupd; hit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn relaying_guard_takes_little_memory() {
    const CLIENTS: usize = 200;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let gate = Gate::default();
    let body = bytes(1, 300_000);
    manager.put(PAYLOAD, Resource::new(body.clone()).stalled(200_000, &gate));
    let mut command = guarded(&manager, folder.path());
    command.env("GUPD_GUARD_RESTART_MAX", "5s").env("GUPD_GUARD_ANSWER", "relay");
    let relay = Relay::start(&mut command);
    for _ in 0..4 {
        kill(&relay).await;
    }
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = WireClient::connect_from(client_address(number), relay.address).await;
        client.write_request(&Request::get(PAYLOAD)).await.unwrap();
        clients.push(client);
    }
    // The guard's limit on simultaneous responses.
    manager.wait_for_requests(PAYLOAD, 28).await;
    gate.open();
    for mut client in clients {
        let mut head = client.read_head().await.unwrap();
        client.read_rest("GET", &mut head).await;
        assert!(head.expect_body() == body);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", relay.process.id())).unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let (all, own) = (kib("VmHWM:"), kib("RssAnon:"));
    println!("the guard's memory: {all} KiB at its peak, {own} KiB of it its own now");
    // Debug builds need several times the memory.
    let most = if cfg!(debug_assertions) { [40 << 10, 8 << 10] } else { [15 << 10, 6 << 10] };
    assert!(all < most[0] && own < most[1], "{all} KiB, {own} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_redirects_to_public_url_of_next_healthy_manager() {
    let (first, second, folder) = (Manager::start(), Manager::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("gupd.toml");
    let text = format!(
        "[[upstream]]\nurl = \"{}\"\n[[upstream]]\nurl = \"{}\"\npublic_url = \"https://updates.example\"\n\
         [[route]]\nprefix = \"/\"\n[[route]]\nprefix = \"/through\"\nfallback = \"relay\"\n\
         [health]\ninterval = \"1s\"\nfailures = 1\n",
        first.url(),
        second.url()
    );
    fs::write(&file, text).unwrap();
    second.put("/through/x", Resource::new("content"));
    drop(first);
    let mut command =
        gupd(["serve", "--guard", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]);
    command.arg(&file).arg("--store").arg(folder.path().join("store")).env("GUPD_STORE_MIN_FREE", "0");
    let relay = Relay::start(command.env("GUPD_GUARD_RESTART_MAX", "5s"));
    for _ in 0..4 {
        kill(&relay).await;
    }
    let sent = exchange(relay.address, &Request::get("/a?b")).await.unwrap();
    assert_eq!((sent.status, sent.header("location")), (307, Some("https://updates.example/a?b")));
    let through = exchange(relay.address, &Request::get("/through/x")).await.unwrap();
    assert_eq!((through.status, through.expect_body()), (200, b"content".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_serves_tls_as_its_worker() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    fs::write(&cert, own.cert.pem()).unwrap();
    fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let mut command = guarded(&manager, &folder.path().join("store"));
    command.arg("--tls-cert").arg(&cert).arg("--tls-key").arg(&key).env("GUPD_GUARD_RESTART_MAX", "5s");
    let relay = Relay::start(&mut command);
    for _ in 0..4 {
        kill(&relay).await;
    }
    let place = format!("https://localhost:{}/a", relay.address.port());
    let curl = std::process::Command::new("curl")
        .args(["-s", "--cacert"])
        .arg(&cert)
        .args(["-w", "%{http_code} %{redirect_url}"])
        .arg(place)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(curl.stdout).unwrap(), format!("307 {}/a", manager.url()));
}
