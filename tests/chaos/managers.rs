//! Managers in bad weather: they stall, cut transfers, answer with errors, lie about what they send, and go away for
//! seconds. Raw HTTP over sockets, since a decent server would not do most of it. Counts what the relay was sent.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::content::{Dice, Published, Version, mix};

/// Bytes written at once.
const PIECE: u64 = 32 << 10;

/// Bytes of a request's head.
const HEAD: usize = 16 << 10;

pub(crate) struct Manager {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    number: u64,
    published: Arc<Published>,
    /// Whether faults are made.
    bad: AtomicBool,
    /// Whether it is there at all.
    away: watch::Sender<bool>,
    connections: AtomicU64,
    seed: u64,
    crossed: Arc<Crossed>,
}

/// What crossed the line to the relay, of all managers.
#[derive(Default)]
pub(crate) struct Crossed {
    bytes: AtomicU64,
    versions: Mutex<HashSet<Version>>,
}

impl Crossed {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of all content of which any was asked for.
    pub(crate) fn unique(&self) -> u64 {
        self.versions.lock().unwrap().iter().map(|version| version.object.length).sum()
    }
}

/// What goes wrong with one response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Nothing more after so many bytes, for seconds.
    Stall(u64),
    /// The connection's end after so many bytes.
    Cut(u64),
    Unavailable,
    /// The connection's end instead of an answer.
    Silent,
    /// One bit is not what the digest in the head says.
    Flip(u64),
    /// A `206` of other bytes than were asked for.
    OtherRange,
}

impl Manager {
    pub(crate) async fn start(
        number: u64,
        seed: u64,
        published: Arc<Published>,
        crossed: Arc<Crossed>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            number,
            published,
            bad: AtomicBool::new(true),
            away: watch::Sender::new(false),
            connections: AtomicU64::new(0),
            seed: mix(seed ^ number),
            crossed,
        });
        let accepting = shared.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let shared = accepting.clone();
                tokio::spawn(async move {
                    let mut away = shared.away.subscribe();
                    tokio::select! {
                        _ended = shared.serve(stream) => {}
                        _away = away.wait_for(|away| *away) => {}
                    }
                });
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn go_away(&self, away: bool) {
        self.shared.away.send_replace(away);
    }

    pub(crate) fn behave(&self) {
        self.shared.bad.store(false, Ordering::Relaxed);
        self.go_away(false);
    }
}

impl Shared {
    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let mut dice = Dice(mix(self.seed ^ connection));
        let mut head = Vec::new();
        loop {
            head.clear();
            while !head.ends_with(b"\r\n\r\n") {
                if head.len() > HEAD {
                    return Ok(());
                }
                head.push(stream.read_u8().await?);
            }
            let text = String::from_utf8_lossy(&head).into_owned();
            if !self.answer(&mut stream, &text, &mut dice).await? {
                return Ok(());
            }
        }
    }

    /// Whether the connection is of any use afterwards.
    async fn answer(&self, stream: &mut TcpStream, head: &str, dice: &mut Dice) -> std::io::Result<bool> {
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let field = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let Some(object) = self.published.at(path) else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?;
            return Ok(true);
        };
        let version = self.published.current(object, self.number);
        let (etag, length) = (version.etag(), object.length);
        let date = httpdate::fmt_http_date(std::time::SystemTime::now());
        if field("if-none-match:").is_some_and(|tag| tag == etag) {
            let head = format!("HTTP/1.1 304 Not Modified\r\nDate: {date}\r\nETag: {etag}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            return Ok(true);
        }
        let range = field("range:").filter(|_| field("if-range:").is_none_or(|tag| tag == etag));
        let range = range.and_then(|range| part(&range, length));
        let fault = self.fault(length, dice);
        let mut bytes = range.clone().unwrap_or(0..length);
        match fault {
            Fault::Silent => return Ok(false),
            Fault::Unavailable => {
                stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await?;
                return Ok(true);
            }
            Fault::OtherRange if range.is_some() => bytes = bytes.start / 2..bytes.end / 2,
            _ => {}
        }
        let mut head = match &range {
            Some(_) => {
                let (first, last) = (bytes.start, bytes.end.saturating_sub(1));
                format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{length}\r\n")
            }
            None => "HTTP/1.1 200 OK\r\n".to_owned(),
        };
        head += &format!("Date: {date}\r\nETag: {etag}\r\nContent-Length: {}\r\n", bytes.end - bytes.start);
        if matches!(object.kind, crate::content::Kind::Changing) {
            head += "Cache-Control: max-age=2\r\n";
        }
        // One in two says what its bytes hash to; only of those a flipped bit can be told.
        let says = version.object.length.is_multiple_of(2);
        if says {
            head += &format!("Repr-Digest: sha-256=:{}:\r\n", BASE64_STANDARD.encode(version.sha256()));
        }
        stream.write_all((head + "\r\n").as_bytes()).await?;
        if method == "HEAD" {
            return Ok(true);
        }
        self.crossed.versions.lock().unwrap().insert(version);
        self.send(stream, version, bytes, fault, says).await
    }

    async fn send(
        &self,
        stream: &mut TcpStream,
        version: Version,
        bytes: std::ops::Range<u64>,
        fault: Fault,
        says: bool,
    ) -> std::io::Result<bool> {
        let mut piece = vec![0; PIECE as usize];
        let mut at = bytes.start;
        while at < bytes.end {
            let end = bytes.end.min(at + PIECE);
            let piece = &mut piece[..(end - at) as usize];
            version.read(at, piece);
            let sent = at - bytes.start..end - bytes.start;
            match fault {
                Fault::Flip(there) if says && (at..end).contains(&there) => piece[(there - at) as usize] ^= 1,
                Fault::Cut(after) if sent.contains(&after) => return Ok(false),
                Fault::Stall(after) if sent.contains(&after) => {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
                _ => {}
            }
            stream.write_all(piece).await?;
            self.crossed.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            at = end;
        }
        Ok(true)
    }

    fn fault(&self, length: u64, dice: &mut Dice) -> Fault {
        if !self.bad.load(Ordering::Relaxed) {
            return Fault::None;
        }
        let there = dice.below(length);
        match dice.below(1000) {
            0..20 => Fault::Stall(there),
            20..60 => Fault::Cut(there),
            60..70 => Fault::Unavailable,
            70..80 => Fault::Silent,
            80..90 => Fault::Flip(there),
            90..95 => Fault::OtherRange,
            _ => Fault::None,
        }
    }
}

/// `bytes=a-b`, `bytes=a-` or `bytes=-n`, of so many.
fn part(range: &str, length: u64) -> Option<std::ops::Range<u64>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => first..(last + 1).min(length),
        (Ok(first), Err(_)) => first..length,
        (Err(_), Ok(last)) => length.saturating_sub(last)..length,
        _ => return None,
    };
    (range.start < range.end).then_some(range)
}
