//! Content of a manager in the published URL layouts: SyLink definitions with full sets and deltas, and LiveUpdate
//! products with catalogs and payloads. The same seed gives the same paths, lengths, bytes and SHA-256.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::random::mix;
use crate::{Content, OriginServer, Resource};

const KIB: u64 = 1024;

/// GUID, full set in KiB and delta in KiB of each definition set. Deltas have the size of real ones (40 to 200 KB).
/// Full sets are far smaller than real ones (100 MB), so that a line of 10 Mbit/s needs some 20 s for everything.
const DEFINITIONS: [(&str, u64, u64); 4] = [
    ("{07B590B3-9282-482f-BBAA-6D515D385869}", 5 * KIB, 180),
    ("{535CB6A4-441F-4e8a-A897-804CD859100E}", 4 * KIB, 160),
    ("{55DE35DC-862A-44c9-8A2B-3EF451665D0A}", 5 * KIB / 2, 90),
    ("{D6AEBC07-D833-485f-9723-6C908D37F806}", 3 * KIB / 2, 50),
];

/// Sequence numbers (`yyMMddrrr`) that a manager keeps of each set, oldest first.
const SEQUENCES: [u64; 3] = [250_603_003, 250_603_019, 250_604_002];

/// Path and KiB of each payload. Names begin with the time of their making, as real ones.
type PayloadList = &'static [(&'static str, u64)];

/// Platform, catalog and payloads of each product.
const PRODUCTS: [(Platform, &str, PayloadList); 4] = [
    (
        Platform::Linux,
        "/sesc$20virus$20definitions$20linux_14.3_symalllanguages_livetri.zip",
        &[("/1749002412_linux_virus_definitions.7z", 3 * KIB), ("/1749002415_linux_curdefs.zip", 300)],
    ),
    (
        Platform::Mac,
        "/sesc$20virus$20definitions$20mac_14.3_symalllanguages_livetri.zip",
        &[("/1749002431_mac_virus_definitions.7z", 5 * KIB / 2), ("/1749002433_mac_curdefs.zip", 200)],
    ),
    (
        Platform::Mac,
        "/sesc$20ips$20signatures$20mac_14.3_symalllanguages_livetri.zip",
        &[("/1748988049_mac_ips_signatures.7z", 3 * KIB / 2)],
    ),
    (
        Platform::Both,
        "/liveupdate$20engine_5.1_symalllanguages_livetri.zip",
        &[("/1748901633_liveupdate_engine.7z", 800)],
    ),
];

/// KiB of a catalog.
const LIVETRI_KIB: u64 = 4;

/// A catalog that the manager does not have. Clients ask for the products that they have installed, published or not.
pub const UNPUBLISHED_CATALOG: &str = "/sesc$20client$20patches_14.3_symalllanguages_livetri.zip";

const NEWEST: usize = SEQUENCES.len() - 1;

/// Publication time of the oldest revision, 2025-06-03T02:00:00Z.
const FIRST_PUBLISHED: Duration = Duration::from_secs(1_748_916_000);

/// Time between revisions.
const REVISION_INTERVAL: Duration = Duration::from_secs(8 * 3600);

/// The LiveUpdate clients that have a product installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Linux agents.
    Linux,
    /// Mac agents.
    Mac,
    /// Every LiveUpdate client.
    Both,
}

/// All content of a manager.
#[derive(Debug)]
pub struct SepContent {
    /// The SyLink sets, by GUID.
    pub definitions: Vec<Definitions>,
    /// `minitri.flg`, the first object that a LiveUpdate client requests.
    pub flag: Arc<SepObject>,
    /// The LiveUpdate products.
    pub products: Vec<Product>,
    all: Vec<Arc<SepObject>>,
}

/// The newest revision of a definition set, and the ways to it.
#[derive(Debug)]
pub struct Definitions {
    /// The full set.
    pub full: Arc<SepObject>,
    /// Deltas to the newest revision, the one from the revision before it first.
    pub deltas: Vec<Arc<SepObject>>,
}

/// A LiveUpdate product.
#[derive(Debug)]
pub struct Product {
    /// The clients that have it.
    pub platform: Platform,
    /// Its catalog.
    pub livetri: Arc<SepObject>,
    /// The payloads that the catalog names.
    pub payloads: Vec<Arc<SepObject>>,
}

/// A published file.
#[derive(Debug)]
pub struct SepObject {
    /// Path on the manager.
    pub path: String,
    /// The bytes.
    pub content: Content,
    /// SHA-256 of the bytes.
    pub sha256: [u8; 32],
    /// Time of publication, to the second.
    pub published: SystemTime,
}

impl SepContent {
    /// The content grown from `seed`: another seed gives other bytes of the same lengths under the same names.
    pub fn new(seed: u64) -> Self {
        let mut shelf = Shelf { seed, all: Vec::new() };
        let definitions = DEFINITIONS.map(|(guid, full, delta)| shelf.definitions(guid, full, delta)).into();
        let flag = shelf.add("/minitri.flg".to_owned(), 0, |_| Content::from(" "));
        let products = PRODUCTS.map(|(platform, livetri, payloads)| Product {
            platform,
            livetri: shelf.generate(livetri.to_owned(), LIVETRI_KIB, NEWEST),
            payloads: payloads
                .iter()
                .map(|(path, kib)| shelf.generate((*path).to_owned(), *kib, NEWEST))
                .collect(),
        });
        Self { definitions, flag, products: products.into(), all: shelf.all }
    }

    /// Publishes everything on an origin.
    pub fn publish_on(&self, origin: &OriginServer) {
        origin.put(UNPUBLISHED_CATALOG, Resource::empty(404));
        self.all.iter().for_each(|object| object.publish_on(origin));
    }
}

impl SepObject {
    /// A file with these bytes.
    pub fn new(path: String, content: Content, published: SystemTime) -> Self {
        Self { path, sha256: content.sha256(), content, published }
    }

    /// Publishes the file on an origin.
    pub fn publish_on(&self, origin: &OriginServer) {
        let media_type = if self.path.ends_with(".zip") { "zip" } else { "octet-stream" };
        let resource = Resource::tagged(self.content.clone(), &self.etag())
            .header("Last-Modified", &httpdate::fmt_http_date(self.published))
            .header("Accept-Ranges", "bytes")
            .header("Content-Type", &format!("application/{media_type}"));
        origin.put(&self.path, resource);
    }

    /// Strong validator: the first bytes of the SHA-256.
    fn etag(&self) -> String {
        let [a, b, c, d, ..] = self.sha256;
        format!("\"{:08x}\"", u32::from_be_bytes([a, b, c, d]))
    }
}

/// The objects so far.
struct Shelf {
    seed: u64,
    all: Vec<Arc<SepObject>>,
}

impl Shelf {
    /// Adds every revision of a set and returns the newest.
    fn definitions(&mut self, guid: &str, full_kib: u64, delta_kib: u64) -> Definitions {
        for older in 0..NEWEST {
            self.revision(guid, older, full_kib, delta_kib);
        }
        self.revision(guid, NEWEST, full_kib, delta_kib)
    }

    fn revision(&mut self, guid: &str, revision: usize, full_kib: u64, delta_kib: u64) -> Definitions {
        let target = SEQUENCES[revision];
        let full = self.generate(format!("/content/{guid}/{target}/full.zip"), full_kib, revision);
        let deltas = (1..=revision)
            .map(|behind| {
                let path = format!("/content/{guid}/{target}/xdelta{}.dax", SEQUENCES[revision - behind]);
                // A delta over two revisions is larger than one over the last only.
                self.generate(path, delta_kib * (behind as u64 + 3) / 4, revision)
            })
            .collect();
        Definitions { full, deltas }
    }

    fn generate(&mut self, path: String, kib: u64, revision: usize) -> Arc<SepObject> {
        // Not whole KiB: lengths on block boundaries would hide errors of one byte.
        let length = kib * KIB - 1 - kib % 499;
        self.add(path, revision, |seed| Content::generated(seed, length))
    }

    fn add(&mut self, path: String, revision: usize, content: impl FnOnce(u64) -> Content) -> Arc<SepObject> {
        let content = content(mix(self.seed ^ mix(self.all.len() as u64)));
        let published = UNIX_EPOCH + FIRST_PUBLISHED + REVISION_INTERVAL * revision as u32;
        let object = Arc::new(SepObject::new(path, content, published));
        self.all.push(object.clone());
        object
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn seed_changes_bytes_only() {
        let (one, same, other) = (SepContent::new(1), SepContent::new(1), SepContent::new(2));
        for (index, object) in one.all.iter().enumerate() {
            let (same, other) = (&same.all[index], &other.all[index]);
            assert_eq!((&object.path, object.sha256), (&same.path, same.sha256));
            assert_eq!(object.content.length(), other.content.length(), "{}", object.path);
            assert_eq!(object.sha256 == other.sha256, object.path == "/minitri.flg", "{}", object.path);
        }
        assert_eq!(one.flag.content.read(0..10)[..], [0x20]);
        let digests: HashSet<_> = one.all.iter().map(|object| object.sha256).collect();
        assert_eq!(digests.len(), one.all.len(), "two objects share their bytes");
    }
}
