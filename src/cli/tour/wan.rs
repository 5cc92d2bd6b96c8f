//! The simulated WAN: a TCP forwarder with the rate and the delay of a site's line. Owns the line's time, one account
//! for each direction shared by all connections, and the count of bytes that crossed.
//! What crosses is counted as it is sent, retransmissions and TCP/IP headers excluded. Nothing here knows HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::loopback::Listener;

/// Bytes that take their turn at once: a TCP segment on Ethernet, so that connections share the line as finely as
/// they would on a real one.
const SEGMENT: usize = 1460;

/// Segments under way in one direction of one connection. 20 ms at 10 Mbit/s are 18 of them; the rest is what a
/// router's queue would hold.
const SEGMENTS_UNDER_WAY: usize = 64;

/// Time on the line that may be made up after a late wake-up. The runtime's timer is exact to 1 ms, a segment at
/// 10 Mbit/s takes 1.2 ms: without this the line would be slower than it says.
const MADE_UP: Duration = Duration::from_millis(20);

/// What a line can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Bits per second in each direction, all connections together. More than 0.
    pub bits_per_second: u64,
    /// Time a byte needs from end to end.
    pub one_way: Duration,
}

impl Line {
    /// The time this line needs for `bytes` alone.
    pub fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 * 8.0 / self.bits_per_second as f64)
    }
}

/// A running line. Dropping it breaks every connection that uses it.
#[derive(Debug)]
pub struct Wan {
    listener: Listener,
    line: Line,
    up: Arc<Direction>,
    down: Arc<Direction>,
}

impl Wan {
    /// Starts a line from a free loopback port to `target`. Needs a tokio runtime around it.
    pub async fn start(target: SocketAddr, line: Line) -> io::Result<Self> {
        let up = Arc::new(Direction::new(line));
        let down = Arc::new(Direction::new(line));
        let (upward, downward) = (Arc::clone(&up), Arc::clone(&down));
        let listener = Listener::start(move |near| {
            let (up, down) = (Arc::clone(&upward), Arc::clone(&downward));
            // A broken end breaks the other: both streams are dropped. There is nobody else to tell.
            async move {
                let _ = forward(near, target, &up, &down).await;
            }
        })
        .await?;
        Ok(Self { listener, line, up, down })
    }

    /// The near end: connect here to reach the target.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// What it can do.
    pub fn line(&self) -> Line {
        self.line
    }

    /// Bytes sent towards the target so far.
    pub fn sent_up(&self) -> u64 {
        self.up.sent()
    }

    /// Bytes sent from the target so far.
    pub fn sent_down(&self) -> u64 {
        self.down.sent()
    }
}

/// One direction of a line.
#[derive(Debug)]
pub struct Direction {
    line: Line,
    /// When the last byte that has a turn will have left. Held for the arithmetic only.
    free_at: Mutex<Instant>,
    sent: AtomicU64,
}

impl Direction {
    /// An idle direction.
    pub fn new(line: Line) -> Self {
        Self { line, free_at: Mutex::new(Instant::now()), sent: AtomicU64::new(0) }
    }

    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Carries `from` to `to` until its end, then ends `to`.
    ///
    /// # Errors
    /// What either end fails with; bytes under way are lost with it.
    pub async fn carry<R, W>(&self, mut from: R, mut to: W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (under_way, mut arriving) = mpsc::channel::<(Instant, Bytes)>(SEGMENTS_UNDER_WAY);
        let send = async move {
            // A place first, then the turn: a receiver that stands still must not use up the line.
            while let Ok(place) = under_way.reserve().await {
                let mut segment = BytesMut::with_capacity(SEGMENT);
                if from.read_buf(&mut segment).await? == 0 {
                    break;
                }
                let leaves = self.turn(segment.len());
                sleep_until(leaves).await;
                self.sent.fetch_add(segment.len() as u64, Ordering::Relaxed);
                place.send((leaves + self.line.one_way, segment.freeze()));
            }
            Ok(())
        };
        let deliver = async move {
            while let Some((arrives, segment)) = arriving.recv().await {
                sleep_until(arrives).await;
                to.write_all(&segment).await?;
            }
            to.shutdown().await
        };
        tokio::try_join!(send, deliver).map(|_| ())
    }

    /// Takes the next free time for `bytes` and tells when the last of them has left.
    fn turn(&self, bytes: usize) -> Instant {
        let now = Instant::now();
        let earliest = now.checked_sub(MADE_UP).unwrap_or(now);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = earliest.max(*free_at) + self.line.time_for(bytes as u64);
        *free_at
    }
}

async fn forward(
    mut near: TcpStream,
    target: SocketAddr,
    up: &Direction,
    down: &Direction,
) -> io::Result<()> {
    // A TCP handshake over the line takes a round trip; on loopback it took none.
    sleep(up.line.one_way + down.line.one_way).await;
    let mut far = TcpStream::connect(target).await?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.split();
    let (far_read, far_write) = far.split();
    tokio::try_join!(up.carry(near_read, far_write), down.carry(far_read, near_write)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use tokio::io::{duplex, sink};

    use super::*;

    const LINE: Line = Line { bits_per_second: 10_000_000, one_way: Duration::from_millis(20) };

    /// Seconds that `connections` at once need for `bytes` each.
    async fn seconds_for(direction: &Direction, connections: usize, bytes: usize) -> f64 {
        let begun = Instant::now();
        let body = vec![7; bytes];
        let all = (0..connections).map(|_| direction.carry(&body[..], sink()));
        for end in futures_util::future::join_all(all).await {
            end.unwrap();
        }
        begun.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_gets_the_whole_rate() {
        let direction = Direction::new(LINE);
        let seconds = seconds_for(&direction, 1, 2_500_000).await;
        assert!((1.96..2.06).contains(&seconds), "2.5 MB at 10 Mbit/s took {seconds} s");
        assert_eq!(direction.sent(), 2_500_000);
    }

    #[tokio::test(start_paused = true)]
    async fn forty_connections_share_one_rate() {
        let direction = Direction::new(LINE);
        let seconds = seconds_for(&direction, 40, 62_500).await;
        assert!((1.96..2.06).contains(&seconds), "40 x 62.5 kB at 10 Mbit/s took {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_arrives_after_the_delay_and_not_before() {
        let direction = Direction::new(LINE);
        let (mut far, near) = duplex(64);
        let begun = Instant::now();
        let (carried, arrived) = tokio::join!(direction.carry(&b"x"[..], near), async {
            far.read_u8().await.unwrap();
            begun.elapsed()
        });
        carried.unwrap();
        assert!((LINE.one_way..LINE.one_way + Duration::from_millis(3)).contains(&arrived), "{arrived:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stands_still_bounds_what_is_under_way() {
        let direction = Direction::new(LINE);
        let (_far, near) = duplex(1);
        let body = vec![7; 2_500_000];
        let carrying = direction.carry(&body[..], near);
        assert!(tokio::time::timeout(Duration::from_secs(60), carrying).await.is_err());
        assert!(direction.sent() <= ((SEGMENTS_UNDER_WAY + 2) * SEGMENT) as u64, "{} sent", direction.sent());
    }
}
