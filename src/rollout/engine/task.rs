//! The task that owns the state: it answers requests one by one, and opens steps when they are due. This file owns the
//! order in which a change is made, stored and shown; the decisions are the state's.

mod commit;
mod restore;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use self::commit::copies;
use super::rules::RulesSwitch;
use super::{ExecuteError, PayloadDownload, PublishError, RolloutRules, RolloutShared, TaskRequest};
use crate::audit::{AuditEntry, AuditLog, AuditOutcome};
use crate::command::{AttributedCommand, CommandOutcome};
use crate::gate::Troubles;
use crate::payloads::KeptPayloads;
use crate::progress::{StepId, no_trouble};
use crate::record;
use crate::state::{PublishOutcome, RolloutState, SourceCatalogs};
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::{GroupId, RolloutSettings};
use gupd_store::Store;

/// Maximum time between two passes, for changes without a known time: a gate that trouble held, a clock that was set.
/// Also the maximum age of the record that the relay runs.
const PASS_INTERVAL: i64 = 30_000;

/// A clock that goes back by less is being adjusted.
const CLOCK_TOLERANCE: i64 = 1_000;

/// Log message when the last ring is gone.
const LAST_RING_REMOVED: &str = "last ring removed: revisions, holds and releases are dropped";

/// The task.
#[derive(Debug)]
pub struct RolloutTask {
    shared: Arc<RolloutShared>,
    requests: mpsc::Receiver<TaskRequest>,
    downloads: mpsc::Receiver<PayloadDownload>,
    store: Arc<Store>,
    clock: Clock,
    state: Arc<RolloutState>,
    /// The state as it was last stored.
    stored: Arc<RolloutState>,
    rules: Arc<RolloutRules>,
    payloads: KeptPayloads,
    audit: AuditLog,
    /// Trouble that keeps steps closed.
    troubles: Troubles,
    /// Generation of the store that has all of this.
    generation: u64,
    /// Time of the latest pass by the wall clock.
    passed: UnixMillis,
    /// The same by the monotonic clock.
    passed_monotonic: i64,
    /// Time in the latest record that the relay runs.
    alive: UnixMillis,
}

impl RolloutTask {
    /// Creates a task without state.
    pub(super) fn new(
        shared: Arc<RolloutShared>,
        (requests, downloads): (mpsc::Receiver<TaskRequest>, mpsc::Receiver<PayloadDownload>),
        store: Arc<Store>,
    ) -> Self {
        let (clock, rules) = (shared.clock.clone(), shared.rules.load_full());
        let (now, monotonic) = clock.now_and_monotonic();
        let shared_audit = shared.audit.clone();
        Self {
            shared,
            requests,
            downloads,
            generation: store.generation(),
            store,
            clock,
            state: Arc::default(),
            stored: Arc::default(),
            rules,
            payloads: KeptPayloads::default(),
            audit: shared_audit,
            troubles: BTreeMap::new(),
            passed: now,
            passed_monotonic: monotonic,
            alive: now,
        }
    }

    /// Answers requests and opens due steps until `leaving` ends, and finishes a change under way first.
    pub async fn run(mut self, leaving: impl Future<Output = ()>) {
        tokio::pin!(leaving);
        let shared = self.shared.clone();
        // Downloads are many, and do not change when the next pass is due.
        let mut due = None;
        loop {
            let at = *due.get_or_insert_with(|| self.next_pass());
            let (clock, passed) = (self.clock.clone(), self.passed);
            tokio::select! {
                biased;
                () = &mut leaving => break,
                () = shared.switched.notified() => {
                    self.show();
                    self.pass().await;
                }
                Some(request) = self.requests.recv() => self.answer(request).await,
                Some((key, revision)) = self.downloads.recv() => {
                    self.payloads.record_download(key, revision);
                    continue;
                }
                () = clock.sleep_until(at) => self.pass().await,
                () = clock.wait_until_set_back(passed - CLOCK_TOLERANCE) => self.pass().await,
            }
            due = None;
        }
        self.pass().await;
    }

    fn next_pass(&self) -> UnixMillis {
        let next = self.rules.rings.as_ref().and_then(|rings| self.state.next_change(rings, self.passed));
        next.unwrap_or(UnixMillis::MAX).min(self.passed.saturating_add(PASS_INTERVAL))
    }

    async fn answer(&mut self, request: TaskRequest) {
        self.follow_store().await;
        self.check_clock();
        // A pass that the change makes due comes before the answer. The requester may be gone.
        match request {
            TaskRequest::Publish(collected, answer) => {
                let published = self.publish(&collected).await;
                self.pass_if_due().await;
                drop(answer.send(published));
            }
            TaskRequest::Announce(series, number, answer) => {
                let published = self.announce(&series, number).await;
                self.pass_if_due().await;
                drop(answer.send(published));
            }
            TaskRequest::Execute(command, answer) => {
                let outcome = self.execute(&command).await;
                self.pass_if_due().await;
                drop(answer.send(outcome));
            }
        }
    }

    async fn pass_if_due(&mut self) {
        let now = self.clock.now();
        let has_due = |rings| {
            let pending = self.state.pending_steps(rings, no_trouble);
            self.state.halted.is_none() && pending.iter().any(|step| step.due().is_some_and(|due| due <= now))
        };
        if now - self.passed >= PASS_INTERVAL || self.rules.rings.as_deref().is_some_and(has_due) {
            self.pass().await;
        }
    }

    async fn publish(&mut self, collected: &[SourceCatalogs]) -> Result<PublishOutcome, PublishError> {
        let mut next = RolloutState::clone(&self.state);
        let published = next.publish(collected, self.clock.now())?;
        if published == PublishOutcome::Unchanged {
            return Ok(published);
        }
        let copies = copies(&self.state, &next, collected);
        self.commit(next, copies, Vec::new()).await?;
        match published {
            PublishOutcome::New(revision) => tracing::info!(revision = revision.get(), "revision published"),
            PublishOutcome::Joined(revision) => {
                tracing::debug!(revision = revision.get(), "catalogs joined a revision");
            }
            PublishOutcome::Unchanged => {}
        }
        Ok(published)
    }

    async fn announce(&mut self, series: &str, number: u64) -> Result<PublishOutcome, PublishError> {
        let mut next = RolloutState::clone(&self.state);
        let published = next.announce(series, number, self.clock.now())?;
        if published != PublishOutcome::Unchanged {
            self.commit(next, Vec::new(), Vec::new()).await?;
        }
        if let PublishOutcome::New(revision) = published {
            tracing::info!(revision = revision.get(), series, number, "revision announced by a client");
        }
        Ok(published)
    }

    async fn execute(&mut self, command: &AttributedCommand) -> Result<CommandOutcome, ExecuteError> {
        let (rings, now) = (self.rules.rings.clone().ok_or(ExecuteError::NoRings)?, self.clock.now());
        self.store.check_writable()?;
        let entry = |outcome| vec![AuditEntry::for_command(now, command, outcome)];
        let mut next = RolloutState::clone(&self.state);
        let outcome = match next.apply(&command.command, &rings, now) {
            Ok(outcome) => outcome,
            Err(refusal) => {
                self.log(entry(AuditOutcome::Refused(refusal.to_string()))).await;
                return Err(refusal.into());
            }
        };
        // The log comes first, so that no command is in force without a known author.
        self.audit.write(entry(AuditOutcome::Done(outcome.effect.clone()))).await?;
        if let Err(error) = self.commit(next, Vec::new(), Vec::new()).await {
            self.log(entry(AuditOutcome::Failed(error.to_string()))).await;
            return Err(error.into());
        }
        let AttributedCommand { by, from, reason, .. } = command;
        let (reason, effect) = (reason.as_deref(), &*outcome.effect);
        tracing::info!(by, from, reason, effect, "rollout command applied");
        Ok(outcome)
    }

    /// Writes audit entries that nothing depends on.
    async fn log(&self, entries: Vec<AuditEntry>) {
        if let Err(error) = self.audit.write(entries).await {
            tracing::error!(%error, "audit log entry lost");
        }
    }

    /// Makes a switch of rules that clients have seen already.
    fn apply_switch(&mut self, switch: RulesSwitch) {
        let RulesSwitch { rules, since, now } = switch;
        if rules.rings.is_none() && self.state.newest().is_some() {
            tracing::warn!("{LAST_RING_REMOVED}");
        }
        let before = std::mem::replace(&mut self.rules, rules);
        let (before, after) = (before.rings.as_deref(), self.rules.rings.as_deref());
        let removed = Arc::make_mut(&mut self.state).replace_rings(before, after, since, now);
        warn_of_removed_groups(&removed);
    }

    /// Opens due steps, removes revisions that are not needed, and records that the relay runs.
    async fn pass(&mut self) {
        self.follow_store().await;
        self.check_clock();
        let (now, monotonic) = self.clock.now_and_monotonic();
        (self.passed, self.passed_monotonic) = (now, monotonic);
        self.update_payloads();
        let mut next = RolloutState::clone(&self.state);
        let opened = self.open_due_steps(&mut next, now).await;
        let mut records = Vec::new();
        if self.rules.rings.is_some() && (now - self.alive).abs() >= PASS_INTERVAL {
            records.push(record::alive(now));
            self.alive = now;
        }
        match self.commit(next, Vec::new(), records).await {
            Ok(()) => self.report_opened(opened, now).await,
            // The store has logged the failure.
            Err(error) => {
                tracing::debug!(%error, "rollout progress not stored: no further step opens");
                self.show();
            }
        }
    }

    fn update_payloads(&mut self) {
        while let Ok((key, revision)) = self.downloads.try_recv() {
            self.payloads.record_download(key, revision);
        }
        for (number, evicted) in self.payloads.count_evictions(self.store.take_evicted_pins(), &self.state) {
            tracing::warn!(
                revision = number.get(),
                payloads = evicted.payloads,
                bytes = evicted.bytes,
                "payloads of a kept revision evicted: raise store.quota"
            );
            Arc::make_mut(&mut self.state).record_evictions(number, evicted);
        }
    }

    /// Opens the due steps without trouble at their gates.
    async fn open_due_steps(&mut self, next: &mut RolloutState, now: UnixMillis) -> Vec<StepId> {
        let Some(rings) = self.rules.rings.clone() else { return Vec::new() };
        let mut current = Troubles::new();
        for (revision, ring) in self.state.gate_dependencies(&rings) {
            let Some(groups) = rings.get(ring).map(|ring| &ring.groups) else { continue };
            current.insert((revision, ring), self.shared.clients.trouble(revision, groups).await);
        }
        let RolloutSettings { trouble_share, trouble_clients, .. } = self.rules.settings;
        next.update_troubles(&rings, &current, |trouble| {
            trouble.should_close_gate(trouble_share, u64::from(trouble_clients))
        });
        let troubles = next.blocking_troubles(&rings, now);
        for ((revision, ring), trouble) in &troubles {
            if !self.troubles.contains_key(&(*revision, *ring)) {
                let (revision, ring) = (revision.get(), rings.name_of(*ring));
                tracing::warn!(revision, ring, %trouble, "ring has trouble: the next step stays closed");
            }
        }
        let opened = next.advance(&rings, now, |revision, ring| troubles.contains_key(&(revision, ring)));
        self.troubles = troubles;
        opened
    }

    async fn report_opened(&self, opened: Vec<StepId>, now: UnixMillis) {
        let Some(rings) = self.rules.rings.clone().filter(|_| !opened.is_empty()) else { return };
        self.log(opened.iter().map(|step| AuditEntry::for_step(now, &rings, *step)).collect()).await;
        for StepId { revision, ring, step } in opened {
            let (revision, ring, step) = (revision.get(), rings.name_of(ring), step + 1);
            tracing::info!(revision, ring, step, "ring opened");
        }
    }
}

fn warn_of_removed_groups(groups: &[GroupId]) {
    for group in groups {
        tracing::warn!(%group, "held or released group removed from the configuration");
    }
}
