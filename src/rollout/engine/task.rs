//! The task: takes requests one by one, and looks at what is due. Owns the order in which a change is made, written down
//! and shown; nothing here decides what a rollout does.

mod commit;
mod gates;

use std::sync::Arc;

use tokio::sync::mpsc;

use self::commit::copies;
use super::rules::Switch;
use super::{Found, OrderError, Ordered, PublishError, Request, RolloutRules, Shared};
use crate::advance::Waits;
use crate::audit::{Audit, Entry, Outcome};
use crate::orders::Done;
use crate::payloads::Payloads;
use crate::record::{self, PREFIX, Restored};
use crate::revision::RevisionNumber;
use crate::state::{Collected, Published, State};
use crate::troubled::Troubles;
use crate::views::LASTS;
use gupd_config::GroupId;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_store::{ObjectKey, Store};

/// Between two looks at what has become due without being foreseen: a gate that trouble held, a clock that was set. Also
/// how old the mark is that the relay ran, when it is found dead.
const LOOK: i64 = 30_000;

/// A relay that was away for longer goes on where it stopped, instead of having everyone move who should have meanwhile.
/// Shorter is a restart or an upgrade.
const AWAY: i64 = LASTS;

/// A clock that goes back by less is being adjusted.
const ADJUSTED: i64 = 1_000;

/// The last ring is gone.
const NO_RINGS: &str = "there are no rings any more; the revisions go, and so does what was ordered";

/// The task.
#[derive(Debug)]
pub struct Task {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    taken: mpsc::Receiver<(ObjectKey, RevisionNumber)>,
    store: Arc<Store>,
    clock: Clock,
    state: Arc<State>,
    /// As it was last written down.
    written: Arc<State>,
    rules: Arc<RolloutRules>,
    payloads: Payloads,
    audit: Audit,
    /// What holds rings up.
    troubles: Troubles,
    /// Of the store that all of this is written down in.
    generation: u64,
    /// When views were last looked at, also by a clock that nobody sets, and when that was last written down.
    looked: UnixMillis,
    steady: i64,
    alive: UnixMillis,
}

/// The task's ends of what it is asked by.
pub(super) struct Beginning {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) taken: mpsc::Receiver<(ObjectKey, RevisionNumber)>,
    pub(super) rules: Arc<RolloutRules>,
    pub(super) audit: Audit,
}

impl Task {
    /// With what was written down; clients see it when this returns.
    pub(super) async fn begin(
        beginning: Beginning,
        restored: Restored,
        store: Arc<Store>,
        clock: Clock,
    ) -> Self {
        let Beginning { shared, requests, taken, rules, audit } = beginning;
        let (now, steady) = clock.now_and_monotonic();
        let mut task = Self {
            shared,
            requests,
            taken,
            generation: store.generation(),
            store,
            clock,
            state: Arc::default(),
            written: Arc::default(),
            rules,
            payloads: Payloads::default(),
            audit,
            troubles: Troubles::new(),
            looked: now,
            steady,
            alive: now,
        };
        task.go_on_with(restored).await;
        task
    }

    /// Takes what was written down for what is.
    async fn go_on_with(&mut self, restored: Restored) {
        for loss in &restored.losses {
            tracing::error!(loss, "the rollouts are not whole");
        }
        let now = self.clock.now();
        self.written = Arc::new(restored.state);
        self.state = self.written.clone();
        self.payloads = Payloads::new(restored.payloads);
        self.alive = restored.alive.unwrap_or(now);
        let is_back = now - self.alive > AWAY || self.alive - now > ADJUSTED;
        if is_back {
            tracing::debug!(minutes = (now - self.alive) / 60_000, "rollouts go on from where they stopped");
            // The mark may be that old; whoever moved behind it must not go back.
            self.stand_still(self.alive + LOOK, now);
        }
        self.end_without_rings();
        self.forget_groups();
        self.tidy(restored.stray).await;
        self.show();
        if is_back && self.rules.rings.is_some() {
            // So that a second start soon after this one goes on from here.
            self.alive = now;
            let records = vec![record::alive(now)];
            if let Err(error) = self.commit(State::clone(&self.state), Vec::new(), records).await {
                tracing::debug!(%error, "where rollouts go on from is not written down yet");
            }
        }
    }

    /// Another store has come in the place of the one that was open: what that one has is what is.
    async fn succeed(&mut self) {
        let generation = self.store.generation();
        let records = match self.store.records(PREFIX).await {
            Ok(records) => records,
            // The disk has told why; it is tried again.
            Err(error) => return tracing::debug!(%error, "the rollouts of another store cannot be read yet"),
        };
        match record::restore(records) {
            Ok(restored) => {
                self.generation = generation;
                self.go_on_with(restored).await;
            }
            // Nothing is written into it, and it is tried again.
            Err(error) => tracing::error!(%error, "the rollouts of another store are left alone"),
        }
    }

    /// Whoever has moved by `since` has at `now`; nobody else.
    fn stand_still(&mut self, since: UnixMillis, now: UnixMillis) {
        if let Some(rings) = &self.rules.rings
            && self.state.halted().is_none()
        {
            Arc::make_mut(&mut self.state).stood_still(rings, since, now);
        }
    }

    /// Has a clock that was set, or a machine that slept, move nobody.
    fn keep_time(&mut self) {
        let (now, steady) = self.clock.now_and_monotonic();
        let expected = self.looked + (steady - self.steady);
        let since = if now - expected > AWAY {
            tracing::warn!(
                seconds = (now - expected) / 1_000,
                "the clock leapt; views go on from where they were"
            );
            // What clients may have been shown since.
            expected + LASTS
        } else if expected - now > ADJUSTED {
            tracing::warn!(seconds = (expected - now) / 1_000, "the clock was set back; nobody's view is");
            expected
        } else {
            return;
        };
        self.stand_still(since, now);
        (self.looked, self.steady) = (now, steady);
        self.show();
    }

    /// Rollouts end with the last ring: clients then see what their managers have, and if there are rings again one day
    /// they must not go back to what was before.
    fn end_without_rings(&mut self) {
        if self.rules.rings.is_none() && self.state.newest().is_some() {
            tracing::warn!("{NO_RINGS}");
            Arc::make_mut(&mut self.state).clear();
        }
    }

    /// Does what is asked for and what is due, until `leaving` ends; what it is at then is finished first.
    pub async fn run(mut self, leaving: impl Future<Output = ()>) {
        tokio::pin!(leaving);
        let shared = self.shared.clone();
        // When something is due; what clients take changes nothing of it, and there is much of that.
        let mut due = None;
        loop {
            let at = *due.get_or_insert_with(|| self.next_look());
            let (clock, back) = (self.clock.clone(), self.looked);
            tokio::select! {
                biased;
                () = &mut leaving => break,
                () = shared.switched.notified() => {
                    self.show();
                    self.look().await;
                }
                Some(request) = self.requests.recv() => self.answer(request).await,
                Some((key, revision)) = self.taken.recv() => {
                    self.payloads.takes(key, revision);
                    continue;
                }
                () = clock.sleep_until(at) => self.look().await,
                () = clock.wait_until_set_back(back - ADJUSTED) => self.look().await,
            }
            due = None;
        }
        self.look().await;
    }

    fn next_look(&self) -> UnixMillis {
        let next = self.rules.rings.as_ref().and_then(|rings| self.state.next_change(rings, self.looked));
        next.unwrap_or(UnixMillis::MAX).min(self.looked.saturating_add(LOOK))
    }

    async fn answer(&mut self, request: Request) {
        if self.store.generation() != self.generation {
            self.succeed().await;
        }
        self.keep_time();
        // What is due because of it is done before anybody is told. Whoever asked may have gone.
        match request {
            Request::Publish(found, answer) => {
                let published = self.publish(&found).await;
                self.look_if_due().await;
                drop(answer.send(published));
            }
            Request::Announce(series, number, answer) => {
                let published = self.announce(&series, number).await;
                self.look_if_due().await;
                drop(answer.send(published));
            }
            Request::Order(ordered, answer) => {
                let done = self.order(&ordered).await;
                self.look_if_due().await;
                drop(answer.send(done));
            }
        }
    }

    async fn look_if_due(&mut self) {
        let now = self.clock.now();
        let is_due = |waits: &Waits| matches!(waits, Waits::Until(due) if *due <= now);
        let has_due = |rings| {
            self.state.halted().is_none()
                && self.state.outlook(rings, |_, _| false).iter().any(|next| is_due(&next.waits))
        };
        if now - self.looked >= LOOK || self.rules.rings.as_deref().is_some_and(has_due) {
            self.look().await;
        }
    }

    async fn publish(&mut self, found: &[Found]) -> Result<Published, PublishError> {
        let collected: Vec<Collected> = found.iter().map(Collected::from).collect();
        let mut next = State::clone(&self.state);
        let published = next.publish(&collected, self.clock.now())?;
        if published == Published::Nothing {
            return Ok(published);
        }
        let copies = copies(&self.state, &next, found);
        self.commit(next, copies, Vec::new()).await?;
        match published {
            Published::New(revision) => tracing::info!(revision = revision.get(), "published a revision"),
            Published::Joined(revision) => {
                tracing::debug!(revision = revision.get(), "catalogs joined a revision");
            }
            Published::Nothing => {}
        }
        Ok(published)
    }

    async fn announce(&mut self, series: &str, number: u64) -> Result<Published, PublishError> {
        let mut next = State::clone(&self.state);
        let published = next.announce(series, number, self.clock.now())?;
        if published != Published::Nothing {
            self.commit(next, Vec::new(), Vec::new()).await?;
        }
        if let Published::New(revision) = published {
            tracing::info!(revision = revision.get(), series, number, "clients announce a revision");
        }
        Ok(published)
    }

    async fn order(&mut self, ordered: &Ordered) -> Result<Done, OrderError> {
        let Ordered { order, by, from, reason } = ordered;
        let (rings, now) = (self.rules.rings.clone().ok_or(OrderError::Off)?, self.clock.now());
        self.store.check_writable()?;
        let entry = |outcome| vec![Entry::ordered(now, order, (by, from), reason.as_deref(), outcome)];
        let mut next = State::clone(&self.state);
        let done = match next.order(order, &rings, now) {
            Ok(done) => done,
            Err(refused) => {
                self.note(entry(Outcome::Refused(refused.to_string()))).await;
                return Err(refused.into());
            }
        };
        // First, so that nothing is in force of which nobody knows whose order it was.
        self.audit.write(entry(Outcome::Done(done.what.clone()))).await?;
        if let Err(error) = self.commit(next, Vec::new(), Vec::new()).await {
            self.note(entry(Outcome::Failed(error.to_string()))).await;
            return Err(error.into());
        }
        tracing::info!(by, from, reason = reason.as_deref(), what = done.what, "an order");
        Ok(done)
    }

    /// Writes down what does not depend on it.
    async fn note(&self, entries: Vec<Entry>) {
        if let Err(error) = self.audit.write(entries).await {
            tracing::error!(%error, "something is not in the audit log");
        }
    }

    /// Makes a switch of rules that clients have seen already.
    pub(super) fn follow(&mut self, switch: Switch) {
        let Switch { rules, since, now } = switch;
        if rules.rings.is_none() && self.state.newest().is_some() {
            tracing::warn!("{NO_RINGS}");
        }
        let before = std::mem::replace(&mut self.rules, rules);
        let (before, after) = (before.rings.as_deref(), self.rules.rings.as_deref());
        let forgotten = Arc::make_mut(&mut self.state).switch(before, after, since, now);
        warn_of_forgotten(&forgotten);
    }

    /// Opens what is due, drops what nobody needs, writes down that the relay runs.
    async fn look(&mut self) {
        if self.store.generation() != self.generation {
            self.succeed().await;
        }
        self.keep_time();
        let (now, steady) = self.clock.now_and_monotonic();
        (self.looked, self.steady) = (now, steady);
        while let Ok((key, revision)) = self.taken.try_recv() {
            self.payloads.takes(key, revision);
        }
        for (number, gone) in self.payloads.given_up(self.store.take_evicted_pins(), &self.state) {
            tracing::warn!(
                revision = number.get(),
                payloads = gone.payloads,
                bytes = gone.bytes,
                "payloads of a kept revision had to go for room; raise store.quota"
            );
            Arc::make_mut(&mut self.state).gave_up(number, gone);
        }
        let watched = self.watched().await;
        let mut records = Vec::new();
        let mut next = State::clone(&self.state);
        let advanced = self.advance(&mut next, &watched, now);
        let rings = self.rules.rings.clone();
        if rings.is_some() && (now - self.alive).abs() >= LOOK {
            records.push(record::alive(now));
            self.alive = now;
        }
        match self.commit(next, Vec::new(), records).await {
            Ok(()) if advanced.is_empty() => {}
            Ok(()) => {
                if let Some(rings) = &rings {
                    self.note(advanced.iter().map(|step| Entry::opened(now, rings, *step)).collect()).await;
                }
                for step in advanced {
                    let ring = rings.as_ref().and_then(|rings| rings.get(step.ring));
                    let ring = ring.map_or("", |ring| ring.settings.name.as_str());
                    tracing::info!(
                        revision = step.revision.get(),
                        ring,
                        step = step.step + 1,
                        "a ring opens"
                    );
                }
            }
            // The disk fails, and has told so.
            Err(error) => {
                tracing::debug!(%error, "rollouts stand still, but for what is open");
                self.show();
            }
        }
    }
}

pub(super) fn warn_of_forgotten(groups: &[GroupId]) {
    for group in groups {
        tracing::warn!(%group, "a group that was held or released is not in the configuration any more");
    }
}
