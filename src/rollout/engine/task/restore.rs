//! Where the state comes from: the records of the store that is open, at the start and when another store takes its
//! place. A relay that was down, and a clock that was set, move no client: views resume where they were.

use std::sync::Arc;

use super::{CLOCK_TOLERANCE, LAST_RING_REMOVED, PASS_INTERVAL, RolloutTask, warn_of_removed_groups};
use crate::payloads::KeptPayloads;
use crate::record::{self, PREFIX, Restored};
use crate::state::RolloutState;
use crate::view::VALIDITY;
use gupd_config::clock::UnixMillis;

/// After a longer downtime views resume where they were, instead of moving all clients that were due meanwhile. A
/// shorter one is a restart or an upgrade.
const DOWNTIME: i64 = VALIDITY;

impl RolloutTask {
    /// Takes over the restored records. Clients see them when this returns.
    pub(in crate::engine) async fn restore(&mut self, restored: Restored) {
        for loss in &restored.losses {
            tracing::error!(loss, "rollout state damaged");
        }
        let now = self.clock.now();
        self.stored = Arc::new(restored.state);
        self.state = self.stored.clone();
        self.payloads = KeptPayloads::new(restored.payloads);
        self.alive = restored.alive.unwrap_or(now);
        let was_down = now - self.alive > DOWNTIME || self.alive - now > CLOCK_TOLERANCE;
        if was_down {
            tracing::debug!(minutes = (now - self.alive) / 60_000, "rollouts resumed after downtime");
            // The record may be that old, and clients that have moved since must not go back.
            self.resume_views(self.alive + PASS_INTERVAL, now);
        }
        match &self.rules.rings {
            Some(rings) => warn_of_removed_groups(&Arc::make_mut(&mut self.state).forget_groups(rings)),
            // Without rings clients see what their managers have. Later rings must not take them back from there.
            None if self.state.newest().is_some() => {
                tracing::warn!("{LAST_RING_REMOVED}");
                Arc::make_mut(&mut self.state).clear();
            }
            None => {}
        }
        self.remove_strays(restored.stray).await;
        self.show();
        if was_down && self.rules.rings.is_some() {
            // A second start soon after this one must resume here.
            self.alive = now;
            let records = vec![record::alive(now)];
            if let Err(error) = self.commit(RolloutState::clone(&self.state), Vec::new(), records).await {
                tracing::debug!(%error, "resumption of rollouts not stored yet");
            }
        }
    }

    /// Restores from another store if one has taken the place of the store that was open.
    pub(super) async fn follow_store(&mut self) {
        let generation = self.store.generation();
        if generation == self.generation {
            return;
        }
        let records = match self.store.records(PREFIX).await {
            Ok(records) => records,
            // The store has logged the failure. The next pass tries again.
            Err(error) => return tracing::debug!(%error, "rollouts of the new store cannot be read yet"),
        };
        match record::restore(records) {
            Ok(restored) => {
                self.generation = generation;
                self.restore(restored).await;
            }
            // Nothing is written into that store. The next pass tries again.
            Err(error) => tracing::error!(%error, "rollouts of the new store left unchanged"),
        }
    }

    /// Keeps views where they were if the clock was set, or the machine slept.
    pub(super) fn check_clock(&mut self) {
        let (now, monotonic) = self.clock.now_and_monotonic();
        let expected = self.passed + (monotonic - self.passed_monotonic);
        let since = if now - expected > DOWNTIME {
            tracing::warn!(
                seconds = (now - expected) / 1_000,
                "clock leapt ahead: views resume where they were"
            );
            // The view may have been shown to clients until then.
            expected + VALIDITY
        } else if expected - now > CLOCK_TOLERANCE {
            tracing::warn!(seconds = (expected - now) / 1_000, "clock set back: views stay where they were");
            expected
        } else {
            return;
        };
        self.resume_views(since, now);
        (self.passed, self.passed_monotonic) = (now, monotonic);
        self.show();
    }

    fn resume_views(&mut self, since: UnixMillis, now: UnixMillis) {
        if let Some(rings) = &self.rules.rings
            && self.state.halted.is_none()
        {
            Arc::make_mut(&mut self.state).resume_from(rings, since, now);
        }
    }
}
