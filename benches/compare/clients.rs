//! A site's clients, for `cold`: opens every connection, then asks for one path on all of them at once. Checks the
//! length of each body and the XXH3 of every n-th one against a file, and prints the times as one line of JSON.
//! Speaks plain HTTP/1.1 over sockets and nothing of gupd, so that it measures every server alike; reads into one
//! buffer a thread, because its CPU time is the server's on the same machine.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::{JoinSet, coop};
use xxhash_rust::xxh3::Xxh3;

/// Bytes a read asks for: small enough to stay in a core's second-level cache.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of a response's head, at most: a server's, which says little.
const HEAD_BYTES: usize = 16 * 1024;

/// Many clients, one object.
#[derive(Parser)]
struct Options {
    /// What to ask for: http, host, port, path.
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

/// What a right body is.
#[derive(Clone, Copy)]
struct Expected {
    length: u64,
    xxh3: u128,
}

/// When a client saw what, since all of them asked.
struct Times {
    first_byte: Duration,
    done: Duration,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    #[error("no usable response head")]
    Head,
    #[error("status {0}")]
    Status(u16),
    #[error("{received} bytes where {expected} were expected")]
    Length { received: u64, expected: u64 },
    #[error("right length, wrong bytes")]
    Bytes,
    #[error("not done in time")]
    Late,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "clients: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every client got the right body.
async fn run(options: Options) -> io::Result<bool> {
    let expected = Expected::of(&options.expect)?;
    let authority = options.url.authority().ok_or_else(|| io::Error::other("the URL needs host and port"))?;
    let path = options.url.path_and_query().map_or("/", |path| path.as_str());
    let request: Arc<str> = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\n\r\n").into();

    let barrier = Arc::new(Barrier::new(options.connections));
    let start = Arc::new(OnceLock::new());
    let mut clients = JoinSet::new();
    for number in 0..options.connections {
        let stream = TcpStream::connect(authority.as_str()).await?;
        let hashed = number % options.hash_every.max(1) == 0;
        let (request, barrier, start) = (request.clone(), barrier.clone(), start.clone());
        let limit = Duration::from_secs(options.timeout);
        clients.spawn(async move {
            barrier.wait().await;
            let start = *start.get_or_init(Instant::now);
            let download = download(stream, &request, expected, hashed, start);
            tokio::time::timeout(limit, download).await.unwrap_or(Err(Failure::Late))
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

async fn download(
    mut stream: TcpStream,
    request: &str,
    expected: Expected,
    hashed: bool,
    start: Instant,
) -> Result<Times, Failure> {
    stream.write_all(request.as_bytes()).await?;
    let mut response = Response { head: Vec::new(), body: None, hash: hashed.then(Xxh3::new) };
    let mut first_byte = None;
    while response.received() < expected.length {
        stream.readable().await?;
        // A server that is always ready must not keep the other clients of this thread waiting.
        coop::consume_budget().await;
        let read = BUFFER.with_borrow_mut(|buffer| match stream.try_read(buffer) {
            Ok(0) => Err(Failure::Length { received: response.received(), expected: expected.length }),
            Ok(count) => response.take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        });
        read?;
        if first_byte.is_none() && response.received() > 0 {
            first_byte = Some(start.elapsed());
        }
    }
    let done = start.elapsed();
    response.check(expected)?;
    Ok(Times { first_byte: first_byte.unwrap_or(done), done })
}

/// A response as far as it has arrived.
struct Response {
    head: Vec<u8>,
    /// Bytes of the body; `None` until the head is whole.
    body: Option<u64>,
    hash: Option<Xxh3>,
}

impl Response {
    fn received(&self) -> u64 {
        self.body.unwrap_or(0)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Some(received) = &mut self.body else {
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
                return if self.head.len() > HEAD_BYTES { Err(Failure::Head) } else { Ok(()) };
            };
            match status(&self.head).ok_or(Failure::Head)? {
                200 => {}
                other => return Err(Failure::Status(other)),
            }
            let begun = self.head.split_off(end + 4);
            self.body = Some(0);
            return self.take(&begun);
        };
        *received += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    fn check(&self, expected: Expected) -> Result<(), Failure> {
        if self.received() != expected.length {
            return Err(Failure::Length { received: self.received(), expected: expected.length });
        }
        match &self.hash {
            Some(hash) if hash.digest128() != expected.xxh3 => Err(Failure::Bytes),
            _ => Ok(()),
        }
    }
}

impl Expected {
    fn of(path: &Path) -> io::Result<Self> {
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

/// The status of a head such as `HTTP/1.1 200 OK`.
fn status(head: &[u8]) -> Option<u16> {
    let code = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    u16::from_str(str::from_utf8(code).ok()?).ok()
}

/// Seconds, to the millisecond, that this share of `sorted` stays within.
fn quantile(sorted: &[Duration], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let value = sorted.get(rank.saturating_sub(1))?;
    Some((value.as_secs_f64() * 1000.0).round() / 1000.0)
}
