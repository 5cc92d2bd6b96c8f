//! The task: takes requests one by one, and looks at what is due. Owns the order in which a change is made, written down
//! and shown; nothing here decides what a rollout does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{Current, Found, FoundCatalog, OrderError, Ordered, PublishError, Request, Settings, Shared};
use crate::clock::{Clock, UnixMillis};
use crate::rollout::advance::Waits;
use crate::rollout::audit::{Audit, Entry, Outcome};
use crate::rollout::clients::Trouble;
use crate::rollout::orders::Done;
use crate::rollout::payloads::Payloads;
use crate::rollout::record::{self, Record, Restored};
use crate::rollout::revision::{Catalog, Number, version_key};
use crate::rollout::rings::RingId;
use crate::rollout::state::{Collected, Published, State};
use crate::rollout::views::Views;
use crate::store::{ObjectCopy, Publication, Store, StoreError};

/// Between two looks at what has become due without being foreseen: a gate that trouble held, a clock that was set. Also
/// how old the mark is that the relay ran, when it is found dead.
const LOOK: i64 = 30_000;

/// A relay that was away for longer goes on where it stopped, instead of having everyone move who should have meanwhile.
/// Shorter is a restart or an upgrade.
const AWAY: i64 = 10 * 60_000;

/// A clock that goes back by less is being adjusted.
const ADJUSTED: i64 = 1_000;

/// The task.
#[derive(Debug)]
pub struct Task {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    taken: mpsc::Receiver<(Arc<str>, Number)>,
    given: watch::Receiver<Settings>,
    store: Arc<Store>,
    clock: Clock,
    state: Arc<State>,
    /// As it was last written down.
    written: Arc<State>,
    settings: Settings,
    payloads: Payloads,
    audit: Audit,
    /// What holds rings up.
    troubles: BTreeMap<(Number, RingId), Trouble>,
    /// When views were last looked at, and when that was last written down.
    looked: UnixMillis,
    alive: UnixMillis,
}

/// The task's ends of what it is asked by.
pub(super) struct Beginning {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) taken: mpsc::Receiver<(Arc<str>, Number)>,
    pub(super) given: watch::Receiver<Settings>,
    pub(super) settings: Settings,
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
        let Beginning { shared, requests, taken, given, settings, audit } = beginning;
        let now = clock.now();
        let written = Arc::new(restored.state);
        let mut state = State::clone(&written);
        let alive = restored.alive.unwrap_or(now);
        if let Some(rings) = &settings.rings
            && state.halted().is_none()
            && (now - alive > AWAY || alive - now > ADJUSTED)
        {
            tracing::info!(minutes = (now - alive) / 60_000, "rollouts go on from where they stopped");
            state.stood_still(rings, alive, now);
        }
        let mut task = Self {
            shared,
            requests,
            taken,
            given,
            store,
            clock,
            state: Arc::new(state),
            written,
            settings,
            payloads: Payloads::new(restored.payloads),
            audit,
            troubles: BTreeMap::new(),
            looked: now,
            alive,
        };
        task.forget_groups();
        task.tidy(restored.stray).await;
        task.show();
        task
    }

    /// Does what is asked for and what is due, until `leaving` ends; what it is at then is finished first.
    pub async fn run(mut self, leaving: impl Future<Output = ()>) {
        tokio::pin!(leaving);
        loop {
            let next =
                self.settings.rings.as_ref().and_then(|rings| self.state.next_change(rings, self.looked));
            let at = next.unwrap_or(UnixMillis::MAX).min(self.looked.saturating_add(LOOK));
            let (clock, back) = (self.clock.clone(), self.looked);
            tokio::select! {
                biased;
                () = &mut leaving => break,
                Ok(()) = self.given.changed() => self.reconfigure().await,
                Some(request) = self.requests.recv() => self.answer(request).await,
                Some((key, revision)) = self.taken.recv() => self.payloads.takes(key, revision),
                () = clock.reached(at) => self.look().await,
                () = clock.set_back_before(back - ADJUSTED) => self.look().await,
            }
        }
        self.look().await;
    }

    async fn answer(&mut self, request: Request) {
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
        if let Some(rings) = &self.settings.rings
            && self.state.halted().is_none()
            && self.state.outlook(rings, |_, _| false).iter().any(|next| is_due(&next.waits))
        {
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
        let by_key: BTreeMap<&Arc<str>, &FoundCatalog> = found
            .iter()
            .flat_map(|found| &found.catalogs)
            .filter_map(|(key, found)| Some((key, found.as_ref()?)))
            .collect();
        let (before, after) = (versions(&self.state), versions(&next));
        let copies = after.difference(&before).filter_map(|(key, since)| {
            let found = by_key.get(key)?;
            Some(ObjectCopy {
                object: found.object,
                blob: found.blob,
                key: version_key(*since, key).into(),
                last_used: found.last_used,
            })
        });
        let copies = copies.collect();
        self.commit(next, copies, Vec::new()).await?;
        match published {
            Published::New(revision) => tracing::info!(revision, "published a revision"),
            Published::Joined(revision) => tracing::debug!(revision, "catalogs joined a revision"),
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
            tracing::info!(revision, series, number, "clients announce a revision");
        }
        Ok(published)
    }

    async fn order(&mut self, ordered: &Ordered) -> Result<Done, OrderError> {
        let Ordered { order, by, from, reason } = ordered;
        let (rings, now) = (self.settings.rings.clone().ok_or(OrderError::Off)?, self.clock.now());
        self.store.check()?;
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

    async fn reconfigure(&mut self) {
        let now = self.clock.now();
        if let Some(before) = &self.settings.rings
            && self.state.halted().is_none()
        {
            // By other windows and spreads some would not have moved yet.
            Arc::make_mut(&mut self.state).stood_still(before, now, now);
        }
        self.settings = self.given.borrow_and_update().clone();
        self.forget_groups();
        self.show();
        self.look().await;
    }

    /// Opens what is due, drops what nobody needs, writes down that the relay runs.
    async fn look(&mut self) {
        let now = self.clock.now();
        let back = self.looked - now > ADJUSTED;
        let before = self.looked;
        self.looked = now;
        self.troubles = self.troubles_at(now).await;
        let mut records = Vec::new();
        let mut next = State::clone(&self.state);
        let mut advanced = Vec::new();
        if let Some(rings) = &self.settings.rings {
            if back && next.halted().is_none() {
                tracing::warn!(seconds = (before - now) / 1_000, "the clock was set back; nobody's view is");
                next.stood_still(rings, before, now);
            }
            let troubles = &self.troubles;
            advanced = next.advance(rings, now, |revision, ring| troubles.contains_key(&(revision, ring)));
            if (now - self.alive).abs() >= LOOK {
                records.push(record::alive(now));
                self.alive = now;
            }
        }
        for (number, gone) in self.payloads.given_up(self.store.take_given_up(), &next) {
            tracing::warn!(
                revision = number,
                payloads = gone.payloads,
                bytes = gone.bytes,
                "payloads of a kept revision had to go for room; raise store.quota"
            );
            next.gave_up(number, gone);
        }
        match self.commit(next, Vec::new(), records).await {
            Ok(()) if advanced.is_empty() => {}
            Ok(()) => {
                if let Some(rings) = &self.settings.rings {
                    self.note(advanced.iter().map(|step| Entry::opened(now, rings, *step)).collect()).await;
                }
                for step in advanced {
                    let ring = self.settings.rings.as_ref().and_then(|rings| rings.get(step.ring));
                    let ring = ring.map_or("", |ring| ring.settings.name.as_str());
                    tracing::info!(revision = step.revision, ring, step = step.step + 1, "a ring opens");
                }
            }
            // The disk fails, and has told so.
            Err(error) => tracing::debug!(%error, "rollouts stand still"),
        }
    }

    /// Where trouble keeps a step closed whose time has come.
    async fn troubles_at(&self, now: UnixMillis) -> BTreeMap<(Number, RingId), Trouble> {
        let Some(rings) = &self.settings.rings else { return BTreeMap::new() };
        let share = self.settings.rollout.trouble_share;
        let least = u64::from(self.settings.rollout.trouble_clients);
        let due: BTreeSet<(Number, RingId)> = self
            .state
            .outlook(rings, |_, _| false)
            .iter()
            .filter(|next| matches!(next.waits, Waits::Until(due) if due <= now))
            .filter_map(|next| Some((next.revision, next.follows(rings)?)))
            .collect();
        let mut troubles = BTreeMap::new();
        for (revision, ring) in due {
            let Some(groups) = rings.get(ring).map(|ring| &ring.groups) else { continue };
            // A tracker that has ended leaves a relay that is ending.
            let Ok(trouble) = self.shared.clients.trouble(revision, groups).await else { continue };
            if trouble.is_above(share, least) {
                if !self.troubles.contains_key(&(revision, ring)) {
                    let ring = rings.get(ring).map_or("", |ring| ring.settings.name.as_str());
                    tracing::warn!(revision, ring, %trouble, "a ring has trouble; the next one does not open");
                }
                troubles.insert((revision, ring), trouble);
            }
        }
        troubles
    }

    /// Writes a state down with what belongs to it, and shows it.
    async fn commit(
        &mut self,
        mut next: State,
        copies: Vec<ObjectCopy>,
        mut records: Vec<Record>,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        if let Some(rings) = &self.settings.rings {
            let gone = next.retire(rings, &self.settings.rollout, now);
            if !gone.is_empty() {
                tracing::info!(revisions = ?gone, "revisions are kept no longer");
            }
        }
        let changes = record::changes(&self.written, &next);
        let removed: Vec<Arc<str>> = match changes.is_empty() {
            true => Vec::new(),
            false => {
                let (before, after) = (versions(&self.written), versions(&next));
                before.difference(&after).map(|(key, since)| version_key(*since, key).into()).collect()
            }
        };
        records.extend(changes);
        let (mut payloads, mut kept) = (self.payloads.clone(), Vec::new());
        for (key, of) in payloads.changes(&next) {
            records.push(record::payload(&key, of));
            kept.push((key, of.is_some()));
        }
        if !(records.is_empty() && copies.is_empty() && kept.is_empty() && removed.is_empty()) {
            self.store.publish(Publication { copies, kept, records, removed }).await?;
        }
        self.state = Arc::new(next);
        self.written = self.state.clone();
        self.payloads = payloads;
        self.show();
        Ok(())
    }

    fn show(&self) {
        let now = self.clock.now();
        self.shared.current.store(Arc::new(Current {
            state: self.state.clone(),
            rings: self.settings.rings.clone(),
            settings: self.settings.rollout.clone(),
            payloads: self.payloads.count(&self.state),
            troubles: self.troubles.clone(),
        }));
        let views = self.settings.rings.as_ref().map(|rings| Arc::new(self.state.views(rings, now)));
        self.measure(views.as_deref());
        self.shared.views.store(views);
    }

    fn measure(&self, views: Option<&Views>) {
        let metrics = &self.shared.metrics.rollout;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        metrics.revision.set(number(self.state.newest().map_or(0, |newest| newest.number)));
        metrics.revisions.set(number(self.state.revisions().count() as u64));
        metrics.halted.set(i64::from(self.state.halted().is_some()));
        metrics.ring.reset();
        metrics.trouble.reset();
        for (id, ring) in self.settings.rings.iter().flat_map(|rings| rings.iter()) {
            let name = [ring.settings.name.as_str()];
            let sees = views.and_then(|views| views.newest_in(id)).unwrap_or(0);
            metrics.ring.with_label_values(&name).set(number(sees));
            let has_trouble = self.troubles.keys().any(|(_, ring)| *ring == id);
            metrics.trouble.with_label_values(&name).set(i64::from(has_trouble));
        }
    }

    /// What is held or released of groups that the configuration has no more.
    fn forget_groups(&mut self) {
        let Some(rings) = &self.settings.rings else { return };
        for group in Arc::make_mut(&mut self.state).forget_groups(rings) {
            tracing::warn!(%group, "a group that was held or released is not in the configuration any more");
        }
    }

    /// Removes what no record speaks of: after the index was lost, and made anew.
    async fn tidy(&mut self, records: Vec<Record>) {
        let known: BTreeSet<Arc<str>> =
            versions(&self.state).into_iter().map(|(key, since)| version_key(since, &key).into()).collect();
        let stored = match self.store.copies().await {
            Ok(stored) => stored,
            Err(error) => return tracing::error!(%error, "catalogs of revisions cannot be listed"),
        };
        let stored: BTreeSet<Arc<str>> = stored.into_iter().collect();
        let lost = known.difference(&stored).count();
        if lost > 0 {
            tracing::error!(
                catalogs = lost,
                "catalogs of kept revisions are lost; clients that see those are told to come again"
            );
        }
        let removed: Vec<Arc<str>> = stored.difference(&known).cloned().collect();
        if records.is_empty() && removed.is_empty() {
            return;
        }
        let publication = Publication { records, removed, ..Publication::default() };
        if let Err(error) = self.store.publish(publication).await {
            tracing::warn!(%error, "what is left of old revisions cannot be removed now");
        }
    }
}

/// Every version of a catalog that some kept revision has.
fn versions(state: &State) -> BTreeSet<(Arc<str>, Number)> {
    let catalogs = state.revisions().flat_map(|revision| &revision.catalogs);
    let present = catalogs.filter_map(|(key, catalog)| match catalog {
        Catalog::Present { since, .. } => Some((key.clone(), *since)),
        Catalog::Absent => None,
    });
    present.collect()
}
