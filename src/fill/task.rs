//! The task of one fill: asks, judges the response, has its content fetched, leaves it to be found. Owns the phase, so
//! no one else can say how a fill ended; if the task is dropped, its followers see that as a failure. Relies on `begin`
//! to turn an answer into a flow and on `fetch` for the bytes, which it does not touch itself.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::{HeaderMap, Method, StatusCode, header};
use tokio::sync::{Notify, oneshot, watch};

use super::alone::Origin;
use super::begin::{Begun, NotBegun, Part};
use super::fetch::{Fetch, Fetched, Followers};
use super::flow::Head;
use super::resume::{Resumed, Resumption};
use super::run;
use super::transfer::Transfer;
use super::{Fill, FillError, FillKey, Flow, Leaving, Phase, Shared, Unshared, Wanted};
use crate::cache::storable::{storable, storable_length};
use crate::cache::validator::{confirms, validate};
use crate::cache::{Entry, Selecting, Unstorable, update};
use crate::config::{Class, Finish};
use crate::digest::{Expectation, Judgement, Subject, Whole};
use crate::policy::Classified;
use crate::store::{CHUNK, Committed, Object, Source, StoreError, Unfinished, Writer};
use crate::telemetry::metrics::Counted;
use crate::upstream::{Answer, Outgoing, RequestBody, Upstream, Upstreams};

pub(super) struct Task {
    shared: Arc<Shared>,
    upstreams: Arc<Upstreams>,
    wanted: Wanted,
    phase: watch::Sender<Phase>,
    /// Followers came for something, or went.
    attention: Arc<Notify>,
    hand: Option<oneshot::Sender<Answer>>,
    /// What came first was not what was announced.
    again: bool,
}

/// How a fill, or one try of it, ended. The word is the metric's label.
enum Ended {
    Finally(&'static str),
    /// The content changed under it; the fill goes on with the new content from its beginning.
    Changed(Answer),
    /// What came is of no use here; ask for everything.
    Unconditionally,
}

impl Task {
    pub(super) fn new(
        shared: Arc<Shared>,
        upstreams: Arc<Upstreams>,
        wanted: Wanted,
        phase: watch::Sender<Phase>,
        attention: Arc<Notify>,
        hand: oneshot::Sender<Answer>,
    ) -> Self {
        Self { shared, upstreams, wanted, phase, attention, hand: Some(hand), again: false }
    }

    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let Ok(_permit) = shared.permits.acquire().await else { return };
        let _running = Counted::one(&shared.metrics.fills_running);
        let outcome = self.fill().await;
        shared.metrics.fills.with_label_values(&[outcome]).inc();
    }

    async fn fill(&mut self) -> &'static str {
        if let Some(left) = self.left_unfinished()
            && let Some(ended) = self.go_on_with(left).await
            && let Some(outcome) = self.settle(ended).await
        {
            return outcome;
        }
        loop {
            let mut headers = self.wanted.headers.clone();
            if let Some(stale) = &self.wanted.stale {
                validate(&mut headers, &stale.object.headers);
            } else if let Some(part) = self.part().and_then(Part::to_field) {
                headers.insert(header::RANGE, part);
            }
            let answer = match self.upstreams.ask(&self.wanted.order, &self.outgoing(headers)).await {
                Ok(answer) => answer,
                Err(error) => return self.fail(error.into()),
            };
            let ended = self.take(answer).await;
            if let Some(outcome) = self.settle(ended).await {
                return outcome;
            }
            self.wanted.stale = None;
            self.wanted.part = None;
        }
    }

    /// Follows changes of the content to their end; `None` if everything is to be asked for, without conditions.
    async fn settle(&mut self, mut ended: Ended) -> Option<&'static str> {
        loop {
            match ended {
                Ended::Finally(outcome) => return Some(outcome),
                Ended::Changed(changed) => ended = self.take(changed).await,
                Ended::Unconditionally => return None,
            }
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
        let expect = |status, headers: &HeaderMap| self.expect(status, headers);
        match Begun::of(answer, &self.wanted, self.part(), &self.shared.cache, expect) {
            Ok(begun) => self.take_in(begun).await,
            Err(NotBegun::Unusable) => Ended::Unconditionally,
            Err(NotBegun::Unstorable(answer, why)) => {
                // For others, what one request or one moment brought about says nothing.
                let class = self.wanted.classified.class;
                if why.is_lasting() && !matches!(class, Class::Payload | Class::Catalog) {
                    self.shared.cache.remember_unstorable(&self.wanted.key, why);
                }
                self.hand_over(*answer);
                Ended::Finally(self.unshared(Unshared::Unstorable(why)))
            }
        }
    }

    /// Takes content in that has just begun.
    async fn take_in(&mut self, begun: Begun) -> Ended {
        let writer = self.shared.store.begin(begun.length).await;
        self.shared.cache.forget_evicted();
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                match error {
                    // Told once, when it began.
                    StoreError::Ailing { .. } => {}
                    error => tracing::warn!(%error, key = &*self.wanted.key, "passing through uncached"),
                }
                self.hand_over(begun.answer);
                return Ended::Finally(self.unshared(Unshared::NoRoom));
            }
        };
        if begun.head.is_resumable(begun.length)
            && let Err(error) = writer.keep_progress(begun.head.to_object(&self.wanted)).await
        {
            tracing::warn!(%error, key = &*self.wanted.key, "what arrives will not outlive an interruption");
        }
        let Begun { answer, head, length, brings, skip, end, in_parts } = begun;
        let origin = self.origin(answer.upstream);
        let partial = writer.partial().clone();
        let flow = Arc::new(Flow::new(head, length, origin, partial, in_parts, self.attention.clone()));
        let transfer = Transfer::new(answer.response.into_body(), skip, end);
        self.fetch(flow, writer, brings, transfer).await
    }

    /// Goes on with what an earlier fill left, if its upstream still has that content; `None` if that cannot be told
    /// now.
    async fn go_on_with(&mut self, mut left: Unfinished) -> Option<Ended> {
        let upstream = self.upstreams.named(&self.wanted.order, &left.object.upstream).cloned()?;
        let wanted = self.part().map_or(0..left.len, |part| part.of(left.len));
        let missing = left.missing(wanted.start);
        let enough = match missing.end > wanted.start {
            true => wanted.end.next_multiple_of(CHUNK),
            // All of what is wanted is there; the answer says whether it still is the content.
            false => missing.start + CHUNK,
        };
        let first = missing.start..missing.end.min(enough);
        let outgoing = self.outgoing(self.wanted.headers.clone());
        let resumption = Resumption::new(
            self.upstreams.clone(),
            upstream.clone(),
            outgoing,
            &left.object.headers,
            Some(left.len),
        );
        let (body, skip, end) = match resumption.ask(&first).await {
            Ok(Ok(Resumed::Continues { body, skip, end })) => (body, skip, end),
            Ok(Ok(Resumed::Changed(answer))) => return Some(Ended::Changed(answer)),
            Ok(Err(reason)) => {
                tracing::info!(key = &*self.wanted.key, %reason, "cannot go on with what was left");
                self.shared.store.keep_unfinished(left);
                return None;
            }
            Err(error) => return Some(Ended::Finally(self.fail(error))),
        };
        let expected = self.expect(left.object.status, &left.object.headers);
        let head = Head::of_unfinished(&left, &self.wanted, &self.shared.cache, expected);
        let (length, written) = (left.len, left.written());
        let writer = match self.shared.store.resume(left).await {
            Ok(writer) => writer,
            Err(error) => {
                tracing::warn!(%error, key = &*self.wanted.key, "cannot go on with what was left");
                return None;
            }
        };
        tracing::info!(key = &*self.wanted.key, written, length, "going on with what was left");
        self.shared.metrics.resumes.inc();
        let origin = self.origin(upstream);
        let partial = writer.partial().clone();
        let attention = self.attention.clone();
        let flow = Arc::new(Flow::new(head, Some(length), origin, partial, skip == 0, attention));
        let transfer = Transfer::new(body, skip, end);
        Some(self.fetch(flow, writer, first, transfer).await)
    }

    /// Has every byte fetched, and makes an object of them.
    async fn fetch(
        &mut self,
        flow: Arc<Flow>,
        mut writer: Writer,
        first: Range<u64>,
        transfer: Transfer,
    ) -> Ended {
        let arrived = writer.partial().written();
        self.show(Phase::Receiving { flow: flow.clone(), arrived });
        let fetch = Fetch {
            flow: &flow,
            source: run::Source {
                origin: flow.origin.clone(),
                metrics: self.shared.metrics.clone(),
                arrived: AtomicU64::new(arrived),
            },
            store: &self.shared.store,
            phase: &self.phase,
            finish: self.upstreams.settings().finish,
        };
        let go_on = |bytes| self.check_open_ended(bytes);
        let length = match fetch.all(&mut writer, first, transfer, go_on, &*self).await {
            Fetched::All { length } => length,
            Fetched::Changed(answer) => {
                writer.discard();
                self.begin_again(FillError::Changed { upstream: answer.upstream.name.clone() });
                return Ended::Changed(answer);
            }
            Fetched::Failed(error) => {
                // Before followers are told: the next fill goes on with what is left.
                match error {
                    FillError::Store(_) => writer.discard(),
                    _ => writer.leave().await,
                }
                return Ended::Finally(self.fail(error));
            }
        };
        // An empty payload is what an overloaded manager makes of a delta it could not build (KB152365); only now is
        // the length of a response known that did not say it.
        if storable_length(flow.head.status, length, self.wanted.classified.class).is_err() {
            self.leave();
            self.show(Phase::Complete { flow, length });
            return Ended::Finally("unstorable");
        }
        if flow.head.expected.is_judged_first() {
            match self.judge(&flow, length, &writer).await {
                Ok(Judgement::Keep) => {}
                Ok(Judgement::FetchAgain) => {
                    writer.discard();
                    self.again = true;
                    self.begin_again(FillError::Mismatch { upstream: flow.head.upstream.clone() });
                    return Ended::Unconditionally;
                }
                Ok(Judgement::PassOn) => {
                    writer.discard();
                    self.leave();
                    self.show(Phase::Complete { flow, length });
                    return Ended::Finally("digest-mismatch");
                }
                // What cannot be verified has no end.
                Err(error) => {
                    writer.discard();
                    return Ended::Finally(self.fail(error.into()));
                }
            }
        }
        self.show(Phase::Complete { flow: flow.clone(), length });
        match writer.commit(flow.head.to_object(&self.wanted)).await {
            Ok(committed) => Ended::Finally(self.stored(&flow, committed).await),
            Err(error) => {
                // Every follower has, or can still read, the right bytes; only the next client has to ask again.
                tracing::error!(%error, key = &*self.wanted.key, "content was served but could not be stored");
                self.leave();
                Ended::Finally("store")
            }
        }
    }

    async fn judge(&self, flow: &Flow, length: u64, writer: &Writer) -> Result<Judgement, StoreError> {
        let whole = Whole { source: Source::Partial(flow.partial.clone()), length, blob: writer.blob()? };
        let subject = self.subject(flow.head.status);
        Ok(self.shared.digests.judge(subject, &flow.head.expected, &whole).await?)
    }

    fn origin(&self, upstream: Arc<Upstream>) -> Origin {
        Origin::of(&self.wanted, self.upstreams.clone(), upstream, &self.shared.metrics)
    }

    fn expect(&self, status: StatusCode, headers: &HeaderMap) -> Expectation {
        self.shared.digests.expect(self.subject(status), headers, self.again)
    }

    fn subject(&self, status: StatusCode) -> Subject<'_> {
        Subject { key: &self.wanted.key, class: self.wanted.classified.class, status }
    }

    /// The part to ask for first.
    fn part(&self) -> Option<Part> {
        let all = self.upstreams.settings().finish == Finish::Always;
        let part = self.wanted.part.filter(|part| !(all && part.is_front()));
        part.filter(|_| self.wanted.stale.is_none())
    }

    fn left_unfinished(&self) -> Option<Unfinished> {
        if self.wanted.stale.is_some() {
            return None;
        }
        self.shared.store.take_unfinished(&self.wanted.key, |selecting| {
            Selecting::decode(selecting).is_some_and(|selecting| selecting.matches(&self.wanted.asked))
        })
    }

    /// A response that never says where it ends may never do so: it must neither empty the store nor go on for nobody.
    fn check_open_ended(&self, bytes: u64) -> Result<(), FillError> {
        if bytes > self.shared.open_ended_max {
            self.shared.cache.remember_unstorable(&self.wanted.key, Unstorable::OpenEnded);
            return Err(FillError::OpenEnded);
        }
        if !self.are_there() && self.wanted.classified.class == Class::Generic {
            return Err(FillError::Stopped);
        }
        Ok(())
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
            Ok(()) => Ok(cache.refresh(stale, updated, answer.request_time, answer.response_time).await),
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
        if matches!(error, FillError::Abandoned) {
            tracing::debug!(%error, key = &*self.wanted.key, "fill stopped");
        } else {
            tracing::warn!(%error, key = &*self.wanted.key, "fill failed");
        }
        let word = error.as_str();
        self.leave();
        self.show(Phase::Failed { error });
        word
    }

    /// Whoever asks from now on follows the new content; who has bytes of the old sees a broken transfer.
    fn begin_again(&mut self, error: FillError) {
        tracing::warn!(%error, key = &*self.wanted.key, "the fill begins again");
        let (phase, receiver) = watch::channel(Phase::Asking);
        let old = std::mem::replace(&mut self.phase, phase);
        let fill = Fill { phase: receiver, _leaving: Leaving(self.attention.clone()) };
        self.shared.lock().insert(self.register_key(), fill);
        old.send_replace(Phase::Failed { error });
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
            self.strike(&mut running)
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

    /// Whether it was in the register until now.
    fn strike(&self, running: &mut HashMap<FillKey, Fill>) -> bool {
        self.is_registered(running) && running.remove(&self.register_key()).is_some()
    }

    /// Whether this is still the fill that its key's requests join.
    fn is_registered(&self, running: &HashMap<FillKey, Fill>) -> bool {
        let registered = running.get(&self.register_key());
        registered.is_some_and(|fill| fill.phase.same_channel(&self.phase.subscribe()))
    }

    fn register_key(&self) -> FillKey {
        (self.wanted.key.clone(), self.wanted.variant.clone())
    }
}

impl Followers for Task {
    fn are_there(&self) -> bool {
        // The register holds one receiver; everyone who follows holds another.
        let registered = usize::from(self.is_registered(&self.shared.lock()));
        self.phase.receiver_count() > registered
    }

    fn gone_for_good(&self) -> bool {
        let mut running = self.shared.lock();
        let registered = usize::from(self.is_registered(&running));
        let gone = self.phase.receiver_count() <= registered;
        if gone {
            self.strike(&mut running);
        }
        gone
    }
}

impl Drop for Task {
    /// However the task ends, also by a panic or with the runtime, its object can be filled again.
    fn drop(&mut self) {
        self.leave();
    }
}
