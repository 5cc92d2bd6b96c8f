//! Rollouts over sockets: simulated clients at addresses of their own, a manager that publishes, and a clock that only
//! the test moves. A client's catalogs tell its visible revision. This file has the helpers of all these tests.

mod chance;
mod managers;
mod orders;
mod payloads;
mod reload;
mod restart;
mod staged;
mod trouble;
mod unknown;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use gupd_config::Config;
use gupd_config::Overrides;
use gupd_config::clock::UnixMillis;
use gupd_rollout::command::{AttributedCommand, CommandOutcome, RolloutCommand};
use gupd_rollout::engine::ExecuteError;

use crate::support::{Manager, PATIENCE, Request, Resource, Response, Site, WireClient};

const CATALOGS: [&str; 3] = ["/minitri.flg", "/a_1.0_english_livetri.zip", "/b_1.0_english_livetri.zip"];
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Clients of the pilot, of the branch, and all others.
const PILOT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 1, 0, 1));
const BRANCH: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 2, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 3, 0, 1));

const GROUPS: &str = "[[group]]\nname = \"pilot\"\nsubnets = \"127.1.0.0/16\"\n\
     [[group]]\nname = \"branch\"\nsubnets = \"127.2.0.0/16\"\n";

/// One after the other; the last by hand.
const STAGED: &str = "[[ring]]\nname = \"first\"\ngroups = \"pilot\"\n\
     [[ring]]\nname = \"second\"\ngroups = \"branch\"\ndelay = \"24h\"\nspread = \"4h\"\n\
     [[ring]]\nname = \"last\"\ngroups = \"default\"\ngate = \"manual\"\n";

/// A site at noon of a Monday with the usual groups, these rings, and version 1 at the manager.
fn site(rings: &str) -> Site {
    site_of(&format!("{GROUPS}{rings}"))
}

/// A site with this configuration.
fn site_of(text: &str) -> Site {
    let manager = Manager::start();
    let url = manager.url();
    site_behind(manager, &format!("[[upstream]]\nurl = \"{url}\"\n{text}"))
}

/// A site with this configuration, which also names the upstreams.
fn site_behind(manager: Manager, text: &str) -> Site {
    const MONDAY_NOON: UnixMillis = 9 * 43_200_000;
    const WEEK: UnixMillis = 7 * 86_400_000;
    let site = Site::for_manager(manager, |config| take(config, text));
    let until = (MONDAY_NOON - site.clock.now()).rem_euclid(WEEK);
    site.clock.advance(Duration::from_millis(until.unsigned_abs()));
    publish(&site.manager, 1);
    site
}

/// Applies the rollout settings of a text.
fn take(config: &mut Config, text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    std::fs::write(&file, format!("[site]\ntime_zone = \"UTC\"\n{text}")).unwrap();
    let written = Config::load(&Overrides::default(), Some(&file), std::iter::empty()).unwrap();
    (config.upstreams, config.routes) = (written.upstreams, written.routes);
    (config.groups, config.rings, config.rollout) = (written.groups, written.rings, written.rollout);
    config.site = written.site;
}

/// Reloads this configuration, and waits until the rollout task has applied it.
async fn reload(site: &mut Site, text: &str) {
    take_by_reload(site, text);
    settled(site).await;
}

/// Reloads this configuration.
fn take_by_reload(site: &mut Site, text: &str) {
    let text = format!("[[upstream]]\nurl = \"{}\"\n{text}", site.manager.url());
    take(&mut site.config, &text);
    let config = site.config.clone();
    tokio::task::block_in_place(|| site.relay_mut().reload(config)).unwrap();
}

/// Reloads a configuration without rings.
async fn reload_off(site: &mut Site, text: &str) {
    take_by_reload(site, text);
    let deadline = Instant::now() + PATIENCE;
    while site.relay().rollouts().has_rings() {
        assert!(Instant::now() < deadline, "there are still rings");
        tokio::task::yield_now().await;
    }
}

/// The newest revision's number.
fn newest(site: &Site) -> u64 {
    site.relay().rollouts().snapshot().state.newest().map_or(0, |revision| revision.number.get())
}

/// Publishes a version of all catalogs at the manager.
fn publish(manager: &Manager, version: u64) {
    for path in CATALOGS {
        manager.put(path, catalog(path, version));
    }
}

/// A later version has a later date.
fn catalog(path: &str, version: u64) -> Resource {
    let body = format!("{path} of version {version}");
    let date = format!("Mon, 01 Jun 2026 {version:02}:00:00 GMT");
    Resource::new(body.into_bytes()).etag(&format!("\"{version}\"")).header("Last-Modified", &date)
}

async fn refresh(site: &Site) {
    // A refresh asks for what is stored: also what clients have just been given.
    site.wait_for_fills().await;
    assert_eq!(site.relay().refresher().refresh().await.unwrap().failed, 0);
}

/// Publishes a version at the manager, and refreshes.
async fn publish_and_refresh(site: &Site, version: u64) {
    publish(&site.manager, version);
    refresh(site).await;
}

async fn send(site: &Site, client: IpAddr, request: &Request) -> Response {
    WireClient::connect_from(client, site.address()).await.send(request).await.unwrap()
}

async fn get(site: &Site, client: IpAddr, path: &str) -> Response {
    send(site, client, &Request::get(path)).await
}

/// Returns the version of a client's catalogs, which must agree.
async fn sees(site: &Site, client: IpAddr) -> u64 {
    version_by(&mut WireClient::connect_from(client, site.address()).await).await
}

async fn version_by(connection: &mut WireClient) -> u64 {
    let mut versions = Vec::new();
    for path in CATALOGS {
        let response = connection.send(&Request::get(path)).await.unwrap();
        assert_eq!(response.status, 200, "{path}: {:?}", response.headers);
        versions.push(version_of(path, response));
    }
    versions.dedup();
    assert_eq!(versions.len(), 1, "catalogs of two revisions: {versions:?}");
    versions[0]
}

fn version_of(path: &str, response: Response) -> u64 {
    let body = String::from_utf8(response.expect_body()).unwrap();
    body.strip_prefix(&format!("{path} of version ")).unwrap().parse().unwrap()
}

/// Returns the versions that the pilot, the branch and other clients see.
async fn all(site: &Site) -> [u64; 3] {
    [sees(site, PILOT).await, sees(site, BRANCH).await, sees(site, OTHER).await]
}

async fn try_order(site: &Site, command: RolloutCommand) -> Result<CommandOutcome, ExecuteError> {
    let command = AttributedCommand { command, by: "test".into(), from: "here".into(), reason: None };
    site.relay().rollouts().execute(command).await
}

async fn order(site: &Site, command: RolloutCommand) -> CommandOutcome {
    try_order(site, command).await.unwrap()
}

fn hold(group: &str, revision: &str) -> RolloutCommand {
    RolloutCommand::Hold { group: group.into(), revision: revision.into() }
}

fn rollback(group: &str) -> RolloutCommand {
    RolloutCommand::Rollback { group: group.into(), revision: None }
}

fn release(group: Option<&str>, now: bool) -> RolloutCommand {
    RolloutCommand::Release { group: group.map(Into::into), now }
}

fn promote(ring: &str) -> RolloutCommand {
    RolloutCommand::Promote { ring: ring.into() }
}

/// Advances the clock, and waits until the rollout task has followed.
async fn pass(site: &Site, time: Duration) {
    site.clock.advance(time);
    settled(site).await;
}

/// Waits until the rollout task has done what was due.
async fn settled(site: &Site) {
    // The task answers requests in order.
    try_order(site, RolloutCommand::Unname { name: "nobody".into() }).await.unwrap_err();
}

/// Many clients, each with a connection of its own.
struct Crowd(Vec<Member>);

struct Member {
    address: IpAddr,
    connection: WireClient,
    saw: u64,
}

impl Crowd {
    /// Clients of the pilot, the branch and other groups, this many of each.
    async fn of(site: &Site, counts: [u8; 3]) -> Self {
        let mut members = Vec::new();
        for (group, count) in (1..).zip(counts) {
            for host in 1..=count {
                let address = Ipv4Addr::new(127, group, host, host).into();
                let connection = WireClient::connect_from(address, site.address()).await;
                members.push(Member { address, connection, saw: 0 });
            }
        }
        Self(members)
    }

    /// Connects the clients again after a restart.
    async fn connect(&mut self, site: &Site) {
        for member in &mut self.0 {
            member.connection = WireClient::connect_from(member.address, site.address()).await;
        }
    }

    /// Returns the version that each client sees, which must not be older than before.
    async fn look(&mut self) -> Vec<(IpAddr, u64)> {
        let mut seen = Vec::new();
        for member in &mut self.0 {
            let sees = version_by(&mut member.connection).await;
            assert!(sees >= member.saw, "{} went back from {} to {sees}", member.address, member.saw);
            member.saw = sees;
            seen.push((member.address, sees));
        }
        seen
    }

    /// Counts the clients by group that see this version or a later one.
    async fn count(&mut self, version: u64) -> [usize; 3] {
        let seen = self.look().await;
        let of =
            |group| seen.iter().filter(move |(client, sees)| *sees >= version && group_of(*client) == group);
        [1, 2, 3].map(|group| of(group).count())
    }
}

/// Its second byte.
fn group_of(client: IpAddr) -> u8 {
    match client {
        IpAddr::V4(client) => client.octets()[1],
        IpAddr::V6(_) => 0,
    }
}
