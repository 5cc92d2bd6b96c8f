//! Who accepts: the guard or a worker, as a pure state machine. Events come in with the time, actions go out; it opens
//! nothing, waits for nothing and reads no clock. What it holds: guard and worker never accept at the same time, and
//! whenever no worker serves, the guard does before anything else happens. `tests` plays it against a model of
//! processes that die, hang and lag behind at any point.

mod event;
mod main_worker;
#[cfg(test)]
mod tests;
mod watched;

use std::time::Duration;

use self::event::RETIRING;
pub use self::event::{Action, Event, Exit, NoUpgrade, WorkerId};
use self::main_worker::{Main, REAP, RELEASE};
use self::watched::Watched;
use crate::metrics::Why;

/// Time a worker that has just been started has for its first word: loading the program and the configuration, on a
/// machine that is busy enough to have killed the one before.
const START: Duration = Duration::from_secs(30);

/// Clients wait for so long for a new worker that has been handed the store, before the guard answers them.
const GAP: Duration = Duration::from_secs(1);

/// A worker that has served for so long has not died of its start.
const STEADY: Duration = Duration::from_secs(60);

/// The pause before a worker that died again is started again; it doubles each time.
const PAUSE: Duration = Duration::from_secs(1);

/// What an administrator may set of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// `guard.watchdog`
    pub watchdog: Duration,
    /// `guard.restart_max`
    pub restart_max: Duration,
}

/// The state.
#[derive(Debug)]
pub struct Handover {
    patience: Patience,
    accepting: bool,
    main: Main,
    /// Started to take over from the main one.
    candidate: Option<Candidate>,
    /// Have handed over, and finish what runs.
    retiring: Vec<Watched>,
    stopping: bool,
    /// Deaths in a row.
    deaths: u32,
    /// Whether any worker has ever been prepared.
    began: bool,
    next: WorkerId,
    /// When the last event came.
    now: Duration,
    /// A worker of a new program has taken over.
    renewal: bool,
    actions: Vec<Action>,
}

#[derive(Debug)]
struct Candidate {
    worker: Watched,
    prepared: bool,
}

impl Handover {
    /// Before the first worker.
    pub fn new(patience: Patience) -> Self {
        Self {
            patience,
            accepting: false,
            main: Main::Waiting { until: Duration::ZERO },
            candidate: None,
            retiring: Vec::new(),
            stopping: false,
            deaths: 0,
            began: false,
            next: 0,
            now: Duration::ZERO,
            renewal: false,
            actions: Vec::new(),
        }
    }

    /// As a guard finds it that has replaced another: the first of these workers serves, the others finish, each with its
    /// patience; numbers from `next` on are free.
    pub fn resumed(patience: Patience, known: &[(WorkerId, Duration)], next: WorkerId) -> Self {
        let mut watched =
            known.iter().map(|&(id, patience)| Watched::new(id, Duration::ZERO, patience, patience));
        let main = match watched.next() {
            Some(worker) => Main::Serving { worker, since: Duration::ZERO },
            None => Main::Waiting { until: Duration::ZERO },
        };
        Self { main, retiring: watched.collect(), began: true, next, ..Self::new(patience) }
    }

    /// Takes other settings, for workers to come.
    pub fn reconfigure(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Takes in what has happened, and says what is to be done. `now` is the time since any fixed moment.
    pub fn on(&mut self, now: Duration, event: Event) -> Vec<Action> {
        // Who was stopped itself, or found no time, has not listened either.
        let missed = now.saturating_sub(self.now);
        self.watched().for_each(|worker| worker.forgive(missed));
        self.now = self.now.max(now);
        match event {
            Event::Turn => {}
            Event::Beat(id) => self.heard(id),
            Event::NotSpawned(id) => self.ended(id, Exit::Status(1)),
            Event::Prepared(id) => self.prepared(id),
            Event::Ready(id) => self.ready(id),
            Event::Released(id) => self.released(id),
            Event::Lost(id) => {
                let now = self.now;
                self.watched().filter(|worker| worker.id == id).for_each(|worker| worker.lost(now, REAP));
            }
            Event::Ended(id, status) => self.ended(id, status),
            Event::Upgrade => self.upgrade(),
            Event::Reload => {
                let all: Vec<_> = self.watched().map(|worker| worker.id).collect();
                self.actions.extend(all.into_iter().map(Action::Reload));
            }
            Event::Stop => self.stop(),
        }
        self.watch();
        self.settle();
        std::mem::take(&mut self.actions)
    }

    /// When it must have its next turn, at the latest.
    pub fn next_turn(&self) -> Duration {
        let waits = matches!(self.main, Main::Waiting { .. });
        let own = self.main.due(self.now).filter(|_| !(waits && self.stopping));
        let main = self.main.worker().into_iter().chain(self.candidate.as_ref().map(|it| &it.worker));
        let silent = main.chain(&self.retiring).map(|worker| worker.next_look(self.now));
        let idle = self.now + START;
        own.into_iter().chain(silent).fold(idle, Duration::min).max(self.now)
    }

    /// The worker that serves.
    pub fn serving(&self) -> Option<WorkerId> {
        match &self.main {
            Main::Serving { worker, .. } => Some(worker.id),
            _ => None,
        }
    }

    /// The worker that serves, and then those that finish what runs, with the patience each is watched with.
    pub fn watched_by_turn(&self) -> impl Iterator<Item = (WorkerId, Duration)> {
        self.main.worker().into_iter().chain(&self.retiring).map(|worker| (worker.id, worker.patience()))
    }

    /// Deaths in a row.
    pub fn deaths(&self) -> u32 {
        self.deaths
    }

    /// The next number.
    pub fn next_id(&self) -> WorkerId {
        self.next
    }

    /// Whether the relay stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether a worker of a new program serves, and nothing else is under way: the time to replace the guard too.
    pub fn renewal_is_due(&self) -> bool {
        self.renewal && !self.stopping && self.candidate.is_none() && self.serving().is_some()
    }

    /// The guard could not be replaced; it goes on as it is.
    pub fn stay(&mut self) {
        self.renewal = false;
    }

    /// Why no worker serves, for people.
    pub fn why(&self) -> String {
        let deaths = match self.deaths {
            0 => String::new(),
            1 => "the worker ended; ".to_owned(),
            deaths => format!("the worker ended {deaths} times; "),
        };
        match &self.main {
            _ if self.stopping => "stopping".to_owned(),
            Main::Waiting { until } => {
                let left = until.saturating_sub(self.now).as_secs_f32().ceil();
                format!("the guard answers: {deaths}the next one is started in {left} s")
            }
            Main::Starting { .. } => format!("the guard answers: {deaths}one is starting"),
            Main::Dying { .. } => format!("the guard answers: {deaths}one that hung is being ended"),
            Main::Serving { .. } | Main::Leaving { .. } => "serving".to_owned(),
        }
    }

    fn heard(&mut self, id: WorkerId) {
        let now = self.now;
        self.watched().filter(|worker| worker.id == id).for_each(|worker| worker.heard(now));
    }

    fn prepared(&mut self, id: WorkerId) {
        let now = self.now;
        self.watched().filter(|worker| worker.id == id).for_each(|worker| worker.expect(now));
        match (&mut self.main, &mut self.candidate) {
            (Main::Starting { worker, opening, .. }, _) if worker.id == id && !*opening => {
                *opening = true;
                self.began = true;
                self.actions.push(Action::Open(id));
            }
            (_, Some(candidate)) if candidate.worker.id == id && !candidate.prepared => {
                candidate.prepared = true;
                self.actions.push(Action::Upgraded(Ok(())));
                self.main = match std::mem::replace(&mut self.main, Main::Waiting { until: now }) {
                    Main::Serving { worker, .. } => {
                        self.actions.push(Action::HandOver(worker.id));
                        Main::Leaving { worker, since: now }
                    }
                    other => other,
                };
            }
            _ => {}
        }
    }

    fn ready(&mut self, id: WorkerId) {
        self.heard(id);
        let now = self.now;
        self.main = match std::mem::replace(&mut self.main, Main::Waiting { until: now }) {
            Main::Starting { worker, opening: true, .. } if worker.id == id && !self.stopping => {
                self.refrain();
                self.actions.push(Action::Go(id));
                Main::Serving { worker, since: now }
            }
            other => other,
        };
    }

    fn released(&mut self, id: WorkerId) {
        self.heard(id);
        let now = self.now;
        match std::mem::replace(&mut self.main, Main::Waiting { until: now }) {
            Main::Leaving { worker, .. } if worker.id == id => {
                self.retiring.push(worker);
                self.promote(now, now + GAP);
            }
            other => self.main = other,
        }
    }

    fn ended(&mut self, id: WorkerId, exit: Exit) {
        let now = self.now;
        let of_itself = if self.stopping {
            Why::Stopped
        } else {
            match exit {
                Exit::Status(0) => Why::Exited,
                Exit::Status(_) => Why::Failed,
                Exit::Signal(_) | Exit::Unknown => Why::Killed,
            }
        };
        if let Some(at) = self.retiring.iter().position(|worker| worker.id == id) {
            let worker = self.retiring.remove(at);
            let why = if exit == Exit::Status(0) { Why::HandedOver } else { of_itself };
            self.actions.push(Action::Count(id, worker.why_ended(why), exit));
            return;
        }
        if let Some(candidate) = self.candidate.take_if(|candidate| candidate.worker.id == id) {
            self.actions.push(Action::Count(id, candidate.worker.why_ended(of_itself), exit));
            if !candidate.prepared {
                self.actions.push(Action::Upgraded(Err(NoUpgrade::Unfit)));
            }
            return;
        }
        let is_main = match &self.main {
            Main::Dying { id: dying, .. } => *dying == id,
            other => other.worker().is_some_and(|worker| worker.id == id),
        };
        if !is_main {
            // One that was given up.
            return self.actions.push(Action::Count(id, Why::Hung, exit));
        }
        let served = self.main.served(now);
        let why = self.main.worker().map_or(Why::Hung, |worker| worker.why_ended(of_itself));
        self.actions.push(Action::Count(id, why, exit));
        if exit == Exit::Status(2) && !self.began && !self.stopping {
            self.actions.push(Action::Refuse);
            self.stopping = true;
        }
        self.gone(served);
    }

    /// The main worker runs no more.
    fn gone(&mut self, served: Option<Duration>) {
        let now = self.now;
        if served.is_some_and(|served| served >= STEADY) {
            self.deaths = 0;
        }
        self.deaths = self.deaths.saturating_add(1);
        let doublings = self.deaths.checked_sub(2);
        let pause =
            doublings.map_or(Duration::ZERO, |doublings| PAUSE.saturating_mul(1 << doublings.min(20)));
        self.promote(now + pause.min(self.patience.restart_max), now);
    }

    /// The candidate becomes the main worker, if there is one; else one is started then. The guard answers from
    /// `answer` on.
    fn promote(&mut self, otherwise: Duration, answer: Duration) {
        self.main = match self.candidate.take() {
            None => Main::Waiting { until: otherwise },
            Some(Candidate { worker, prepared }) => {
                self.renewal = true;
                if prepared {
                    self.actions.push(Action::Open(worker.id));
                }
                Main::Starting { worker, opening: prepared, answer }
            }
        };
    }

    fn upgrade(&mut self) {
        let refused = match &mut self.main {
            _ if self.stopping => NoUpgrade::Stopping,
            Main::Waiting { until } => {
                // The next one is of the program on disk anyway.
                *until = self.now;
                self.renewal = true;
                return self.actions.push(Action::Upgraded(Ok(())));
            }
            Main::Serving { .. } if self.candidate.is_none() && self.retiring.len() >= RETIRING => {
                NoUpgrade::Retiring
            }
            Main::Serving { .. } if self.candidate.is_none() => {
                let worker = self.spawn();
                self.candidate = Some(Candidate { worker, prepared: false });
                return;
            }
            _ => NoUpgrade::UnderWay,
        };
        self.actions.push(Action::Upgraded(Err(refused)));
    }

    fn stop(&mut self) {
        let again = std::mem::replace(&mut self.stopping, true);
        if !again {
            self.accepting = false;
            self.actions.push(Action::Close);
            if let Some(candidate) = &self.candidate {
                // It has nothing to finish.
                self.actions.push(Action::Kill(candidate.worker.id));
            }
        }
        // Those that hand over or have are finishing what runs already: to them it would be the second time.
        let main = self.main.worker().filter(|_| again || !matches!(self.main, Main::Leaving { .. }));
        let retiring = self.retiring.iter().filter(|_| again);
        let told = main.into_iter().chain(retiring).map(|worker| Action::Stop(worker.id));
        self.actions.extend(told);
    }

    /// Ends who gives no sign of life.
    fn watch(&mut self) {
        let now = self.now;
        let mut silent = Vec::new();
        self.retiring.iter_mut().for_each(|worker| silent.extend(worker.condemn(now)));
        silent.extend(self.candidate.as_mut().and_then(|candidate| candidate.worker.condemn(now)));
        self.actions.extend(silent.into_iter().map(Action::Kill));
        let late = matches!(&self.main, Main::Leaving { since, .. } if now >= *since + RELEASE);
        let served = self.main.served(now);
        if let Some(worker) = self.main.worker_mut()
            && (late || worker.is_silent(now))
        {
            let id = worker.id;
            self.actions.push(Action::Kill(id));
            self.main = Main::Dying { id, since: now, served };
        }
    }

    /// What follows from the state alone.
    fn settle(&mut self) {
        let now = self.now;
        if let Main::Dying { since, served, .. } = self.main
            && now >= since + REAP
        {
            self.gone(served);
        }
        if self.stopping {
            let left = self.main.worker().is_some()
                || matches!(self.main, Main::Dying { .. })
                || self.candidate.is_some()
                || !self.retiring.is_empty();
            if !left {
                self.actions.push(Action::End);
            }
            return;
        }
        if matches!(self.main, Main::Waiting { until } if until <= now) {
            let worker = self.spawn();
            self.main = Main::Starting { worker, opening: false, answer: now };
        }
        let answer = self.main.leaves_clients_to_the_guard(now);
        if answer && !self.accepting {
            self.accepting = true;
            // Before all else: clients wait.
            self.actions.insert(0, Action::Accept);
        } else if !answer {
            self.refrain();
        }
    }

    fn refrain(&mut self) {
        if self.accepting {
            self.accepting = false;
            self.actions.push(Action::Refrain);
        }
    }

    fn spawn(&mut self) -> Watched {
        let worker = Watched::new(self.next, self.now, self.patience.watchdog, START);
        self.next += 1;
        self.actions.push(Action::Spawn(worker.id));
        worker
    }

    fn watched(&mut self) -> impl Iterator<Item = &mut Watched> {
        let candidate = self.candidate.as_mut().map(|candidate| &mut candidate.worker);
        self.main.worker_mut().into_iter().chain(candidate).chain(&mut self.retiring)
    }
}
