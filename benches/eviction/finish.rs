//! Cost of finishing downloads after their clients have gone, by `fill.finish`. The trace is the site's, in which some
//! clients break off and most of those come back. A store of 20 GiB evicts the least recently used object.

use std::collections::{BTreeMap, HashMap};

use gupd_site::Random;

use crate::trace::TraceRequest;

const MIB: u64 = 1 << 20;
const QUOTA: u64 = 20 << 30;

/// Smallest request to an upstream: a chunk.
const CHUNK: u64 = MIB;

/// Downloads that break off, in percent, at any byte. Three of four clients ask for the rest later.
const BROKEN: u64 = 5;
const RETURNING: u64 = 75;

/// When the rest of an object is fetched that no client waits for.
#[derive(Clone, Copy)]
pub(crate) enum Finish {
    Always,
    /// Once this percentage has arrived, or if the object has at most a chunk.
    Above(u64),
    /// Once a second client has asked.
    SecondClient,
    Never,
}

pub(crate) const CHOICES: [(&str, Finish); 6] = [
    ("always", Finish::Always),
    ("25 %", Finish::Above(25)),
    ("50 % (default)", Finish::Above(50)),
    ("75 %", Finish::Above(75)),
    ("a second client", Finish::SecondClient),
    ("never", Finish::Never),
];

/// What a choice costs over the trace.
#[derive(Default)]
pub(crate) struct FinishCost {
    /// Bytes that crossed the WAN.
    pub(crate) wan: u64,
    /// Those of them that a client waited for.
    pub(crate) waited: u64,
}

/// A store with whole and partial objects. An object has its first bytes.
struct PartialStore {
    finish: Finish,
    turn: u64,
    bytes: u64,
    objects: HashMap<u64, PartialObject>,
    order: BTreeMap<u64, u64>,
    cost: FinishCost,
}

#[derive(Clone, Copy, Default)]
struct PartialObject {
    turn: u64,
    present: u64,
    requests: u64,
}

/// Returns the cost of a choice. With `inspections`, requests for one-off objects read a byte only.
pub(crate) fn cost(finish: Finish, requests: &[TraceRequest], inspections: bool) -> FinishCost {
    let mut random = Random::new(7);
    let mut store = PartialStore::new(finish);
    for request in requests {
        let is_one_off = request.object >> 63 == 1;
        if is_one_off && inspections {
            store.read(request, 1);
        } else if random.below(100) < BROKEN {
            store.read(request, random.below(request.size).max(1));
            if random.below(100) < RETURNING {
                store.read(request, request.size);
            }
        } else {
            store.read(request, request.size);
        }
    }
    store.cost
}

impl PartialStore {
    fn new(finish: Finish) -> Self {
        let cost = FinishCost::default();
        Self { finish, turn: 0, bytes: 0, objects: HashMap::new(), order: BTreeMap::new(), cost }
    }

    /// A client reads up to `end` and leaves.
    fn read(&mut self, request: &TraceRequest, end: u64) {
        let mut object = self.objects.get(&request.object).copied().unwrap_or_default();
        self.order.remove(&object.turn);
        self.bytes -= object.present;
        object.requests += 1;
        let until = end.next_multiple_of(CHUNK).min(request.size);
        let missing = until.saturating_sub(object.present);
        self.cost.waited += missing;
        self.cost.wan += missing;
        object.present = object.present.max(until);
        if self.finishes(&object, request.size) {
            self.cost.wan += request.size - object.present;
            object.present = request.size;
        }
        while self.bytes + object.present > QUOTA
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.bytes -= self.objects.remove(&oldest).map_or(0, |evicted| evicted.present);
        }
        self.turn += 1;
        object.turn = self.turn;
        self.bytes += object.present;
        self.order.insert(self.turn, request.object);
        self.objects.insert(request.object, object);
    }

    fn finishes(&self, object: &PartialObject, size: u64) -> bool {
        match self.finish {
            Finish::Always => true,
            Finish::Above(percent) => size <= CHUNK || object.present * 100 >= size * percent,
            Finish::SecondClient => object.requests > 1,
            Finish::Never => false,
        }
    }
}

/// Returns the bytes that a hostile client causes to cross the WAN for each byte that it waits for. It leaves objects of 40
/// MiB after the chunk that is best for it.
pub(crate) fn multiplication(finish: Finish) -> f64 {
    let size = 40 * MIB;
    let ends = (0..40).map(|chunk| chunk * MIB + 1);
    let factor = |end: u64| {
        let request = TraceRequest { minute: 0, object: 0, size };
        let mut store = PartialStore::new(finish);
        store.read(&request, end);
        store.cost.wan as f64 / end.next_multiple_of(CHUNK) as f64
    };
    ends.map(factor).fold(0.0, f64::max)
}
