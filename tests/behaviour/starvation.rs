//! One client must not take everything that clients share: connections, fills, the admin address.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use gupd_config::RateSchedule;
use gupd_config::units::Rate;
use gupd_site::{OriginServer, RecordedRequest};

use crate::support::{Ending, Gate, Manager, PAYLOAD, Request, Resource, Site, WireClient, bytes};

const GREEDY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
const CATALOG: &str = "/minitri.flg";

/// Asks from an address of its own.
async fn ask(client: IpAddr, site: &Site, request: Request) -> crate::support::Response {
    WireClient::connect_from(client, site.address()).await.send(&request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_client_leave_a_quarter_to_others() {
    for sent in [
        "",
        "G",
        "GET /a HTTP/1.1\r\nHost: a\r\nX-",
        "\r\n",
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
    ] {
        let site = Site::with_config(|config| {
            config.server.max_connections = 8;
            config.server.max_client_connections = 2;
        });
        site.manager.put(PAYLOAD, Resource::new("definitions"));
        let mut held = Vec::new();
        for _ in 0..12 {
            let mut client = WireClient::connect_from(GREEDY, site.address()).await;
            // A refused client may be gone already.
            let _refused = client.write(sent.as_bytes()).await;
            held.push(client);
        }
        let refused = "gupd_refused_total{reason=\"too-many-client-connections\"}";
        site.wait_for_metric(refused, 6.0).await;
        let mut other = WireClient::connect_from(OTHER, site.address()).await;
        for _ in 0..3 {
            let response = other.send(&Request::get(PAYLOAD)).await.unwrap();
            assert_eq!(response.expect_body(), b"definitions", "{sent:?}");
        }
        drop(other);
        drop(held);
        site.wait_for_metric("gupd_connections", 0.0).await;
        assert_eq!(ask(GREEDY, &site, Request::get(PAYLOAD)).await.status, 200, "{sent:?}");
    }
}

/// A site with 16 fills at once, and a manager that answers names with `slow` only when the gate is open.
fn site_with_slow_names(gate: &Gate) -> Site {
    let gate = gate.clone();
    let respond = move |request: &RecordedRequest| {
        let resource = Resource::new("definitions");
        Some(if request.target.contains("slow") { resource.held(&gate) } else { resource })
    };
    let manager = Manager::with_origin(OriginServer::computed(respond)).unwrap();
    Site::for_manager(manager, |config| {
        config.fill.max_concurrent = 16;
        // A client that has gone looks like one that has only closed its sending side, until this time.
        config.server.stall_timeout = std::time::Duration::from_millis(500);
    })
}

/// Opens requests for 20 cold names; 11 of them run: 10 common permits and one of the fair share.
async fn request_slow_names(site: &Site) -> Vec<WireClient> {
    let mut clients = Vec::new();
    for number in 0..20 {
        let mut client = WireClient::connect_from(GREEDY, site.address()).await;
        let path = PAYLOAD.replace("full.zip", &format!("slow{number}.dax"));
        client.write_request(&Request::get(&path)).await.unwrap();
        clients.push(client);
    }
    site.wait_for_metric("gupd_fills_running", 11.0).await;
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn fills_of_one_client_leave_permits_to_others() {
    let gate = Gate::default();
    let site = site_with_slow_names(&gate);
    site.wait_until_stored(CATALOG).await;
    let mut clients = request_slow_names(&site).await;
    for target in [CATALOG, PAYLOAD, "/a_1.0_english_livetri.zip", "/files/setup.msi"] {
        let request = Request::get(target).header("Cache-Control", "no-cache");
        assert_eq!(ask(OTHER, &site, request).await.expect_body(), b"definitions", "{target}");
    }
    // The client's own requests wait for its own permits only.
    gate.open();
    for client in &mut clients {
        let mut head = client.read_head().await.unwrap();
        client.read_rest("GET", &mut head).await;
        assert_eq!(head.expect_body(), b"definitions");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_fill_ends_with_its_last_follower() {
    let gate = Gate::default();
    let site = site_with_slow_names(&gate);
    drop(request_slow_names(&site).await);
    site.wait_for_metric("gupd_fills_total{outcome=\"abandoned\"}", 9.0).await;
    gate.open();
    site.wait_for_metric("gupd_fills_running", 0.0).await;
    assert_eq!(site.manager.total_requests(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_fill_that_others_follow_has_their_share() {
    let gate = Gate::default();
    let site = site_with_slow_names(&gate);
    let _greedy = request_slow_names(&site).await;
    let mut first = WireClient::connect_from(GREEDY, site.address()).await;
    first.write_request(&Request::get(PAYLOAD)).await.unwrap();
    site.wait_for_metric("gupd_connections", 21.0).await;
    assert_eq!(ask(OTHER, &site, Request::get(PAYLOAD)).await.expect_body(), b"definitions");
    gate.open();
}

/// Length of an object whose ranges a client takes far apart.
const FAR_LENGTH: usize = 32 << 20;

/// Begin of the range that its manager sends at once.
const PROMPT: usize = 30 << 20;

/// A site with 16 fills at once, and a manager that sends far ranges of its large objects only when the gate is open.
fn site_with_held_ranges(gate: &Gate) -> Site {
    let (gate, far) = (gate.clone(), bytes(1, FAR_LENGTH));
    let prompt = format!("bytes={PROMPT}-");
    let respond = move |request: &RecordedRequest| {
        let is_prompt = request.header("range").is_some_and(|range| range.starts_with(&prompt));
        Some(match request.target.contains("far") {
            true if is_prompt => Resource::new(far.clone()),
            true => Resource::new(far.clone()).stalled(1, &gate),
            false => Resource::new("definitions"),
        })
    };
    let manager = Manager::with_origin(OriginServer::computed(respond)).unwrap();
    Site::for_manager(manager, |config| config.fill.max_concurrent = 16)
}

fn far_object(number: usize) -> String {
    PAYLOAD.replace("full.zip", &format!("far{number}.zip"))
}

/// Objects and ranges of some requests: each range of each object alone, two ranges at once, and many objects.
fn far_requests() -> [(&'static str, Vec<(String, String)>); 3] {
    let ranges = |count: usize| (1..=count).map(|number| (number << 21, (number << 21) + 9));
    let each =
        |(object, (start, end)): (usize, (usize, usize))| (far_object(object), format!("{start}-{end}"));
    let pairs = |(object, (start, end)): (usize, (usize, usize))| {
        (far_object(object), format!("{start}-{end},{}-{}", start + 99, end + 99))
    };
    let of_objects = |objects: usize, count| {
        (0..objects).flat_map(move |object| ranges(count).map(move |range| (object, range)))
    };
    [
        ("far ranges", of_objects(3, 12).map(each).collect()),
        ("several ranges at once", of_objects(3, 12).map(pairs).collect()),
        ("many objects", of_objects(36, 1).map(each).collect()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn far_ranges_of_one_client_leave_connections_to_others() {
    for (kind, requests) in far_requests() {
        let gate = Gate::default();
        let site = site_with_held_ranges(&gate);
        let mut greedy = Vec::new();
        for (target, range) in &requests {
            let mut client = WireClient::connect_from(GREEDY, site.address()).await;
            client.write_request(&Request::get(target).range(range)).await.unwrap();
            greedy.push(client);
        }
        // The permits of all clients, and one of its own.
        site.manager.wait_for_connections(11).await;
        for (target, range) in
            [("/content/other.zip", "0-4".to_owned()), (&far_object(0), format!("{PROMPT}-"))]
        {
            let response = ask(OTHER, &site, Request::get(target).range(&range)).await;
            assert_eq!(response.status, 206, "{kind}: {target}");
            let expected = if target.contains("far") { FAR_LENGTH - PROMPT } else { 5 };
            assert_eq!(response.expect_body().len(), expected, "{kind}: {target}");
        }
        assert!(site.manager.connections() <= 13, "{kind}: {} connections", site.manager.connections());
        // The greedy client gets its ranges one after the other.
        gate.open();
        for client in &mut greedy {
            let mut response = client.read_head().await.unwrap();
            client.read_rest("GET", &mut response).await;
            assert_eq!((response.status, &response.ending), (206, &Ending::Complete), "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_ranges_end_after_their_client_left() {
    let far = bytes(1, FAR_LENGTH);
    let respond = move |request: &RecordedRequest| {
        let is_far = request.target.contains("far");
        Some(if is_far { Resource::new(far.clone()).rate(1 << 20) } else { Resource::new("definitions") })
    };
    let manager = Manager::with_origin(OriginServer::computed(respond)).unwrap();
    let site = Site::for_manager(manager, |config| {
        config.fill.max_concurrent = 16;
        config.fill.idle_timeout = Duration::from_secs(1);
        config.server.stall_timeout = Duration::from_millis(500);
    });
    let (_reader, _) = site.start_download(&far_object(0), 1).await;
    let mut greedy = Vec::new();
    for number in 1..=12 {
        let mut client = WireClient::connect_from(GREEDY, site.address()).await;
        let range = format!("{}-", number << 21);
        client.write_request(&Request::get(&far_object(0)).range(&range)).await.unwrap();
        greedy.push(client);
    }
    site.manager.wait_for_connections(11).await;
    drop(greedy);
    // The fill of the reader goes on, and the other permits are free again.
    let mut held = Vec::new();
    for number in 1..=10 {
        let mut client = WireClient::connect_from(GREEDY, site.address()).await;
        client.write_request(&Request::get(&far_object(number))).await.unwrap();
        held.push(client);
    }
    site.wait_for_metric("gupd_fills_running", 11.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_without_a_permit_in_time_is_503() {
    let gate = Gate::default();
    let respond = {
        let gate = gate.clone();
        move |_: &RecordedRequest| Some(Resource::new("definitions").stalled(4, &gate))
    };
    let manager = Manager::with_origin(OriginServer::computed(respond)).unwrap();
    let site = Site::for_manager(manager, |config| {
        config.fill.max_concurrent = 1;
        config.fill.total_timeout = std::time::Duration::from_secs(1);
    });
    let mut first = WireClient::connect(site.address()).await;
    first.write_request(&Request::get(PAYLOAD)).await.unwrap();
    site.manager.wait_for_requests(PAYLOAD, 1).await;
    let refused = ask(OTHER, &site, Request::get("/files/setup.msi")).await;
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    assert_eq!(site.metric("gupd_fills_total{outcome=\"busy\"}").await, 1.0);
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_address_refuses_foreign_names() {
    let site =
        Site::with_config(|config| config.server.public_names = vec!["gupd.branch.example".parse().unwrap()]);
    let admin = site.relay().admin();
    for target in ["/metrics", "/healthz", "/readyz", "/api/v1/rollout", "/api/v1/rollout/clients"] {
        for host in ["evil.example", "127.0.0.1.evil.example:9467", "gupd.branch.example.evil.example"] {
            let response = Request::get(target).header("Host", host).send(admin).await;
            assert_eq!(response.status, 421, "{target} {host}");
        }
        for host in ["127.0.0.1:9467", "localhost", "[::1]:9467", "relay-1:9467", "gupd.branch.example:9467"]
        {
            let response = Request::get(target).header("Host", host).send(admin).await;
            assert_ne!(response.status, 421, "{target} {host}");
        }
        let absolute = Request::get(&format!("http://evil.example{target}")).header("Host", "localhost");
        let named = Request::get(&format!("http://localhost{target}")).header("Host", "evil.example");
        let twice = Request::get(target).header("Host", "localhost").header("Host", "evil.example");
        for request in [absolute, named, twice] {
            assert_eq!(request.send(admin).await.status, 421, "{target}");
        }
    }
}

/// Length of what the other client wants.
const WANTED: usize = 1 << 20;

/// The limit of the line in bytes a second: little, because a busy machine must not be what shares the bytes.
const LINE: u64 = 2_000_000;

/// Maximum bytes that cross the line while the other client receives what it wants. Its half of the line makes it twice
/// its own bytes, an equal part of 31 transfers 31 times. A busy machine does not use its half in full.
const SHARED_BY_CLIENTS: f64 = 15.0 * WANTED as f64;

/// A site behind a thin line whose greedy client has 30 downloads under way, each much larger than `WANTED`.
async fn site_with_greedy_downloads(name: impl Fn(usize) -> String) -> (Site, Vec<WireClient>) {
    let large = bytes(1, 16 << 20);
    let wanted = bytes(2, WANTED);
    let respond = move |request: &RecordedRequest| {
        Some(Resource::new(if request.target.contains("wanted") { &wanted } else { &large }.clone()))
    };
    let manager = Manager::with_origin(OriginServer::computed(respond)).unwrap();
    let site = Site::for_manager(manager, |config| {
        config.wan.limit = RateSchedule::from_rate(Rate(LINE));
    });
    let mut greedy = Vec::new();
    for number in 0..30 {
        let mut client = WireClient::connect_from(GREEDY, site.address()).await;
        client.write_request(&Request::get(&name(number))).await.unwrap();
        greedy.push(client);
    }
    // Deltas are ahead of others by 2 MiB.
    while site.upstream_bytes().await < f64::from(3 << 20) {}
    (site, greedy)
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_of_one_client_leave_half_of_the_line_to_another() {
    let full = |number| PAYLOAD.replace("full.zip", &format!("{number}.zip"));
    let names: [(&str, &dyn Fn(usize) -> String); 4] = [
        ("full sets", &full),
        ("deltas", &|number| PAYLOAD.replace("full.zip", &format!("{number}.dax"))),
        ("files without a class", &|number| format!("/files/{number}.msi?x=1")),
        ("pass-through", &|number| format!("/secars/secars.dll?h={number}")),
    ];
    for (kind, name) in names {
        let (site, _greedy) = site_with_greedy_downloads(name).await;
        let before = site.upstream_bytes().await;
        let response = ask(OTHER, &site, Request::get("/content/wanted/full.zip")).await;
        let all = site.upstream_bytes().await - before;
        assert_eq!(response.expect_body().len(), WANTED);
        assert!(all < SHARED_BY_CLIENTS, "{kind}: {all} bytes meanwhile");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn download_that_a_greedy_client_began_has_its_followers_share() {
    let name = |number| PAYLOAD.replace("full.zip", &format!("{number}.zip"));
    let (site, _greedy) = site_with_greedy_downloads(name).await;
    let mut first = WireClient::connect_from(GREEDY, site.address()).await;
    first.write_request(&Request::get("/content/wanted/full.zip")).await.unwrap();
    site.manager.wait_for_requests("/content/wanted/full.zip", 1).await;
    let before = site.upstream_bytes().await;
    let response = ask(OTHER, &site, Request::get("/content/wanted/full.zip")).await;
    let all = site.upstream_bytes().await - before;
    assert_eq!(response.expect_body().len(), WANTED);
    assert!(all < SHARED_BY_CLIENTS, "{all} bytes meanwhile");
    assert_eq!(site.manager.request_count("/content/wanted/full.zip"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_one_client_leave_half_of_the_line_to_another() {
    let site = Site::with_config(|config| config.wan.limit = RateSchedule::from_rate(Rate(LINE)));
    site.manager.put(PAYLOAD, Resource::new(bytes(2, WANTED)));
    site.manager.put("/secars/secars.dll", Resource::new("received"));
    let mut greedy = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let mut client = WireClient::connect_from(GREEDY, site.address()).await;
        let report = Request::new("POST", "/secars/secars.dll").body(bytes(3, 16 << 20));
        greedy.spawn(async move { client.send(&report).await });
    }
    // Requests go before content until their client is ahead by 2 MiB.
    site.manager.wait_for_connections(20).await;
    let begun = Instant::now();
    let response = ask(OTHER, &site, Request::get(PAYLOAD)).await;
    assert_eq!(response.expect_body().len(), WANTED);
    // Half of the line takes a second, and a part of 31 sixteen.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    greedy.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_take_nothing_lend_their_slots() {
    let site = Site::with_config(|config| {
        (config.lan.max_downloads, config.lan.client_downloads) = (Some(4), Some(1));
    });
    // More than the kernel holds for a connection.
    let large = bytes(1, 48 << 20);
    site.manager.put(PAYLOAD, Resource::new(large.clone()));
    site.wait_until_stored(PAYLOAD).await;
    let mut slow = Vec::new();
    for last in 11..=14 {
        let mut client = WireClient::connect_from([127, 0, 0, last].into(), site.address()).await;
        client.write_request(&Request::get(PAYLOAD)).await.unwrap();
        slow.push((client.read_head().await.unwrap(), client));
    }
    for _ in 0..3 {
        assert_eq!(ask(OTHER, &site, Request::get(PAYLOAD)).await.status, 200);
    }
    assert!(site.metric("gupd_lent_slots").await >= 1.0);
    // A client that had no connection for a while loses nothing.
    for (response, client) in &mut slow {
        client.read_rest("GET", response).await;
        assert!(response.ending == Ending::Complete && response.body == large);
    }
    site.wait_for_metric("gupd_downloads", 0.0).await;
    assert_eq!(site.metric("gupd_lent_slots").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_leaves_download_slots_to_others() {
    let site = Site::with_config(|config| (config.lan.max_downloads, config.lan.queue) = (Some(8), 0));
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 200 << 10)).stalled(100 << 10, &gate));
    site.manager.put("/content/1.dax", Resource::new("delta"));
    let mut held = Vec::new();
    for _ in 0..6 {
        let mut client = WireClient::connect_from(GREEDY, site.address()).await;
        client.write_request(&Request::get(PAYLOAD)).await.unwrap();
        assert_eq!(client.read_head().await.unwrap().status, 200);
        held.push(client);
    }
    assert_eq!(ask(GREEDY, &site, Request::get(PAYLOAD)).await.status, 503);
    assert_eq!(ask(OTHER, &site, Request::get("/content/1.dax")).await.status, 200);
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_address_answers_beside_silent_clients() {
    let site = Site::new();
    let admin = site.relay().admin();
    for sent in ["", "G", "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-", "POST /api/v1/drain HTTP/1.1\r\n"]
    {
        let mut held = Vec::new();
        for _ in 0..150 {
            let mut client = WireClient::connect(admin).await;
            // The oldest are closed for the youngest.
            let _closed = client.write(sent.as_bytes()).await;
            held.push(client);
        }
        assert_eq!(Request::get("/healthz").send(admin).await.status, 200, "{sent:?}");
        assert_eq!(Request::get("/readyz").send(admin).await.status, 200, "{sent:?}");
    }
    assert!(site.metric("gupd_admin_refused_total{reason=\"closed-for-room\"}").await >= 300.0);
}
