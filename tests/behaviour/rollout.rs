//! Whole rollouts over sockets: simulated clients at addresses of their own, a manager that publishes, a clock that only
//! the test moves. What a client sees is what its catalogs say.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use gupd::config::{Config, Overrides};
use gupd::rollout::engine::Ordered;
use gupd::rollout::orders::Order;

use crate::support::{Client, Gate, PATIENCE, Request, Resource, Response, Site};

const CATALOGS: [&str; 3] = ["/minitri.flg", "/a_1.0_english_livetri.zip", "/b_1.0_english_livetri.zip"];
const HOUR: Duration = Duration::from_secs(3600);

/// Clients of the pilot, of the branch, and all others.
const PILOT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 1, 0, 1));
const BRANCH: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 2, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 3, 0, 1));

const STAGED: &str = "[[ring]]\nname = \"first\"\ngroups = \"pilot\"\n\
     [[ring]]\nname = \"second\"\ngroups = \"branch\"\ndelay = \"24h\"\nspread = \"4h\"\n\
     [[ring]]\nname = \"last\"\ngroups = \"default\"\ngate = \"manual\"\n";

fn site(rings: &str) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    let text = format!(
        "[[upstream]]\nurl = \"http://manager\"\n\
         [[group]]\nname = \"pilot\"\nsubnets = \"127.1.0.0/16\"\n\
         [[group]]\nname = \"branch\"\nsubnets = \"127.2.0.0/16\"\n{rings}"
    );
    std::fs::write(&file, text).unwrap();
    let written = Config::load(&Overrides::default(), Some(&file), std::iter::empty()).unwrap();
    let site = Site::with(|config| {
        (config.groups, config.rings) = (written.groups, written.rings);
        config.rollout = written.rollout;
    });
    publish(&site, 1);
    site
}

/// The manager has this version of everything from now on.
fn publish(site: &Site, version: u64) {
    for path in CATALOGS {
        let body = format!("{path} of version {version}");
        site.manager.put(path, Resource::new(body.into_bytes()).etag(&format!("\"{version}\"")));
    }
}

async fn refresh(site: &Site) {
    assert_eq!(site.relay().refresher().refresh().await.unwrap().failed, 0);
}

async fn get(site: &Site, client: IpAddr, path: &str) -> Response {
    Client::connect_from(client, site.address()).await.send(&Request::get(path)).await.unwrap()
}

/// The version that all of a client's catalogs are of.
async fn sees(site: &Site, client: IpAddr) -> u64 {
    let mut versions = Vec::new();
    for path in CATALOGS {
        let body = String::from_utf8(get(site, client, path).await.whole()).unwrap();
        versions.push(body.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    }
    versions.dedup();
    assert_eq!(versions.len(), 1, "catalogs of two revisions: {versions:?}");
    versions[0]
}

async fn all(site: &Site) -> [u64; 3] {
    [sees(site, PILOT).await, sees(site, BRANCH).await, sees(site, OTHER).await]
}

async fn order(site: &Site, order: Order) {
    let ordered = Ordered { order, by: "test".into(), from: "here".into(), reason: None };
    site.relay().rollouts().order(ordered).await.unwrap();
}

/// Lets time pass, and waits until the rollouts have seen it.
async fn pass(site: &Site, time: Duration) {
    site.clock.advance(time);
    // Answered in turn, behind what was due.
    order(site, Order::Name { revision: 1, name: "seen".into() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_reaches_one_ring_after_the_other() {
    let site = site(STAGED);
    assert_eq!(all(&site).await, [1, 1, 1]);
    publish(&site, 2);
    assert_eq!(all(&site).await, [1, 1, 1], "nobody sees what was not published here");
    refresh(&site).await;
    pass(&site, Duration::from_secs(1)).await;
    assert_eq!(all(&site).await, [2, 1, 1]);
    pass(&site, 23 * HOUR).await;
    assert_eq!(all(&site).await, [2, 1, 1]);
    pass(&site, HOUR).await;
    pass(&site, 4 * HOUR).await;
    assert_eq!(all(&site).await, [2, 2, 1]);
    order(&site, Order::Promote { ring: "last".into() }).await;
    assert_eq!(all(&site).await, [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_comes_after_it_was_noted_is_kept_all_the_same() {
    const PAYLOAD: &str = "/1700000000jtun_a.zip";
    let site = site(STAGED);
    assert_eq!(sees(&site, PILOT).await, 1);
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(vec![7; 3 << 20]).etag("\"a\"").stalled(2 << 20, &gate));
    let mut client = Client::connect_from(PILOT, site.address()).await;
    client.begin(&Request::get(PAYLOAD)).await.unwrap();
    let mut response = client.head().await.unwrap();
    // What is noted is written down while the fill runs, as one of a full set over a thin line does for minutes.
    let counts = || site.relay().rollouts().current().payloads.get(&1).copied();
    let deadline = Instant::now() + PATIENCE;
    while counts() != Some(1) {
        assert!(
            Instant::now() < deadline,
            "it is not noted: {:?}",
            site.relay().rollouts().current().payloads
        );
        pass(&site, Duration::from_millis(1)).await;
    }
    gate.open();
    client.rest("GET", &mut response).await;
    assert_eq!(response.body.len(), 3 << 20);
    let index = rusqlite::Connection::open(site.store().join("index.db")).unwrap();
    let holds = || {
        let sql = "SELECT pinned FROM objects WHERE key LIKE '%' || ?1";
        index.query_row(sql, [PAYLOAD], |row| row.get::<_, i64>(0)).unwrap_or(-1)
    };
    let deadline = Instant::now() + PATIENCE;
    while holds() != 2 {
        assert!(Instant::now() < deadline, "it is not kept: {}", holds());
        pass(&site, Duration::from_secs(30)).await;
    }
}
