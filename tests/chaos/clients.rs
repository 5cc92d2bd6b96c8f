//! Clients that behave as clients do: whole downloads, parts, resumed ones, some that go away in the middle, some that
//! read slowly. What one has read to its end is compared, byte by byte, with the version that its `ETag` names; nothing
//! else is asked of the relay while its managers are in bad weather.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::content::{Dice, Object, Published, Version};

/// No update client waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of all requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) complete: AtomicU64,
    pub(crate) parts: AtomicU64,
    pub(crate) not_modified: AtomicU64,
    pub(crate) redirected: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) broken: AtomicU64,
    pub(crate) left: AtomicU64,
    pub(crate) misled: AtomicU64,
}

/// What a client does with one object.
#[derive(Clone, Copy)]
enum Habit {
    Whole,
    Part,
    /// Reads a part, goes away, and comes back for the rest.
    Resume,
    Leave,
    Slow,
    Head,
    Conditional,
}

/// How one request ended.
pub(crate) enum Got {
    /// These bytes of this version, all of them right.
    Bytes(Version, Range<u64>),
    NotModified,
    Elsewhere,
    Refused,
    Broken,
    /// A part with the manager's own flipped bit.
    Misled,
}

pub(crate) struct Client {
    pub(crate) relay: SocketAddr,
    pub(crate) published: Arc<Published>,
    pub(crate) tally: Arc<Tally>,
}

impl Client {
    /// Asks for one thing after the other.
    pub(crate) async fn run(self, mut dice: Dice) {
        loop {
            let count = self.published.count() as u64;
            let number = match dice.below(10) {
                // What is new is wanted by all.
                0..7 => count - 1 - dice.below(count.min(24)),
                _ => dice.below(count),
            };
            let object = self.published.object(number as usize);
            let habit = match dice.below(20) {
                0..8 => Habit::Whole,
                8..12 => Habit::Part,
                12..14 => Habit::Resume,
                14..16 => Habit::Leave,
                16..17 => Habit::Slow,
                17..18 => Habit::Head,
                _ => Habit::Conditional,
            };
            self.indulge(habit, object, &mut dice).await;
            sleep(Duration::from_millis(dice.below(400))).await;
        }
    }

    async fn indulge(&self, habit: Habit, object: Object, dice: &mut Dice) {
        let length = object.length;
        let some = dice.below(length);
        let none = || String::new();
        let all = u64::MAX;
        let got = match habit {
            Habit::Whole => self.ask("GET", object, none(), all, false).await,
            Habit::Slow => self.ask("GET", object, none(), all, true).await,
            Habit::Leave => {
                let _left = self.ask("GET", object, none(), some, false).await;
                self.tally.left.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Habit::Head => self.ask("HEAD", object, none(), all, false).await,
            Habit::Part => {
                let last = some + dice.below(length - some);
                self.ask("GET", object, format!("Range: bytes={some}-{last}\r\n"), all, false).await
            }
            Habit::Conditional => {
                let etag = self.published.current(object, 0).etag();
                self.ask("GET", object, format!("If-None-Match: {etag}\r\n"), all, false).await
            }
            Habit::Resume => {
                let got = self.ask("GET", object, none(), some, false).await;
                let Got::Bytes(version, read) = got else { return self.count(&got) };
                if read.end == length {
                    return self.count(&Got::Bytes(version, read));
                }
                let (etag, from) = (version.etag(), read.end);
                let fields = format!("Range: bytes={from}-\r\nIf-Range: {etag}\r\n");
                self.ask("GET", object, fields, all, false).await
            }
        };
        self.count(&got);
    }

    pub(crate) fn count(&self, got: &Got) {
        let Tally { complete, parts, not_modified, redirected, refused, broken, misled, .. } = &*self.tally;
        let counter = match got {
            Got::Bytes(version, bytes) if *bytes == (0..version.object.length) => complete,
            Got::Bytes(..) => parts,
            Got::NotModified => not_modified,
            Got::Elsewhere => redirected,
            Got::Refused => refused,
            Got::Broken => broken,
            Got::Misled => misled,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// One request, read to its end or to `most` bytes of it.
    pub(crate) async fn ask(
        &self,
        method: &str,
        object: Object,
        fields: String,
        most: u64,
        slow: bool,
    ) -> Got {
        let asked = timeout(PATIENCE, self.try_ask(method, object, &fields, most, slow)).await;
        asked.unwrap_or(Ok(Got::Broken)).unwrap_or(Got::Broken)
    }

    async fn try_ask(
        &self,
        method: &str,
        object: Object,
        fields: &str,
        most: u64,
        slow: bool,
    ) -> io::Result<Got> {
        let (path, host) = (object.path(), self.relay);
        let mut stream = BufReader::new(TcpStream::connect(self.relay).await?);
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(Got::Broken);
            }
            if line.trim().is_empty() {
                break;
            }
            lines.push(line);
        }
        let field = |name: &str| {
            let line = lines.iter().find(|line| line.to_ascii_lowercase().starts_with(name))?;
            Some(line.split_once(':')?.1.trim())
        };
        let status = lines.first().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let length: u64 = field("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
        let begin = match status {
            200 => 0,
            206 => {
                let range = field("content-range:").unwrap();
                range.trim_start_matches("bytes ").split('-').next().unwrap().parse().unwrap()
            }
            304 => return Ok(Got::NotModified),
            307 => return Ok(Got::Elsewhere),
            502..=504 => return Ok(Got::Refused),
            other => panic!("{method} {path} {fields:?} was answered {other}: {lines:?}"),
        };
        let version = field("etag:").and_then(|etag| self.published.tagged(object, etag));
        let version = version.unwrap_or_else(|| panic!("{path}: no version has this tag: {lines:?}"));
        if method == "HEAD" {
            assert_eq!(length, object.length, "{path}");
            return Ok(Got::Bytes(version, 0..0));
        }
        if status == 200 {
            assert_eq!(length, object.length, "{path}: {lines:?}");
        }
        let end = begin + length;
        let mut position = begin;
        let (mut piece, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        while position < end && position - begin < most {
            let count = (end - position).min(piece.len() as u64) as usize;
            let count = stream.read(&mut piece[..count]).await?;
            if count == 0 {
                return Ok(Got::Broken);
            }
            version.read(position, &mut right[..count]);
            if piece[..count] != right[..count] {
                // What is not whole may still break off: the digest is judged before the end is shown.
                let at = position;
                let mut rest = Vec::new();
                let left = end - position - count as u64;
                let read = stream.take(left).read_to_end(&mut rest).await?;
                if (read as u64) < left {
                    return Ok(Got::Broken);
                }
                // Who asks for a part has it before the whole is judged, so that a manager's lie may be in it; no more.
                let wrong = piece.iter().zip(&right).take(count).filter(|(is, ought)| is != ought).count();
                assert!(
                    status == 206 && wrong == 1,
                    "{path} {fields:?}: wrong from {at} on, with a clean end"
                );
                return Ok(Got::Misled);
            }
            position += count as u64;
            if slow {
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(Got::Bytes(version, begin..position))
    }
}
