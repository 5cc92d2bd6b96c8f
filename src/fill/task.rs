//! The task of one fill: asks, judges the response, takes its bytes in, commits. Owns the writer and the phase, so no
//! one else can say how a fill ended; if the task is dropped, its followers see that as a failure. Bytes are shown to
//! followers as they arrive; the disk is written behind them, a chunk at a time while memory allows.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Method, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{oneshot, watch};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::flow::Head;
use super::resume::{Resumed, Resumption};
use super::{Fill, FillError, FillKey, Flow, Phase, Shared, Unshared, Wanted};
use crate::cache::storable::{storable, storable_length};
use crate::cache::validator::{confirms, validate};
use crate::cache::{Entry, Selecting, Unstorable, update};
use crate::config::Class;
use crate::policy::Classified;
use crate::store::{BLOCK, CHUNK, Committed, NewObject, Object, StoreError, Writer};
use crate::telemetry::metrics::Counted;
use crate::upstream::{Answer, Outgoing, RequestBody, Upstreams};

/// Bytes taken in ahead of the disk: past this the upstream has to wait, so that a slow disk costs no memory.
const MAX_UNWRITTEN: u64 = 2 * CHUNK;

/// The same when memory is short. More than a block, so that there is always one to write.
const MAX_UNWRITTEN_PRESSED: u64 = 2 * BLOCK;

/// Pieces below this many bytes are put together with what follows them at once.
const SMALL_PIECE: usize = 16 << 10;

/// What a piece costs in memory besides its bytes; counted, so that an upstream that sends single bytes meets the
/// memory's bound and not the machine's.
const PIECE_OVERHEAD: u64 = 128;

pub(super) struct Task {
    shared: Arc<Shared>,
    upstreams: Arc<Upstreams>,
    wanted: Wanted,
    phase: watch::Sender<Phase>,
    hand: Option<oneshot::Sender<Answer>>,
}

/// Whether a fill is still the one that its key's requests join.
#[derive(PartialEq, Eq)]
enum Standing {
    Registered,
    Detached,
}

/// How a fill, or one try of it, ended. The word is the metric's label.
enum Ended {
    Finally(&'static str),
    /// The content changed under it; the fill goes on with the new content from its beginning.
    Changed(Answer),
    /// The `304` is of no use here; ask for everything.
    Unconditionally,
}

impl Task {
    pub(super) fn new(
        shared: Arc<Shared>,
        upstreams: Arc<Upstreams>,
        wanted: Wanted,
        phase: watch::Sender<Phase>,
        hand: oneshot::Sender<Answer>,
    ) -> Self {
        Self { shared, upstreams, wanted, phase, hand: Some(hand) }
    }

    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let Ok(_permit) = shared.permits.acquire().await else { return };
        let _running = Counted::one(&shared.metrics.fills_running);
        let outcome = self.fill().await;
        shared.metrics.fills.with_label_values(&[outcome]).inc();
    }

    async fn fill(&mut self) -> &'static str {
        loop {
            let mut headers = self.wanted.headers.clone();
            if let Some(stale) = &self.wanted.stale {
                validate(&mut headers, &stale.object.headers);
            }
            let mut answer = match self.upstreams.ask(&self.wanted.order, &self.outgoing(headers)).await {
                Ok(answer) => answer,
                Err(error) => return self.fail(error.into()),
            };
            loop {
                match self.take(answer).await {
                    Ended::Finally(outcome) => return outcome,
                    Ended::Changed(changed) => answer = changed,
                    Ended::Unconditionally => break,
                }
            }
            self.wanted.stale = None;
        }
    }

    fn outgoing(&self, headers: HeaderMap) -> Outgoing {
        let target = self.wanted.target.clone();
        Outgoing { method: Method::GET, target, headers, body: RequestBody::Empty }
    }

    /// Judges one response and, if it is for everyone, takes it in.
    async fn take(&mut self, answer: Answer) -> Ended {
        let status = answer.response.status();
        if let (StatusCode::NOT_MODIFIED, Some(stale)) = (status, self.wanted.stale.clone()) {
            return self.not_modified(&stale, &answer).await;
        }
        if status.is_server_error() {
            let error = FillError::ServerError { upstream: answer.upstream.name.clone(), status };
            self.hand_over(answer);
            return Ended::Finally(self.fail(error));
        }
        let headers = answer.response.headers();
        let class = self.wanted.classified.class;
        let kept = storable(&Method::GET, &self.wanted.asked, status, headers, class);
        match kept {
            // Everyone who waits may have an empty one; it is not kept.
            Ok(()) | Err(Unstorable::EmptyPayload) => {}
            Err(why) => {
                // For others, what one request or one moment brought about says nothing.
                if why.is_lasting() && !matches!(class, Class::Payload | Class::Catalog) {
                    self.shared.cache.remember_unstorable(&self.wanted.key, why);
                }
                self.hand_over(answer);
                return Ended::Finally(self.unshared(Unshared::Unstorable(why)));
            }
        }
        // `storable` refused `Vary: *`, the only case without a selection.
        let selecting = Selecting::of(headers, &self.wanted.asked, class).unwrap_or_default();
        let length = answer.response.body().size_hint().exact();
        let begun = self.shared.store.begin(length).await;
        self.shared.cache.forget_evicted();
        let writer = match begun {
            Ok(writer) => writer,
            Err(error) => {
                tracing::warn!(%error, key = &*self.wanted.key, "passing through uncached");
                self.hand_over(answer);
                return Ended::Finally(self.unshared(Unshared::NoRoom));
            }
        };
        let mut headers = headers.clone();
        update::remove_unstored(&mut headers, class);
        update::date(&mut headers, answer.response_time);
        let head = Head {
            status,
            kept,
            freshness: self.shared.cache.freshness(
                status,
                &headers,
                answer.request_time,
                answer.response_time,
                class,
            ),
            headers,
            selecting,
            classified: self.wanted.classified.clone(),
            upstream: answer.upstream.name.clone(),
            request_time: answer.request_time,
            response_time: answer.response_time,
        };
        let flow = Arc::new(Flow::new(head, length, writer.partial().clone()));
        self.show(Phase::Receiving { flow: flow.clone(), available: 0 });
        let intake = Intake {
            flow,
            disk: Disk::Idle(writer),
            unwritten: Vec::new(),
            unwritten_bytes: 0,
            available: 0,
        };
        self.take_in(answer, intake).await
    }

    /// Takes the body in to its end, through as many broken connections as it needs.
    async fn take_in(&mut self, answer: Answer, mut intake: Intake) -> Ended {
        let flow = intake.flow.clone();
        let outgoing = self.outgoing(self.wanted.headers.clone());
        let mut resumption = Resumption::new(&self.upstreams, answer.upstream.clone(), outgoing, &flow);
        let body = answer.response.into_body();
        let mut source = Upstreaming::new(body, 0, flow.length);
        loop {
            let reason = match self.receive(&mut intake, &mut source).await {
                Ok(()) => break,
                Err(Interruption::Upstream(reason)) => reason,
                Err(Interruption::Fatal(error)) => return Ended::Finally(self.fail(error)),
            };
            match resumption.resume(intake.available, reason).await {
                Ok(Resumed::Continues { body, skip, length }) => {
                    self.shared.metrics.resumes.inc();
                    source = Upstreaming::new(body, skip, source.length.or(length));
                }
                Ok(Resumed::Changed(answer)) => {
                    self.begin_again(answer.upstream.name.clone());
                    return Ended::Changed(answer);
                }
                Err(error) => return Ended::Finally(self.fail(error)),
            }
        }
        let length = intake.available;
        // An empty payload is what an overloaded manager makes of a delta it could not build (KB152365); only now is
        // the length of a response known that did not say it.
        if storable_length(flow.head.status, length, self.wanted.classified.class).is_err() {
            self.leave();
            self.show(Phase::Complete { flow, length });
            return Ended::Finally("unstorable");
        }
        self.show(Phase::Complete { flow: flow.clone(), length });
        match intake.finish(self.new_object(&flow.head)).await {
            Ok(committed) => Ended::Finally(self.stored(&flow, committed).await),
            Err(error) => {
                // Every follower has, or can still read, the right bytes; only the next client has to ask again.
                tracing::error!(%error, key = &*self.wanted.key, "content was served but could not be stored");
                self.leave();
                Ended::Finally("store")
            }
        }
    }

    /// Reads the body to its end.
    async fn receive(&self, intake: &mut Intake, source: &mut Upstreaming) -> Result<(), Interruption> {
        let memory = self.shared.store.chunk_memory();
        let received = self.shared.metrics.upstream_bytes.with_label_values(&[&*intake.flow.head.upstream]);
        loop {
            let pressed = memory.tails_pressed();
            intake.write_behind(pressed);
            let most = if pressed { MAX_UNWRITTEN_PRESSED } else { MAX_UNWRITTEN };
            if intake.unwritten_bytes + intake.disk.in_flight() >= most {
                intake.disk_done().await?;
                continue;
            }
            let piece = tokio::select! {
                written = intake.disk_done(), if intake.disk.is_writing() => {
                    written?;
                    continue;
                }
                piece = timeout(self.upstreams.settings().idle_timeout, source.next()) => piece,
            };
            let mut piece = match piece {
                Err(_) => return Err(Interruption::Upstream(Arc::from("no byte arrived in time"))),
                Ok(Err(error)) => return Err(Interruption::Upstream(Arc::from(error.to_string()))),
                Ok(Ok(None)) => return source.ended(intake.available),
                Ok(Ok(Some(piece))) => piece,
            };
            received.inc_by(piece.len() as u64);
            let known = source.skip.min(piece.len() as u64);
            source.skip -= known;
            // `known` is at most a piece's length, which is a usize.
            let piece = piece.split_off(usize::try_from(known).unwrap_or(piece.len()));
            if piece.is_empty() {
                continue;
            }
            let available = intake.available + piece.len() as u64;
            if source.length.is_some_and(|length| available > length) {
                return Err(Interruption::Upstream(Arc::from("it sent more than it had promised")));
            }
            if source.length.is_none() {
                self.check_open_ended(available)?;
            }
            let charge = memory.charge_tail(piece.len() as u64 + PIECE_OVERHEAD);
            intake.push(piece, charge);
            self.show(Phase::Receiving { flow: intake.flow.clone(), available });
        }
    }

    /// A response that never says where it ends may never do so: it must neither empty the store nor go on for nobody.
    fn check_open_ended(&self, available: u64) -> Result<(), Interruption> {
        if available > self.shared.open_ended_max {
            self.shared.cache.remember_unstorable(&self.wanted.key, Unstorable::OpenEnded);
            return Err(Interruption::Fatal(FillError::OpenEnded));
        }
        // The register holds one receiver; every request and reader that follows holds another.
        let followers = self.phase.receiver_count() - usize::from(self.is_registered());
        if followers == 0 && self.wanted.classified.class == Class::Generic {
            return Err(Interruption::Fatal(FillError::Stopped));
        }
        Ok(())
    }

    fn new_object(&self, head: &Head) -> NewObject {
        NewObject {
            key: self.wanted.key.clone(),
            selecting: head.selecting.encode(),
            status: head.status,
            headers: head.headers.clone(),
            content_type: self.wanted.classified.content_type.clone(),
            upstream: head.upstream.clone(),
            request_time: head.request_time,
            response_time: head.response_time,
        }
    }

    async fn stored(&self, flow: &Flow, committed: Committed) -> &'static str {
        let Committed { object, deduplicated, .. } = committed;
        tracing::debug!(key = &*self.wanted.key, blob = %object.blob, len = object.len, "stored");
        match self.leave_behind(object, &flow.head.selecting, &flow.head.classified).await {
            Some(entry) => self.show(Phase::Stored { entry }),
            // Its followers have their bytes.
            None => return "outdated",
        }
        if deduplicated { "deduplicated" } else { "stored" }
    }

    async fn not_modified(&mut self, stale: &Entry, answer: &Answer) -> Ended {
        let fields = answer.response.headers();
        if !confirms(fields, &stale.object.headers) {
            return Ended::Unconditionally;
        }
        let mut updated = stale.object.headers.clone();
        update::update(&mut updated, fields.clone(), stale.classified.class);
        update::date(&mut updated, answer.response_time);
        let cache = &self.shared.cache;
        let still =
            storable(&Method::GET, &self.wanted.asked, stale.object.status, &updated, stale.classified.class);
        let refreshed = match still {
            Ok(()) => cache.refresh(stale, updated, answer.request_time, answer.response_time).await,
            // What was public is not any more: it must not stay.
            Err(_) => match cache.invalidate(&stale.object.key).await {
                Ok(()) => return Ended::Unconditionally,
                Err(error) => Err(error),
            },
        };
        Ended::Finally(match refreshed {
            Ok(object) => match self.leave_behind(object, &stale.selecting, &stale.classified).await {
                Some(entry) => {
                    self.show(Phase::NotModified { entry });
                    "not-modified"
                }
                None => return Ended::Unconditionally,
            },
            Err(error) => self.fail(error.into()),
        })
    }

    fn unshared(&mut self, why: Unshared) -> &'static str {
        tracing::debug!(key = &*self.wanted.key, why = why.as_str(), "not shared");
        self.leave();
        self.show(Phase::Unshared { why });
        "unshared"
    }

    fn fail(&mut self, error: FillError) -> &'static str {
        tracing::warn!(%error, key = &*self.wanted.key, "fill failed");
        let word = error.as_str();
        self.leave();
        self.show(Phase::Failed { error });
        word
    }

    /// Whoever asks from now on follows the new content; who has bytes of the old sees a broken transfer.
    fn begin_again(&mut self, upstream: Arc<str>) {
        tracing::warn!(key = &*self.wanted.key, upstream = &*upstream, "content changed during its transfer");
        let (phase, receiver) = watch::channel(Phase::Asking);
        let old = std::mem::replace(&mut self.phase, phase);
        self.shared.lock().insert(self.register_key(), Fill { phase: receiver });
        old.send_replace(Phase::Failed { error: FillError::Changed { upstream } });
    }

    /// The client may have gone; then nobody needs the response.
    fn hand_over(&mut self, answer: Answer) {
        if let Some(hand) = self.hand.take() {
            let _gone = hand.send(answer);
        }
    }

    fn show(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Leaves what was stored to be found, from the moment on at which requests no longer join this fill. `None`, and
    /// nothing is left, if an unsafe request has changed it meanwhile (RFC 9111 §4.4).
    async fn leave_behind(
        &self,
        object: Object,
        selecting: &Selecting,
        classified: &Classified,
    ) -> Option<Arc<Entry>> {
        let entry = {
            let mut running = self.shared.lock();
            let standing = self.strike(&mut running);
            (standing == Standing::Registered)
                .then(|| self.shared.cache.insert(object, selecting.clone(), classified.clone()))
        };
        if entry.is_none()
            && let Err(error) = self.shared.cache.invalidate(&self.wanted.key).await
        {
            tracing::error!(%error, key = &*self.wanted.key, "cannot forget what was changed meanwhile");
        }
        entry
    }

    /// New requests no longer join this fill, but begin their own.
    fn leave(&self) {
        self.strike(&mut self.shared.lock());
    }

    fn strike(&self, running: &mut HashMap<FillKey, Fill>) -> Standing {
        let key = self.register_key();
        if !running.get(&key).is_some_and(|fill| fill.phase.same_channel(&self.phase.subscribe())) {
            return Standing::Detached;
        }
        running.remove(&key);
        Standing::Registered
    }

    fn is_registered(&self) -> bool {
        let running = self.shared.lock();
        let registered = running.get(&self.register_key());
        registered.is_some_and(|fill| fill.phase.same_channel(&self.phase.subscribe()))
    }

    fn register_key(&self) -> FillKey {
        (self.wanted.key.clone(), self.wanted.variant.clone())
    }
}

impl Drop for Task {
    /// However the task ends, also by a panic or with the runtime, its object can be filled again.
    fn drop(&mut self) {
        self.leave();
    }
}

enum Interruption {
    /// The rest may be had by asking again.
    Upstream(Arc<str>),
    /// There is no sense in going on.
    Fatal(FillError),
}

impl From<StoreError> for Interruption {
    fn from(error: StoreError) -> Self {
        Self::Fatal(error.into())
    }
}

/// A body on its way here.
struct Upstreaming {
    body: Incoming,
    /// Bytes at its beginning that are there already.
    skip: u64,
    /// The complete content's length, where anyone said it.
    length: Option<u64>,
    /// Small pieces put together so far.
    gathered: Vec<u8>,
    /// What ended the body, if not its end.
    broke: Option<hyper::Error>,
}

impl Upstreaming {
    fn new(body: Incoming, skip: u64, length: Option<u64>) -> Self {
        Self { body, skip, length, gathered: Vec::new(), broke: None }
    }

    /// The next bytes: what arrives in small pieces as one, so that a chatty upstream does not cost a wake-up of every
    /// follower for each of its chunks. Safe to drop and call again: what was gathered stays.
    async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        let mut yielded = false;
        while self.gathered.len() < SMALL_PIECE {
            let frame = match self.body.frame().now_or_never() {
                Some(frame) => frame,
                None if self.gathered.is_empty() => self.body.frame().await,
                // hyper hands over one frame at a time: its task may have the next one at once.
                None if !yielded => {
                    yielded = true;
                    yield_now().await;
                    continue;
                }
                None => break,
            };
            yielded = false;
            match frame {
                None if self.gathered.is_empty() => return self.broke.take().map_or(Ok(None), Err),
                None => break,
                Some(Err(error)) => {
                    // Told after the bytes before it, and by us: hyper tells it once.
                    self.broke = Some(error);
                    if self.gathered.is_empty() {
                        continue;
                    }
                    break;
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if self.gathered.is_empty() && data.len() >= SMALL_PIECE => {
                        return Ok(Some(data));
                    }
                    Ok(data) => self.gathered.extend_from_slice(&data),
                    // Trailers say nothing that is kept.
                    Err(_) => {}
                },
            }
        }
        Ok(Some(Bytes::from(std::mem::take(&mut self.gathered).into_boxed_slice())))
    }

    /// Judges the end of the body when `available` bytes of the content are there.
    fn ended(&self, available: u64) -> Result<(), Interruption> {
        if self.skip > 0 {
            return Err(Interruption::Upstream(Arc::from(
                "its answer was shorter than what it had sent before",
            )));
        }
        if self.length.is_some_and(|length| length != available) {
            return Err(Interruption::Upstream(Arc::from("the response ended before its length")));
        }
        Ok(())
    }
}

/// What has arrived and where it goes.
struct Intake {
    flow: Arc<Flow>,
    disk: Disk,
    unwritten: Vec<Bytes>,
    unwritten_bytes: u64,
    available: u64,
}

/// A write in flight; it gives the writer back.
type Write = Pin<Box<dyn Future<Output = (Writer, Result<u64, StoreError>)> + Send>>;

enum Disk {
    Idle(Writer),
    Writing {
        bytes: u64,
        done: Write,
    },
    /// An error took the writer; its file is gone.
    Lost,
}

impl Intake {
    fn push(&mut self, piece: Bytes, charge: crate::store::Charge) {
        self.available += piece.len() as u64;
        self.unwritten_bytes += piece.len() as u64;
        self.unwritten.push(piece.clone());
        self.flow.push(piece, charge);
    }

    /// Gives the disk what is due: up to the next chunk's boundary, or whole blocks when memory is short.
    fn write_behind(&mut self, pressed: bool) {
        let from = self.available - self.unwritten_bytes;
        let to_boundary = CHUNK - from % CHUNK;
        let due = if self.unwritten_bytes >= to_boundary {
            to_boundary
        } else if pressed {
            (self.available / BLOCK * BLOCK).saturating_sub(from)
        } else {
            0
        };
        if due > 0 && matches!(self.disk, Disk::Idle(_)) {
            self.start_write(due);
        }
    }

    fn start_write(&mut self, bytes: u64) {
        let pieces = self.take_unwritten(bytes);
        if let Disk::Idle(mut writer) = std::mem::replace(&mut self.disk, Disk::Lost) {
            let done = Box::pin(async move {
                let written = writer.write(pieces).await;
                (writer, written)
            });
            self.disk = Disk::Writing { bytes, done };
        }
    }

    fn take_unwritten(&mut self, bytes: u64) -> Vec<Bytes> {
        let mut left = bytes;
        let mut pieces = Vec::new();
        let mut kept = Vec::new();
        for mut piece in std::mem::take(&mut self.unwritten) {
            let length = piece.len() as u64;
            if left >= length {
                left -= length;
                pieces.push(piece);
            } else {
                if left > 0 {
                    pieces.push(piece.split_to(usize::try_from(left).unwrap_or(piece.len())));
                    left = 0;
                }
                kept.push(piece);
            }
        }
        self.unwritten = kept;
        self.unwritten_bytes -= bytes;
        pieces
    }

    /// Waits for the write in flight, if there is one; safe to drop and call again.
    async fn disk_done(&mut self) -> Result<(), StoreError> {
        if let Disk::Writing { done, .. } = &mut self.disk {
            let (writer, written) = done.await;
            self.disk = Disk::Idle(writer);
            self.flow.trim(written?);
        }
        Ok(())
    }

    /// Writes the rest and makes it an object.
    async fn finish(mut self, object: NewObject) -> Result<Committed, StoreError> {
        loop {
            self.disk_done().await?;
            self.write_behind(false);
            if !self.disk.is_writing() {
                break;
            }
        }
        if self.unwritten_bytes > 0 {
            self.start_write(self.unwritten_bytes);
            self.disk_done().await?;
        }
        match self.disk {
            Disk::Idle(mut writer) => {
                self.flow.trim(writer.finish().await?);
                writer.commit(object).await
            }
            Disk::Writing { .. } | Disk::Lost => Err(StoreError::Broken),
        }
    }
}

impl Disk {
    fn is_writing(&self) -> bool {
        matches!(self, Self::Writing { .. })
    }

    fn in_flight(&self) -> u64 {
        if let Self::Writing { bytes, .. } = self { *bytes } else { 0 }
    }
}
