//! A WAN line over any two streams: rate, delay, and damage on purpose. Owns the line's time, one account for each
//! direction that all connections share, and the count of bytes that crossed. Retransmissions and TCP/IP headers do not
//! count.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::damage::{Damage, Inspector};
use crate::{LinkSwitch, Reachability, lock};

/// Bytes that take their turn at once on a slow line: a TCP segment on Ethernet, so that connections share the line as
/// finely as on a real one.
const SMALLEST_PIECE: u64 = 1460;

/// The same on a fast line, where smaller pieces would only cost processor time.
const LARGEST_PIECE: u64 = 64 << 10;

/// Unused line time that may be made up. The runtime's timer is exact to 1 ms, and a segment at 10 Mbit/s takes 1.2 ms:
/// without this the line would be slower than its rate.
const CATCH_UP: Duration = Duration::from_millis(20);

/// Properties of a line, each direction alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Bits per second, all connections together. More than 0.
    pub bits_per_second: u64,
    /// Time a byte needs from end to end.
    pub one_way: Duration,
    /// Bytes of one connection that are under way, such as in the queue of a router.
    pub buffer: usize,
}

impl Line {
    /// A line that costs no time.
    pub const UNLIMITED: Self = Self { bits_per_second: u64::MAX, one_way: Duration::ZERO, buffer: 1 << 20 };

    /// Time that `bytes` need alone.
    pub fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 * 8.0 / self.bits_per_second as f64)
    }

    /// Bytes that take their turn at once: a millisecond's.
    fn piece_bytes(&self) -> usize {
        (self.bits_per_second / 8 / 1000).clamp(SMALLEST_PIECE, LARGEST_PIECE) as usize
    }
}

/// A line in operation.
#[derive(Debug)]
pub struct Link {
    line: Line,
    up: Direction,
    down: Direction,
    switch: LinkSwitch,
    damage: Damage,
}

impl Link {
    /// An idle line. `switch` controls its connections and bytes.
    pub fn new(line: Line, switch: LinkSwitch) -> Self {
        let (up, down, damage) = (Direction::new(), Direction::new(), Damage::default());
        Self { line, up, down, switch, damage }
    }

    /// Properties of the line.
    pub fn line(&self) -> Line {
        self.line
    }

    /// Bytes sent towards the manager so far.
    pub fn sent_up(&self) -> u64 {
        self.up.sent.load(Ordering::Relaxed)
    }

    /// Bytes sent from the manager so far.
    pub fn sent_down(&self) -> u64 {
        self.down.sent.load(Ordering::Relaxed)
    }

    /// The damage that the line does to responses.
    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    /// Carries a connection until both ends have closed it, an end fails, or the line refuses. The connection breaks
    /// before byte `life` from `far`.
    pub async fn carry<N, F>(&self, near: N, far: F, life: u64) -> io::Result<()>
    where
        N: AsyncRead + AsyncWrite,
        F: AsyncRead + AsyncWrite,
    {
        let ((near_in, near_out), (far_in, far_out)) = (split(near), split(far));
        let upward = self.pass(&self.up, near_in, far_out, Inspector::none());
        let downward = self.pass(&self.down, far_in, near_out, Inspector::new(&self.damage, life));
        tokio::select! {
            biased;
            () = self.switch.wait_until_refusing() => Err(io::ErrorKind::ConnectionReset.into()),
            passed = async { tokio::try_join!(upward, downward) } => passed.map(drop),
        }
    }

    async fn pass(
        &self,
        direction: &Direction,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        mut inspector: Inspector<'_>,
    ) -> io::Result<()> {
        let size = self.line.piece_bytes();
        let pieces = self.line.buffer.div_ceil(size);
        let (under_way, mut arriving) = mpsc::channel::<(Instant, Bytes)>(pieces);
        let send = async move {
            // Reserves room first: a receiver that stalls must not use up the line.
            while let Ok(permit) = under_way.reserve().await {
                let mut piece = BytesMut::with_capacity(size);
                if from.read_buf(&mut piece).await? == 0 {
                    break;
                }
                let is_broken = inspector.inspect(&mut piece);
                let leaves = direction.turn(self.line.time_for(piece.len() as u64));
                sleep_until(leaves).await;
                direction.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                permit.send((leaves + self.line.one_way, piece.freeze()));
                if is_broken {
                    break;
                }
            }
            Ok(())
        };
        let deliver = async move {
            while let Some((arrives, piece)) = arriving.recv().await {
                sleep_until(arrives).await;
                self.switch.wait_while_silent().await;
                to.write_all(&piece).await?;
            }
            if self.damage.is_broken() {
                self.switch.set(Reachability::Refusing);
            }
            to.shutdown().await
        };
        tokio::try_join!(send, deliver).map(drop)
    }
}

/// One direction of a line.
#[derive(Debug)]
struct Direction {
    /// When the last byte that has a turn will have left.
    free_at: Mutex<Instant>,
    sent: AtomicU64,
}

impl Direction {
    fn new() -> Self {
        Self { free_at: Mutex::new(Instant::now()), sent: AtomicU64::new(0) }
    }

    /// Takes the next free `time` and returns its end.
    fn turn(&self, time: Duration) -> Instant {
        let now = Instant::now();
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let mut free_at = lock(&self.free_at);
        *free_at = earliest.max(*free_at) + time;
        *free_at
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const LINE: Line =
        Line { bits_per_second: 10_000_000, one_way: Duration::from_millis(20), buffer: 64 * 1460 };

    /// Seconds that `connections` at once need for `bytes` each from the far end.
    async fn seconds_for(link: &Link, connections: usize, bytes: usize) -> f64 {
        let begun = Instant::now();
        let all = (0..connections).map(|_| async {
            let ((mut client, near), (far, mut server)) = (duplex(64), duplex(1 << 20));
            let send = async {
                server.write_all(&vec![7; bytes]).await.unwrap();
                drop(server);
            };
            let receive = async {
                let mut body = Vec::new();
                client.read_to_end(&mut body).await.unwrap();
                assert_eq!(body.len(), bytes);
                drop(client);
            };
            tokio::join!(send, receive, link.carry(near, far, u64::MAX)).2.unwrap();
        });
        futures_util::future::join_all(all).await;
        begun.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn connection_alone_has_the_whole_rate() {
        let link = Link::new(LINE, LinkSwitch::default());
        let seconds = seconds_for(&link, 1, 2_500_000).await;
        assert!((1.96..2.06).contains(&seconds), "2.5 MB at 10 Mbit/s took {seconds} s");
        assert_eq!(link.sent_down(), 2_500_000);
    }

    #[tokio::test(start_paused = true)]
    async fn forty_connections_share_one_rate() {
        let seconds = seconds_for(&Link::new(LINE, LinkSwitch::default()), 40, 62_500).await;
        assert!((1.96..2.06).contains(&seconds), "40 x 62.5 kB at 10 Mbit/s took {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn byte_arrives_after_the_delay() {
        let link = Link::new(LINE, LinkSwitch::default());
        let ((mut client, near), (far, mut server)) = (duplex(64), duplex(64));
        let begun = Instant::now();
        client.write_u8(7).await.unwrap();
        tokio::select! {
            _ = link.carry(near, far, u64::MAX) => unreachable!("both ends are open"),
            arrived = server.read_u8() => assert_eq!(arrived.unwrap(), 7),
        }
        let took = begun.elapsed();
        assert!((LINE.one_way..LINE.one_way + Duration::from_millis(3)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_reader_limits_the_bytes_under_way() {
        let link = Link::new(LINE, LinkSwitch::default());
        let ((_client, near), (far, mut server)) = (duplex(1), duplex(4 << 20));
        server.write_all(&vec![7; 2_500_000]).await.unwrap();
        let carried = tokio::time::timeout(Duration::from_secs(60), link.carry(near, far, u64::MAX));
        assert!(carried.await.is_err());
        assert!(link.sent_down() <= (LINE.buffer + 2 * 1460) as u64, "{} sent", link.sent_down());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_breaks_at_the_end_of_its_life() {
        let link = Link::new(Line::UNLIMITED, LinkSwitch::default());
        let ((mut client, near), (far, mut server)) = (duplex(64), duplex(1 << 20));
        server.write_all(&vec![7; 100_000]).await.unwrap();
        let read = async {
            let mut body = Vec::new();
            client.read_to_end(&mut body).await.unwrap();
            drop(client);
            body.len()
        };
        let (length, carried) = tokio::join!(read, link.carry(near, far, 70_001));
        carried.unwrap();
        assert_eq!(length, 70_001);
    }
}
