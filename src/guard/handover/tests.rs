//! The state machine against a model of what it decides on: processes that die, hang, wake up again, or fail to start at
//! any point, messages that arrive late or never, ends that are seen late. Played by seeded random events; every step is
//! checked, and when nothing goes wrong any more, a worker must come to serve.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

const PATIENCE: Patience =
    Patience { watchdog: Duration::from_secs(10), restart_max: Duration::from_secs(30) };
const BEAT: Duration = Duration::from_secs(3);

/// A worker as it really is, whatever the guard believes.
#[derive(Debug, Default)]
struct Process {
    stage: Stage,
    hung: bool,
    /// Orders on their way to it, and words on their way from it.
    orders: VecDeque<Action>,
    words: VecDeque<Event>,
    /// Gone, and how; the guard does not know yet.
    ended: Option<Exit>,
    beaten: Duration,
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
    guard: Handover,
    now: Duration,
    accepting: bool,
    closed: bool,
    processes: BTreeMap<WorkerId, Process>,
    /// The program on disk does not start.
    broken: bool,
    ended: bool,
}

/// What may happen next; `usize` picks a process.
#[derive(Clone, Debug)]
enum Step {
    /// It does the next thing it has to do.
    Works(usize),
    /// The guard hears the next thing it has said.
    Heard(usize),
    /// It dies.
    Dies(usize),
    /// It hangs, or goes on.
    Hangs(usize, bool),
    /// The guard sees that it has died.
    Seen(usize),
    /// Time passes until the guard's next turn, or less.
    Passes(u8),
    /// The guard itself stands still for so many seconds.
    Stalls(u8),
    Upgrade,
    Reload,
    Stop,
    /// The program on disk breaks, or is whole again.
    Breaks(bool),
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            guard: Handover::new(PATIENCE),
            now: Duration::ZERO,
            accepting: false,
            closed: false,
            processes: BTreeMap::new(),
            broken: false,
            ended: false,
        };
        world.tell(Event::Turn);
        world
    }

    fn tell(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.guard.on(self.now, event) {
                events.extend(self.act(action));
                self.check();
            }
        }
        self.check_turn();
    }

    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Accept => {
                assert!(!self.accepting && !self.closed, "accepts twice");
                self.accepting = true;
            }
            Action::Refrain => self.accepting = false,
            Action::Close => (self.accepting, self.closed) = (false, true),
            Action::Spawn(id) if self.broken => return Some(Event::NotSpawned(id)),
            Action::Spawn(id) => {
                let process = Process { beaten: self.now, ..Process::default() };
                assert!(self.processes.insert(id, process).is_none(), "a number given twice");
            }
            Action::Go(_) if self.accepting => panic!("a worker accepts beside the guard: {self:#?}"),
            Action::Open(id)
            | Action::Go(id)
            | Action::HandOver(id)
            | Action::Reload(id)
            | Action::Stop(id) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.orders.push_back(action);
                }
            }
            Action::Kill(id) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.ended.get_or_insert(Exit::Signal(9));
                }
            }
            Action::End | Action::Refuse => self.ended = true,
            Action::Count(..) | Action::Upgraded(_) => {}
        }
        None
    }

    /// What must hold at every moment.
    fn check(&self) {
        let alive = || self.processes.values().filter(|process| process.ended.is_none());
        let accept = alive().filter(|process| process.stage == Stage::Accepting).count();
        assert!(accept + usize::from(self.accepting) <= 1, "two accept: {self:#?}");
        let open = alive().filter(|process| {
            matches!(process.stage, Stage::Opening | Stage::Ready | Stage::Accepting | Stage::Leaving)
        });
        assert!(open.count() <= 1, "two have the store: {self:#?}");
    }

    /// What must hold whenever the guard has had its turn.
    fn check_turn(&self) {
        if self.closed {
            return;
        }
        let believed = match &self.guard.main {
            Main::Serving { .. } | Main::Leaving { .. } | Main::Dying { .. } => true,
            Main::Starting { answer, .. } => *answer > self.now,
            Main::Waiting { .. } => false,
        };
        assert_eq!(self.accepting, !believed, "nobody accepts: {self:#?}");
        assert!(self.guard.next_turn() >= self.now);
        assert!(self.guard.retiring.len() <= RETIRING);
    }

    fn pick(&self, at: usize) -> Option<WorkerId> {
        let count = self.processes.len();
        self.processes.keys().copied().nth(at.checked_rem(count)?)
    }

    /// A process takes an order, or else takes its next step by itself.
    fn work(&mut self, id: WorkerId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        if process.hung || process.ended.is_some() {
            return;
        }
        if self.now >= process.beaten + BEAT && process.stage != Stage::Starting {
            process.beaten = self.now;
            process.words.push_back(Event::Beat(id));
        }
        match (process.stage, process.orders.pop_front()) {
            (Stage::Starting | Stage::Prepared | Stage::Opening | Stage::Ready, Some(Action::Stop(_))) => {
                process.ended = Some(Exit::Status(0));
            }
            (Stage::Accepting, Some(Action::Stop(_))) => process.stage = Stage::Finishing,
            (Stage::Prepared, Some(Action::Open(_))) => process.stage = Stage::Opening,
            (Stage::Ready, Some(Action::Go(_))) => process.stage = Stage::Accepting,
            (Stage::Accepting, Some(Action::HandOver(_))) => process.stage = Stage::Leaving,
            (Stage::Starting, None) => {
                process.stage = Stage::Prepared;
                process.words.push_back(Event::Prepared(id));
            }
            (Stage::Opening, None) => {
                process.stage = Stage::Ready;
                process.words.push_back(Event::Ready(id));
            }
            (Stage::Leaving, None) => {
                process.stage = Stage::Finishing;
                process.words.push_back(Event::Released(id));
            }
            (Stage::Finishing, None) => process.ended = Some(Exit::Status(0)),
            _ => {}
        }
        self.check();
    }

    fn hear(&mut self, id: WorkerId) {
        let word = self.processes.get_mut(&id).and_then(|process| process.words.pop_front());
        if let Some(word) = word {
            self.tell(word);
        } else if self.processes.get(&id).is_some_and(|process| process.ended.is_some()) {
            self.tell(Event::Lost(id));
        }
    }

    /// What it had said is heard before its end.
    fn see(&mut self, id: WorkerId) {
        let Some(exit) = self.processes.get(&id).and_then(|process| process.ended) else { return };
        while self.processes.get(&id).is_some_and(|process| !process.words.is_empty()) {
            self.hear(id);
        }
        self.processes.remove(&id);
        self.tell(Event::Ended(id, exit));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.tell(Event::Turn);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Works(at) => self.pick(at).into_iter().for_each(|id| self.work(id)),
            Step::Heard(at) => self.pick(at).into_iter().for_each(|id| self.hear(id)),
            Step::Seen(at) => self.pick(at).into_iter().for_each(|id| self.see(id)),
            Step::Dies(at) => {
                if let Some(process) = self.pick(at).and_then(|id| self.processes.get_mut(&id)) {
                    process.ended.get_or_insert(Exit::Signal(11));
                }
            }
            Step::Hangs(at, hangs) => {
                if let Some(process) = self.pick(at).and_then(|id| self.processes.get_mut(&id)) {
                    process.hung = hangs;
                }
            }
            Step::Passes(share) => {
                let left = self.guard.next_turn() - self.now;
                self.pass(left * u32::from(share) / 255);
            }
            Step::Stalls(seconds) => self.pass(Duration::from_secs(seconds.into())),
            Step::Upgrade => self.tell(Event::Upgrade),
            Step::Reload => self.tell(Event::Reload),
            Step::Stop => self.tell(Event::Stop),
            Step::Breaks(broken) => self.broken = broken,
        }
    }

    /// Nothing goes wrong any more for so long.
    fn heal(&mut self, time: Duration) {
        self.broken = false;
        let until = self.now + time;
        while self.now < until && !self.ended {
            for id in self.processes.keys().copied().collect::<Vec<_>>() {
                // A hung one stays so: to be found out is the guard's part.
                self.work(id);
                self.hear(id);
                self.see(id);
            }
            self.pass((self.guard.next_turn() - self.now).min(Duration::from_millis(500)));
        }
    }

    fn serving(&self) -> Vec<WorkerId> {
        let serve = |(id, process): (&WorkerId, &Process)| {
            (process.stage == Stage::Accepting && !process.hung && process.ended.is_none()).then_some(*id)
        };
        self.processes.iter().filter_map(serve).collect()
    }
}

fn steps(stops: bool) -> impl Strategy<Value = Vec<Step>> {
    let at = 0..4_usize;
    let step = prop_oneof![
        40 => at.clone().prop_map(Step::Works),
        40 => at.clone().prop_map(Step::Heard),
        12 => at.clone().prop_map(Step::Seen),
        4 => at.clone().prop_map(Step::Dies),
        2 => (at, prop::bool::weighted(0.7)).prop_map(|(at, hangs)| Step::Hangs(at, hangs)),
        12 => any::<u8>().prop_map(Step::Passes),
        1 => any::<u8>().prop_map(Step::Stalls),
        6 => Just(Step::Upgrade),
        2 => Just(Step::Reload),
        1 => Just(if stops { Step::Stop } else { Step::Reload }),
        1 => any::<bool>().prop_map(Step::Breaks),
    ];
    prop::collection::vec(step, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn one_accepts_at_a_time_and_in_the_end_a_worker_serves(steps in steps(false)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.heal(Duration::from_secs(300));
        prop_assert_eq!(world.serving().len(), 1, "{:#?}", world);
        prop_assert!(!world.accepting);
        prop_assert_eq!(world.guard.serving(), world.serving().first().copied());
    }

    #[test]
    fn what_is_told_to_stop_ends_whatever_else_happens(steps in steps(true)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        if !world.closed {
            world.tell(Event::Stop);
        }
        world.heal(Duration::from_secs(120));
        prop_assert!(world.ended && world.processes.is_empty(), "{:#?}", world);
    }
}

/// A guard whose first worker serves.
fn serving() -> World {
    let mut world = World::new();
    world.heal(Duration::from_secs(2));
    assert_eq!(world.serving(), [0]);
    world
}

#[test]
fn an_upgrade_leaves_no_moment_in_which_clients_meet_the_guard() {
    let mut world = serving();
    world.tell(Event::Upgrade);
    for _ in 0..20 {
        for id in world.processes.keys().copied().collect::<Vec<_>>() {
            world.work(id);
            world.hear(id);
            world.see(id);
            assert!(!world.accepting);
        }
        world.pass(Duration::from_millis(50));
    }
    assert_eq!(world.serving(), [1]);
    assert!(world.guard.renewal_is_due());
}

#[test]
fn clients_wait_a_second_for_a_new_worker_and_no_longer() {
    let mut world = serving();
    world.tell(Event::Upgrade);
    while !matches!(world.guard.main, Main::Starting { .. }) {
        for id in [0, 1] {
            world.work(id);
            world.hear(id);
        }
    }
    world.pass(GAP - Duration::from_millis(1));
    assert!(!world.accepting);
    world.pass(Duration::from_millis(1));
    assert!(world.accepting);
}

#[test]
fn a_program_that_does_not_start_leaves_the_old_worker_where_it_is() {
    let mut world = serving();
    world.tell(Event::Upgrade);
    world.processes.get_mut(&1).unwrap().ended = Some(Exit::Status(2));
    let told = world.guard.on(world.now, Event::Ended(1, Exit::Status(2)));
    assert!(told.contains(&Action::Upgraded(Err(NoUpgrade::Unfit))), "{told:?}");
    assert_eq!(world.guard.serving(), Some(0));
    assert!(!world.guard.renewal_is_due());
}

#[test]
fn the_first_restart_is_at_once_and_the_pauses_after_it_double_up_to_the_longest() {
    let mut guard = Handover::new(PATIENCE);
    let (mut now, mut pauses) = (Duration::ZERO, Vec::new());
    guard.on(now, Event::Turn);
    for id in 0..9 {
        guard.on(now, Event::Prepared(id));
        guard.on(now, Event::Ready(id));
        now += Duration::from_secs(1);
        guard.on(now, Event::Beat(id));
        guard.on(now, Event::Ended(id, Exit::Signal(9)));
        let begun = now;
        while guard.next_id() == id + 1 {
            now = guard.next_turn();
            guard.on(now, Event::Turn);
        }
        pauses.push((now - begun).as_secs());
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 30, 30, 30]);
}

#[test]
fn only_the_first_worker_has_the_guard_refuse_a_configuration() {
    let mut guard = Handover::new(PATIENCE);
    guard.on(Duration::ZERO, Event::Turn);
    assert!(guard.on(Duration::ZERO, Event::Ended(0, Exit::Status(2))).contains(&Action::Refuse));
    let mut world = serving();
    let told = world.guard.on(world.now, Event::Ended(0, Exit::Status(2)));
    assert!(!told.contains(&Action::Refuse) && told.contains(&Action::Spawn(1)), "{told:?}");
}

#[test]
fn a_guard_that_stood_still_itself_takes_no_worker_for_hung() {
    let mut world = serving();
    world.pass(Duration::from_secs(3_600));
    assert_eq!(world.guard.serving(), Some(0));
    world.processes.get_mut(&0).unwrap().hung = true;
    world.heal(PATIENCE.watchdog + BEAT + Duration::from_secs(3));
    assert_ne!(world.guard.serving(), Some(0), "but one that is hung is found out");
}

#[test]
fn who_finishes_what_runs_already_is_hurried_by_the_second_stop_alone() {
    let mut guard = Handover::resumed(PATIENCE, &[(1, PATIENCE.watchdog), (0, PATIENCE.watchdog)], 2);
    assert_eq!(guard.on(Duration::ZERO, Event::Stop), [Action::Close, Action::Stop(1)]);
    assert_eq!(guard.on(Duration::ZERO, Event::Stop), [Action::Stop(1), Action::Stop(0)]);
}

#[test]
fn a_stop_while_the_store_changes_hands_lets_the_old_worker_finish() {
    let mut guard = Handover::resumed(PATIENCE, &[(0, PATIENCE.watchdog)], 1);
    guard.on(Duration::ZERO, Event::Upgrade);
    assert!(guard.on(Duration::ZERO, Event::Prepared(1)).contains(&Action::HandOver(0)));
    assert_eq!(guard.on(Duration::ZERO, Event::Stop), [Action::Close, Action::Kill(1)]);
    guard.on(Duration::ZERO, Event::Ended(1, Exit::Signal(9)));
    guard.on(Duration::ZERO, Event::Released(0));
    assert!(guard.on(Duration::ZERO, Event::Ended(0, Exit::Status(0))).contains(&Action::End));
}

#[test]
fn a_reload_that_shortens_the_watchdog_has_no_worker_taken_for_hung_that_is_just_starting() {
    let mut guard = Handover::new(PATIENCE);
    guard.on(Duration::ZERO, Event::Turn);
    guard.reconfigure(Patience { watchdog: Duration::from_millis(300), ..PATIENCE });
    guard.on(Duration::ZERO, Event::Prepared(0));
    let turns = (0..).map(|turn| turn * Duration::from_millis(50)).take_while(|now| *now < BEAT);
    turns.for_each(|now| assert_eq!(guard.on(now, Event::Turn), []));
}

#[test]
fn the_guard_is_renewed_also_if_the_old_worker_dies_before_it_hands_over() {
    let mut world = serving();
    world.tell(Event::Upgrade);
    world.processes.get_mut(&0).unwrap().ended = Some(Exit::Signal(9));
    world.see(0);
    world.heal(Duration::from_secs(2));
    assert_eq!(world.serving(), [1]);
    assert!(world.guard.renewal_is_due());
}
