//! The line between a site and its manager, for `cold` and `fill`: forwards TCP connections, paces what comes from the
//! manager to one rate that all connections share, and delays both directions. nginx's `limit_rate` would give each connection a rate of its own,
//! and a second's worth at once. Knows nothing of HTTP; what crossed is in the manager's access log.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

/// Bytes forwarded at a time: under a millisecond of line at 100 MB/s.
const PIECE_BYTES: usize = 64 * 1024;
/// Unused line time that may be caught up: covers the timer's grain and a busy machine, not a pause.
const CATCH_UP: Duration = Duration::from_millis(20);
/// Receive buffer towards the manager. Small, so that the manager's request time is the line's time.
const RECEIVE_BYTES: u32 = 256 * 1024;
/// Pieces between the two ends of one connection: more than 100 ms of line at 100 MB/s.
const ON_THE_WAY: usize = 256;
/// Connections at once; more than any relay under test opens.
const CONNECTIONS: usize = 2048;

/// A paced line.
#[derive(Parser)]
struct Options {
    /// Where the relay connects.
    #[arg(long)]
    listen: SocketAddr,
    /// The manager.
    #[arg(long)]
    to: SocketAddr,
    /// Bytes per second from the manager, for all connections together.
    #[arg(long)]
    rate: u32,
    /// Round trip in milliseconds; a new connection takes one more.
    #[arg(long, default_value_t = 0)]
    delay: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Err(error) = serve(Options::parse()).await else { return ExitCode::SUCCESS };
    let _ = writeln!(io::stderr(), "wan: {error}");
    ExitCode::FAILURE
}

async fn serve(options: Options) -> io::Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    let line = Arc::new(Line {
        rate: f64::from(options.rate.max(1)),
        one_way: Duration::from_millis(options.delay) / 2,
        free_at: Mutex::new(Instant::now()),
    });
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (site, _) = listener.accept().await?;
        let line = line.clone();
        tokio::spawn(async move {
            // Either end may go at any moment; the other sees its connection end, as on a real line.
            let _ = forward(site, options.to, &line).await;
            drop(permit);
        });
    }
}

async fn forward(mut site: TcpStream, manager: SocketAddr, line: &Line) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    let mut manager = socket.connect(manager).await?;
    site.set_nodelay(true)?;
    manager.set_nodelay(true)?;
    // The handshake's round trip: what the site sends waits for it here.
    sleep_until(Instant::now() + line.one_way * 2).await;
    let (from_site, to_site) = site.split();
    let (from_manager, to_manager) = manager.split();
    let requests = cross(from_site, to_manager, line.one_way, |_| Instant::now());
    let responses = cross(from_manager, to_site, line.one_way, |bytes| line.reserve(bytes));
    tokio::try_join!(requests, responses)?;
    Ok(())
}

/// One direction: each piece leaves when `reserve` says, and arrives `one_way` later.
async fn cross(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    one_way: Duration,
    reserve: impl Fn(usize) -> Instant,
) -> io::Result<()> {
    let (send, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let leave = async move {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = from.read(&mut piece).await?;
            let left = reserve(count);
            sleep_until(left).await;
            let bytes = piece.get(..count).unwrap_or_default().to_vec();
            if send.send((left + one_way, bytes)).await.is_err() || count == 0 {
                return Ok(());
            }
        }
    };
    let arrive = async move {
        while let Some((arrives, bytes)) = arriving.recv().await {
            sleep_until(arrives).await;
            if bytes.is_empty() {
                break;
            }
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(leave, arrive).map(drop)
}

/// One line, shared by all connections.
struct Line {
    /// Bytes per second.
    rate: f64,
    /// Half of the round trip.
    one_way: Duration,
    /// When the last byte reserved so far is through.
    free_at: Mutex<Instant>,
}

impl Line {
    /// Takes the line for `bytes`; they have crossed it at the moment returned.
    fn reserve(&self, bytes: usize) -> Instant {
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = (*free_at).max(now.checked_sub(CATCH_UP).unwrap_or(now))
            + Duration::from_secs_f64(bytes as f64 / self.rate);
        *free_at
    }
}
