//! Downloads of clients during a scene of the tour. Each client downloads one object after the other and verifies it. As
//! update clients do, it tries once more after a failure; two failures in a row are a failed download.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use gupd_config::Quantity;
use gupd_site::sessions::{Session, Step};
use gupd_site::update::{self, Received};

/// Number of clients.
const CLIENTS: usize = 10;

/// Pause of a client between two downloads: the scenes show failures, not speed.
const PAUSE: Duration = Duration::from_millis(20);

/// Pause before the second attempt of a download.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Sums over the downloads of all clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Downloads {
    /// Downloads with the manager's bytes.
    pub(super) complete: usize,
    /// Of these, from the store.
    pub(super) hits: usize,
    /// Downloads that needed a second attempt.
    pub(super) retried: usize,
    /// Downloads that failed twice.
    pub(super) failed: usize,
    /// Longest time of a download, both attempts together.
    pub(super) slowest: Duration,
    /// The first failure.
    pub(super) failure: Option<String>,
}

impl Downloads {
    fn plus(self, other: Self) -> Self {
        Self {
            complete: self.complete + other.complete,
            hits: self.hits + other.hits,
            retried: self.retried + other.retried,
            failed: self.failed + other.failed,
            slowest: self.slowest.max(other.slowest),
            failure: self.failure.or(other.failure),
        }
    }
}

impl fmt::Display for Downloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { complete, hits, retried, failed, slowest, .. } = self;
        let (complete, hits) = (Quantity(*complete, "download"), Quantity(*hits, "hit"));
        write!(
            f,
            "{complete} complete ({hits}), {retried} retried, {failed} failed; slowest {:.2} s",
            slowest.as_secs_f64()
        )
    }
}

/// Has clients download these objects, again and again, until `action` ends.
pub(super) async fn downloads_during<T>(
    server: SocketAddr,
    objects: &[Step],
    action: impl Future<Output = T>,
) -> (T, Downloads) {
    let (stop, mut clients) = (CancellationToken::new(), JoinSet::new());
    for number in 0..CLIENTS {
        let mut objects = objects.to_vec();
        let first = number % objects.len().max(1);
        objects.rotate_left(first);
        clients.spawn(download_until(stop.clone(), server, objects));
    }
    let result = action.await;
    stop.cancel();
    let sums = clients.join_all().await.into_iter().fold(Downloads::default(), Downloads::plus);
    (result, sums)
}

async fn download_until(stop: CancellationToken, server: SocketAddr, objects: Vec<Step>) -> Downloads {
    let mut sum = Downloads::default();
    for object in objects.iter().cycle() {
        if stop.is_cancelled() {
            break;
        }
        sum = sum.plus(download(server, object).await);
        sleep(PAUSE).await;
    }
    sum
}

/// Downloads one object, in two attempts if it must be.
async fn download(server: SocketAddr, object: &Step) -> Downloads {
    let session = Session { name: String::new(), starts_after: Duration::ZERO, steps: vec![object.clone()] };
    let (begun, received) = (Instant::now(), Received::default());
    let mut sum = Downloads::default();
    let mut outcome = update::update(server, &session, &received).await;
    if outcome.result.is_err() {
        sum.retried = 1;
        sleep(RETRY_AFTER).await;
        outcome = update::update(server, &session, &received).await;
    }
    sum.slowest = begun.elapsed();
    match outcome.result {
        Ok(()) => (sum.complete, sum.hits) = (1, outcome.answers.hit),
        Err(failure) => (sum.failed, sum.failure) = (1, Some(failure.to_string())),
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gupd_site::sep::SepContent;
    use gupd_site::{Manager, OriginServer};

    use super::*;

    #[tokio::test]
    async fn downloads_are_counted_and_failures_named() {
        let (content, origin) = (SepContent::new(1), OriginServer::default());
        content.publish_on(&origin);
        let manager = Manager::with_origin(origin).unwrap();
        let flag = Step::Get(Arc::clone(&content.flag));
        let (passed, seen) = downloads_during(
            manager.address(),
            std::slice::from_ref(&flag),
            manager.wait_for_requests("/minitri.flg", CLIENTS),
        )
        .await;
        assert_eq!((passed, seen.failed, seen.retried), ((), 0, 0));
        assert!(seen.complete >= CLIENTS);
        let refused = download(manager.address(), &Step::Missing("/minitri.flg")).await;
        assert_eq!((refused.complete, refused.retried, refused.failed), (0, 1, 1));
        assert!(refused.failure.unwrap().contains("/minitri.flg: status 200"));
    }
}
