//! `[tier]`: the object store that relays share as a second tier. A location that this version does not know is a
//! warning: the relay serves without the tier.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use crate::defaults;
use crate::document::{Document, Section};
use crate::peer::PeerSettings;
use crate::reader::{boolean, file, label, origin, size, time};
use crate::upstream::UpstreamSettings;

/// Name of the tier among upstreams and peers.
const NAME: &str = "tier";

/// `[tier]`
#[derive(Clone, Debug, PartialEq)]
pub struct TierSettings {
    /// The configured URL.
    pub url: String,
    /// Where the objects are.
    pub location: TierLocation,
    /// Time to the first byte after which managers are asked too, 10 ms to 1 m.
    pub hedge: Duration,
    /// Time for one operation, 1 s to 5 m.
    pub timeout: Duration,
    /// True if the relay publishes the payloads that it gets from managers.
    pub publish: bool,
    /// Whether the bytes of the tier cross the WAN, and keep to its limits.
    pub wan: bool,
    /// Maximum bytes of an object that is published, 64 KiB to 16 GiB.
    pub max_object: u64,
}

/// Location of the objects of the tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TierLocation {
    /// A folder, such as one of a network file system. It must exist.
    Folder(PathBuf),
    /// A bucket of S3 or a compatible service.
    Bucket(BucketSettings),
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSettings {
    /// Its name.
    pub bucket: String,
    /// Prefix of the objects, without slashes around it; may be empty.
    pub prefix: String,
    /// The service; `None` for that of AWS.
    pub endpoint: Option<Uri>,
    /// Its region.
    pub region: String,
    /// File with the credentials; `None` for those of the environment.
    pub credentials_file: Option<PathBuf>,
    /// PEM file of issuers that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
}

impl TierSettings {
    /// Returns the URL of the tier's service within the process.
    pub fn service_url(&self) -> Uri {
        Uri::from_static("http://tier.invalid")
    }
}

pub(crate) fn read_tier(
    document: &mut Document,
    upstreams: &[UpstreamSettings],
    peers: &[PeerSettings],
) -> Option<TierSettings> {
    let mut s = document.take_section("tier");
    let url = s.read("url", |text| Ok(text.to_owned()));
    let bucket = read_bucket(&mut s);
    let location = url.as_deref().and_then(|url| read_location(&mut s, url, bucket));
    let is_local = matches!(location, Some(TierLocation::Folder(_)));
    let wan = s.read("wan", boolean);
    let (hedge, timeout) =
        (time(&mut s, "hedge", defaults::TIER_HEDGE), time(&mut s, "timeout", defaults::TIER_TIMEOUT));
    let publish = s.read("publish", boolean).unwrap_or(true);
    let max_object = size(&mut s, "max_object", defaults::TIER_MAX_OBJECT);
    if url.is_none() && s.location().is_some() {
        s.refuse_missing("url");
    }
    let names = upstreams.iter().map(|upstream| &upstream.name).chain(peers.iter().map(|peer| &peer.name));
    if url.is_some() && names.into_iter().any(|name| name == NAME) {
        s.refuse("url", "an upstream or peer has the name \"tier\", which is the tier's: rename it");
    }
    if url.is_some() && hedge > timeout {
        s.warn("hedge", "exceeds tier.timeout: a silent tier is given up before");
    }
    document.close(s);
    Some(TierSettings {
        url: url?,
        location: location?,
        hedge,
        timeout,
        publish,
        wan: wan.unwrap_or(!is_local),
        max_object,
    })
}

/// Reads the settings of a bucket, all but its name.
fn read_bucket(s: &mut Section) -> BucketSettings {
    BucketSettings {
        bucket: String::new(),
        prefix: String::new(),
        endpoint: s.read("endpoint", |text| origin(text, "https://s3.example:9000")),
        region: s.read("region", label).unwrap_or_else(|| defaults::TIER_REGION.to_owned()),
        credentials_file: file(s, "credentials_file"),
        ca: file(s, "ca"),
    }
}

fn read_location(s: &mut Section, url: &str, bucket: BucketSettings) -> Option<TierLocation> {
    const EXAMPLE: &str = "file:///mnt/share/gupd or s3://bucket/prefix";
    let Some((scheme, rest)) = url.split_once("://") else {
        s.refuse("url", format!("{url:?} is not a URL: write it like {EXAMPLE}"));
        return None;
    };
    if scheme == "file" {
        for key in ["endpoint", "region", "credentials_file", "ca"]
            .into_iter()
            .filter(|key| s.is_given(key))
            .collect::<Vec<_>>()
        {
            s.warn(key, "has no effect: tier.url is a folder");
        }
    }
    match scheme {
        "s3" => {
            match rest.trim_end_matches('/').split_once('/').unwrap_or((rest.trim_end_matches('/'), "")) {
                (name, prefix)
                    if is_bucket_name(name) && !prefix.contains("//") && !prefix.contains(['?', '#']) =>
                {
                    let (bucket_name, prefix) = (name.to_owned(), prefix.to_owned());
                    Some(TierLocation::Bucket(BucketSettings { bucket: bucket_name, prefix, ..bucket }))
                }
                _ => {
                    s.refuse("url", format!("{url:?} names no bucket: write it like s3://bucket/prefix"));
                    None
                }
            }
        }
        "file" if rest.len() > 1 && rest.starts_with('/') => Some(TierLocation::Folder(PathBuf::from(rest))),
        "file" => {
            s.refuse("url", format!("{url:?} names no absolute folder: write it like {EXAMPLE}"));
            None
        }
        _ => {
            s.warn(
                "url",
                format!("unknown scheme {scheme:?}, so the relay serves without the tier: use file or s3"),
            );
            None
        }
    }
}

/// Returns true for a name of a bucket: three to 63 lower-case letters, digits, dots and hyphens.
fn is_bucket_name(name: &str) -> bool {
    let is_part =
        |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || matches!(char, '.' | '-');
    (3..=63).contains(&name.len()) && name.chars().all(is_part)
}
