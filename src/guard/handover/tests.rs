//! The state machine played against a model of worker processes. They crash, hang, resume or fail to start at any
//! point; messages arrive late or never; exits are seen late. Seeded random events drive it and every step is checked.
//! Once nothing fails any more, a worker must come to serve.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

const SETTINGS: HandoverSettings =
    HandoverSettings { watchdog: Duration::from_secs(10), restart_max: Duration::from_secs(30) };
const HEARTBEAT: Duration = Duration::from_secs(3);

/// A worker process as it really is.
#[derive(Debug, Default)]
struct Process {
    stage: Stage,
    hung: bool,
    /// Messages in flight to the process, and from it.
    commands: VecDeque<Action>,
    messages: VecDeque<GuardEvent>,
    /// Its exit, which the guard has not seen yet.
    exit: Option<Exit>,
    last_heartbeat: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Starting,
    Prepared,
    Opening,
    Ready,
    Accepting,
    Leaving,
    Finishing,
}

#[derive(Debug)]
struct World {
    guard: HandoverState,
    now: Duration,
    accepting: bool,
    closed: bool,
    processes: BTreeMap<WorkerId, Process>,
    /// The program on disk cannot be started.
    broken: bool,
    ended: bool,
}

/// A random step; `usize` picks a process.
#[derive(Clone, Debug)]
enum Step {
    /// The process carries out its next command.
    Run(usize),
    /// The guard receives its next message.
    Deliver(usize),
    /// The process crashes.
    Crash(usize),
    /// The process hangs or resumes.
    Hang(usize, bool),
    /// The guard sees its exit.
    Reap(usize),
    /// Time passes, at most until the guard's next tick.
    Wait(u8),
    /// The guard is suspended for this many seconds.
    Suspend(u8),
    Upgrade,
    Reload,
    Stop,
    /// The program on disk breaks or is repaired.
    SetBroken(bool),
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            guard: HandoverState::new(SETTINGS),
            now: Duration::ZERO,
            accepting: false,
            closed: false,
            processes: BTreeMap::new(),
            broken: false,
            ended: false,
        };
        world.send(GuardEvent::Tick);
        world
    }

    fn send(&mut self, event: GuardEvent) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.guard.handle(self.now, event) {
                events.extend(self.act(action));
                self.check();
            }
        }
        self.check_after_event();
    }

    fn act(&mut self, action: Action) -> Option<GuardEvent> {
        match action {
            Action::StartAccepting => {
                assert!(!self.accepting && !self.closed, "guard accepts twice");
                self.accepting = true;
            }
            Action::StopAccepting => self.accepting = false,
            Action::CloseSockets => (self.accepting, self.closed) = (false, true),
            Action::Spawn(id) if self.broken => return Some(GuardEvent::SpawnFailed(id)),
            Action::Spawn(id) => {
                let process = Process { last_heartbeat: self.now, ..Process::default() };
                assert!(self.processes.insert(id, process).is_none(), "number reused");
            }
            Action::Activate(_) if self.accepting => panic!("worker accepts beside the guard: {self:#?}"),
            Action::OpenStore(id)
            | Action::Activate(id)
            | Action::HandOver(id)
            | Action::Reload(id)
            | Action::Stop(id) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.commands.push_back(action);
                }
            }
            Action::Kill(id) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.exit.get_or_insert(Exit::Signal(9));
                }
            }
            Action::Shutdown | Action::RejectConfig => self.ended = true,
            Action::RecordExit(..) | Action::ReportUpgrade(_) => {}
        }
        None
    }

    /// Checks the invariants of every moment.
    fn check(&self) {
        let alive = || self.processes.values().filter(|process| process.exit.is_none());
        let accept = alive().filter(|process| process.stage == Stage::Accepting).count();
        assert!(accept + usize::from(self.accepting) <= 1, "two processes accept: {self:#?}");
        let open = alive().filter(|process| {
            matches!(process.stage, Stage::Opening | Stage::Ready | Stage::Accepting | Stage::Leaving)
        });
        assert!(open.count() <= 1, "two workers have the store: {self:#?}");
    }

    /// Checks the invariants after every event.
    fn check_after_event(&self) {
        if self.closed {
            return;
        }
        let believed = match &self.guard.main {
            MainWorker::Serving { .. } | MainWorker::HandingOver { .. } | MainWorker::Dying { .. } => true,
            MainWorker::Starting { answer_at, .. } => *answer_at > self.now,
            MainWorker::Waiting { .. } => false,
        };
        assert_eq!(self.accepting, !believed, "no process accepts: {self:#?}");
        assert!(self.guard.next_tick() >= self.now);
        assert!(self.guard.retiring.len() <= MAX_RETIRING);
    }

    fn pick(&self, at: usize) -> Option<WorkerId> {
        self.processes.keys().copied().nth(at.checked_rem(self.processes.len())?)
    }

    /// Runs a process: it carries out a command, or else makes progress.
    fn run(&mut self, id: WorkerId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        if process.hung || process.exit.is_some() {
            return;
        }
        if self.now >= process.last_heartbeat + HEARTBEAT && process.stage != Stage::Starting {
            process.last_heartbeat = self.now;
            process.messages.push_back(GuardEvent::Heartbeat(id));
        }
        match (process.stage, process.commands.pop_front()) {
            (Stage::Starting | Stage::Prepared | Stage::Opening | Stage::Ready, Some(Action::Stop(_))) => {
                process.exit = Some(Exit::Status(0));
            }
            (Stage::Accepting, Some(Action::Stop(_))) => process.stage = Stage::Finishing,
            (Stage::Prepared, Some(Action::OpenStore(_))) => process.stage = Stage::Opening,
            (Stage::Ready, Some(Action::Activate(_))) => process.stage = Stage::Accepting,
            (Stage::Accepting, Some(Action::HandOver(_))) => process.stage = Stage::Leaving,
            (Stage::Starting, None) => {
                process.stage = Stage::Prepared;
                process.messages.push_back(GuardEvent::Prepared(id));
            }
            (Stage::Opening, None) => {
                process.stage = Stage::Ready;
                process.messages.push_back(GuardEvent::Ready(id));
            }
            (Stage::Leaving, None) => {
                process.stage = Stage::Finishing;
                process.messages.push_back(GuardEvent::Released(id));
            }
            (Stage::Finishing, None) => process.exit = Some(Exit::Status(0)),
            _ => {}
        }
        self.check();
    }

    fn deliver(&mut self, id: WorkerId) {
        let word = self.processes.get_mut(&id).and_then(|process| process.messages.pop_front());
        if let Some(word) = word {
            self.send(word);
        } else if self.processes.get(&id).is_some_and(|process| process.exit.is_some()) {
            self.send(GuardEvent::Disconnected(id));
        }
    }

    /// Delivers the messages of an exited process and then its exit.
    fn reap(&mut self, id: WorkerId) {
        let Some(exit) = self.processes.get(&id).and_then(|process| process.exit) else { return };
        while self.processes.get(&id).is_some_and(|process| !process.messages.is_empty()) {
            self.deliver(id);
        }
        self.processes.remove(&id);
        self.send(GuardEvent::Exited(id, exit));
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        self.send(GuardEvent::Tick);
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Run(at) => self.pick(at).into_iter().for_each(|id| self.run(id)),
            Step::Deliver(at) => self.pick(at).into_iter().for_each(|id| self.deliver(id)),
            Step::Reap(at) => self.pick(at).into_iter().for_each(|id| self.reap(id)),
            Step::Crash(at) => {
                if let Some(process) = self.pick(at).and_then(|id| self.processes.get_mut(&id)) {
                    process.exit.get_or_insert(Exit::Signal(11));
                }
            }
            Step::Hang(at, hangs) => {
                if let Some(process) = self.pick(at).and_then(|id| self.processes.get_mut(&id)) {
                    process.hung = hangs;
                }
            }
            Step::Wait(share) => {
                let left = self.guard.next_tick() - self.now;
                self.advance(left * u32::from(share) / 255);
            }
            Step::Suspend(seconds) => self.advance(Duration::from_secs(seconds.into())),
            Step::Upgrade => self.send(GuardEvent::Upgrade),
            Step::Reload => self.send(GuardEvent::Reload),
            Step::Stop => self.send(GuardEvent::Stop),
            Step::SetBroken(broken) => self.broken = broken,
        }
    }

    /// Plays for `time` without failures.
    fn heal(&mut self, time: Duration) {
        self.broken = false;
        let until = self.now + time;
        while self.now < until && !self.ended {
            for id in self.processes.keys().copied().collect::<Vec<_>>() {
                // A hung process stays hung: the guard must detect it.
                self.run(id);
                self.deliver(id);
                self.reap(id);
            }
            self.advance((self.guard.next_tick() - self.now).min(Duration::from_millis(500)));
        }
    }

    fn serving(&self) -> Vec<WorkerId> {
        let serve = |(id, process): (&WorkerId, &Process)| {
            (process.stage == Stage::Accepting && !process.hung && process.exit.is_none()).then_some(*id)
        };
        self.processes.iter().filter_map(serve).collect()
    }
}

fn steps(stops: bool) -> impl Strategy<Value = Vec<Step>> {
    let at = 0..4_usize;
    let step = prop_oneof![
        40 => at.clone().prop_map(Step::Run),
        40 => at.clone().prop_map(Step::Deliver),
        12 => at.clone().prop_map(Step::Reap),
        4 => at.clone().prop_map(Step::Crash),
        2 => (at, prop::bool::weighted(0.7)).prop_map(|(at, hangs)| Step::Hang(at, hangs)),
        12 => any::<u8>().prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::Suspend),
        6 => Just(Step::Upgrade),
        2 => Just(Step::Reload),
        1 => Just(if stops { Step::Stop } else { Step::Reload }),
        1 => any::<bool>().prop_map(Step::SetBroken),
    ];
    prop::collection::vec(step, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn one_process_accepts_at_a_time_and_a_worker_finally_serves(steps in steps(false)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.apply(step));
        world.heal(Duration::from_secs(300));
        prop_assert_eq!(world.serving().len(), 1, "{:#?}", world);
        prop_assert!(!world.accepting);
        prop_assert_eq!(world.guard.serving(), world.serving().first().copied());
    }

    #[test]
    fn stopped_guard_and_workers_always_exit(steps in steps(true)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.apply(step));
        if !world.closed {
            world.send(GuardEvent::Stop);
        }
        world.heal(Duration::from_secs(120));
        // A process that was killed may not have been reaped yet.
        prop_assert!(world.ended && world.processes.values().all(|process| process.exit.is_some()), "{:#?}", world);
    }
}

fn serving_world() -> World {
    let mut world = World::new();
    world.heal(Duration::from_secs(2));
    assert_eq!(world.serving(), [0]);
    world
}

#[test]
fn upgrade_never_sends_clients_to_the_guard() {
    let mut world = serving_world();
    world.send(GuardEvent::Upgrade);
    for _ in 0..20 {
        for id in [0, 1] {
            world.run(id);
            world.deliver(id);
            world.reap(id);
            assert!(!world.accepting);
        }
        world.advance(Duration::from_millis(50));
    }
    assert_eq!(world.serving(), [1]);
    assert!(world.guard.should_replace_guard());
}

#[test]
fn guard_answers_when_new_worker_takes_over_a_second() {
    let mut world = serving_world();
    world.send(GuardEvent::Upgrade);
    while !matches!(world.guard.main, MainWorker::Starting { .. }) {
        for id in [0, 1] {
            world.run(id);
            world.deliver(id);
        }
    }
    world.advance(ACCEPT_GAP - Duration::from_millis(1));
    assert!(!world.accepting);
    world.advance(Duration::from_millis(1));
    assert!(world.accepting);
}

#[test]
fn old_worker_keeps_serving_when_new_program_fails_to_start() {
    let mut world = serving_world();
    world.send(GuardEvent::Upgrade);
    world.processes.get_mut(&1).unwrap().exit = Some(Exit::Status(2));
    let actions = world.guard.handle(world.now, GuardEvent::Exited(1, Exit::Status(2)));
    assert!(actions.contains(&Action::ReportUpgrade(Err(UpgradeError::WorkerExited))), "{actions:?}");
    assert_eq!(world.guard.serving(), Some(0));
    assert!(!world.guard.should_replace_guard());
}

#[test]
fn restart_pauses_start_at_zero_and_double_up_to_the_maximum() {
    let mut guard = HandoverState::new(SETTINGS);
    let (mut now, mut pauses) = (Duration::ZERO, Vec::new());
    guard.handle(now, GuardEvent::Tick);
    for id in 0..9 {
        guard.handle(now, GuardEvent::Prepared(id));
        guard.handle(now, GuardEvent::Ready(id));
        now += Duration::from_secs(1);
        guard.handle(now, GuardEvent::Heartbeat(id));
        guard.handle(now, GuardEvent::Exited(id, Exit::Signal(9)));
        let exited = now;
        while guard.next_id() == id + 1 {
            now = guard.next_tick();
            guard.handle(now, GuardEvent::Tick);
        }
        pauses.push((now - exited).as_secs());
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 30, 30, 30]);
}

#[test]
fn only_the_first_worker_can_reject_the_configuration() {
    let mut guard = HandoverState::new(SETTINGS);
    guard.handle(Duration::ZERO, GuardEvent::Tick);
    assert!(
        guard.handle(Duration::ZERO, GuardEvent::Exited(0, Exit::Status(2))).contains(&Action::RejectConfig)
    );
    let mut world = serving_world();
    let actions = world.guard.handle(world.now, GuardEvent::Exited(0, Exit::Status(2)));
    assert!(!actions.contains(&Action::RejectConfig) && actions.contains(&Action::Spawn(1)), "{actions:?}");
}

#[test]
fn suspended_guard_does_not_kill_its_workers() {
    let mut world = serving_world();
    world.advance(Duration::from_secs(3_600));
    assert_eq!(world.guard.serving(), Some(0));
    world.processes.get_mut(&0).unwrap().hung = true;
    world.heal(SETTINGS.watchdog + HEARTBEAT + Duration::from_secs(3));
    assert_ne!(world.guard.serving(), Some(0), "a hung worker is still detected");
}

#[test]
fn retiring_worker_is_told_only_of_a_second_stop() {
    let mut guard = HandoverState::resume(SETTINGS, &[(1, SETTINGS.watchdog), (0, SETTINGS.watchdog)], 2);
    assert_eq!(guard.handle(Duration::ZERO, GuardEvent::Stop), [Action::CloseSockets, Action::Stop(1)]);
    assert_eq!(guard.handle(Duration::ZERO, GuardEvent::Stop), [Action::Stop(1), Action::Stop(0)]);
}

#[test]
fn stop_during_handover_lets_the_old_worker_finish() {
    let mut guard = HandoverState::resume(SETTINGS, &[(0, SETTINGS.watchdog)], 1);
    guard.handle(Duration::ZERO, GuardEvent::Upgrade);
    assert!(guard.handle(Duration::ZERO, GuardEvent::Prepared(1)).contains(&Action::HandOver(0)));
    assert_eq!(guard.handle(Duration::ZERO, GuardEvent::Stop), [Action::CloseSockets, Action::Kill(1)]);
    guard.handle(Duration::ZERO, GuardEvent::Exited(1, Exit::Signal(9)));
    guard.handle(Duration::ZERO, GuardEvent::Released(0));
    assert!(guard.handle(Duration::ZERO, GuardEvent::Exited(0, Exit::Status(0))).contains(&Action::Shutdown));
}

#[test]
fn starting_worker_keeps_its_watchdog_over_a_reload() {
    let mut guard = HandoverState::new(SETTINGS);
    guard.handle(Duration::ZERO, GuardEvent::Tick);
    guard.reconfigure(HandoverSettings { watchdog: Duration::from_millis(300), ..SETTINGS });
    guard.handle(Duration::ZERO, GuardEvent::Prepared(0));
    let ticks = (0..).map(|tick| tick * Duration::from_millis(50)).take_while(|now| *now < HEARTBEAT);
    ticks.for_each(|now| assert_eq!(guard.handle(now, GuardEvent::Tick), []));
}

#[test]
fn guard_is_replaced_when_old_worker_dies_before_handover() {
    let mut world = serving_world();
    world.send(GuardEvent::Upgrade);
    world.processes.get_mut(&0).unwrap().exit = Some(Exit::Signal(9));
    world.reap(0);
    world.heal(Duration::from_secs(2));
    assert_eq!(world.serving(), [1]);
    assert!(world.guard.should_replace_guard());
}
