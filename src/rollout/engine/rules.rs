//! Rollout rules of one configuration: rings, settings, and the views that clients have by them. A request is answered by
//! the rules of its configuration, so a group and its views come into force together. The complication: the task owns
//! the state, and a reload does not wait for it. Both make the same switch of the same state, under one lock.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use super::{Current, Rollouts};
use crate::clients::TrackerSettings;
use crate::rings::Rings;
use crate::state::State;
use crate::views::Views;
use gupd_config::clock::UnixMillis;
use gupd_config::{self as config, Config};

/// Rings and settings of one configuration, and the views by them.
#[derive(Debug)]
pub struct RolloutRules {
    pub(super) rings: Option<Arc<Rings>>,
    pub(super) settings: config::RolloutSettings,
    pub(super) tracking: TrackerSettings,
    views: ArcSwapOption<Views>,
}

/// A switch to other rules: clients that have moved by `since` have at `now`.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    pub(super) rules: Arc<RolloutRules>,
    pub(super) since: UnixMillis,
    pub(super) now: UnixMillis,
}

impl RolloutRules {
    /// The rules of a configuration, without views until they are in force.
    pub fn new(config: &Config) -> Self {
        Self {
            rings: Rings::new(config).map(Arc::new),
            settings: config.rollout.clone(),
            tracking: tracking(config),
            views: ArcSwapOption::empty(),
        }
    }

    /// Returns true if there are rings. Costs nothing, for it is asked on every request.
    #[inline]
    pub fn have_rings(&self) -> bool {
        self.rings.is_some()
    }

    /// What clients see; `None` without rings. A snapshot: rules that were replaced keep their last one.
    pub fn views(&self) -> Guard<Option<Arc<Views>>> {
        self.views.load()
    }

    pub(super) fn show(&self, state: &State, now: UnixMillis) {
        self.views.store(self.rings.as_ref().map(|rings| Arc::new(state.views(rings, now))));
    }
}

impl Rollouts {
    /// Takes other rules: clients have views by them when `install` is called, which has requests answered by them.
    /// Clients that have moved stay where they are. Waits for no disk.
    pub fn adopt(&self, rules: &Arc<RolloutRules>, install: impl FnOnce()) {
        let shared = &self.0;
        let mut switches = shared.switches();
        let (current, now) = (shared.current.load_full(), shared.clock.now());
        // A clock that leaps moves nobody.
        let since = self.views().as_ref().map_or(now, |views| views.time(now));
        let mut state = State::clone(&current.state);
        state.switch(current.rings.as_deref(), rules.rings.as_deref(), since, now);
        rules.show(&state, now);
        shared.current.store(Arc::new(Current {
            state: Arc::new(state),
            rings: rules.rings.clone(),
            settings: rules.settings.clone(),
            payloads: current.payloads.clone(),
            troubles: current.troubles.clone(),
        }));
        shared.rules.store(rules.clone());
        switches.push(Switch { rules: rules.clone(), since, now });
        install();
        drop(switches);
        shared.switched.notify_one();
        shared.clients.reconfigure(rules.tracking);
    }
}

fn tracking(config: &Config) -> TrackerSettings {
    let config::RolloutSettings { behind, unseen, repeats, max_clients, .. } = config.rollout;
    let max_clients = usize::try_from(max_clients).unwrap_or(usize::MAX);
    TrackerSettings { max_clients, behind, unseen, repeats }
}
