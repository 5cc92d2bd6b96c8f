//! Managers that publish at any moment, also during a collection, over lines that fail. Each revision that clients see
//! is consistent: one manager had all of it at one moment.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gupd_rollout::revision::Revision;
use gupd_site::{OriginServer, Random, Reachability, Resource};
use gupd_store::BlobId;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::collector::Collector;
use crate::network::{Net, Weather};

const NAMES: [&str; 3] = ["one", "two", "three"];
const CATALOGS: u64 = 8;
const ROUNDS: usize = 12;

/// Manager and range of versions in which each blob occurs.
type Meanings = Arc<Mutex<HashMap<BlobId, (&'static str, Range<u64>)>>>;

/// A manager. Each version changes some files, and no bytes are published twice.
struct Publisher {
    name: &'static str,
    /// Responses have a `Last-Modified` and no `ETag`.
    is_dated: bool,
    /// One in so many requests publishes a new version.
    often: u64,
    /// One in so many requests fails.
    fails: u64,
    now: Mutex<(u64, Random)>,
    meanings: Meanings,
}

impl Publisher {
    /// Returns the range of versions in which the file is the same as in `version`.
    fn versions(path: &str, version: u64) -> Range<u64> {
        let is_new = |version: &u64| {
            let digest = Sha256::digest(format!("{path} {version}"));
            *version == 0 || digest[0] < 96
        };
        let since = (0..=version).rev().find(is_new).unwrap();
        since..(version + 1..).find(is_new).unwrap()
    }

    fn respond(&self, path: &str) -> Resource {
        let mut now = self.now.lock().unwrap();
        if now.1.below(self.often) == 0 {
            now.0 += 1;
        }
        let (version, fails) = (now.0, now.1.below(self.fails) == 0);
        drop(now);
        let versions = Self::versions(path, version);
        let since = versions.start;
        let body = format!("{} {since} {path}", self.name);
        let digest: [u8; 32] = Sha256::digest(&body).into();
        self.meanings.lock().unwrap().insert(digest.into(), (self.name, versions));
        if fails {
            return Resource::empty(500);
        }
        if !self.is_dated {
            return Resource::tagged(body, &format!("\"{}-{since}\"", self.name)).undated();
        }
        // File dates are the same on each manager.
        let modified = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + since);
        Resource::new(body)
            .without("ETag")
            .header("Last-Modified", &httpdate::fmt_http_date(modified))
            .undated()
    }
}

/// Asserts that one manager had all catalogs of the revision at one moment.
fn check(seed: u64, revision: &Revision, meanings: &Meanings) {
    let meanings = meanings.lock().unwrap();
    let (mut manager, mut versions) = (None, 0..u64::MAX);
    for (key, catalog) in &revision.catalogs {
        let (of, these) =
            &meanings[&catalog.blob().unwrap_or_else(|| panic!("seed {seed}: {key} is absent"))];
        assert_eq!(
            *manager.get_or_insert(*of),
            *of,
            "seed {seed}: {key} is of another manager: {revision:#?}"
        );
        versions = versions.start.max(these.start)..versions.end.min(these.end);
    }
    assert!(!versions.is_empty(), "seed {seed}: a mixture of versions: {revision:#?}");
}

/// Runs one seed and returns the number of revisions.
async fn play(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let meanings = Meanings::default();
    let weather = Weather { often: 12, bytes: 4_000, delay: Duration::from_micros(300) };
    let net = Net::new(seed, weather);
    for (at, name) in (1..).zip(NAMES) {
        let publisher = Publisher {
            name,
            is_dated: random.below(2) == 0,
            often: 6 + random.below(60),
            fails: 80,
            now: Mutex::new((random.below(10), Random::new(seed * 10 + at))),
            meanings: meanings.clone(),
        };
        net.put(name, &OriginServer::computed(move |request| Some(publisher.respond(request.path()))));
    }
    let urls = NAMES.map(|name| format!("http://{name}"));
    let urls = urls.each_ref().map(String::as_str);
    let collector = Arc::new(Collector::start_on(Arc::new(net.clone()), &urls).await);
    let looking = tokio::spawn({
        let (collector, meanings) = (collector.clone(), meanings.clone());
        async move {
            loop {
                collector.views().revisions().for_each(|revision| check(seed, revision, &meanings));
                sleep(Duration::from_micros(500)).await;
            }
        }
    });
    for _ in 0..ROUNDS {
        let mut clients = JoinSet::new();
        for _ in 0..random.below(4) {
            let (collector, path) = (collector.clone(), format!("/{}_livetri.zip", random.below(CATALOGS)));
            let begins = Duration::from_micros(random.below(20_000));
            clients.spawn(async move {
                sleep(begins).await;
                collector.wait_for_catalog(&path).await;
            });
        }
        let down = NAMES[usize::try_from(random.below(3)).unwrap()];
        if random.below(4) == 0 {
            net.set(down, Reachability::Refusing);
        }
        collector.refresh().await;
        clients.join_all().await;
        net.set(down, Reachability::Up);
        // A source that backs off is collected again.
        collector.clock.advance(Duration::from_secs(120));
    }
    looking.abort();
    assert!(looking.await.unwrap_err().is_cancelled(), "seed {seed}");
    collector.views().revisions().for_each(|revision| check(seed, revision, &meanings));
    if let Some(newest) = collector.views().newest() {
        assert_eq!(collector.stored(newest).await.len(), newest.catalogs.len(), "seed {seed}");
    }
    collector.views().newest().map_or(0, |newest| newest.number.get())
}

#[tokio::test]
async fn revisions_never_mix_instants_or_managers() {
    let mut revisions = 0;
    for seed in 0..12 {
        revisions += play(seed).await;
    }
    assert!(revisions >= 36, "only {revisions}");
}
