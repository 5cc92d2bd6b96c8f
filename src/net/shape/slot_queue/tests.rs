//! Order of clients, compared with a naive model that scans all of them.

use proptest::prelude::*;

use super::*;
use gupd_config as config;

const CLIENTS: u8 = 6;
const GROUPS: [&str; 2] = ["a", "b"];

fn address(client: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, client])
}

fn config_with_limits(total: Option<u32>, client: Option<u32>, groups: [Option<u32>; 2]) -> Config {
    let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
    (config.lan.max_downloads, config.lan.client_downloads) = (total, client);
    config.groups = GROUPS.map(config::GroupSettings::catch_all).to_vec();
    for (group, limit) in config.groups.iter_mut().zip(groups) {
        group.max_downloads = limit;
    }
    config
}

fn configured_queue(config: &Config) -> SlotQueue {
    let mut slots = SlotQueue::default();
    slots.configure(config, 0, &mut Vec::new());
    slots
}

#[test]
fn client_with_many_requests_alternates_with_others() {
    let mut config = config_with_limits(Some(1), None, [None; 2]);
    (config.lan.queue, config.lan.client_queue) = (2_000, 1_000);
    let mut slots = configured_queue(&config);
    let group = slots.group("a");
    assert_eq!(slots.enqueue(group, address(1), 0, 0), SlotDecision::Granted);
    (1..=1_000).for_each(|request| {
        assert_eq!(slots.enqueue(group, address(1), request, 0), SlotDecision::Queued);
    });
    assert_eq!(slots.enqueue(group, address(2), 2_000, 0), SlotDecision::Queued);
    let mut granted = Vec::new();
    slots.release(group, address(1), 1, &mut granted);
    slots.release(group, address(1), 2, &mut granted);
    slots.release(group, address(2), 3, &mut granted);
    assert_eq!(granted, [1, 2_000, 2]);
}

#[test]
fn client_at_its_limit_is_passed_over_and_keeps_its_place() {
    let mut slots = configured_queue(&config_with_limits(Some(3), Some(1), [Some(1), None]));
    let (narrow, wide) = (slots.group("a"), slots.group("b"));
    for (group, client, request, asked) in [
        (narrow, 1, 10, SlotDecision::Granted),
        (wide, 2, 20, SlotDecision::Granted),
        (narrow, 3, 30, SlotDecision::Queued),
        (wide, 2, 21, SlotDecision::Queued),
        (wide, 4, 40, SlotDecision::Granted),
        (wide, 5, 50, SlotDecision::Queued),
    ] {
        assert_eq!(slots.enqueue(group, address(client), request, 0), asked, "{request}");
    }
    let mut granted = Vec::new();
    // All three counts are full: only the last queued request can use the released slot.
    slots.release(wide, address(4), 0, &mut granted);
    assert_eq!(granted, [50]);
    slots.release(wide, address(5), 0, &mut granted);
    assert_eq!(granted, [50]);
    slots.release(narrow, address(1), 0, &mut granted);
    slots.release(wide, address(2), 0, &mut granted);
    assert_eq!(granted, [50, 30, 21]);
}

#[test]
fn idle_clients_are_removed() {
    let mut slots = configured_queue(&config_with_limits(Some(1), None, [None; 2]));
    let group = slots.group("a");
    assert!(slots.take(group, address(1), 0));
    assert!(!slots.take(group, address(2), 0));
    assert_eq!(slots.enqueue(group, address(3), 0, 0), SlotDecision::Queued);
    slots.cancel(group, address(3), 0);
    let mut granted = Vec::new();
    slots.release(group, address(1), 1, &mut granted);
    assert!(granted.is_empty() && slots.groups[0].clients.is_empty());
    assert!(slots.groups[0].queue.is_empty() && slots.total.is_idle());
}

#[test]
fn one_client_leaves_slots_to_others() {
    for (limit, expected) in [(1, 1), (2, 2), (3, 3), (4, 3), (20, 15), (200, 150)] {
        let mut slots = configured_queue(&config_with_limits(Some(limit), None, [None; 2]));
        let group = slots.group("a");
        let held = (0..limit).filter(|_| slots.take(group, address(1), 0)).count() as u32;
        assert_eq!(held, expected, "{limit}");
        let others = (2..=255).filter(|client| slots.take(group, address(*client), 0)).count() as u32;
        assert_eq!(others, (limit - expected).min(254), "{limit}");
    }
}

#[test]
fn queued_client_with_many_slots_is_passed_over_while_few() {
    let mut slots = configured_queue(&config_with_limits(Some(4), None, [None; 2]));
    let group = slots.group("a");
    (0..3).for_each(|request| {
        assert_eq!(slots.enqueue(group, address(1), request, 0), SlotDecision::Granted);
    });
    assert_eq!(slots.enqueue(group, address(1), 3, 0), SlotDecision::Queued);
    assert!(slots.estimate_wait(group, address(1), Some(3), 0) > 0, "the free slot is not for this client");
    assert_eq!(slots.enqueue(group, address(2), 4, 0), SlotDecision::Granted);
    assert_eq!(slots.enqueue(group, address(2), 5, 0), SlotDecision::Queued);
    assert_eq!(slots.enqueue(group, address(3), 6, 0), SlotDecision::Queued);
    let mut granted = Vec::new();
    slots.release(group, address(1), 1, &mut granted);
    assert_eq!(granted, [6]);
    slots.release(group, address(1), 2, &mut granted);
    slots.release(group, address(2), 3, &mut granted);
    assert_eq!(granted, [6, 3, 5]);
}

#[test]
fn lent_slot_counts_for_its_client_only() {
    let mut slots = configured_queue(&config_with_limits(Some(1), Some(1), [Some(1), None]));
    let group = slots.group("a");
    assert!(slots.take(group, address(1), 0));
    assert_eq!(slots.enqueue(group, address(1), 10, 0), SlotDecision::Queued);
    assert_eq!(slots.enqueue(group, address(3), 30, 0), SlotDecision::Queued);
    let mut granted = Vec::new();
    slots.lend(group, 1, &mut granted);
    assert_eq!(granted, [30]);
    // Both count now, and the next slot comes free when both are released.
    slots.reclaim(group, 2);
    slots.release(group, address(3), 3, &mut granted);
    assert_eq!(granted, [30]);
    slots.release(group, address(1), 4, &mut granted);
    assert_eq!(granted, [30, 10]);
}

/// A request: its client and its number. The group follows from the client's number.
type Request = (u8, usize);

/// Model that scans all clients at each step.
#[derive(Default)]
struct Naive {
    total: Option<u32>,
    client: Option<u32>,
    groups: [Option<u32>; 2],
    running: Vec<Request>,
    /// The client served longest ago first.
    queued_clients: Vec<(u8, Vec<usize>)>,
}

fn group_of(client: u8) -> usize {
    usize::from(client % 2)
}

impl Naive {
    fn fits(&self, client: u8) -> bool {
        let fewer = |limit: Option<u32>, taken: usize| limit.is_none_or(|limit| taken < limit as usize);
        let taken = |of: &dyn Fn(u8) -> bool| self.running.iter().filter(|(other, _)| of(*other)).count();
        let own = taken(&|other| other == client);
        let is_scarce = |total: u32| self.running.len() >= (total - total / 4) as usize;
        fewer(self.total, self.running.len())
            && !self.total.is_some_and(|total| is_scarce(total) && own >= (total as usize / 8).max(1))
            && fewer(self.groups[group_of(client)], taken(&|other| group_of(other) == group_of(client)))
            && fewer(self.client, own)
    }

    fn enqueue(&mut self, client: u8, request: usize, queue: u32, client_queue: u32) -> SlotDecision {
        let queued = |client: u8| self.queued_clients.iter().find(|(other, _)| *other == client);
        let all: usize = self.queued_clients.iter().map(|(_, asks)| asks.len()).sum();
        if self.fits(client) {
            self.running.push((client, request));
            SlotDecision::Granted
        } else if queued(client).map_or(0, |(_, asks)| asks.len()) >= client_queue as usize {
            SlotDecision::ClientQueueFull
        } else if all >= queue as usize {
            SlotDecision::QueueFull
        } else {
            match self.queued_clients.iter_mut().find(|(other, _)| *other == client) {
                Some((_, asks)) => asks.push(request),
                None => self.queued_clients.push((client, vec![request])),
            }
            SlotDecision::Queued
        }
    }

    fn grant_free(&mut self) -> Vec<usize> {
        let mut granted = Vec::new();
        while let Some(at) = self.queued_clients.iter().position(|(client, _)| self.fits(*client)) {
            let (client, mut asks) = self.queued_clients.remove(at);
            let request = asks.remove(0);
            self.running.push((client, request));
            granted.push(request);
            if !asks.is_empty() {
                self.queued_clients.push((client, asks));
            }
        }
        granted
    }

    fn cancel(&mut self, nth: usize) -> Option<Request> {
        let queued_clients = self
            .queued_clients
            .iter()
            .flat_map(|(client, asks)| asks.iter().map(|request| (*client, *request)));
        let (client, request) = queued_clients.clone().nth(nth % queued_clients.count().max(1))?;
        for (other, asks) in &mut self.queued_clients {
            asks.retain(|known| (*other, *known) != (client, request));
        }
        self.queued_clients.retain(|(_, asks)| !asks.is_empty());
        Some((client, request))
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

    /// The model grants a slot only within every count, leaves no request queued that fits, and goes by the last
    /// service.
    #[test]
    fn slots_are_granted_as_by_the_naive_model(steps in steps()) {
        let (queue, client_queue) = (8, 3);
        let mut slots = SlotQueue::default();
        let mut naive = Naive::default();
        let ids = GROUPS.map(|name| slots.group(name));
        let id = |client: u8| ids[group_of(client)];
        let first = Step::Configure(Some(2), Some(1), [None; 2]);
        for (request, step) in std::iter::once(first).chain(steps).enumerate() {
            let (mut granted, now) = (Vec::new(), request as Nanos);
            let mut expected = Vec::new();
            match step {
                Step::Ask(client) => {
                    let asked = slots.enqueue(id(client), address(client), request, now);
                    prop_assert_eq!(asked, naive.enqueue(client, request, queue, client_queue));
                }
                Step::Release(nth) if !naive.running.is_empty() => {
                    let (client, _) = naive.running.remove(nth % naive.running.len());
                    slots.release(id(client), address(client), now, &mut granted);
                    expected = naive.grant_free();
                }
                Step::Release(_) => {}
                Step::Leave(nth) => {
                    if let Some((client, request)) = naive.cancel(nth) {
                        slots.cancel(id(client), address(client), request);
                    }
                }
                Step::Configure(total, client, groups) => {
                    (naive.total, naive.client, naive.groups) = (total, client, groups);
                    let mut config = config_with_limits(total, client, groups);
                    (config.lan.queue, config.lan.client_queue) = (queue, client_queue);
                    slots.configure(&config, now, &mut granted);
                    expected = naive.grant_free();
                }
            }
            prop_assert_eq!(granted, expected);
        }
        // All slots can be released at the end.
        while let Some((client, _)) = naive.running.pop() {
            slots.release(id(client), address(client), 0, &mut Vec::new());
            naive.grant_free();
        }
        prop_assert!(slots.total.is_idle() && slots.groups.iter().all(|group| group.clients.is_empty()));
    }
}
