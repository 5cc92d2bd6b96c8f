//! Clients with the habits of real ones: whole downloads, parts, resumed ones, some that leave in the middle, some that
//! read slowly. Each byte is compared with the version that the `ETag` names.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gupd_site::{Random, Request, WireClient};
use tokio::time::{sleep, timeout};

use crate::content::{Object, Published, Version};

/// Longest wait for a response.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers of requests by their result.
pub(crate) type Tally = Mutex<BTreeMap<&'static str, u64>>;

/// The result of a request.
pub(crate) enum Received {
    /// These bytes of a version, all of them right.
    Bytes(Version, Range<u64>),
    /// Something else, by its name in the tally.
    Other(&'static str),
}

const BROKEN: Received = Received::Other("broken");

/// One of the site's clients.
pub(crate) struct SiteClient {
    pub(crate) relay: SocketAddr,
    pub(crate) published: Arc<Published>,
    pub(crate) tally: Arc<Tally>,
}

impl SiteClient {
    /// Downloads one object after the other.
    pub(crate) async fn run(self, mut random: Random) {
        loop {
            let wanted = self.published.wanted();
            let age = match random.below(10) {
                // New objects are the most popular.
                0..7 => random.below(wanted.len().min(24) as u64),
                _ => random.below(wanted.len() as u64),
            };
            self.download(self.published.object(wanted.end - 1 - age as usize), &mut random).await;
            sleep(Duration::from_millis(random.below(400))).await;
        }
    }

    async fn download(&self, object: Object, random: &mut Random) {
        let (length, some) = (object.length, random.below(object.length));
        let whole = Request::get(&object.path());
        let received = match random.below(20) {
            0..8 => self.send(whole, object, u64::MAX, false).await,
            8..12 => {
                let last = some + random.below(length - some);
                self.send(whole.range(&format!("{some}-{last}")), object, u64::MAX, false).await
            }
            12..14 => match self.send(whole.clone(), object, some, false).await {
                Received::Bytes(version, read) if read.end < length => {
                    let rest = whole.range(&format!("{}-", read.end)).header("If-Range", &version.etag);
                    self.send(rest, object, u64::MAX, false).await
                }
                ended => ended,
            },
            14..16 => {
                let _ = self.send(whole, object, some, false).await;
                return self.count("left");
            }
            16..17 => self.send(whole, object, u64::MAX, true).await,
            17..18 => self.send(Request::head(&object.path()), object, 0, false).await,
            _ => {
                let etag = self.published.current(object, 0).etag;
                self.send(whole.header("If-None-Match", &etag), object, u64::MAX, false).await
            }
        };
        self.count(match received {
            Received::Bytes(_, bytes) if bytes == (0..length) => "complete",
            Received::Bytes(..) => "part",
            Received::Other(name) => name,
        });
    }

    fn count(&self, name: &'static str) {
        *self.tally.lock().unwrap().entry(name).or_default() += 1;
    }

    /// Sends one request and reads the response to its end, or the first `limit` bytes of its body.
    pub(crate) async fn send(&self, request: Request, object: Object, limit: u64, is_slow: bool) -> Received {
        let received = timeout(PATIENCE, self.try_send(request, object, limit, is_slow)).await;
        received.unwrap_or(Ok(BROKEN)).unwrap_or(BROKEN)
    }

    async fn try_send(
        &self,
        request: Request,
        object: Object,
        limit: u64,
        is_slow: bool,
    ) -> io::Result<Received> {
        let mut client = WireClient::try_connect(self.relay).await?;
        client.write_request(&request.clone().header("Connection", "close")).await?;
        let response = client.read_head().await?;
        let begin = match response.status {
            200 => 0,
            206 => {
                let range = response.header("content-range").unwrap();
                range.trim_start_matches("bytes ").split('-').next().unwrap().parse().unwrap()
            }
            304 => return Ok(Received::Other("not modified")),
            307 => return Ok(Received::Other("redirected")),
            502..=504 => return Ok(Received::Other("refused")),
            _ => panic!("{request:?} was answered {response:?}"),
        };
        let version = response.header("etag").and_then(|etag| self.published.tagged(object, etag));
        let version = version.unwrap_or_else(|| panic!("no version has this tag: {response:?}"));
        let length = response.length().unwrap_or(0);
        assert!(response.status == 206 || length == object.length, "{request:?}: {response:?}");
        let (mut position, end) = (begin, begin + length);
        while position < end && position - begin < limit {
            let compared = client.read_piece(end - position, |piece| {
                let right = version.content.read(position..position + piece.len() as u64);
                let wrong = || piece.iter().zip(&right).filter(|(is, ought)| is != ought).count();
                (piece.len() as u64, if piece == right { 0 } else { wrong() })
            });
            let Some((count, wrong)) = compared.await? else { return Ok(BROKEN) };
            position += count;
            if wrong > 0 {
                // A wrong body may still break off: the relay checks the digest before it shows the end.
                let mut rest = Vec::new();
                client.read_to_end(&mut rest).await;
                if (rest.len() as u64) < end - position {
                    return Ok(BROKEN);
                }
                // A part is sent before the whole is checked, so the manager's flipped bit may be in it; no more.
                let is_flipped_bit = response.status == 206 && wrong == 1;
                assert!(
                    is_flipped_bit,
                    "{request:?}: {wrong} wrong before {position}, a clean end: {response:?}"
                );
                return Ok(Received::Other("part with a flipped bit"));
            }
            if is_slow {
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(Received::Bytes(version, begin..position))
    }
}
