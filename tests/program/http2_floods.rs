//! Attacks on HTTP/2 with frames written by hand (RFC 9113 §10.5). Each ends by a bound of the relay, costs it little
//! processor time and memory, and leaves an honest client beside it alone.

use std::process::Command;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::process::{PATIENCE, Relay, serve};
use crate::support::http2::{
    END_HEADERS, END_STREAM, FrameClient, Http2Client, ReceivedFrame, TlsClient, frame, get_block, get_frame,
    kind,
};
use crate::support::{Authority, Manager, PAYLOAD, Resource, bytes};

/// Connections of each attack.
const CONNECTIONS: usize = 5;

/// Frames of one write, so that a flood is as fast as it can be.
const AT_ONCE: u32 = 100;

/// Writes of an attack: a hundred times as many frames as every bound.
const MOST_PIECES: usize = 1_000;

/// Processor time that the connections of one attack may cost, in a debug build and with their handshakes. A flood
/// without bounds costs a core for as long as it lasts.
const PROCESSOR_TIME: Duration = Duration::from_secs(5);

/// Memory that attacks may add.
const MEMORY: u64 = 64 << 20;

/// Payload of frames that name the connection.
const EMPTY: [u8; 0] = [];

/// A relay under attack, with a client that must not notice.
struct Scene {
    relay: Relay,
    authority: Authority,
    manager: Manager,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new(change: impl FnOnce(&mut Command)) -> Self {
        let (manager, folder, authority) = (Manager::start(), tempfile::tempdir().unwrap(), Authority::new());
        let (cert, key) = authority.issue("localhost").write_files(folder.path());
        let mut command = serve(&manager, &folder.path().join("store"));
        command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
        change(&mut command);
        manager.put(PAYLOAD, Resource::new(bytes(1, 4 << 20)));
        let scene = Self { relay: Relay::start(&mut command), authority, manager, _folder: folder };
        let client = scene.honest_client().await;
        while client.get(PAYLOAD).await.unwrap().header("cache-status") != "gupd; hit" {}
        scene
    }

    fn tls(&self) -> TlsClient<'static> {
        TlsClient { protocols: &["h2"], ..TlsClient::new(self.authority.certificate()) }
    }

    async fn honest_client(&self) -> Http2Client {
        Http2Client::connect(self.relay.address, &self.tls()).await.unwrap()
    }

    async fn attacker(&self, settings: &[(u16, u32)]) -> FrameClient {
        FrameClient::connect(self.relay.address, &self.tls(), settings).await
    }

    /// Downloads on one connection until told to stop. Returns the number of downloads, all of which must succeed.
    async fn start_honest_downloads(&self) -> (oneshot::Sender<()>, JoinHandle<usize>) {
        let client = self.honest_client().await;
        let expected = bytes(1, 4 << 20);
        let (stop, mut stopped) = oneshot::channel();
        let downloads = tokio::spawn(async move {
            let mut downloads = 0;
            while stopped.try_recv().is_err() {
                assert!(client.get(PAYLOAD).await.unwrap().body == expected);
                downloads += 1;
            }
            downloads
        });
        (stop, downloads)
    }

    async fn refused(&self, reason: &str) -> f64 {
        let name = format!("gupd_refused_total{{reason=\"{reason}\"}} ");
        let metrics = self.relay.metrics().await;
        metrics.lines().find_map(|line| line.strip_prefix(&*name)).unwrap().parse().unwrap()
    }

    /// Connections that the relay has ended: for a flood, or for a breach of the protocol.
    async fn ended_connections(&self) -> f64 {
        self.refused("http2-flood").await + self.refused("malformed").await
    }

    async fn wait_for_refused(&self, reason: &str, least: f64) {
        let deadline = Instant::now() + PATIENCE;
        while self.refused(reason).await < least {
            assert!(Instant::now() < deadline, "{reason}: {} of {least}", self.refused(reason).await);
        }
    }
}

/// Frames of an attack. The number counts up from 0.
type Frames = fn(u32) -> Vec<u8>;

fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// Attacks that the relay ends by closing their connection: what comes first, and what comes again and again.
fn floods() -> Vec<(&'static str, Vec<u8>, Frames)> {
    let post = || {
        let fields = [("content-length", "1000000000")];
        frame(kind::HEADERS, END_HEADERS, 1, &get_block("/secars/secars.dll", &fields))
    };
    let head_without_end = || frame(kind::HEADERS, END_STREAM, 1, &get_block(PAYLOAD, &[]));
    vec![
        ("rapid reset", vec![], |number| {
            let reset = frame(kind::RST_STREAM, 0, stream(number), &8_u32.to_be_bytes());
            [get_frame(stream(number), PAYLOAD), reset].concat()
        }),
        ("rapid reset of cold content", vec![], |number| {
            let path = PAYLOAD.replace("261121001", &format!("{}", 261_130_000 + number));
            let reset = frame(kind::RST_STREAM, 0, stream(number), &8_u32.to_be_bytes());
            [get_frame(stream(number), &path), reset].concat()
        }),
        ("resets that the relay is made to send", vec![], |number| {
            // The window exceeds its maximum (§6.9.1).
            let overflow = frame(kind::WINDOW_UPDATE, 0, stream(number), &[0x7f, 0xff, 0xff, 0xff]);
            [get_frame(stream(number), PAYLOAD), overflow].concat()
        }),
        ("malformed requests", vec![], |number| {
            let block = get_block(PAYLOAD, &[("connection", "close")]);
            frame(kind::HEADERS, END_STREAM | END_HEADERS, stream(number), &block)
        }),
        ("continuations", head_without_end(), |_| frame(kind::CONTINUATION, 0, 1, &get_block("/", &[])[..1])),
        ("empty continuations", head_without_end(), |_| frame(kind::CONTINUATION, 0, 1, &EMPTY)),
        ("large continuations", head_without_end(), |_| {
            frame(kind::CONTINUATION, 0, 1, &get_block("/", &[("x-field", &"a".repeat(15_000))]))
        }),
        ("settings", vec![], |number| {
            frame(kind::SETTINGS, 0, 0, &[&[0, 4][..], &number.to_be_bytes()].concat())
        }),
        ("empty settings", vec![], |_| frame(kind::SETTINGS, 0, 0, &EMPTY)),
        ("pings", vec![], |number| frame(kind::PING, 0, 0, &u64::from(number).to_be_bytes())),
        ("ping answers", vec![], |number| frame(kind::PING, 1, 0, &u64::from(number).to_be_bytes())),
        ("priorities", vec![], |number| frame(kind::PRIORITY, 0, stream(number), &[0, 0, 0, 0, 16])),
        ("window updates", vec![], |_| frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("unknown frames", vec![], |_| frame(0x77, 0, 0, &EMPTY)),
        ("empty data", post(), |_| frame(kind::DATA, 0, 1, &EMPTY)),
        ("data of one byte", post(), |_| frame(kind::DATA, 0, 1, b"a")),
        ("padding", post(), |_| frame(kind::DATA, 8, 1, &[&[200][..], &[0; 200]].concat())),
    ]
}

/// Sends an attack on one connection until the relay closes it.
async fn attack(mut attacker: FrameClient, first: &[u8], frames: Frames) {
    attacker.write(first).await;
    let pieces = (0..MOST_PIECES).map(|piece| {
        let from = u32::try_from(piece).unwrap() * AT_ONCE;
        (from..from + AT_ONCE).flat_map(frames).collect()
    });
    let closed = tokio::time::timeout(PATIENCE, attacker.flood(pieces)).await;
    assert!(closed.is_ok(), "the attack goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_their_connections_alone() {
    let scene = Scene::new(|_| {}).await;
    let memory = scene.relay.process.peak_memory();
    for (name, first, frames) in floods() {
        let refused = scene.ended_connections().await;
        let processor = scene.relay.process.processor_time();
        for _ in 0..CONNECTIONS {
            attack(scene.attacker(&[]).await, &first, frames).await;
        }
        let deadline = Instant::now() + PATIENCE;
        while scene.ended_connections().await < refused + CONNECTIONS as f64 {
            assert!(Instant::now() < deadline, "{name} is not counted");
        }
        let cost = scene.relay.process.processor_time() - processor;
        println!("{name}: {cost:?} of processor time for {CONNECTIONS} connections");
        assert!(cost < PROCESSOR_TIME, "{name}: {cost:?}");
    }
    let grown = scene.relay.process.peak_memory().saturating_sub(memory);
    println!("memory grew by {} KiB", grown >> 10);
    assert!(grown < MEMORY, "{} MiB", grown >> 20);
    // Each cold name that was cancelled may have reached the manager once.
    let requests = scene.manager.total_requests();
    assert!(requests < 2_000, "{requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_client_downloads_during_floods() {
    let scene = Scene::new(|_| {}).await;
    let (stop, downloads) = scene.start_honest_downloads().await;
    for (_, first, frames) in floods() {
        attack(scene.attacker(&[]).await, &first, frames).await;
    }
    stop.send(()).unwrap();
    assert!(downloads.await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_bound_on_streams_are_refused() {
    let scene = Scene::new(|_| {}).await;
    // Windows of zero: no request ends.
    let mut attacker = scene.attacker(&[(4, 0)]).await;
    let piece: Vec<u8> = (0..40).flat_map(|number| get_frame(stream(number), PAYLOAD)).collect();
    assert!(attacker.write(&piece).await);
    let mut refused = Vec::new();
    while refused.len() < 8 {
        let reset = attacker.read_until(|frame| frame.kind == kind::RST_STREAM).await.unwrap();
        assert_eq!(reset.payload, 7_u32.to_be_bytes(), "REFUSED_STREAM");
        refused.push(reset.stream);
    }
    assert_eq!(refused, (32..40).map(stream).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_take_nothing_are_cancelled_and_free_their_slots() {
    let scene = Scene::new(|command| {
        command.env("GUPD_SERVER_STALL_TIMEOUT", "1s").env("GUPD_LAN_MAX_DOWNLOADS", "12");
        command.env("GUPD_LAN_QUEUE_TIMEOUT", "60s");
    })
    .await;
    let memory = scene.relay.process.peak_memory();
    let mut attackers = Vec::new();
    for window in [0, 1, 16] {
        let mut attacker = scene.attacker(&[(4, window)]).await;
        let piece: Vec<u8> = (0..4).flat_map(|number| get_frame(stream(number), PAYLOAD)).collect();
        assert!(attacker.write(&piece).await);
        // On a busy machine the first stream times out before the last one has its slot.
        let (mut heads, mut resets) = (0, 0);
        while heads < 4 {
            let fits = |frame: &ReceivedFrame| [kind::HEADERS, kind::RST_STREAM].contains(&frame.kind);
            match attacker.read_until(fits).await.unwrap().kind {
                kind::HEADERS => heads += 1,
                _ => resets += 1,
            }
        }
        attackers.push((attacker, resets));
    }
    // All download slots are theirs, until they time out.
    let client = scene.honest_client().await;
    assert_eq!(client.get(PAYLOAD).await.unwrap().body, bytes(1, 4 << 20));
    for (attacker, resets) in &mut attackers {
        for _ in *resets..4 {
            let reset = attacker.read_until(|frame| frame.kind == kind::RST_STREAM).await.unwrap();
            assert_eq!(reset.payload, 8_u32.to_be_bytes(), "CANCEL");
        }
    }
    scene.wait_for_refused("slow-reader", 12.0).await;
    assert!(scene.relay.process.peak_memory().saturating_sub(memory) < MEMORY);
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_frames_and_heads_end_their_connection() {
    let scene = Scene::new(|command| {
        command.env("GUPD_SERVER_HEADER_TIMEOUT", "1s");
    })
    .await;
    let head = get_frame(1, PAYLOAD);
    let open = frame(kind::HEADERS, END_STREAM, 1, &get_block(PAYLOAD, &[]));
    for sent in [&head[..4], &head[..20], &open[..], &[]] {
        let mut attacker = scene.attacker(&[]).await;
        assert!(attacker.write(sent).await);
        attacker.wait_until_closed().await;
    }
    // The last one has sent nothing, and is idle.
    scene.wait_for_refused("slow-head", 3.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn header_list_is_bounded_however_it_is_compressed() {
    let scene = Scene::new(|_| {}).await;
    let memory = scene.relay.process.peak_memory();
    // A field of 4,000 bytes enters the table of the connection (RFC 7541 §6.2.1), and each further byte repeats it.
    let mut block = get_block(PAYLOAD, &[]);
    let value = "a".repeat(3_900);
    let literal = crate::support::http2::block(&[("x-large", &value)]);
    block.push(0x40);
    block.extend_from_slice(&literal[1..]);
    block.resize(16_000, 0x80 | 62);
    for _ in 0..CONNECTIONS {
        let mut attacker = scene.attacker(&[]).await;
        attacker.write(&frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &block)).await;
        attacker.write(&get_frame(3, PAYLOAD)).await;
        // The request is refused; others of the connection may be served.
        attacker.read_until(|frame| frame.stream == 1 || frame.kind == kind::GOAWAY).await;
    }
    let plain = "a".repeat(15_000);
    let mut attacker = scene.attacker(&[]).await;
    let mut frames = frame(kind::HEADERS, END_STREAM, 1, &get_block(PAYLOAD, &[("x-a", &plain)]));
    for flags in [0, END_HEADERS] {
        let literal = crate::support::http2::block(&[("x-b", &plain)]);
        frames.extend(frame(kind::CONTINUATION, flags, 1, &literal));
    }
    attacker.write(&frames).await;
    let answer = attacker.read_until(|frame| frame.stream == 1 || frame.kind == kind::GOAWAY).await;
    assert_ne!(answer.map(|frame| frame.kind), Some(kind::DATA));
    // The kernel counts the peak less often than the present size.
    let grown = scene.relay.process.peak_memory().saturating_sub(memory);
    assert!(grown < MEMORY, "{} MiB", grown >> 20);
    assert_eq!(scene.honest_client().await.get(PAYLOAD).await.unwrap().status(), 200);
}
