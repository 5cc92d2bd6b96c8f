//! Benchmark of a relay with a million objects: start to first hit, memory, lookups, and recovery of a lost
//! index. Prints the rows for benches/README.md; `OBJECTS` sets another number. The store is synthetic: the relay
//! fetches one object, and all other rows are derived from it. Every fiftieth object has its body; the others are
//! never requested.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program that prints a table, or fails"
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gupd_config as config;
use gupd_config::clock::Clock;
use gupd_store::Store;
use rusqlite::Connection;

/// Number in the first object's path, from which all other paths are made.
const FIRST: u64 = 261_121_001;
const BODY: usize = 100_000;

/// Interval of objects that have a body.
const SERVED: u64 = 50;

const LOOKUPS: u64 = 20_000;

fn main() {
    let objects = std::env::var("OBJECTS").map_or(1_000_000, |objects| objects.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    println!("| quantity, with {objects} objects | measured |\n| --- | ---: |");
    create_store(&store, objects);
    measure_start(&store, objects);
    measure_lookups(&store, objects);
    measure_rebuild(&store, objects.min(100_000), objects);
}

fn print_row(quantity: &str, measured: &str) {
    println!("| {quantity} | {measured} |");
}

fn path(object: u64) -> String {
    format!("/content/{{535CB6A4-441F-4e8a-A897-804CD859100E}}/{}/full.zip", FIRST + object)
}

/// Fetches one object through the relay, and inserts the others into an index of version 1, whose rows need no
/// checksums. The next start migrates it.
fn create_store(store: &Path, objects: u64) {
    let manager = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = manager.local_addr().unwrap();
    std::thread::spawn(move || manager.incoming().map_while(Result::ok).for_each(serve_manager));
    let relay = RelayProcess::start(store, upstream);
    while !relay.get(0).contains("gupd; hit") {}
    drop(relay);
    let index = store.join("index.db");
    let old = store.join("index.old");
    fs::rename(&index, &old).unwrap();
    drop(fs::rename(store.join("index.db-wal"), store.join("index.old-wal")));
    for beside in ["index.db-shm", "index.journal"] {
        drop(fs::remove_file(store.join(beside)));
    }
    let connection = Connection::open(&index).unwrap();
    connection.execute_batch(include_str!("../tests/fixtures/index_v1.sql")).unwrap();
    let columns =
        "selecting, status, headers, content_type, upstream, request_time, response_time, last_used";
    connection
        .execute_batch(&format!(
            "ATTACH '{}' AS old;
             BEGIN;
             INSERT INTO blobs SELECT id, hash, len, disk FROM old.blobs;
             WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {objects})
                 INSERT INTO blobs SELECT i, unhex(printf('%016x%048x', i * 5871781006564002453, i)), len, disk
                 FROM n, old.blobs;
             INSERT INTO objects (key, {columns}, blob)
                 SELECT replace(key, '{FIRST}', {FIRST} + b.id - 1), {columns}, iif(b.id % {SERVED} = 0, 1, b.id)
                 FROM main.blobs b, old.objects;
             DELETE FROM blobs WHERE id NOT IN (SELECT blob FROM objects);
             COMMIT;",
            old.display()
        ))
        .unwrap();
    drop(connection);
    fs::remove_file(old).unwrap();
    let started = Instant::now();
    let opened = open(store);
    print_row("once: migration of an index of version 1", &format!("{:.1?}", started.elapsed()));
    let started = Instant::now();
    // Evicts nothing: the sweep, the check of the whole index and its journal.
    run(opened.maintain()).unwrap();
    print_row(
        "first maintenance after the start: sweep, writing the journal",
        &format!("{:.1?}", started.elapsed()),
    );
    drop(opened);
    let mib = |name| fs::metadata(store.join(name)).unwrap().len() >> 20;
    print_row("index, and its journal", &format!("{} MiB, {} MiB", mib("index.db"), mib("index.journal")));
}

fn measure_start(store: &Path, objects: u64) {
    let unreachable: SocketAddr = ([127, 0, 0, 1], 1).into();
    for (memory, cold) in [("page cache warm", false), ("page cache dropped", true)] {
        let mut took = Vec::new();
        for _ in 0..5 {
            if cold && !drop_page_cache() {
                return;
            }
            let started = Instant::now();
            let relay = RelayProcess::start(store, unreachable);
            assert!(relay.get(SERVED - 1).contains("gupd; hit"));
            took.push(started.elapsed());
        }
        took.sort();
        let figures = format!("{:.0?}, at most {:.0?}", took[2], took[4]);
        print_row(&format!("process start to the end of the first hit, {memory}"), &figures);
    }
    let relay = RelayProcess::start(store, unreachable);
    let mut stream = relay.connect();
    let times = (0..LOOKUPS.min(objects / SERVED)).map(|n| {
        let started = Instant::now();
        let head = get(&mut stream, scatter(n, objects / SERVED) * SERVED + SERVED - 1);
        assert!(head.contains("gupd; hit"), "{head}");
        started.elapsed()
    });
    print_row(
        &format!("hit on an object that is not cached, {BODY} bytes, one client"),
        &percentiles(times.collect()),
    );
    // The whole index is read once, at most a minute after the start.
    std::thread::sleep(Duration::from_secs(75));
    print_row("resident memory at its peak, `memory = 64MiB`", &format!("{} MiB", relay.peak_memory() >> 20));
}

fn measure_lookups(store: &Path, objects: u64) {
    let first = first_key(store);
    for (memory, cold) in [("page cache warm", false), ("page cache dropped", true)] {
        if cold && !drop_page_cache() {
            return;
        }
        let opened = open(store);
        let times = run(async {
            let mut times = Vec::new();
            for n in 0..LOOKUPS {
                let key = key(&first, scatter(n, objects));
                let started = Instant::now();
                assert_eq!(opened.lookup(&key).await.unwrap().len(), 1, "{key}");
                times.push(started.elapsed());
            }
            times
        });
        print_row(&format!("lookup, cold index cache, {memory}"), &percentiles(times));
    }
    let mut config = config(store);
    config.quota = run(async { open(store).stats().disk_bytes }) - 20_000 * 106_496;
    let opened = Store::open(&config, Clock::system()).unwrap();
    let times = run(async {
        let evicting = tokio::spawn({
            let opened = Arc::clone(&opened);
            async move { opened.maintain().await }
        });
        let (mut times, mut n) = (Vec::new(), 0);
        while !evicting.is_finished() {
            let key = key(&first, scatter(n, objects));
            let started = Instant::now();
            opened.lookup(&key).await.unwrap();
            times.push(started.elapsed());
            n += 1;
        }
        evicting.await.unwrap().unwrap();
        times
    });
    let evicted = objects - opened.stats().objects;
    print_row(&format!("lookup while {evicted} objects are evicted"), &percentiles(times));
}

/// Creates files for `objects` rows, removes the index, and measures the rebuild.
fn measure_rebuild(store: &Path, objects: u64, of: u64) {
    let index = Connection::open(store.join("index.db")).unwrap();
    let mut hashes =
        index.prepare("SELECT lower(hex(hash)), len FROM blobs ORDER BY id DESC LIMIT ?1").unwrap();
    let rows = hashes
        .query_map([objects as i64], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
        .unwrap();
    for (name, len) in rows.map(Result::unwrap) {
        let blob = store.join("blobs").join(&name[..2]).join(&name);
        if !blob.exists() {
            File::create(blob).unwrap().set_len(len as u64).unwrap();
        }
    }
    drop(hashes);
    drop(index);
    fs::remove_file(store.join("index.db")).unwrap();
    let started = Instant::now();
    let opened = open(store);
    let took = started.elapsed();
    let found = opened.stats().objects;
    print_row(
        &format!("start without an index: {found} objects from a journal of {of}"),
        &format!("{took:.1?}"),
    );
}

/// Returns the key of the first object, from which all others are made.
fn first_key(store: &Path) -> String {
    let index = Connection::open(store.join("index.db")).unwrap();
    let first = format!("%/{FIRST}/%");
    index.query_row("SELECT key FROM objects WHERE key LIKE ?1", [first], |row| row.get(0)).unwrap()
}

fn key(first: &str, object: u64) -> String {
    first.replace(&FIRST.to_string(), &(FIRST + object).to_string())
}

/// Returns the `n`th of all numbers below `of`, in pseudo-random order.
fn scatter(n: u64, of: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % of
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 1000];
    format!("p50 {:.0?}, p99 {:.0?}, p99.9 {:.0?}", at(500), at(990), at(999))
}

fn config(store: &Path) -> config::StoreSettings {
    config::StoreSettings {
        dir: store.to_owned(),
        quota: 1 << 50,
        min_free: 0,
        max_unused: Duration::from_secs(1 << 30),
        memory: 64 << 20,
        scrub_period: None,
        scrub_rate: 1 << 20,
    }
}

fn open(store: &Path) -> Arc<Store> {
    Store::open(&config(store), Clock::system()).unwrap()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// Drops the page cache; returns false without root, and the figures are then skipped.
fn drop_page_cache() -> bool {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "1").is_ok()
}

/// Answers every request with the same content.
fn serve_manager(mut client: TcpStream) {
    let mut lines = BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok);
    while lines.by_ref().any(|line| line.is_empty()) {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\nETag: \"1\"\r\nLast-Modified: Thu, 20 Nov 2026 10:00:00 GMT\r\nContent-Type: application/zip\r\n\r\n"
        );
        drop(client.write_all(head.as_bytes()).and_then(|()| client.write_all(&vec![7; BODY])));
    }
}

struct RelayProcess {
    child: Child,
    address: SocketAddr,
}

impl RelayProcess {
    fn start(store: &Path, upstream: SocketAddr) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (address, admin) = (free(), free());
        let mut command = Command::new(env!("CARGO_BIN_EXE_gupd"));
        command.args(["serve", "--listen", &address.to_string(), "--admin", &admin.to_string()]);
        command.args(["--upstream", &format!("http://{upstream}"), "--store"]).arg(store);
        command.envs([
            ("GUPD_STORE_MIN_FREE", "0"),
            ("GUPD_STORE_MEMORY", "64MiB"),
            ("GUPD_STORE_QUOTA", "900TiB"),
        ]);
        command.stdout(Stdio::null());
        Self { child: command.spawn().unwrap(), address }
    }

    fn connect(&self) -> TcpStream {
        let started = Instant::now();
        loop {
            if let Ok(stream) = TcpStream::connect(self.address) {
                return stream;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "the relay does not serve");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn get(&self, object: u64) -> String {
        get(&mut self.connect(), object)
    }

    fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        let terminate = ["-TERM", &self.child.id().to_string()];
        drop(Command::new("kill").args(terminate).status());
        drop(self.child.wait());
    }
}

/// Requests an object and returns the response head.
fn get(stream: &mut TcpStream, object: u64) -> String {
    // Sent in one write: several would wait for each other's acknowledgement.
    let request = format!("GET {} HTTP/1.1\r\nHost: relay\r\n\r\n", path(object));
    stream.write_all(request.as_bytes()).unwrap();
    let (mut read, mut buffer) = (Vec::new(), vec![0; 1 << 17]);
    loop {
        let more = stream.read(&mut buffer).unwrap();
        assert!(more > 0, "the relay closed the connection");
        read.extend_from_slice(&buffer[..more]);
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let missing = (end + 4 + length.unwrap_or(0)).saturating_sub(read.len());
            stream.read_exact(&mut vec![0; missing]).unwrap();
            return head;
        }
    }
}
