//! Defaults, minimums and maximums of the settings, each with its reason. Data only. `config/gupd.toml` repeats the
//! defaults for administrators, and a test compares the two.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::fill::FinishPolicy;
use crate::units::{GIB, KIB, MIB, Rate, TIB};

/// Default, minimum and maximum of a setting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds<T> {
    pub(crate) default: T,
    pub(crate) least: T,
    pub(crate) most: T,
}

const fn bounds<T>(default: T, least: T, most: T) -> Bounds<T> {
    Bounds { default, least, most }
}

const fn times(default: u64, least: u64, most: u64) -> Bounds<Duration> {
    bounds(Duration::from_secs(default), Duration::from_secs(least), Duration::from_secs(most))
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The port clients of a Group Update Provider already use, so firewalls at a site let it through.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 2967);
/// Loopback: what metrics tell is for the site's own monitoring.
pub(crate) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9467);

/// Least and most threads; the default is one for each core.
pub(crate) const WORKERS: Bounds<usize> = bounds(1, 1, 1_024);
/// Digits at the beginning of a payload's name. A number of 18 digits fits 64 bits; there is no default.
pub(crate) const STAMP_DIGITS: Bounds<usize> = bounds(10, 1, 18);
/// 10,000 endpoints do not ask at once; each connection costs a file descriptor and some KiB, so the process's limit
/// of open files must be higher.
pub(crate) const MAX_CONNECTIONS: Bounds<usize> = bounds(4_096, 1, 1_000_000);
/// Endpoint heads are below 2 KiB; proxies on the way may add cookies and tokens.
pub(crate) const MAX_HEADER_BYTES: Bounds<u64> = bounds(32 * KIB, 8 * KIB, MIB);
/// RFC 9112 §3 recommends 8,000 octets at the least; the manager's `h=` blobs are below 2 KiB.
pub(crate) const MAX_URI_BYTES: Bounds<u64> = bounds(8 * KIB, 256, 64 * KIB);
/// A head takes one round trip; a minute keeps a heartbeat's connections and ends a slow-header attack's.
pub(crate) const HEADER_TIMEOUT: Bounds<Duration> = times(60, 1, HOUR);
/// Longer than a VPN's reconnect, shorter than what a vanished laptop may hold a connection.
pub(crate) const STALL_TIMEOUT: Bounds<Duration> = times(60, 1, HOUR);
/// Requests of updaters for content are below 1 KiB; a gateway has no proxies of the site before it.
pub(crate) const GATEWAY_HEADER_BYTES: u64 = 8 * KIB;
/// A head from the internet takes one round trip, and its client reconnects at the next heartbeat.
pub(crate) const GATEWAY_HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Lines of roaming clients recover within this time, or not before the next heartbeat.
pub(crate) const GATEWAY_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A 100 MiB definition set at 3 Mbit/s; `TimeoutStopSec` of a service must be longer.
pub(crate) const DRAIN_TIMEOUT: Bounds<Duration> = times(5 * MINUTE, 0, DAY);

/// Thirty kept revisions of the larger content types, full and deltas.
pub(crate) const QUOTA: Bounds<u64> = bounds(40 * GIB, 64 * MIB, 1_024 * TIB);
/// Room for logs and the index; below it a file system slows down and other services fail.
pub(crate) const MIN_FREE: Bounds<u64> = bounds(GIB, 0, 1_024 * TIB);
/// Clients that return from a month's leave still find their deltas.
pub(crate) const MAX_UNUSED: Bounds<Duration> = times(30 * DAY, HOUR, 3_650 * DAY);
/// The catalogs and the day's deltas of a site; the least is sixteen chunks of 1 MiB.
pub(crate) const MEMORY: Bounds<u64> = bounds(256 * MIB, 16 * MIB, TIB);
/// A rotten blob is found while the manager still has what replaces it.
pub(crate) const SCRUB_PERIOD: Bounds<Duration> = times(7 * DAY, HOUR, 365 * DAY);
/// A tenth of what a slow disk reads in sequence, and 12 TB in the period above.
pub(crate) const SCRUB_RATE: Bounds<u64> = bounds(20 * MIB, 64 * KIB, TIB);

/// Two years of days, 90 days of hours and two days of minutes of a site with 10,000 clients. The least holds some weeks.
pub(crate) const LEDGER_SIZE: Bounds<u64> = bounds(64 * MIB, 16 * MIB, 16 * GIB);

/// A day's new content fills the line for minutes. A line that is full for half an hour delays what else crosses it.
pub(crate) const SATURATED_AFTER: Bounds<Duration> = times(30 * MINUTE, MINUTE, 7 * DAY);
/// Minute of the day: before the working day of a site begins.
pub(crate) const SUMMARY_AT: u16 = 7 * 60;
/// A relay answers thousands of requests a second, and a collector keeps each span. One of a hundred shows the shares.
pub(crate) const TRACE_RATIO: f64 = 0.01;
/// As the alert of Prometheus: managers publish a few times a day.
pub(crate) const CATALOGS_AFTER: Bounds<Duration> = times(6 * HOUR, 10 * MINUTE, 30 * DAY);

/// Three SYNs (0, 1 and 3 s): a lost packet is no failure, a dead manager is one soon.
pub(crate) const CONNECT_TIMEOUT: Bounds<Duration> = times(5, 1, 5 * MINUTE);
/// A manager that builds a delta answers only when it is built.
pub(crate) const HEAD_TIMEOUT: Bounds<Duration> = times(60, 1, HOUR);
/// A peer waits most of it for content that it is about to have. A silent peer costs one such wait in 15 s.
pub(crate) const PEER_TIMEOUT: Bounds<Duration> = times(1, 1, MINUTE);
/// Two upstreams that take a head's whole time. Longer than updaters themselves wait.
pub(crate) const TOTAL_TIMEOUT: Bounds<Duration> = times(120, 1, HOUR);
/// A WAN without one byte in this time is broken; the fill resumes where it was.
pub(crate) const IDLE_TIMEOUT: Bounds<Duration> = times(30, 1, HOUR);
/// With back-off, about five minutes of outage; any new byte starts the count again.
pub(crate) const ATTEMPTS: Bounds<u32> = bounds(8, 1, 100);
/// The smallest share with which a hostile client can double its bytes at most. Clients wait for 1.6 % more bytes than with
/// "always" (benches/README.md).
pub(crate) const FINISH: FinishPolicy = FinishPolicy::Above(50);
/// More would share a site's line so thinly that none ends.
pub(crate) const MAX_CONCURRENT: Bounds<usize> = bounds(256, 1, 65_536);

/// Ten round trips to an object store of the region, and less than a client notices.
pub(crate) const TIER_HEDGE: Bounds<Duration> =
    bounds(Duration::from_millis(300), Duration::from_millis(10), Duration::from_secs(60));
/// The default of AWS, and of most compatible services.
pub(crate) const TIER_REGION: &str = "us-east-1";
/// A part of 5 MiB at 4 Mbit/s.
pub(crate) const TIER_TIMEOUT: Bounds<Duration> = times(10, 1, 5 * MINUTE);
/// The largest client packages; the record of one has 16 KiB for each 64 MiB.
pub(crate) const TIER_MAX_OBJECT: Bounds<u64> = bounds(4 * GIB, 64 * KIB, 16 * GIB);

/// A manager that goes away is known before most of its clients' heartbeats; a connection costs below 1 KiB.
pub(crate) const CHECK_INTERVAL: Bounds<Duration> = times(10, 1, HOUR);
/// As `CONNECT_TIMEOUT`: a check that asks for a path asks for a small one.
pub(crate) const CHECK_TIMEOUT: Bounds<Duration> = times(5, 1, 5 * MINUTE);
/// One lost connection is no failure of a manager; three in a row are.
pub(crate) const FAILURES: Bounds<u32> = bounds(3, 1, 100);
/// Long enough that not every miss pays the connect time-out, short enough to use a restarted service soon.
pub(crate) const PROBE: Bounds<Duration> = times(5, 1, HOUR);
/// A manager is back in use within a minute, however long it was away.
pub(crate) const PROBE_MAX: Bounds<Duration> = times(60, 1, DAY);
/// A manager that has just started has cold caches of its own.
pub(crate) const SLOW_START: Bounds<Duration> = times(30, 0, HOUR);
/// Of upstreams; a thousand is the most that there can be.
pub(crate) const PRIORITY: Bounds<u32> = bounds(1, 1, 1_000);

/// New definitions are seen within a minute, at one conditional request a minute and catalog.
pub(crate) const CATALOG_FRESH: Bounds<Duration> = times(60, 0, DAY);
/// Clients ask for catalogs of products that publish nothing; that is normal and frequent.
pub(crate) const CATALOG_NEGATIVE: Bounds<Duration> = times(60, 0, DAY);
/// Managers build deltas on demand: a longer memory of the 404 would push clients to the full set.
pub(crate) const PAYLOAD_NEGATIVE: Bounds<Duration> = times(5, 0, HOUR);
/// Takes the edge off a storm, and forgets quickly.
pub(crate) const GENERIC_NEGATIVE: Bounds<Duration> = times(10, 0, DAY);
/// RFC 9111 §4.2.2 suggests a tenth of the age since `Last-Modified`; a day bounds it for very old files.
pub(crate) const HEURISTIC_MAX: Bounds<Duration> = times(DAY, 0, 365 * DAY);
/// A week's outage of every manager leaves a site with what it has, rather than with nothing.
pub(crate) const STALE_IF_ERROR: Bounds<Duration> = times(7 * DAY, 0, 365 * DAY);
/// The field that RFC 9213 §3.1 defines for every cache in front of an origin.
pub(crate) const TARGETED_FIELD: &str = "cdn-cache-control";

/// Less is an outage that looks like a limit: a delta of 100 KiB would take minutes. More is no limit.
pub(crate) const LIMIT: Bounds<Rate> = bounds(Rate(TIB), Rate(KIB), Rate(TIB));
/// A tenth of a second at the rate: a page's worth on a thin line, too short to be felt by others on it. Less than four
/// of the 5 ms intervals of the shaper would cost rate.
pub(crate) const BURST: Bounds<Duration> =
    bounds(Duration::from_millis(100), Duration::from_millis(20), Duration::from_secs(10));
/// What downloads or connections may be limited to; `unlimited` they are still bounded by `MAX_CONNECTIONS`.
pub(crate) const COUNT: Bounds<u32> = bounds(1_000_000, 1, 1_000_000);
/// As many as a small site has endpoints; each waits on a connection that is counted already.
pub(crate) const QUEUE: Bounds<u32> = bounds(1_024, 0, 65_536);
/// More than an updater asks for at once.
pub(crate) const CLIENT_QUEUE: Bounds<u32> = bounds(8, 0, 65_536);
/// Shorter than the patience of an updater that waits for a response head.
pub(crate) const QUEUE_TIMEOUT: Bounds<Duration> = times(30, 1, HOUR);
/// An hour. A site of a thousand clients asks for 500 new objects in a day, also behind one address. A distribution's
/// upgrade of every package is 3,000.
pub(crate) const NEW_NAMES: Bounds<u32> = bounds(5_000, 1, 1_000_000);
/// A minute. A LiveUpdate client asks for 50 products that publish nothing, and the answers are shared for a minute.
pub(crate) const ABSENT_NAMES: Bounds<u32> = bounds(600, 1, 1_000_000);
/// A day. The default is a quarter of the quota: the room of objects that were not used again.
pub(crate) const NEW_BYTES: Bounds<u64> = bounds(0, MIB, 1_024 * TIB);
/// A new client's full sets of every content type, and a distribution's upgrade.
pub(crate) const LEAST_NEW_BYTES: u64 = 4 * GIB;
/// A second. Ten thousand clients with a heartbeat of five minutes are a hundred, also behind one address.
pub(crate) const UPSTREAM_REQUESTS: Bounds<u32> = bounds(500, 1, 1_000_000);
/// An hour. A thousand clients that send all their logs at each heartbeat, behind one address.
pub(crate) const UPLOADS: Bounds<u64> = bounds(4 * GIB, MIB, 1_024 * TIB);
/// A week: beyond it a revision is old before the last client has it.
pub(crate) const SPREAD: Bounds<Duration> = times(0, 0, 7 * DAY);

/// As often as the vendor's own managers and clients ask for new content. Shorter would be a freshness, which
/// `cache.catalog_fresh` is; longer leaves a site behind for more than a month.
pub(crate) const EVERY: Bounds<Duration> = times(4 * HOUR, 15 * MINUTE, 30 * DAY);
/// Between two runs of a schedule that is continuous: a heartbeat of an endpoint.
pub(crate) const CONTINUOUS: Duration = Duration::from_secs(5 * MINUTE);
/// A thousand sites are 17 a minute then. The most is half a week.
pub(crate) const RANDOM: Bounds<Duration> = times(30 * MINUTE, 0, 84 * HOUR);
/// These two are the vendor's own: every 15 minutes for an hour.
pub(crate) const RETRY: Bounds<Duration> = times(15 * MINUTE, MINUTE, DAY);
/// See above.
pub(crate) const RETRY_WINDOW: Bounds<Duration> = times(HOUR, 0, 7 * DAY);
/// A site's clients ask for much the same of each revision.
pub(crate) const LEARNED: bool = true;
/// A day's, at three revisions a day. The most is what managers keep of the larger content types.
pub(crate) const REVISIONS: Bounds<u32> = bounds(3, 1, 30);
/// Some full sets and every delta of a day.
pub(crate) const PREFETCH_BYTES: Bounds<u64> = bounds(GIB, MIB, 1_024 * TIB);

/// A month: beyond it every revision that waits has been replaced many times.
pub(crate) const RING_DELAY: Bounds<Duration> = times(0, 0, 30 * DAY);
/// Two days of a manager that publishes each four hours. A hundred are a month of it, and at ten thousand catalogs some
/// 100 MiB of memory.
pub(crate) const KEEP: Bounds<u32> = bounds(10, 2, 100);
/// As long as unrequested content is kept.
pub(crate) const MAX_AGE: Bounds<Duration> = times(30 * DAY, DAY, 3_650 * DAY);
/// Percent: one of twenty is more than laptops that are closed while they download.
pub(crate) const TROUBLE_SHARE: Bounds<u8> = bounds(5, 1, 100);
/// One or two clients of a small ring may be broken themselves.
pub(crate) const TROUBLE_CLIENTS: Bounds<u32> = bounds(3, 1, 1_000_000);
/// Once, and once again after something went wrong; the third time the client does not get on with it.
pub(crate) const REPEATS: Bounds<u32> = bounds(3, 2, 100);
/// An endpoint that is switched on each day has asked by then.
pub(crate) const BEHIND: Bounds<Duration> = times(DAY, MINUTE, 30 * DAY);
/// A week's leave.
pub(crate) const UNSEEN: Bounds<Duration> = times(7 * DAY, HOUR, 365 * DAY);
/// Five times the largest site; a client costs about a kilobyte.
pub(crate) const MAX_CLIENTS: Bounds<u32> = bounds(50_000, 1, 1_000_000);

/// A heartbeat with all logs is 300 KB, that of a client back from leave some MB: with room for support archives.
pub(crate) const MAX_UPLOAD: Bounds<u64> = bounds(64 * MIB, 0, TIB);
/// 10,000 endpoints report 33 times a second, each in less than a second.
pub(crate) const MAX_PASS_THROUGH: Bounds<usize> = bounds(256, 1, 65_536);

/// Ten full sets. More is either a manager that signs nothing or an attack.
pub(crate) const HELD_BYTES: Bounds<u64> = bounds(GIB, MIB, TIB);
/// One space, always: it carries nothing that an attacker could change to an advantage.
pub(crate) const UNSIGNED: &str = "**/minitri.flg";
/// A conditional request an hour: some kilobytes a day, and drift of a tenth of the payloads shows within the day. The
/// most is one a minute.
pub(crate) const CHECKS_PER_DAY: Bounds<u32> = bounds(24, 0, 1_440);

/// Longer than a stall of the machine, shorter than clients' patience with a relay that accepts and says nothing.
pub(crate) const WATCHDOG: Bounds<Duration> =
    bounds(Duration::from_secs(10), Duration::from_millis(100), Duration::from_secs(10 * MINUTE));
/// A start costs a look at the store; half a minute keeps a worker that dies at each from being most of the load.
pub(crate) const RESTART_MAX: Bounds<Duration> =
    bounds(Duration::from_secs(30), Duration::from_millis(100), Duration::from_secs(HOUR));

/// Without `debug` a line for each request and each event that an administrator would ask about.
pub(crate) const LOG_LEVEL: &str = "info";

/// The packaged service's folder; used if it can be written.
pub(crate) const STORE_DIR: &str = "/var/lib/gupd";
