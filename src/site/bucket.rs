//! A bucket that speaks enough of S3 for the tests of the shared tier, over real HTTP: conditional creation, ranges, uploads
//! in parts, listing. It refuses requests without its access key, and fails as it is told.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::{Gate, Manager, OriginServer, RecordedRequest, Resource, lock};

/// Access key of every bucket.
pub const ACCESS_KEY: &str = "site-access-key";

/// Name of every bucket.
pub const BUCKET: &str = "content";

/// A running bucket. Dropping it closes its port.
#[derive(Debug)]
pub struct S3Bucket {
    server: Manager,
    state: Arc<Mutex<BucketState>>,
}

#[derive(Debug, Default)]
struct BucketState {
    objects: BTreeMap<String, StoredObject>,
    /// Parts of running uploads, by upload and number.
    parts: BTreeMap<(String, u32), Vec<u8>>,
    uploads: u32,
    fault: Option<BucketFault>,
    /// Objects created, and creations refused because the object was there.
    creations: (u32, u32),
}

#[derive(Clone, Debug)]
struct StoredObject {
    bytes: Vec<u8>,
    modified: SystemTime,
}

/// How a bucket fails.
#[derive(Clone, Debug)]
pub enum BucketFault {
    /// Every request gets this status and error code.
    Refused(u16, &'static str),
    /// Writes get this status and error code.
    WriteRefused(u16, &'static str),
    /// Requests wait for the gate.
    Silent(Gate),
    /// Content breaks off after some bytes.
    Cut(usize),
}

impl S3Bucket {
    /// Starts an empty bucket.
    ///
    /// # Errors
    /// If no port of loopback is free.
    pub fn start() -> io::Result<Self> {
        let state = Arc::<Mutex<BucketState>>::default();
        let served = state.clone();
        let respond = move |request: &RecordedRequest| Some(lock(&served).respond(request));
        Ok(Self { server: Manager::with_origin(OriginServer::computed(respond))?, state })
    }

    /// The URL of the service.
    pub fn endpoint(&self) -> String {
        self.server.url()
    }

    /// Its server, which logs the requests.
    pub fn server(&self) -> &Manager {
        &self.server
    }

    /// Sets how it fails; `None` ends it.
    pub fn set_fault(&self, fault: Option<BucketFault>) {
        lock(&self.state).fault = fault;
    }

    /// Names of its objects.
    pub fn names(&self) -> Vec<String> {
        lock(&self.state).objects.keys().cloned().collect()
    }

    /// Changes the bytes of the objects with this in their name, and their age.
    pub fn change(&self, part_of_name: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut state = lock(&self.state);
        let matching = state.objects.iter_mut().filter(|(name, _)| name.contains(part_of_name));
        matching.for_each(|(_, object)| change(&mut object.bytes));
    }

    /// Makes all objects older.
    pub fn age(&self, by: Duration) {
        let mut state = lock(&self.state);
        state.objects.values_mut().for_each(|object| object.modified -= by);
    }

    /// Numbers of objects created, and of creations refused because the object was there.
    pub fn creations(&self) -> (u32, u32) {
        lock(&self.state).creations
    }
}

impl BucketState {
    fn respond(&mut self, request: &RecordedRequest) -> Resource {
        let resource = self.refusal(request).unwrap_or_else(|| self.answer(request));
        match &self.fault {
            Some(BucketFault::Silent(gate)) => resource.held(gate),
            Some(BucketFault::Cut(after)) if request.method == "GET" => resource.cut(*after, usize::MAX),
            _ => resource,
        }
    }

    /// Returns the answer to a request that is refused.
    fn refusal(&self, request: &RecordedRequest) -> Option<Resource> {
        let is_write = !matches!(request.method.as_str(), "GET" | "HEAD");
        match &self.fault {
            Some(BucketFault::Refused(status, code)) => return Some(error(*status, code)),
            Some(BucketFault::WriteRefused(status, code)) if is_write => return Some(error(*status, code)),
            _ => {}
        }
        let authorization = request.header("authorization").unwrap_or_default();
        if !authorization.contains(&format!("Credential={ACCESS_KEY}/")) {
            return Some(error(403, "InvalidAccessKeyId"));
        }
        let bucket = request.path().split('/').nth(1).unwrap_or_default();
        (bucket != BUCKET).then(|| error(404, "NoSuchBucket"))
    }

    fn answer(&mut self, request: &RecordedRequest) -> Resource {
        let key = request.path().splitn(3, '/').nth(2).unwrap_or_default();
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        let upload = parameter("uploadId");
        match (request.method.as_str(), upload) {
            ("GET", _) if key.is_empty() => self.list(&parameter("prefix").unwrap_or_default()),
            ("GET" | "HEAD", _) => match self.objects.get(key) {
                Some(object) => {
                    let modified = httpdate::fmt_http_date(object.modified);
                    Resource::new(object.bytes.clone()).header("Last-Modified", &modified)
                }
                None => error(404, "NoSuchKey"),
            },
            ("PUT", Some(upload)) => {
                let number = parameter("partNumber").and_then(|number| number.parse().ok()).unwrap_or(0);
                self.parts.insert((upload, number), request.body.clone());
                created(&format!("part-{number}"))
            }
            ("PUT", None) => {
                self.put(key, request.body.clone(), request.header("if-none-match") == Some("*"))
            }
            ("POST", Some(upload)) => {
                let parts = self.parts.iter().filter(|((of, _), _)| *of == upload);
                let bytes = parts.flat_map(|(_, bytes)| bytes).copied().collect();
                self.parts.retain(|(of, _), _| *of != upload);
                self.put(key, bytes, false);
                xml("CompleteMultipartUploadResult", "<ETag>\"whole\"</ETag>")
            }
            ("POST", None) => {
                self.uploads += 1;
                xml("InitiateMultipartUploadResult", &format!("<UploadId>upload-{}</UploadId>", self.uploads))
            }
            ("DELETE", Some(upload)) => {
                self.parts.retain(|(of, _), _| *of != upload);
                Resource::empty(204)
            }
            ("DELETE", None) => {
                self.objects.remove(key);
                Resource::empty(204)
            }
            _ => error(405, "MethodNotAllowed"),
        }
    }

    fn put(&mut self, key: &str, bytes: Vec<u8>, must_be_new: bool) -> Resource {
        if must_be_new && self.objects.contains_key(key) {
            self.creations.1 += 1;
            return error(412, "PreconditionFailed");
        }
        self.creations.0 += 1;
        self.objects.insert(key.to_owned(), StoredObject { bytes, modified: SystemTime::now() });
        created("new")
    }

    fn list(&self, prefix: &str) -> Resource {
        let prefix = prefix.replace("%2F", "/");
        let matching = self.objects.iter().filter(|(name, _)| name.starts_with(&prefix));
        let contents: String = matching.map(|(name, object)| {
            let since = object.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let modified = rfc_3339(since.as_secs());
            format!(
                "<Contents><Key>{name}</Key><LastModified>{modified}</LastModified><ETag>\"a\"</ETag><Size>{}</Size></Contents>",
                object.bytes.len()
            )
        }).collect();
        xml("ListBucketResult", &format!("<IsTruncated>false</IsTruncated>{contents}"))
    }
}

/// The answer to a write. The server would compare a resource's `ETag` with the condition of the request.
fn created(etag: &str) -> Resource {
    Resource::raw(format!(
        "HTTP/1.1 200 OK\r\nETag: \"{etag}\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    ))
}

fn xml(root: &str, content: &str) -> Resource {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><{root}>{content}</{root}>");
    Resource::new(text).header("Content-Type", "application/xml")
}

fn error(status: u16, code: &str) -> Resource {
    xml("Error", &format!("<Code>{code}</Code><Message>as the test says</Message>")).status(status)
}

/// Returns a time in seconds since 1970 as text (civil date by Howard Hinnant's algorithm).
fn rfc_3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z")
}
