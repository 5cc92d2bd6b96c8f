//! Cache policies over bytes as published (LRU, SIEVE, S3-FIFO), and the store's own. Plain models whose
//! correctness is evident. The store's takes the same steps as `src/store/index/policy.rs`, which works on an
//! index.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use crate::trace::TraceRequest;

/// A cache of bounded bytes.
pub(crate) trait CachePolicy {
    /// Requests an object; returns true on a hit. A missing object is inserted.
    fn request(&mut self, request: &TraceRequest) -> bool;
}

/// Evicts the least recently used object.
pub(crate) struct Lru {
    quota: u64,
    bytes: u64,
    turn: u64,
    objects: HashMap<u64, (u64, u64)>,
    order: BTreeMap<u64, u64>,
}

impl Lru {
    pub(crate) fn new(quota: u64) -> Self {
        Self { quota, bytes: 0, turn: 0, objects: HashMap::new(), order: BTreeMap::new() }
    }
}

impl CachePolicy for Lru {
    fn request(&mut self, request: &TraceRequest) -> bool {
        self.turn += 1;
        let hit = match self.objects.get_mut(&request.object) {
            Some((turn, _)) => {
                self.order.remove(&std::mem::replace(turn, self.turn));
                true
            }
            None => {
                while self.bytes + request.size > self.quota
                    && let Some((_, oldest)) = self.order.pop_first()
                {
                    self.bytes -= self.objects.remove(&oldest).map_or(0, |(_, size)| size);
                }
                self.bytes += request.size;
                self.objects.insert(request.object, (self.turn, request.size));
                false
            }
        };
        self.order.insert(self.turn, request.object);
        hit
    }
}

/// SIEVE (Zhang et al., NSDI 2024): one queue, and a hand that evicts objects not requested since its last pass.
pub(crate) struct Sieve {
    quota: u64,
    bytes: u64,
    turn: u64,
    hand: u64,
    objects: HashMap<u64, (u64, bool)>,
    order: BTreeMap<u64, u64>,
}

impl Sieve {
    pub(crate) fn new(quota: u64) -> Self {
        Self { quota, bytes: 0, turn: 0, hand: 0, objects: HashMap::new(), order: BTreeMap::new() }
    }
}

impl CachePolicy for Sieve {
    fn request(&mut self, request: &TraceRequest) -> bool {
        if let Some((_, visited)) = self.objects.get_mut(&request.object) {
            *visited = true;
            return true;
        }
        while self.bytes + request.size > self.quota {
            let next = self.order.range(self.hand..).next().or_else(|| self.order.iter().next());
            let Some((&at, &object)) = next else { break };
            self.hand = at + 1;
            if let Some((size, visited)) = self.objects.get_mut(&object)
                && !std::mem::take(visited)
            {
                self.bytes -= *size;
                self.objects.remove(&object);
                self.order.remove(&at);
            }
        }
        self.turn += 1;
        self.bytes += request.size;
        self.order.insert(self.turn, request.object);
        self.objects.insert(request.object, (request.size, false));
        false
    }
}

/// Parameters of S3-FIFO.
#[derive(Clone, Copy)]
pub(crate) struct S3FifoParameters {
    /// Percentage of the quota for the small queue.
    pub(crate) small: u64,
    /// Number of uses that move an object from the small queue to the main queue.
    pub(crate) promoted: u8,
    /// Number of ghosts.
    pub(crate) ghosts: Ghosts,
    /// True if uses within a minute count as one: the store records them once a minute.
    pub(crate) per_minute: bool,
}

/// Number of ghosts: remembered keys evicted from the small queue.
#[derive(Clone, Copy)]
pub(crate) enum Ghosts {
    /// As many as objects in the main queue.
    SameAsMain,
    /// A fixed number.
    Fixed(usize),
}

/// S3-FIFO (Yang et al., SOSP 2023): a small queue for new objects, a main queue, and ghosts of objects evicted
/// from the small queue.
pub(crate) struct S3Fifo {
    quota: u64,
    parameters: S3FifoParameters,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    small_bytes: u64,
    bytes: u64,
    objects: HashMap<u64, CachedObject>,
    ghosts: VecDeque<u64>,
    remembered: HashSet<u64>,
}

struct CachedObject {
    size: u64,
    uses: u8,
    minute: u32,
}

impl S3Fifo {
    pub(crate) fn new(quota: u64, parameters: S3FifoParameters) -> Self {
        Self {
            quota,
            parameters,
            small: VecDeque::new(),
            main: VecDeque::new(),
            small_bytes: 0,
            bytes: 0,
            objects: HashMap::new(),
            ghosts: VecDeque::new(),
            remembered: HashSet::new(),
        }
    }

    fn evict(&mut self) {
        let from_small = self.small_bytes * 100 > self.bytes * self.parameters.small || self.main.is_empty();
        if from_small && let Some(object) = self.small.pop_front() {
            let Some(entry) = self.objects.get_mut(&object) else { return };
            self.small_bytes -= entry.size;
            if entry.uses >= self.parameters.promoted {
                entry.uses = 0;
                self.main.push_back(object);
            } else {
                self.bytes -= entry.size;
                self.objects.remove(&object);
                self.remember(object);
            }
        } else if let Some(object) = self.main.pop_front() {
            let Some(entry) = self.objects.get_mut(&object) else { return };
            if entry.uses > 0 {
                entry.uses -= 1;
                self.main.push_back(object);
            } else {
                self.bytes -= entry.size;
                self.objects.remove(&object);
            }
        }
    }

    fn remember(&mut self, object: u64) {
        self.ghosts.push_back(object);
        self.remembered.insert(object);
        let most = match self.parameters.ghosts {
            Ghosts::SameAsMain => self.main.len().max(1),
            Ghosts::Fixed(most) => most,
        };
        while self.ghosts.len() > most {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.remembered.remove(&oldest);
            }
        }
    }
}

impl CachePolicy for S3Fifo {
    fn request(&mut self, request: &TraceRequest) -> bool {
        if let Some(entry) = self.objects.get_mut(&request.object) {
            if !self.parameters.per_minute || entry.minute != request.minute {
                entry.uses = (entry.uses + 1).min(3);
                entry.minute = request.minute;
            }
            return true;
        }
        while self.bytes + request.size > self.quota && !self.objects.is_empty() {
            self.evict();
        }
        self.bytes += request.size;
        let entry = CachedObject { size: request.size, uses: 0, minute: request.minute };
        self.objects.insert(request.object, entry);
        if self.remembered.contains(&request.object) {
            self.main.push_back(request.object);
        } else {
            self.small_bytes += request.size;
            self.small.push_back(request.object);
        }
        false
    }
}
