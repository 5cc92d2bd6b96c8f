//! What another relay of the site is given of what is not stored here: what a manager is just sending, or about to. It
//! causes no request of its own, and the two relays act as one cache. Owns the rule that keeps two fills from waiting for
//! each other; relies on `fill` to know who feeds one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Asked, Proxy};
use gupd_cache::fill::Fill;
use gupd_http::instance;

/// How long a peer waits for the head of a fill that has begun, a little less than it has patience: a round trip over
/// most lines. A manager that needs longer, to build a delta, is asked twice, which costs less than everybody's wait.
const PATIENCE: Duration = Duration::from_millis(700);

impl Proxy {
    /// The running fill that a request which only wants what is here may follow.
    ///
    /// Only what a manager feeds, so that who follows never waits for itself. While a fill still asks its own peers,
    /// nobody knows who will; then of two relays that ask each other the one that goes first is waited for, and does
    /// not wait.
    pub(super) async fn offered(&self, asked: &Asked<'_>, key: &Arc<str>, variant: &str) -> Option<Fill> {
        if !instance::is_from_relay(asked.headers) {
            return None;
        }
        let fill = self.fills.running(key, variant)?;
        let asks_peers = fill.asks().is_none_or(|upstream| upstream.is_peer());
        let goes_first = asked.generation.upstreams.instance().has_precedence_over_sender(asked.headers);
        if asks_peers && !goes_first {
            return None;
        }
        timeout(PATIENCE, fill.is_fed_by_manager()).await.ok()?.then_some(fill)
    }
}
