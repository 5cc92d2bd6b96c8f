//! Failover between two managers of one site in the middle of a transfer.

use std::io::{Read, Write};
use std::time::Duration;

use gupd_config::Config;
use gupd_config::FinishPolicy;

use crate::support::site::read_clock;
use crate::support::{Ending, Gate, Manager, PAYLOAD, Request, Resource, Site, WireClient, bytes};

/// Site with two managers; the first one is asked first and may go away.
fn pair(change: impl FnOnce(&mut Config)) -> (Site, Manager) {
    let first = Manager::start();
    let second = Manager::start();
    let urls = [first.url(), second.url()];
    let site = Site::for_manager(second, |config| {
        config.upstreams = Config::for_upstreams(&[&urls[0], &urls[1]]).unwrap().upstreams;
        config.routes[0].upstreams = vec![0, 1];
        config.fill.attempts = 3;
        change(config);
    });
    first.set_clock(read_clock(&site.clock));
    (site, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_continues_same_content_unseen() {
    let (site, first) = pair(|_| {});
    let (body, gate) = (bytes(90, 5_000_000), Gate::default());
    // Files are copied from one manager to the other, so their dates differ.
    let dated = |date: &str| Resource::new(body.clone()).header("Last-Modified", date);
    first.put(PAYLOAD, dated("Sat, 01 Aug 2026 01:02:03 GMT").stalled(2_000_000, &gate));
    site.manager.put(PAYLOAD, dated("Sun, 02 Aug 2026 04:05:06 GMT"));
    let (mut client, mut response) = site.start_download(PAYLOAD, 2_000_000).await;
    let first_bytes = first.body_bytes();
    drop(first);
    gate.open();
    client.read_rest("GET", &mut response).await;
    assert!(response.expect_body() == body);
    assert_eq!(first_bytes + site.manager.body_bytes(), body.len() as u64, "no byte crossed the WAN twice");
    assert_eq!(site.manager.requests_for(PAYLOAD)[0].header("range"), Some("bytes=2000000-"));
    assert_eq!(site.metric("gupd_fill_failovers_total").await, 1.0);
    site.wait_until_stored(PAYLOAD).await;
    assert!(site.get(PAYLOAD).await.expect_body() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_manager_is_replaced_after_idle_timeout() {
    let (site, first) = pair(|config| config.fill.idle_timeout = Duration::from_secs(2));
    let (body, gate) = (bytes(91, 3_000_000), Gate::default());
    first.put(PAYLOAD, Resource::new(body.clone()).stalled(1_000_000, &gate));
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    assert_eq!((first.request_count(PAYLOAD), site.manager.request_count(PAYLOAD)), (1, 1));
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_never_appends_other_content() {
    type Change = fn(Resource) -> Resource;
    let undated: Change = |resource| resource;
    // Neither an equal date nor a weak tag identifies content between two managers.
    let dated: Change =
        |resource| resource.without("ETag").header("Last-Modified", "Sat, 01 Aug 2026 01:02:03 GMT");
    let weak: Change = |resource| resource.etag("W/\"one\"");
    for change in [undated, dated, weak] {
        for length in [3_000_000, 3_000_001] {
            let (site, first) = pair(|_| {});
            let (old, new, gate) = (bytes(92, 3_000_000), bytes(93, length), Gate::default());
            first.put(PAYLOAD, change(Resource::new(old.clone())).stalled(1_000_000, &gate));
            site.manager.put(PAYLOAD, change(Resource::new(new.clone())));
            break_off_and_restart(&site, first, &gate, [&old, &new]).await;
        }
    }
}

/// A client of a manager that goes away has only the beginning of the old content, and gets all of the new content on its
/// next request.
async fn break_off_and_restart(site: &Site, first: Manager, gate: &Gate, [old, new]: [&[u8]; 2]) {
    let (mut client, mut response) = site.start_download(PAYLOAD, 1_000_000).await;
    drop(first);
    gate.open();
    client.read_rest("GET", &mut response).await;
    assert_eq!(response.ending, Ending::Broken);
    assert!(old.starts_with(&response.body));
    assert!(site.get(PAYLOAD).await.expect_body() == *new);
}

#[tokio::test(flavor = "multi_thread")]
async fn same_etag_with_other_length_does_not_resume() {
    let (site, first) = pair(|_| {});
    let (old, new, gate) = (bytes(94, 3_000_000), bytes(95, 3_000_001), Gate::default());
    first.put(PAYLOAD, Resource::new(old.clone()).etag("\"one\"").stalled(1_000_000, &gate));
    site.manager.put(PAYLOAD, Resource::new(new.clone()).etag("\"one\""));
    break_off_and_restart(&site, first, &gate, [&old, &new]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_content_replaces_fill_before_first_byte() {
    for tagged in [true, false] {
        let (site, first) = pair(|_| {});
        let (old, new, gate) = (bytes(96, 3_000_000), bytes(97, 3_000_000), Gate::default());
        let resource = |body: &Vec<u8>| match tagged {
            true => Resource::new(body.clone()),
            false => Resource::new(body.clone()).without("ETag"),
        };
        first.put(PAYLOAD, resource(&old).stalled(20_000, &gate));
        site.manager.put(PAYLOAD, resource(&new));
        let address = site.address();
        let waiting: Vec<_> =
            (0..20).map(|_| tokio::spawn(async move { Request::get(PAYLOAD).send(address).await })).collect();
        first.wait_for_requests(PAYLOAD, 1).await;
        site.wait_for_metric("gupd_fills_running", 1.0).await;
        drop(first);
        gate.open();
        for client in waiting {
            assert!(client.await.unwrap().expect_body() == new);
        }
        assert_eq!(
            site.manager.request_count(PAYLOAD),
            1,
            "its answer to the attempt to resume was the new fill"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manager_without_the_content_does_not_end_the_fill() {
    let (site, first) = pair(|config| config.fill.attempts = 5);
    let body = bytes(98, 3_000_000);
    // Four breaks in a row without a byte give the other manager two attempts.
    first.put(PAYLOAD, Resource::new(body.clone()).cut(0, 4));
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    assert!(site.manager.request_count(PAYLOAD) <= 1, "the manager was asked at most once");
    assert_eq!(first.request_count(PAYLOAD), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_fill_is_resumed_at_another_manager() {
    let (site, first) = pair(|config| config.fill.finish = FinishPolicy::Never);
    let (body, gate) = (bytes(99, 5_000_000), Gate::default());
    first.put(PAYLOAD, Resource::new(body.clone()).stalled(3_000_000, &gate));
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    let (client, _) = site.start_download(PAYLOAD, 3_000_000).await;
    drop(client);
    site.wait_for_fills().await;
    drop(first);
    gate.open();
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    let requests = site.manager.requests_for(PAYLOAD);
    assert!(requests[0].header("if-range").is_some());
    assert!(
        site.manager.body_bytes() < 3_000_000,
        "{} bytes crossed the WAN again",
        site.manager.body_bytes()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_at_any_byte_never_mix_content() {
    let (site, first) = pair(|config| {
        config.fill.attempts = 4;
        config.store.quota = 1 << 30;
    });
    let mut whole = 0;
    for seed in 0..60_u64 {
        let path = PAYLOAD.replace("full", &format!("seed{seed}"));
        let dice = bytes(seed, 16);
        let length = 100_000 + usize::from(dice[0]) * 4_000;
        let contents = [bytes(1_000 + seed, length), bytes(2_000 + seed, length + usize::from(dice[1] % 2))];
        let second = if dice[2].is_multiple_of(3) { &contents[0] } else { &contents[1] };
        for (manager, content, dice) in
            [(&first, &contents[0], &dice[4..8]), (&site.manager, second, &dice[8..12])]
        {
            let resource =
                Resource::new(content.clone()).cut(usize::from(dice[0]) * 1_500, usize::from(dice[1] % 12));
            manager.put(
                &path,
                match dice[2] % 8 {
                    0 => resource.without_ranges(),
                    1 => resource.without("ETag").header("Last-Modified", "Sat, 01 Aug 2026 01:02:03 GMT"),
                    2 => resource.chunked(),
                    3 => resource.etag("W/\"weak\""),
                    _ => resource,
                },
            );
        }
        let address = site.address();
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(
                    async move { WireClient::connect(address).await.send(&Request::get(&path)).await },
                )
            })
            .collect();
        for client in clients {
            // A body that breaks off at once may take its head with it.
            let Ok(response) = client.await.unwrap() else { continue };
            if response.status != 200 {
                assert!((500..600).contains(&response.status), "seed {seed}: {}", response.status);
                continue;
            }
            let is_unmixed = contents.iter().any(|content| match response.ending {
                Ending::Complete => *content == response.body,
                Ending::Broken | Ending::Closed => content.starts_with(&response.body),
            });
            assert!(is_unmixed, "seed {seed}: {} bytes of a mixture", response.body.len());
            whole += usize::from(response.ending == Ending::Complete);
        }
        site.wait_for_fills().await;
    }
    assert!(whole > 90, "only {whole} of 180 downloads were complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_with_ever_changing_content_is_abandoned() {
    let unsettled = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut site = Site::with_config(|config| config.fill.finish = FinishPolicy::Always);
    site.set_upstreams(&[unsettled.local_addr().unwrap()]);
    std::thread::spawn(move || {
        for (number, connection) in unsettled.incoming().enumerate() {
            let mut connection = connection.unwrap();
            let _head = connection.read(&mut [0; 4096]).unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nETag: \"{number}\"\r\n\r\n");
            // The relay may be gone.
            let _sent =
                connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(&[b'x'; 90_000]));
        }
    });
    assert_eq!(site.get(PAYLOAD).await.ending, Ending::Broken);
    site.wait_for_fills().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_from_relay_resumes_by_etag_alone() {
    let site = Site::with_config(|config| config.fill.attempts = 2);
    let body = bytes(8, 2_000_000);
    let relayed = || Resource::new(body.clone()).header("Via", "1.1 gupd").cut(1_000_000, 1);
    let date = "Sat, 01 Aug 2026 01:02:03 GMT";
    let dated = |one: Resource| one.without("ETag").header("Last-Modified", date);
    for (resource, ending) in [(relayed(), Ending::Complete), (dated(relayed()), Ending::Broken)] {
        let gate = Gate::default();
        site.manager.put(PAYLOAD, resource.stalled(700_000, &gate));
        // The client has bytes before the break; otherwise the fill could restart unnoticed.
        let path = format!("{PAYLOAD}?{ending:?}");
        let (mut client, mut response) = site.start_download(&path, 500_000).await;
        gate.open();
        client.read_rest("GET", &mut response).await;
        assert_eq!(response.ending, ending);
        assert!(body.starts_with(&response.body));
        site.wait_for_fills().await;
    }
    let parts =
        site.manager.requests_for(PAYLOAD).iter().filter(|seen| seen.header("range").is_some()).count();
    assert_eq!(parts, 1, "only the tagged content is resumed");
}
