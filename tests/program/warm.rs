//! `gupd store warm`: a new relay gets what another relay or the tier has before its clients request it, by its own
//! way: peers, tier, upstreams, in its windows and limits.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Ended, Process, Relay, gupd, serve};
use crate::support::{Gate, Manager, PATIENCE, RefusingPort, Resource, bytes, write_secret};

const VIRUS: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001";
const CATALOG: &str = "/minitri.flg";
const TOKEN: &str = "s3cret-of-the-site";
const OBJECTS: u64 = 12;

/// A new relay with an admin token, and its folder.
struct NewSite {
    folder: TempDir,
}

impl NewSite {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_secret(folder.path().join("token"), &format!("{TOKEN}\n"));
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the configuration with `settings` after the usual ones.
    fn configure(&self, manager: &Manager, settings: &str) -> PathBuf {
        let (token, store) = (self.path("token"), self.path("store"));
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nadmin_token_file = {token:?}\n\
             [log]\nformat = \"json\"\naccess = false\nlevel = \"info,gupd_refresh=debug\"\n\
             [site]\ntime_zone = \"UTC\"\n[refresh]\nschedule = \"off\"\n[prefetch]\nlearned = false\n\
             [[upstream]]\nurl = {:?}\n[store]\ndir = {store:?}\nmin_free = \"0B\"\n{settings}",
            manager.url()
        );
        let file = self.path("gupd.toml");
        fs::write(&file, text).unwrap();
        file
    }

    fn serve(&self) -> Relay {
        Relay::start(gupd(["serve", "--config"]).arg(self.path("gupd.toml")))
    }

    fn start(&self, manager: &Manager, settings: &str) -> Relay {
        self.configure(manager, settings);
        self.serve()
    }

    /// Starts the command for this relay.
    fn warm(&self, admin: SocketAddr, from: &str, arguments: &[&str]) -> Process {
        let mut command = gupd(["store", "warm", "--from", from, "--admin", &admin.to_string(), "--config"]);
        Process::start(command.arg(self.path("gupd.toml")).args(arguments))
    }
}

fn payload(at: u64) -> String {
    format!("{VIRUS}/xdelta{at}.dax")
}

fn body(at: u64) -> Vec<u8> {
    bytes(at, 200_000)
}

fn url(relay: &Relay) -> String {
    format!("http://{}", relay.admin)
}

/// Content of clients of a relay: payloads and a catalog.
async fn use_content(relay: &Relay, manager: &Manager) {
    manager.put(CATALOG, Resource::new("1"));
    relay.get(CATALOG).await.expect_body();
    for at in 0..OBJECTS {
        manager.put(&payload(at), Resource::new(body(at)));
        relay.get(&payload(at)).await.expect_body();
    }
    relay.wait_for_fills().await;
}

/// Waits until the list of the relay has all objects: their use is written behind.
async fn first_relay(manager: &Manager, store: &Path) -> Relay {
    let relay = Relay::start(&mut serve(manager, store));
    use_content(&relay, manager).await;
    relay
}

fn output(ended: &Ended) -> &str {
    assert!(ended.status.success(), "{ended:#?}");
    let [line] = &ended.lines[..] else { panic!("{ended:#?}") };
    line
}

async fn metric(relay: &Relay, name: &str) -> f64 {
    let metrics = relay.metrics().await;
    let values = metrics.lines().filter(|line| line.starts_with(name));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn warmed_relay_serves_without_upstream_requests() {
    let (manager, store, site) = (Manager::start(), tempfile::tempdir().unwrap(), NewSite::new());
    let first = first_relay(&manager, store.path()).await;
    let peer = format!("[[peer]]\nurl = \"http://{}\"\nverify = \"off\"\n", first.address);
    let second = site.start(&manager, &peer);
    let warmed = site.warm(second.admin, &url(&first), &[]).wait_for_exit();
    assert_eq!(output(&warmed), "warmed 13 objects, 2.29 MiB; 0 already stored");
    // Payloads came from the peer, the catalog from the manager.
    assert_eq!(manager.request_count(CATALOG), 2);
    let before = manager.total_requests();
    assert_eq!(before, 2 + usize::try_from(OBJECTS).unwrap());
    for at in 0..OBJECTS {
        let response = second.get(&payload(at)).await;
        assert!(response.cache_status().starts_with("gupd; hit"), "{}", response.cache_status());
        assert!(response.expect_body() == body(at), "{at}: other bytes");
    }
    assert_eq!(second.get(CATALOG).await.expect_body(), b"1");
    let again = site.warm(second.admin, &url(&first), &["--json"]).wait_for_exit();
    let report: Value = serde_json::from_str(&again.lines.join("")).unwrap();
    let expected =
        serde_json::json!({"objects": 0, "bytes": 0, "skipped": 13, "absent": 0, "refused": 0, "failed": 0});
    assert_eq!(report, expected, "a second run fetches nothing");
    assert_eq!(manager.total_requests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_is_warmed_from_the_tier_and_refuses_blocked_content() {
    let (manager, store, site) = (Manager::start(), tempfile::tempdir().unwrap(), NewSite::new());
    let tier = tempfile::tempdir().unwrap();
    let tier_url = format!("file://{}", tier.path().display());
    let first = Relay::start(serve(&manager, store.path()).env("GUPD_TIER_URL", &tier_url));
    use_content(&first, &manager).await;
    let deadline = Instant::now() + PATIENCE;
    while metric(&first, "gupd_tier_publications_total{outcome=\"published\"}").await < OBJECTS as f64 {
        assert!(Instant::now() < deadline, "not published");
    }
    let settings = format!("[tier]\nurl = {tier_url:?}\n");
    let second = site.start(&manager, &settings);
    let before = manager.total_requests();
    let warmed = site.warm(second.admin, &tier_url, &[]).wait_for_exit();
    assert_eq!(output(&warmed), "warmed 12 objects, 2.29 MiB; 0 already stored");
    for at in 0..OBJECTS {
        assert!(second.get(&payload(at)).await.expect_body() == body(at), "{at}: other bytes");
    }
    assert_eq!(manager.total_requests(), before, "the tier has everything");
    site.warm(second.admin, "s3://elsewhere/gupd", &[])
        .wait_for_exit()
        .assert_error(2, &["--from s3://elsewhere/gupd", "tier.url"]);
    // Content that this relay blocks is not fetched; the catalog of the first relay is.
    let other = NewSite::new();
    let denies = "[[route]]\nprefix = \"/\"\ndeny_download = [\"virus-definitions-32\"]\n";
    let third = other.start(&manager, denies);
    let refused = other.warm(third.admin, &url(&first), &[]).wait_for_exit();
    assert_eq!(output(&refused), "warmed 1 object, 1 B; 0 already stored; 12 not for this relay");
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_start_waits_for_its_window_and_keeps_the_wan_limit() {
    let (manager, store, site) = (Manager::start(), tempfile::tempdir().unwrap(), NewSite::new());
    let first = first_relay(&manager, store.path()).await;
    let later = |hours: i64| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours);
        at.strftime("%H:%M").to_string()
    };
    // Open in six hours at the earliest.
    let closed = format!("[wan]\nwindows = \"{}-{}\"\n", later(6), later(8));
    let mut second = site.start(&manager, &closed);
    let before = manager.total_requests();
    let command = site.warm(second.admin, &url(&first), &[]);
    second.process.wait_for_log("warm start stopped: the window is closed");
    assert_eq!(manager.total_requests(), before, "a request outside the windows");
    // Two and a half seconds for 2.4 MB.
    site.configure(&manager, "[wan]\nlimit = \"8Mbit/s\"\n");
    second.process.signal("HUP");
    second.process.wait_for_log("configuration reloaded");
    let begun = Instant::now();
    assert_eq!(output(&command.wait_for_exit()), "warmed 13 objects, 2.29 MiB; 0 already stored");
    assert!(begun.elapsed() > Duration::from_secs(2), "faster than wan.limit: {:?}", begun.elapsed());
    let crossed = metric(&second, "gupd_wan_received_bytes_total{cause=\"prefetch\"}").await;
    assert!(crossed >= (OBJECTS * 200_000) as f64, "{crossed} bytes in the ledger");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_relay_continues_its_warm_start() {
    let (manager, store, site) = (Manager::start(), tempfile::tempdir().unwrap(), NewSite::new());
    let first = first_relay(&manager, store.path()).await;
    let (large, gate) = (payload(OBJECTS), Gate::default());
    let content = bytes(OBJECTS, 12 << 20);
    manager.put(&large, Resource::new(content.clone()));
    first.get(&large).await.expect_body();
    first.wait_for_fills().await;
    manager.put(&large, Resource::new(content.clone()).stalled(8 << 20, &gate));
    let mut second = site.start(&manager, "");
    let before = manager.body_bytes();
    let command = site.warm(second.admin, &url(&first), &[]);
    manager.wait_for_requests(&large, 2).await;
    let deadline = Instant::now() + PATIENCE;
    while metric(&second, "gupd_upstream_received_bytes_total").await < 8e6 {
        assert!(Instant::now() < deadline, "the large object never arrived");
    }
    second.process.kill();
    let ended = command.wait_for_exit();
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.errors.contains("run it again to continue"), "{ended:#?}");
    assert_eq!(ended.errors.lines().count(), 1, "{ended:#?}");
    gate.open();
    let second = site.serve();
    let warmed = site.warm(second.admin, &url(&first), &[]).wait_for_exit();
    assert!(output(&warmed).starts_with("warmed "), "{warmed:#?}");
    let total = manager.total_requests();
    assert!(second.get(&large).await.expect_body() == content);
    for at in 0..OBJECTS {
        assert!(second.get(&payload(at)).await.expect_body() == body(at), "{at}: other bytes");
    }
    assert_eq!(manager.total_requests(), total, "a client's request was not warmed");
    let (crossed, content) = (manager.body_bytes() - before, (12 << 20) + OBJECTS * 200_000);
    // A kill costs the chunks in flight, and bytes in sockets and in write-behind.
    assert!(crossed < content + (6 << 20), "{crossed} bytes crossed for {content}");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_store_ends_a_warm_start_without_evictions() {
    const LARGE: usize = 10 << 20;
    let (manager, store, site) = (Manager::start(), tempfile::tempdir().unwrap(), NewSite::new());
    let first = Relay::start(&mut serve(&manager, store.path()));
    for at in 0..9 {
        manager.put(&payload(at), Resource::new(bytes(at, LARGE)));
        first.get(&payload(at)).await.expect_body();
    }
    first.wait_for_fills().await;
    // Room for six of nine.
    let second = site.start(&manager, "quota = \"64MiB\"\nmemory = \"16MiB\"\n");
    for run in ["first", "second"] {
        let ended = site.warm(second.admin, &url(&first), &[]).wait_for_exit();
        assert_eq!((ended.status.code(), ended.errors.lines().count()), (Some(1), 1), "{run}: {ended:#?}");
        for words in ["the store is full", "3 objects left, 30.00 MiB", "store.quota"] {
            assert!(ended.errors.contains(words), "{run}: {ended:#?}");
        }
    }
    assert_eq!(metric(&second, "gupd_store_objects ").await, 6.0);
    assert_eq!(metric(&second, "gupd_store_evicted_objects_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_source_or_relay_is_one_line_with_a_remedy() {
    let (manager, store, site) = (Manager::start(), tempfile::tempdir().unwrap(), NewSite::new());
    let first = Relay::start(&mut serve(&manager, store.path()));
    let (second, closed) = (site.start(&manager, ""), RefusingPort::new());
    let refusing = format!("http://{}", closed.address());
    let own = url(&second);
    let client_port = format!("http://{}", first.address);
    for (from, status, words) in [
        (&*refusing, 1, &["--from", "refused", "server.admin"][..]),
        (&manager.url(), 1, &["no admin address of a gupd", "9467"]),
        (&client_port, 1, &["no admin address of a gupd", "9467"]),
        (&own, 2, &["this relay itself"]),
        ("http://127.0.0.1:9467/path", 2, &["has no path"]),
        ("http://", 2, &["--from", "URL"]),
        ("http://no-such-host.invalid:9467", 1, &["no-such-host.invalid is not resolved"]),
        ("relay-1", 2, &["not a URL"]),
        ("ftp://relay-1/", 2, &["no tier is configured"]),
        ("file:///mnt/share/gupd", 2, &["no tier is configured", "tier.url"]),
    ] {
        site.warm(second.admin, from, &[]).wait_for_exit().assert_error(status, words);
    }
    let from = url(&first);
    let wrong = site.path("wrong");
    write_secret(&wrong, "another-token-of-another-site\n");
    let wrong = wrong.to_str().unwrap();
    let (absent, other) = (site.path("absent"), Manager::start());
    for (admin, arguments, status, words) in [
        (second.admin, &["--token-file", wrong][..], 2, &["refused by the relay", "wrong admin token"][..]),
        (second.admin, &["--token-file", absent.to_str().unwrap()], 2, &["absent"]),
        (second.admin, &["--from-token-file", absent.to_str().unwrap()], 2, &["--from", "absent"]),
        (second.admin, &["--since", "yesterday"], 2, &["--since"]),
        (closed.address(), &[], 1, &["start the relay"]),
        (other.address(), &[], 2, &["refused by the relay", "404"]),
    ] {
        let ended = site.warm(admin, &from, arguments).wait_for_exit();
        assert_eq!(ended.status.code(), Some(status), "{arguments:?}: {ended:#?}");
        assert!(words.iter().all(|word| ended.errors.contains(word)), "{arguments:?}: {ended:#?}");
    }
    let mut without = gupd(["store", "warm", "--from", &from, "--admin", &second.admin.to_string()]);
    Process::start(&mut without).wait_for_exit().assert_error(2, &["store warm: no admin token"]);
    let nothing = site.warm(second.admin, &from, &[]).wait_for_exit();
    assert_eq!(output(&nothing), "warmed 0 objects, 0 B; 0 already stored");
}
