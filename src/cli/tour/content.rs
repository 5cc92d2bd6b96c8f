//! What the demo's manager publishes: SyLink definitions with full sets and deltas, and LiveUpdate products with their
//! catalogs and payloads. Owns every object's path, length, bytes and SHA-256.
//! Bytes are a function of seed and position, so nothing is stored and any range costs the same; names follow the
//! published layouts of both protocols. Nothing here does I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

const KIB: u64 = 1024;

/// GUID, full set in KiB and delta in KiB of each published definition set. Deltas have the size of real ones
/// (40 to 200 KB); full sets are far smaller than real ones (100 MB), so that the line needs some 20 s for it all.
const DEFINITIONS: [(&str, u64, u64); 4] = [
    ("{07B590B3-9282-482f-BBAA-6D515D385869}", 5 * KIB, 180),
    ("{535CB6A4-441F-4e8a-A897-804CD859100E}", 4 * KIB, 160),
    ("{55DE35DC-862A-44c9-8A2B-3EF451665D0A}", 5 * KIB / 2, 90),
    ("{D6AEBC07-D833-485f-9723-6C908D37F806}", 3 * KIB / 2, 50),
];

/// Sequence numbers (`yyMMddrrr`) a manager keeps of each set, oldest first.
const SEQUENCES: [u64; 3] = [250_603_003, 250_603_019, 250_604_002];

/// The LiveUpdate products. Payload names begin with the time they were made, as real ones do.
const PRODUCTS: [Published; 4] = [
    Published {
        platform: Platform::Linux,
        livetri: "/sesc$20virus$20definitions$20linux_14.3_symalllanguages_livetri.zip",
        payloads: &[
            ("/1749002412_linux_virus_definitions.7z", 3 * KIB),
            ("/1749002415_linux_curdefs.zip", 300),
        ],
    },
    Published {
        platform: Platform::Mac,
        livetri: "/sesc$20virus$20definitions$20mac_14.3_symalllanguages_livetri.zip",
        payloads: &[
            ("/1749002431_mac_virus_definitions.7z", 5 * KIB / 2),
            ("/1749002433_mac_curdefs.zip", 200),
        ],
    },
    Published {
        platform: Platform::Mac,
        livetri: "/sesc$20ips$20signatures$20mac_14.3_symalllanguages_livetri.zip",
        payloads: &[("/1748988049_mac_ips_signatures.7z", 3 * KIB / 2)],
    },
    Published {
        platform: Platform::Both,
        livetri: "/liveupdate$20engine_5.1_symalllanguages_livetri.zip",
        payloads: &[("/1748901633_liveupdate_engine.7z", 800)],
    },
];

struct Published {
    platform: Platform,
    livetri: &'static str,
    /// Paths and KiB.
    payloads: &'static [(&'static str, u64)],
}

/// KiB of a catalog.
const LIVETRI_KIB: u64 = 4;

/// A catalog the manager does not have. Clients ask for what they have installed, published or not.
pub const UNPUBLISHED_CATALOG: &str = "/sesc$20client$20patches_14.3_symalllanguages_livetri.zip";

const NEWEST: usize = SEQUENCES.len() - 1;

/// Publication time of the oldest revision, 2025-06-03T02:00:00Z; each later one follows after [`REVISION_EVERY`].
const FIRST_PUBLISHED: Duration = Duration::from_secs(1_748_916_000);
const REVISION_EVERY: Duration = Duration::from_secs(8 * 3600);

/// Which LiveUpdate clients have a product installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Linux agents.
    Linux,
    /// Mac agents.
    Mac,
    /// Every LiveUpdate client.
    Both,
}

/// Everything the manager has, as it has it.
#[derive(Debug)]
pub struct Site {
    /// The SyLink sets, by GUID.
    pub definitions: Vec<Definitions>,
    /// `minitri.flg`, the first thing a LiveUpdate client asks for.
    pub flag: Arc<Object>,
    /// The LiveUpdate products.
    pub products: Vec<Product>,
    by_path: HashMap<String, Arc<Object>>,
}

/// One GUID's content: the newest revision and the ways to it.
#[derive(Debug)]
pub struct Definitions {
    /// The newest full set.
    pub full: Arc<Object>,
    /// Deltas to the newest revision, from the revision before it first.
    pub deltas: Vec<Arc<Object>>,
}

/// One LiveUpdate product.
#[derive(Debug)]
pub struct Product {
    /// Who asks for it.
    pub platform: Platform,
    /// Its catalog.
    pub livetri: Arc<Object>,
    /// What the catalog names.
    pub payloads: Vec<Arc<Object>>,
}

/// One published file.
#[derive(Debug)]
pub struct Object {
    path: String,
    body: Body,
    sha256: [u8; 32],
    published: SystemTime,
}

#[derive(Debug)]
enum Body {
    Literal(&'static [u8]),
    Generated { seed: u64, length: u64 },
}

impl Site {
    /// The site grown from `seed`: the same seed gives the same bytes, another seed gives other bytes of the same
    /// lengths under the same names.
    pub fn new(seed: u64) -> Self {
        let mut shelf = Shelf { seed, by_path: HashMap::new() };
        let definitions =
            DEFINITIONS.iter().map(|(guid, full, delta)| shelf.definitions(guid, *full, *delta)).collect();
        let flag = shelf.add("/minitri.flg".to_owned(), 0, |_| Body::Literal(b" "));
        let products = PRODUCTS
            .iter()
            .map(|product| Product {
                platform: product.platform,
                livetri: shelf.generated(product.livetri.to_owned(), LIVETRI_KIB, NEWEST),
                payloads: product
                    .payloads
                    .iter()
                    .map(|&(path, kib)| shelf.generated(path.to_owned(), kib, NEWEST))
                    .collect(),
            })
            .collect();
        Self { definitions, flag, products, by_path: shelf.by_path }
    }

    /// The object published at `path`, spelled as the manager spells it.
    pub fn at(&self, path: &str) -> Option<&Arc<Object>> {
        self.by_path.get(path)
    }

    /// Bytes of everything published.
    pub fn length(&self) -> u64 {
        self.by_path.values().map(|object| object.length()).sum()
    }
}

impl Object {
    /// Its path on the manager.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        match self.body {
            Body::Literal(bytes) => bytes.len() as u64,
            Body::Generated { length, .. } => length,
        }
    }

    /// The SHA-256 of all its bytes.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// Its strong validator (RFC 9110 §8.8.3).
    pub fn etag(&self) -> String {
        let [a, b, c, d, ..] = self.sha256;
        format!("\"{:08x}\"", u32::from_be_bytes([a, b, c, d]))
    }

    /// When it was published, to the second.
    pub fn published(&self) -> SystemTime {
        self.published
    }

    /// Its bytes from `offset` on, at most `most` of them; empty at and after its end.
    pub fn bytes(&self, offset: u64, most: usize) -> Vec<u8> {
        let left = usize::try_from(self.length().saturating_sub(offset)).unwrap_or(usize::MAX);
        self.body.bytes(offset, most.min(left))
    }
}

impl Body {
    /// `count` bytes from `offset`, which the caller has kept within the body.
    fn bytes(&self, offset: u64, count: usize) -> Vec<u8> {
        match self {
            Self::Literal(bytes) => bytes.iter().skip(offset as usize).take(count).copied().collect(),
            Self::Generated { seed, .. } => {
                let (first_word, skip) = (offset / 8, (offset % 8) as usize);
                let mut bytes = Vec::with_capacity(skip + count + 8);
                for word in first_word..first_word + (skip + count).div_ceil(8) as u64 {
                    bytes.extend_from_slice(&mix(seed.wrapping_add(word)).to_le_bytes());
                }
                bytes.truncate(skip + count);
                bytes.drain(..skip);
                bytes
            }
        }
    }
}

/// The objects made so far.
struct Shelf {
    seed: u64,
    by_path: HashMap<String, Arc<Object>>,
}

impl Shelf {
    /// Every revision of a set; what is returned is the newest.
    fn definitions(&mut self, guid: &str, full_kib: u64, delta_kib: u64) -> Definitions {
        for older in 0..NEWEST {
            self.revision(guid, older, full_kib, delta_kib);
        }
        self.revision(guid, NEWEST, full_kib, delta_kib)
    }

    fn revision(&mut self, guid: &str, revision: usize, full_kib: u64, delta_kib: u64) -> Definitions {
        let target = SEQUENCES[revision];
        let full = self.generated(format!("/content/{guid}/{target}/full.zip"), full_kib, revision);
        let deltas = (1..=revision)
            .map(|behind| {
                let path = format!("/content/{guid}/{target}/xdelta{}.dax", SEQUENCES[revision - behind]);
                // A delta over two revisions is larger than one over the last only.
                self.generated(path, delta_kib * (behind as u64 + 3) / 4, revision)
            })
            .collect();
        Definitions { full, deltas }
    }

    fn generated(&mut self, path: String, kib: u64, revision: usize) -> Arc<Object> {
        // Not whole KiB: lengths on block boundaries would hide errors of one byte.
        let length = kib * KIB - 1 - kib % 499;
        self.add(path, revision, |seed| Body::Generated { seed, length })
    }

    fn add(&mut self, path: String, revision: usize, body: impl FnOnce(u64) -> Body) -> Arc<Object> {
        let seed = mix(self.seed ^ mix(self.by_path.len() as u64));
        let published = UNIX_EPOCH + FIRST_PUBLISHED + REVISION_EVERY * revision as u32;
        let mut object = Object { path, body: body(seed), sha256: [0; 32], published };
        object.sha256 = sha256(&object);
        let object = Arc::new(object);
        self.by_path.insert(object.path.clone(), Arc::clone(&object));
        object
    }
}

/// The SplitMix64 output function: every bit of `state` changes every bit of the result with probability one half.
pub(super) fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn sha256(object: &Object) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut offset = 0;
    while offset < object.length() {
        let piece = object.bytes(offset, 64 * KIB as usize);
        offset += piece.len() as u64;
        hasher.update(&piece);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_depend_on_the_position_only() {
        let site = Site::new(1);
        let object = &site.definitions[0].deltas[0];
        let whole = object.bytes(0, usize::MAX);
        assert_eq!(whole.len() as u64, object.length());
        for (offset, count) in [(0, 1), (1, 7), (7, 9), (8, 8), (4095, 4097), (whole.len() - 3, 3)] {
            assert_eq!(object.bytes(offset as u64, count), whole[offset..offset + count], "{offset}+{count}");
        }
        assert_eq!(object.bytes(object.length() - 2, 10), whole[whole.len() - 2..], "cut at the end");
        assert!(object.bytes(object.length(), 1).is_empty());
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&whole)), *object.sha256());
    }

    #[test]
    fn the_same_seed_gives_the_same_site_and_another_one_other_bytes_of_the_same_length() {
        let (site, same, other) = (Site::new(1), Site::new(1), Site::new(2));
        assert_eq!(site.by_path.len(), same.by_path.len());
        for (path, object) in &site.by_path {
            assert_eq!(object.sha256(), same.by_path[path].sha256(), "{path}");
            assert_eq!(object.length(), other.by_path[path].length(), "{path}");
            assert_eq!(object.sha256() == other.by_path[path].sha256(), path == "/minitri.flg", "{path}");
        }
    }

    #[test]
    fn the_flag_is_one_blank_and_no_two_objects_share_bytes() {
        let site = Site::new(1);
        assert_eq!(site.flag.bytes(0, 10), [0x20]);
        let digests: std::collections::HashSet<_> =
            site.by_path.values().map(|object| object.sha256()).collect();
        assert_eq!(digests.len(), site.by_path.len());
    }
}
