//! Content of the managers: the bytes of an object depend on number, version and position, so any piece can be
//! verified. An `ETag` names the version of a response.

use std::ops::Range;
use std::time::{Duration, Instant};

use gupd_site::{Content, mix};

/// Objects published each second, so that new content crosses the line all the time.
const PER_SECOND: f64 = 3.0;

/// Objects that clients ask for: the newest, of about 1 MiB each. They fit the store's queue of new objects, a quarter
/// of the quota, so none is evicted while clients want it, however long the test runs.
const WANTED: usize = 72;

/// Objects at the start.
const FIRST: usize = 40;

/// Lifetime of a version of changing content.
const LIFETIME: Duration = Duration::from_secs(7);

/// All content, more of it every second.
pub(crate) struct Published {
    seed: u64,
    begun: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    number: usize,
    pub(crate) length: u64,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Immutable by name, and the same on every manager.
    Payload,
    /// Immutable by name, but each manager has made it itself.
    Rebuilt,
    /// A new version every few seconds.
    Changing,
}

/// Bytes of an object, and their `ETag`.
pub(crate) struct Version {
    pub(crate) content: Content,
    pub(crate) etag: String,
}

impl Published {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, begun: Instant::now() }
    }

    /// Numbers of the objects that clients ask for now, the oldest first.
    pub(crate) fn wanted(&self) -> Range<usize> {
        let count = FIRST + (self.begun.elapsed().as_secs_f64() * PER_SECOND) as usize;
        count.saturating_sub(WANTED)..count
    }

    pub(crate) fn object(&self, number: usize) -> Object {
        let random = mix(self.seed ^ number as u64);
        // From 1 KiB to 2 MiB, and one in 16 up to 16 MiB: most are small, most bytes are in large ones.
        let least = if number % 16 == 7 { 8 << 20 } else { 1 << (10 + random % 11) };
        let length = least + mix(random) % least;
        let kind = match number % 8 {
            3 => Kind::Changing,
            5 => Kind::Rebuilt,
            _ => Kind::Payload,
        };
        Object { number, length, kind }
    }

    /// The object at a path.
    pub(crate) fn at(&self, path: &str) -> Option<Object> {
        let number = path.trim_matches(|c: char| !c.is_ascii_digit()).rsplit('-').next()?.parse().ok()?;
        Some(self.object(number)).filter(|object| object.path() == path)
    }

    /// The version that a manager has now.
    pub(crate) fn current(&self, object: Object, manager: u64) -> Version {
        let number = match object.kind {
            Kind::Payload => 0,
            Kind::Rebuilt => manager,
            Kind::Changing => self.begun.elapsed().as_secs() / LIFETIME.as_secs(),
        };
        self.version(object, number)
    }

    /// The version that an `ETag` names.
    pub(crate) fn tagged(&self, object: Object, etag: &str) -> Option<Version> {
        let (number, version) = etag.trim_matches('"').split_once('v')?;
        let version = self.version(object, version.parse().ok()?);
        (number.parse() == Ok(object.number)).then_some(version)
    }

    fn version(&self, object: Object, number: u64) -> Version {
        let seed = mix(self.seed ^ mix(object.number as u64 ^ number << 32));
        let etag = format!("\"{}v{number}\"", object.number);
        Version { content: Content::generated(seed, object.length), etag }
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
