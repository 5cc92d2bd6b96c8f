//! The clients of a site, for `cold`: opens every connection, then requests one path on all of them at once. Checks the
//! length of each body and the XXH3 of every n-th one against a file, and prints the times as one line of JSON. The
//! client is that of the crate `site`: it knows nothing of gupd, so that it measures every server alike, and reads into
//! one buffer a thread, because its CPU time is the server's on the same machine.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use gupd_site::{Request, WireClient};
use serde_json::json;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use xxhash_rust::xxh3::Xxh3;

/// Bytes of the file that are hashed at once.
const READ_BYTES: usize = 256 * 1024;

/// Many clients, one object.
#[derive(Parser)]
struct ClientOptions {
    /// URL of the object: http, host, port, path.
    url: http::Uri,
    /// The file that every body must equal.
    #[arg(long)]
    expect: PathBuf,
    /// Clients, one connection each.
    #[arg(long, default_value_t = 500)]
    connections: usize,
    /// Hash every n-th body; the others are checked by length.
    #[arg(long, default_value_t = 10)]
    hash_every: usize,
    /// Seconds after which clients that are not done count as failed.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

/// Length and hash of the right body.
#[derive(Clone, Copy)]
struct Expected {
    length: u64,
    xxh3: u128,
}

/// Times of a client since all of them sent their request.
struct Times {
    first_byte: Duration,
    done: Duration,
}

#[derive(Debug, thiserror::Error)]
enum DownloadFailure {
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("{received} bytes where {expected} were expected")]
    Length { received: u64, expected: u64 },
    #[error("right length, wrong bytes")]
    Bytes,
    #[error("not done in time")]
    Late,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(ClientOptions::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "clients: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns true if every client got the right body.
async fn run(options: ClientOptions) -> io::Result<bool> {
    let expected = Expected::read(&options.expect)?;
    let authority = options.url.authority().ok_or_else(|| io::Error::other("the URL needs host and port"))?;
    let path = options.url.path_and_query().map_or("/", |path| path.as_str());
    let request = Arc::new(Request::get(path));
    let server = tokio::net::lookup_host(authority.as_str()).await?.next();
    let server = server.ok_or_else(|| io::Error::other("the host has no address"))?;

    let barrier = Arc::new(Barrier::new(options.connections));
    let start = Arc::new(OnceLock::new());
    let mut clients = JoinSet::new();
    for number in 0..options.connections {
        let client = WireClient::try_connect(server).await?;
        let is_hashed = number % options.hash_every.max(1) == 0;
        let (request, barrier, start) = (request.clone(), barrier.clone(), start.clone());
        let limit = Duration::from_secs(options.timeout);
        clients.spawn(async move {
            barrier.wait().await;
            let start = *start.get_or_init(Instant::now);
            let download = download(client, &request, expected, is_hashed, start);
            tokio::time::timeout(limit, download).await.unwrap_or(Err(DownloadFailure::Late))
        });
    }

    let (mut first_byte, mut done, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(outcome) = clients.join_next().await {
        match outcome.map_err(io::Error::other)? {
            Ok(times) => {
                first_byte.push(times.first_byte);
                done.push(times.done);
            }
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    first_byte.sort_unstable();
    done.sort_unstable();
    let report = json!({
        "clients": options.connections,
        "right": done.len(),
        "hashed": options.connections.div_ceil(options.hash_every.max(1)),
        "first_byte_p50_s": quantile(&first_byte, 0.50),
        "first_byte_p99_s": quantile(&first_byte, 0.99),
        "first_byte_max_s": quantile(&first_byte, 1.0),
        "done_p50_s": quantile(&done, 0.50),
        "done_max_s": quantile(&done, 1.0),
        "first_failure": failures.first(),
    });
    writeln!(io::stdout(), "{report}")?;
    Ok(failures.is_empty())
}

/// Gets the body and returns its times since `start`.
async fn download(
    mut client: WireClient,
    request: &Request,
    expected: Expected,
    is_hashed: bool,
    start: Instant,
) -> Result<Times, DownloadFailure> {
    client.write_request(request).await?;
    let response = client.read_head().await?;
    if response.status != 200 {
        return Err(DownloadFailure::Status(response.status));
    }
    let (mut received, mut hash, mut first_byte) = (0, is_hashed.then(Xxh3::new), None);
    while received < expected.length {
        let piece = client.read_piece(expected.length - received, |piece| {
            if let Some(hash) = &mut hash {
                hash.update(piece);
            }
            piece.len() as u64
        });
        let Some(count) = piece.await? else {
            return Err(DownloadFailure::Length { received, expected: expected.length });
        };
        received += count;
        first_byte.get_or_insert_with(|| start.elapsed());
    }
    let done = start.elapsed();
    match hash {
        Some(hash) if hash.digest128() != expected.xxh3 => Err(DownloadFailure::Bytes),
        _ => Ok(Times { first_byte: first_byte.unwrap_or(done), done }),
    }
}

impl Expected {
    fn read(path: &Path) -> io::Result<Self> {
        let (mut file, mut hash, mut length) = (File::open(path)?, Xxh3::new(), 0);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Self { length, xxh3: hash.digest128() }),
                count => {
                    length += count as u64;
                    hash.update(&buffer[..count]);
                }
            }
        }
    }
}

/// Seconds, to the millisecond, that this share of `sorted` stays within.
fn quantile(sorted: &[Duration], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let value = sorted.get(rank.saturating_sub(1))?;
    Some((value.as_secs_f64() * 1000.0).round() / 1000.0)
}
