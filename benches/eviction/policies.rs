//! Policies as their papers have them, over bytes: LRU, SIEVE, S3-FIFO, and the store's own. Plain models that are
//! easy to see right; the store's is the same steps as `src/store/index/policy.rs`, which works on an index instead.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use crate::trace::Request;

/// A cache of bounded bytes.
pub(crate) trait Policy {
    /// Asks for an object; whether it is there. If not, it is there from now on.
    fn ask(&mut self, request: &Request) -> bool;
}

/// The least recently used goes.
pub(crate) struct Lru {
    quota: u64,
    held: u64,
    turn: u64,
    objects: HashMap<u64, (u64, u64)>,
    order: BTreeMap<u64, u64>,
}

impl Lru {
    pub(crate) fn new(quota: u64) -> Self {
        Self { quota, held: 0, turn: 0, objects: HashMap::new(), order: BTreeMap::new() }
    }
}

impl Policy for Lru {
    fn ask(&mut self, request: &Request) -> bool {
        self.turn += 1;
        let hit = match self.objects.get_mut(&request.object) {
            Some((turn, _)) => {
                self.order.remove(&std::mem::replace(turn, self.turn));
                true
            }
            None => {
                while self.held + request.size > self.quota
                    && let Some((_, oldest)) = self.order.pop_first()
                {
                    self.held -= self.objects.remove(&oldest).map_or(0, |(_, size)| size);
                }
                self.held += request.size;
                self.objects.insert(request.object, (self.turn, request.size));
                false
            }
        };
        self.order.insert(self.turn, request.object);
        hit
    }
}

/// Zhang et al., NSDI 2024: one queue, and a hand that takes what was not asked for since it last came by.
pub(crate) struct Sieve {
    quota: u64,
    held: u64,
    turn: u64,
    hand: u64,
    objects: HashMap<u64, (u64, bool)>,
    order: BTreeMap<u64, u64>,
}

impl Sieve {
    pub(crate) fn new(quota: u64) -> Self {
        Self { quota, held: 0, turn: 0, hand: 0, objects: HashMap::new(), order: BTreeMap::new() }
    }
}

impl Policy for Sieve {
    fn ask(&mut self, request: &Request) -> bool {
        if let Some((_, visited)) = self.objects.get_mut(&request.object) {
            *visited = true;
            return true;
        }
        while self.held + request.size > self.quota {
            let next = self.order.range(self.hand..).next().or_else(|| self.order.iter().next());
            let Some((&at, &object)) = next else { break };
            self.hand = at + 1;
            if let Some((size, visited)) = self.objects.get_mut(&object)
                && !std::mem::take(visited)
            {
                self.held -= *size;
                self.objects.remove(&object);
                self.order.remove(&at);
            }
        }
        self.turn += 1;
        self.held += request.size;
        self.order.insert(self.turn, request.object);
        self.objects.insert(request.object, (request.size, false));
        false
    }
}

/// What S3-FIFO is told apart by.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// Percent of the quota for the small queue.
    pub(crate) small: u64,
    /// Uses that bring an object from the small queue to the main one.
    pub(crate) promoted: u8,
    /// Keys remembered.
    pub(crate) ghosts: Ghosts,
    /// Uses within a minute count as one: the store writes them down once a minute.
    pub(crate) by_the_minute: bool,
}

/// How many keys of objects that went from the small queue are remembered.
#[derive(Clone, Copy)]
pub(crate) enum Ghosts {
    /// As many as there are objects in the main queue.
    AsMain,
    /// This many.
    Fixed(usize),
}

/// Yang et al., SOSP 2023: a small queue on probation, a main queue, and ghosts of what went from the small one.
pub(crate) struct S3Fifo {
    quota: u64,
    rules: Rules,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    small_bytes: u64,
    held: u64,
    objects: HashMap<u64, Held>,
    ghosts: VecDeque<u64>,
    remembered: HashSet<u64>,
}

struct Held {
    size: u64,
    uses: u8,
    minute: u32,
}

impl S3Fifo {
    pub(crate) fn new(quota: u64, rules: Rules) -> Self {
        Self {
            quota,
            rules,
            small: VecDeque::new(),
            main: VecDeque::new(),
            small_bytes: 0,
            held: 0,
            objects: HashMap::new(),
            ghosts: VecDeque::new(),
            remembered: HashSet::new(),
        }
    }

    fn evict(&mut self) {
        let from_small = self.small_bytes * 100 > self.held * self.rules.small || self.main.is_empty();
        if from_small && let Some(object) = self.small.pop_front() {
            let Some(held) = self.objects.get_mut(&object) else { return };
            self.small_bytes -= held.size;
            if held.uses >= self.rules.promoted {
                held.uses = 0;
                self.main.push_back(object);
            } else {
                self.held -= held.size;
                self.objects.remove(&object);
                self.remember(object);
            }
        } else if let Some(object) = self.main.pop_front() {
            let Some(held) = self.objects.get_mut(&object) else { return };
            if held.uses > 0 {
                held.uses -= 1;
                self.main.push_back(object);
            } else {
                self.held -= held.size;
                self.objects.remove(&object);
            }
        }
    }

    fn remember(&mut self, object: u64) {
        self.ghosts.push_back(object);
        self.remembered.insert(object);
        let most = match self.rules.ghosts {
            Ghosts::AsMain => self.main.len().max(1),
            Ghosts::Fixed(most) => most,
        };
        while self.ghosts.len() > most {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.remembered.remove(&oldest);
            }
        }
    }
}

impl Policy for S3Fifo {
    fn ask(&mut self, request: &Request) -> bool {
        if let Some(held) = self.objects.get_mut(&request.object) {
            if !self.rules.by_the_minute || held.minute != request.minute {
                held.uses = (held.uses + 1).min(3);
                held.minute = request.minute;
            }
            return true;
        }
        while self.held + request.size > self.quota && !self.objects.is_empty() {
            self.evict();
        }
        self.held += request.size;
        let held = Held { size: request.size, uses: 0, minute: request.minute };
        self.objects.insert(request.object, held);
        if self.remembered.contains(&request.object) {
            self.main.push_back(request.object);
        } else {
            self.small_bytes += request.size;
            self.small.push_back(request.object);
        }
        false
    }
}
