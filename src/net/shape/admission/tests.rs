//! Turns among clients, against a naive model that looks at everybody each time.

use proptest::prelude::*;

use super::*;
use gupd_config as config;

const CLIENTS: u8 = 6;
const GROUPS: [&str; 2] = ["a", "b"];

fn address(client: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, client])
}

fn counts(total: Option<u32>, client: Option<u32>, groups: [Option<u32>; 2]) -> Config {
    let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
    (config.lan.max_downloads, config.lan.client_downloads) = (total, client);
    config.groups = GROUPS.map(config::GroupSettings::catch_all).to_vec();
    for (group, most) in config.groups.iter_mut().zip(groups) {
        group.max_downloads = most;
    }
    config
}

fn admission(config: &Config) -> Admission {
    let mut admission = Admission::default();
    admission.configure(config, 0, &mut Vec::new());
    admission
}

#[test]
fn a_client_with_a_thousand_waiting_requests_is_next_only_once_before_another() {
    let mut config = counts(Some(1), None, [None; 2]);
    (config.lan.queue, config.lan.client_queue) = (2_000, 1_000);
    let mut admission = admission(&config);
    let group = admission.group("a");
    assert_eq!(admission.ask(group, address(1), 0, 0), Asked::Granted);
    (1..=1_000).for_each(|ask| assert_eq!(admission.ask(group, address(1), ask, 0), Asked::Waits));
    assert_eq!(admission.ask(group, address(2), 2_000, 0), Asked::Waits);
    let mut granted = Vec::new();
    admission.release(group, address(1), 1, &mut granted);
    admission.release(group, address(1), 2, &mut granted);
    admission.release(group, address(2), 3, &mut granted);
    assert_eq!(granted, [1, 2_000, 2]);
}

#[test]
fn who_is_held_up_by_its_own_count_or_its_groups_holds_up_nobody_and_keeps_its_turn() {
    let mut admission = admission(&counts(Some(3), Some(1), [Some(1), None]));
    let (narrow, wide) = (admission.group("a"), admission.group("b"));
    for (group, client, ask, asked) in [
        (narrow, 1, 10, Asked::Granted),
        (wide, 2, 20, Asked::Granted),
        (narrow, 3, 30, Asked::Waits),
        (wide, 2, 21, Asked::Waits),
        (wide, 4, 40, Asked::Granted),
        (wide, 5, 50, Asked::Waits),
    ] {
        assert_eq!(admission.ask(group, address(client), ask, 0), asked, "{ask}");
    }
    let mut granted = Vec::new();
    // All three counts are full: of those who wait, only the last may have what comes free.
    admission.release(wide, address(4), 0, &mut granted);
    assert_eq!(granted, [50]);
    admission.release(wide, address(5), 0, &mut granted);
    assert_eq!(granted, [50]);
    admission.release(narrow, address(1), 0, &mut granted);
    admission.release(wide, address(2), 0, &mut granted);
    assert_eq!(granted, [50, 30, 21]);
}

#[test]
fn nothing_is_kept_of_clients_that_are_gone() {
    let mut admission = admission(&counts(Some(1), None, [None; 2]));
    let group = admission.group("a");
    assert!(admission.take(group, address(1), 0));
    assert!(!admission.take(group, address(2), 0));
    assert_eq!(admission.ask(group, address(3), 0, 0), Asked::Waits);
    admission.leave(group, address(3), 0);
    let mut granted = Vec::new();
    admission.release(group, address(1), 1, &mut granted);
    assert!(granted.is_empty() && admission.groups[0].clients.is_empty());
    assert!(admission.groups[0].in_turn.is_empty() && admission.total.is_idle());
}

/// A request, by the client that it is from; a client's group is its number's.
type Request = (u8, usize);

/// Looks at everybody each time.
#[derive(Default)]
struct Naive {
    total: Option<u32>,
    client: Option<u32>,
    groups: [Option<u32>; 2],
    running: Vec<Request>,
    /// The client whose last turn is longest ago first.
    waiting: Vec<(u8, Vec<usize>)>,
}

fn group_of(client: u8) -> usize {
    usize::from(client % 2)
}

impl Naive {
    fn fits(&self, client: u8) -> bool {
        let fewer = |most: Option<u32>, taken: usize| most.is_none_or(|most| taken < most as usize);
        let taken = |of: &dyn Fn(u8) -> bool| self.running.iter().filter(|(other, _)| of(*other)).count();
        fewer(self.total, self.running.len())
            && fewer(self.groups[group_of(client)], taken(&|other| group_of(other) == group_of(client)))
            && fewer(self.client, taken(&|other| other == client))
    }

    fn ask(&mut self, client: u8, ask: usize, queue: u32, client_queue: u32) -> Asked {
        let queued = |client: u8| self.waiting.iter().find(|(other, _)| *other == client);
        let all: usize = self.waiting.iter().map(|(_, asks)| asks.len()).sum();
        if self.fits(client) {
            self.running.push((client, ask));
            Asked::Granted
        } else if queued(client).map_or(0, |(_, asks)| asks.len()) >= client_queue as usize {
            Asked::ClientQueueFull
        } else if all >= queue as usize {
            Asked::QueueFull
        } else {
            match self.waiting.iter_mut().find(|(other, _)| *other == client) {
                Some((_, asks)) => asks.push(ask),
                None => self.waiting.push((client, vec![ask])),
            }
            Asked::Waits
        }
    }

    fn settle(&mut self) -> Vec<usize> {
        let mut granted = Vec::new();
        while let Some(at) = self.waiting.iter().position(|(client, _)| self.fits(*client)) {
            let (client, mut asks) = self.waiting.remove(at);
            let ask = asks.remove(0);
            self.running.push((client, ask));
            granted.push(ask);
            if !asks.is_empty() {
                self.waiting.push((client, asks));
            }
        }
        granted
    }

    fn leave(&mut self, nth: usize) -> Option<Request> {
        let waiting = self.waiting.iter().flat_map(|(client, asks)| asks.iter().map(|ask| (*client, *ask)));
        let (client, ask) = waiting.clone().nth(nth % waiting.count().max(1))?;
        for (other, asks) in &mut self.waiting {
            asks.retain(|known| (*other, *known) != (client, ask));
        }
        self.waiting.retain(|(_, asks)| !asks.is_empty());
        Some((client, ask))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u8),
    Release(usize),
    Leave(usize),
    Configure(Option<u32>, Option<u32>, [Option<u32>; 2]),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let count = || proptest::option::of(1..5u32);
    let configure = (count(), count(), [count(), count()]);
    let step = prop_oneof![
        8 => (0..CLIENTS).prop_map(Step::Ask),
        6 => any::<usize>().prop_map(Step::Release),
        2 => any::<usize>().prop_map(Step::Leave),
        1 => configure.prop_map(|(total, client, groups)| Step::Configure(total, client, groups)),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The model gives a place only within every count, leaves nobody waiting who fits, and goes by last turns.
    #[test]
    fn places_are_given_as_by_a_model_that_looks_at_everybody(steps in steps()) {
        let (queue, client_queue) = (8, 3);
        let mut admission = Admission::default();
        let mut naive = Naive::default();
        let ids = GROUPS.map(|name| admission.group(name));
        let id = |client: u8| ids[group_of(client)];
        let first = Step::Configure(Some(2), Some(1), [None; 2]);
        for (ask, step) in std::iter::once(first).chain(steps).enumerate() {
            let (mut granted, now) = (Vec::new(), ask as Nanos);
            let mut expected = Vec::new();
            match step {
                Step::Ask(client) => {
                    let asked = admission.ask(id(client), address(client), ask, now);
                    prop_assert_eq!(asked, naive.ask(client, ask, queue, client_queue));
                }
                Step::Release(nth) if !naive.running.is_empty() => {
                    let (client, _) = naive.running.remove(nth % naive.running.len());
                    admission.release(id(client), address(client), now, &mut granted);
                    expected = naive.settle();
                }
                Step::Release(_) => {}
                Step::Leave(nth) => {
                    if let Some((client, ask)) = naive.leave(nth) {
                        admission.leave(id(client), address(client), ask);
                    }
                }
                Step::Configure(total, client, groups) => {
                    (naive.total, naive.client, naive.groups) = (total, client, groups);
                    let mut config = counts(total, client, groups);
                    (config.lan.queue, config.lan.client_queue) = (queue, client_queue);
                    admission.configure(&config, now, &mut granted);
                    expected = naive.settle();
                }
            }
            prop_assert_eq!(granted, expected);
        }
        // Whatever happened, all of it can be given back.
        while let Some((client, _)) = naive.running.pop() {
            admission.release(id(client), address(client), 0, &mut Vec::new());
            naive.settle();
        }
        prop_assert!(admission.total.is_idle() && admission.groups.iter().all(|group| group.clients.is_empty()));
    }
}
