//! Rollout rules of one configuration: its rings and settings, and the view that clients have by them. A request is
//! answered by the rules of its configuration, so a group and its view come into force together. The
//! task owns the state, and a reload does not wait for it. Both make the same switch of the state, under one lock.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use super::{RolloutSnapshot, Rollouts};
use crate::clients::TrackerSettings;
use crate::rings::Rings;
use crate::state::RolloutState;
use crate::view::RevisionView;
use gupd_config::clock::UnixMillis;
use gupd_config::{Config, RolloutSettings};

/// Rings and settings of one configuration, and the view by them.
#[derive(Debug)]
pub struct RolloutRules {
    pub(super) rings: Option<Arc<Rings>>,
    pub(super) settings: RolloutSettings,
    pub(super) tracking: TrackerSettings,
    view: ArcSwapOption<RevisionView>,
}

/// A switch to other rules: exactly the clients that have moved by `since` have moved at `now`.
#[derive(Clone, Debug)]
pub(super) struct RulesSwitch {
    pub(super) rules: Arc<RolloutRules>,
    pub(super) since: UnixMillis,
    pub(super) now: UnixMillis,
}

impl RolloutRules {
    /// Compiles the rules of a configuration. They have no view until they are in force.
    pub fn new(config: &Config) -> Self {
        Self {
            rings: Rings::new(config).map(Arc::new),
            settings: config.rollout.clone(),
            tracking: tracker_settings(config),
            view: ArcSwapOption::empty(),
        }
    }

    /// Returns true if there are rings. Every request asks, so this must cost nothing.
    #[inline]
    pub fn has_rings(&self) -> bool {
        self.rings.is_some()
    }

    /// Returns the view of clients; `None` without rings. Replaced rules keep their last view.
    pub fn view(&self) -> Guard<Option<Arc<RevisionView>>> {
        self.view.load()
    }

    pub(super) fn show(&self, state: &RolloutState, now: UnixMillis) {
        self.view.store(self.rings.as_ref().map(|rings| Arc::new(state.view(rings, now))));
    }
}

impl Rollouts {
    /// Switches to other rules. They have a view when `install` is called, which has requests answered by them. Moved
    /// clients stay moved. Does not wait for the disk.
    pub fn switch_rules(&self, rules: &Arc<RolloutRules>, install: impl FnOnce()) {
        let shared = &self.0;
        let mut switches = shared.switches();
        let (before, now) = (shared.snapshot.load_full(), shared.clock.now());
        // A clock that leaps ahead moves no client.
        let since = self.view().as_ref().map_or(now, |view| view.effective_time(now));
        let mut state = RolloutState::clone(&before.state);
        state.replace_rings(before.rings.as_deref(), rules.rings.as_deref(), since, now);
        rules.show(&state, now);
        shared.snapshot.store(Arc::new(RolloutSnapshot {
            state: Arc::new(state),
            rings: rules.rings.clone(),
            settings: rules.settings.clone(),
            payloads: before.payloads.clone(),
            troubles: before.troubles.clone(),
        }));
        shared.rules.store(rules.clone());
        switches.push(RulesSwitch { rules: rules.clone(), since, now });
        install();
        drop(switches);
        shared.switched.notify_one();
        shared.clients.reconfigure(rules.tracking);
    }
}

fn tracker_settings(config: &Config) -> TrackerSettings {
    let RolloutSettings { behind, unseen, repeats, max_clients, .. } = config.rollout;
    let max_clients = usize::try_from(max_clients).unwrap_or(usize::MAX);
    TrackerSettings { max_clients, behind, unseen, repeats }
}
