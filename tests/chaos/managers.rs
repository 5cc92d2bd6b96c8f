//! Managers with faults: they stall, break transfers off, answer with errors, and send wrong bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gupd_site::{Manager, OriginServer, Pause, Random, RecordedRequest, Resource, mix};

use crate::content::{Kind, Object, Published, Version};

/// Settings and counts that all managers share.
pub(crate) struct Managers {
    published: Arc<Published>,
    seed: u64,
    has_faults: AtomicBool,
    /// Length of each version that was sent, by its `ETag`.
    sent: Mutex<HashMap<String, u64>>,
}

impl Managers {
    pub(crate) fn new(published: Arc<Published>, seed: u64) -> Arc<Self> {
        Arc::new(Self { published, seed, has_faults: AtomicBool::new(true), sent: Mutex::default() })
    }

    pub(crate) fn start(self: &Arc<Self>, number: u64) -> Manager {
        let (this, random) = (self.clone(), Mutex::new(Random::new(mix(mix(self.seed ^ number)))));
        let respond = move |request: &RecordedRequest| {
            let object = this.published.at(request.path())?;
            let version = this.published.current(object, number);
            Some(this.respond(request, object, version, &mut random.lock().unwrap()))
        };
        Manager::with_origin(OriginServer::computed(respond)).unwrap()
    }

    /// From now on responses have no faults.
    pub(crate) fn end_faults(&self) {
        self.has_faults.store(false, Ordering::Relaxed);
    }

    /// Bytes of all versions that were requested.
    pub(crate) fn distinct_bytes(&self) -> u64 {
        self.sent.lock().unwrap().values().sum()
    }

    fn respond(
        &self,
        request: &RecordedRequest,
        object: Object,
        Version { content, etag }: Version,
        random: &mut Random,
    ) -> Resource {
        let mut resource = Resource::tagged(content.clone(), &etag);
        if object.kind == Kind::Changing {
            resource = resource.header("Cache-Control", "max-age=2");
        }
        if request.header("if-none-match") == Some(&etag) {
            return resource;
        }
        // Every second object has a digest; only with one can the relay find a wrong bit.
        let has_digest = object.length.is_multiple_of(2);
        if has_digest {
            let digest = BASE64_STANDARD.encode(content.sha256());
            resource = resource.header("Repr-Digest", &format!("sha-256=:{digest}:"));
        }
        let (place, fault) = (random.below(object.length), random.below(1000));
        let resource = match fault {
            _ if !self.has_faults.load(Ordering::Relaxed) => resource,
            0..20 => resource.paused(place, Pause::For(Duration::from_secs(3))),
            20..60 => resource.cut(place as usize, 1),
            60..70 => return Resource::empty(503),
            70..80 => return Resource::raw(""),
            80..90 if has_digest => resource.flipped(place),
            90..95 => resource.with_wrong_ranges(),
            _ => resource,
        };
        if request.method == "GET" {
            self.sent.lock().unwrap().insert(etag, object.length);
        }
        resource
    }
}
