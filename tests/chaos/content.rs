//! What the managers publish: objects whose bytes are a function of their number, version and position, so that any piece
//! can be checked wherever it turns up, and nothing is held in memory. An `ETag` says which version a response is of.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Objects that come out each second: what is new crosses the line all the time.
const PER_SECOND: f64 = 3.0;

/// Objects there are at the beginning.
const FIRST: usize = 40;

/// How long a version of content that changes lasts.
const LASTS: Duration = Duration::from_secs(7);

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// What there is, more of it every second.
pub(crate) struct Published {
    seed: u64,
    begun: Instant,
}

/// One name under which there is content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Object {
    number: usize,
    pub(crate) length: u64,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Immutable by name, and the same on every manager.
    Payload,
    /// Immutable by name, but each manager has made it itself.
    Rebuilt,
    /// Another version every few seconds.
    Changing,
}

/// Bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Version {
    pub(crate) object: Object,
    pub(crate) number: u64,
    seed: u64,
}

impl Published {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, begun: Instant::now() }
    }

    /// How many objects there are by now.
    pub(crate) fn count(&self) -> usize {
        FIRST + (self.begun.elapsed().as_secs_f64() * PER_SECOND) as usize
    }

    pub(crate) fn object(&self, number: usize) -> Object {
        let dice = mix(self.seed ^ number as u64);
        // From 1 KiB to 2 MiB, and one in 16 up to 16 MiB: most are small, most bytes are in large ones.
        let least = if number % 16 == 7 { 8 << 20 } else { 1 << (10 + dice % 11) };
        let length = least + mix(dice) % least;
        let kind = match number % 8 {
            3 => Kind::Changing,
            5 => Kind::Rebuilt,
            _ => Kind::Payload,
        };
        Object { number, length, kind }
    }

    /// The object at a path, if there is one.
    pub(crate) fn at(&self, path: &str) -> Option<Object> {
        let number = path.trim_matches(|c: char| !c.is_ascii_digit()).rsplit('-').next()?.parse().ok()?;
        Some(self.object(number)).filter(|object| object.path() == path)
    }

    /// What a manager has of it now.
    pub(crate) fn current(&self, object: Object, manager: u64) -> Version {
        let number = match object.kind {
            Kind::Payload => 0,
            Kind::Rebuilt => manager,
            Kind::Changing => self.begun.elapsed().as_secs() / LASTS.as_secs(),
        };
        self.version(object, number)
    }

    /// The version that an `ETag` is of.
    pub(crate) fn tagged(&self, object: Object, etag: &str) -> Option<Version> {
        let (number, version) = etag.trim_matches('"').split_once('v')?;
        let version = self.version(object, version.parse().ok()?);
        (number.parse() == Ok(object.number)).then_some(version)
    }

    fn version(&self, object: Object, number: u64) -> Version {
        Version { object, number, seed: mix(self.seed ^ mix(object.number as u64 ^ number << 32)) }
    }
}

impl Object {
    pub(crate) fn path(&self) -> String {
        let number = self.number;
        match self.kind {
            Kind::Changing => format!("/files/changing-{number}"),
            _ => format!("/content/{{535CB6A4-441F-4e8a-A897-804CD859100E}}/261121001/delta-{number}.dax"),
        }
    }
}

impl Version {
    pub(crate) fn etag(&self) -> String {
        format!("\"{}v{}\"", self.object.number, self.number)
    }

    /// The bytes from `at` on.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) {
        let mut position = at;
        let mut rest = into;
        while !rest.is_empty() {
            let word = mix(self.seed.wrapping_add((position / 8).wrapping_mul(GAMMA))).to_le_bytes();
            let word = &word[(position % 8) as usize..];
            let count = word.len().min(rest.len());
            rest[..count].copy_from_slice(&word[..count]);
            rest = &mut rest[count..];
            position += count as u64;
        }
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        let (mut sha256, mut buffer) = (Sha256::new(), vec![0; 64 << 10]);
        let mut at = 0;
        while at < self.object.length {
            let count = (self.object.length - at).min(buffer.len() as u64) as usize;
            self.read(at, &mut buffer[..count]);
            sha256.update(&buffer[..count]);
            at += count as u64;
        }
        sha256.finalize().into()
    }
}

/// SplitMix64's last step: any seed gives numbers that look random.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A seeded source of decisions.
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0) % most.max(1)
    }
}
