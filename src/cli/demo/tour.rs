//! The tour of the demo: what goes wrong at a site, one scene after the other, and what its clients see of it. A scene
//! fails if a client saw more than it should.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use indicatif::DecimalBytes;
use tokio::time::{Instant, sleep, timeout};

use gupd_site::sep::SepObject;
use gupd_site::sessions::{Session, Step};
use gupd_site::update::{self, Received};
use gupd_site::{Content, Request, Response, WireClient};

use super::downloads::downloads_during;
use super::process::RelayProcess;
use super::run::{DemoRelay, DemoUpstream};

/// Time that clients download while the manager is down.
const OUTAGE: Duration = Duration::from_secs(3);
/// Time that clients download before and after the kill.
const AROUND_KILL: Duration = Duration::from_millis(500);
/// Longest wait for an effect. Machines are busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval at which an effect is looked for.
const POLL: Duration = Duration::from_millis(20);

/// A path of a set that nobody has requested: the relay does not have it.
const NOT_STORED: &str = "/content/{07B590B3-9282-482f-BBAA-6D515D385869}/250604002/xdelta240101001.dax";
/// A set that the manager publishes during the tour, and its bytes.
const NEW_SET: &str = "/content/{07B590B3-9282-482f-BBAA-6D515D385869}/250605001/full.zip";
const NEW_SET_BYTES: u64 = 3_500_000;
/// Bytes of it that arrive before the limit changes, and then before its rate is measured.
const BEFORE_LIMIT: u64 = 1_500_000;
const SETTLE: u64 = 250_000;
const LIMIT: &str = "4Mbit/s";

/// Groups and rings of the last scene. The pilot is another address of this machine.
const RINGS: &str = "[[group]]\nname = \"pilot\"\nsubnets = [\"127.0.0.2\"]\n\
    [[ring]]\nname = \"pilot\"\ngroups = [\"pilot\"]\n\
    [[ring]]\nname = \"all\"\ngroups = [\"default\"]\ngate = \"manual\"\n";
const PILOT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Other clients that are asked for the catalog that they see.
const OTHERS: u8 = 20;

/// A scene and what was seen.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) title: &'static str,
    /// Commands, which begin with `$`, and observations.
    pub(super) lines: Vec<String>,
    /// What a client saw and should not have.
    pub(super) failure: Option<String>,
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        self.lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        self.failure.iter().try_for_each(|failure| writeln!(f, "  failed: {failure}"))
    }
}

/// The site on which the scenes play.
pub(super) struct Tour<'a> {
    pub(super) upstream: &'a DemoUpstream,
    pub(super) relay: &'a RelayProcess,
}

/// Error of a scene that could not be played.
pub(super) type SceneError = Box<dyn std::error::Error + Send + Sync>;

impl Tour<'_> {
    /// The manager refuses connections: stored content is served, and all else is a quick `504`.
    pub(super) async fn manager_dies(&self) -> Result<Scene, SceneError> {
        let (relay, manager) = (self.relay.addresses().relay, &self.upstream.manager);
        manager.set_down(true);
        let (absent, seen) = downloads_during(relay, &self.stored(), async {
            sleep(OUTAGE).await;
            timeout(PATIENCE, request(IpAddr::from(Ipv4Addr::LOCALHOST), self, NOT_STORED)).await
        })
        .await;
        manager.set_down(false);
        // The next scene needs it.
        self.wait_for(|response| response.status == 404, NOT_STORED, None).await?;
        let absent = absent??;
        let retry_after = absent.header("Retry-After").unwrap_or("none");
        Ok(Scene {
            title: "1. The manager dies.",
            lines: vec![
                format!("clients: {seen}"),
                format!(
                    "a request for content that is not stored: {}, Retry-After: {retry_after}",
                    absent.status
                ),
            ],
            failure: seen.failure,
        })
    }

    /// The worker is killed: its guard passes requests on until another one serves.
    pub(super) async fn relay_is_killed(&self) -> Result<Scene, SceneError> {
        let relay = self.relay.addresses().relay;
        let action = async {
            sleep(AROUND_KILL).await;
            let (worker, killed) = (self.relay.kill_worker()?, Instant::now());
            self.wait_for(|response| response.cache_status().starts_with("gupd; hit"), &self.flag(), None)
                .await?;
            let away = killed.elapsed();
            sleep(AROUND_KILL).await;
            Ok::<_, SceneError>((worker, away))
        };
        let (killed, seen) = downloads_during(relay, &self.stored(), action).await;
        let (worker, away) = killed?;
        Ok(Scene {
            title: "2. The relay is killed.",
            lines: vec![
                format!("$ kill -9 {worker}"),
                format!("clients: {seen}"),
                format!(
                    "the relay served from its store again after {:.2} s; its guard passed requests on meanwhile",
                    away.as_secs_f64()
                ),
            ],
            failure: seen.failure,
        })
    }

    /// The limit of the line changes under a running download.
    pub(super) async fn limit_changes(&self) -> Result<Scene, SceneError> {
        let object =
            SepObject::new(NEW_SET.to_owned(), Content::generated(1, NEW_SET_BYTES), SystemTime::now());
        object.publish_on(&self.upstream.manager);
        let steps = vec![Step::Get(Arc::new(object))];
        let session = Session { name: "one client".to_owned(), starts_after: Duration::ZERO, steps };
        let (received, relay) = (Arc::new(Received::default()), self.relay.addresses().relay);
        let counted = Arc::clone(&received);
        let download = tokio::spawn(async move { update::update(relay, &session, &counted).await });
        let before = rate(&received, BEFORE_LIMIT).await?;
        self.relay.configure(&format!("[wan]\nlimit = \"{LIMIT}\"\n"))?;
        let reloaded = self.relay.run(&["reload"]).await?;
        let now = received.bytes.load(Ordering::Relaxed);
        let after = rate(&received, (now + 3 * SETTLE).min(NEW_SET_BYTES)).await?;
        let outcome = download.await?;
        Ok(Scene {
            title: "3. The limit of the line changes during a download.",
            lines: vec![
                format!("wan.limit = \"{LIMIT}\""),
                "$ gupd reload".to_owned(),
                reloaded,
                format!("the download ran at {before:.1} Mbit/s before and at {after:.1} Mbit/s after"),
                format!("it ended with all {} verified", DecimalBytes(outcome.bytes)),
            ],
            failure: outcome.result.err().map(|failure| failure.to_string()),
        })
    }

    /// A bad revision reaches the pilot ring and is rolled back.
    pub(super) async fn revision_is_rolled_back(&self) -> Result<Scene, SceneError> {
        let catalog = self.upstream.content.products.first().map(|product| Arc::clone(&product.livetri));
        let catalog = catalog.ok_or("the manager has no catalog")?;
        let good = catalog.content.read(0..catalog.content.length());
        let is_good = |response: &Response| response.body == good;
        self.relay.configure(RINGS)?;
        self.relay.run(&["reload"]).await?;
        // A catalog is in the first revision if a client has requested it.
        self.wait_for(is_good, &catalog.path, None).await?;
        self.relay.run(&["refresh"]).await?;
        self.wait_for(is_good, &catalog.path, Some(PILOT)).await?;
        let bad = Content::generated(2, catalog.content.length());
        SepObject::new(catalog.path.clone(), bad, SystemTime::now()).publish_on(&self.upstream.manager);
        let published = self.relay.run(&["refresh"]).await?;
        self.wait_for(|response| response.status == 200 && !is_good(response), &catalog.path, Some(PILOT))
            .await?;
        let mut safe = 0;
        for number in 0..OTHERS {
            let response = request(Ipv4Addr::new(127, 0, 1, number + 1).into(), self, &catalog.path).await?;
            safe += usize::from(is_good(&response));
        }
        let rolled_back =
            self.relay.run(&["rollout", "rollback", "pilot", "--reason", "bad revision"]).await?;
        self.wait_for(is_good, &catalog.path, Some(PILOT)).await?;
        catalog.publish_on(&self.upstream.manager);
        Ok(Scene {
            title: "4. A bad revision is rolled back.",
            lines: vec![
                "$ gupd refresh".to_owned(),
                published,
                format!(
                    "the pilot ring saw the bad catalog; {safe} of {OTHERS} other clients saw the good one"
                ),
                "$ gupd rollout rollback pilot".to_owned(),
                rolled_back,
                "the pilot ring saw the good catalog again".to_owned(),
            ],
            failure: (safe < usize::from(OTHERS)).then(|| "the bad catalog reached other clients".to_owned()),
        })
    }

    fn flag(&self) -> String {
        self.upstream.content.flag.path.clone()
    }

    /// Returns payloads that the update has stored, whatever the clients were.
    fn stored(&self) -> Vec<Step> {
        // The first two sets are for one word size each.
        let deltas = self.upstream.content.definitions.iter().skip(2).filter_map(|set| set.deltas.first());
        deltas.cloned().map(Step::Get).collect()
    }

    /// Requests a path until the response fits.
    async fn wait_for(
        &self,
        fits: impl Fn(&Response) -> bool,
        path: &str,
        from: Option<IpAddr>,
    ) -> Result<(), SceneError> {
        let deadline = Instant::now() + PATIENCE;
        let from = from.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        loop {
            // A connection that breaks off is expected while the relay is away.
            match timeout(PATIENCE, request(from, self, path)).await? {
                Ok(response) if fits(&response) => return Ok(()),
                Ok(response) if Instant::now() > deadline => {
                    let status = response.cache_status();
                    return Err(
                        format!("{path}: never came as expected: {} {status}", response.status).into()
                    );
                }
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                _ => sleep(POLL).await,
            }
        }
    }
}

async fn request(from: IpAddr, tour: &Tour<'_>, path: &str) -> io::Result<Response> {
    let mut client = WireClient::try_connect_from(from, tour.relay.addresses().relay).await?;
    client.send(&Request::get(path)).await
}

/// Returns the rate in Mbit/s at which a download gets to `until` bytes, without its first bytes from now on.
async fn rate(received: &Received, until: u64) -> Result<f64, SceneError> {
    let bytes = || received.bytes.load(Ordering::Relaxed);
    let reach = |least: u64| async move {
        while bytes() < least {
            sleep(POLL).await;
        }
        (bytes(), Instant::now())
    };
    let (first, begun) = timeout(PATIENCE, reach((bytes() + SETTLE).min(until))).await?;
    let (last, ended) = timeout(PATIENCE, reach(until)).await?;
    let seconds = ended.duration_since(begun).as_secs_f64().max(POLL.as_secs_f64());
    Ok((last - first) as f64 * 8.0 / 1e6 / seconds)
}
