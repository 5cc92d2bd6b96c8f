//! The task of one fill: asks, judges the response, has its content taken in, leaves it to be found. Owns the phase, so
//! no one else can say how a fill ended; if the task is dropped, its followers see that as a failure. Relies on
//! `resume` when a transfer breaks off and on `Intake` for the bytes, which it does not touch itself.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode};
use http_body::Body;
use tokio::sync::{oneshot, watch};

use super::flow::Head;
use super::intake::Intake;
use super::resume::{Resumed, Resumption};
use super::transfer::{Interruption, Transfer};
use super::{Fill, FillError, FillKey, Flow, Phase, Shared, Unshared, Wanted};
use crate::cache::storable::{storable, storable_length};
use crate::cache::validator::{confirms, validate};
use crate::cache::{Entry, Selecting, Unstorable, update};
use crate::config::Class;
use crate::policy::Classified;
use crate::store::{Committed, Object};
use crate::telemetry::metrics::Counted;
use crate::upstream::{Answer, Outgoing, RequestBody, Upstreams};

pub(super) struct Task {
    shared: Arc<Shared>,
    upstreams: Arc<Upstreams>,
    wanted: Wanted,
    phase: watch::Sender<Phase>,
    hand: Option<oneshot::Sender<Answer>>,
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
        let (request_time, response_time) = (answer.request_time, answer.response_time);
        let head = Head {
            status,
            kept,
            freshness: self.shared.cache.freshness(status, &headers, request_time, response_time, class),
            headers,
            selecting,
            classified: self.wanted.classified.clone(),
            upstream: answer.upstream.name.clone(),
            request_time,
            response_time,
        };
        let flow = Arc::new(Flow::new(head, length, writer.partial().clone()));
        self.show(Phase::Receiving { flow: flow.clone(), available: 0 });
        let intake = Intake::new(flow, writer, self.shared.store.clone());
        self.take_in(answer, intake).await
    }

    /// Takes the body in to its end, through as many broken connections as it needs.
    async fn take_in(&mut self, answer: Answer, mut intake: Intake) -> Ended {
        let flow = intake.flow().clone();
        let outgoing = self.outgoing(self.wanted.headers.clone());
        let mut resumption = Resumption::new(&self.upstreams, answer.upstream.clone(), outgoing, &flow);
        let body = answer.response.into_body();
        let mut transfer = Transfer::new(body, 0, flow.length);
        loop {
            let reason = match self.receive(&mut intake, &mut transfer).await {
                Ok(()) => break,
                Err(Interruption::Upstream(reason)) => reason,
                Err(Interruption::Fatal(error)) => return Ended::Finally(self.fail(error)),
            };
            match resumption.resume(intake.available(), reason).await {
                Ok(Resumed::Continues { body, skip, length }) => {
                    self.shared.metrics.resumes.inc();
                    transfer = Transfer::new(body, skip, transfer.length().or(length));
                }
                Ok(Resumed::Changed(answer)) => {
                    self.begin_again(answer.upstream.name.clone());
                    return Ended::Changed(answer);
                }
                Err(error) => return Ended::Finally(self.fail(error)),
            }
        }
        let length = intake.available();
        // An empty payload is what an overloaded manager makes of a delta it could not build (KB152365); only now is
        // the length of a response known that did not say it.
        if storable_length(flow.head.status, length, self.wanted.classified.class).is_err() {
            self.leave();
            self.show(Phase::Complete { flow, length });
            return Ended::Finally("unstorable");
        }
        self.show(Phase::Complete { flow: flow.clone(), length });
        match intake.finish(self.wanted.key.clone()).await {
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
    async fn receive(&self, intake: &mut Intake, transfer: &mut Transfer) -> Result<(), Interruption> {
        let flow = intake.flow().clone();
        let received = self.shared.metrics.upstream_bytes.with_label_values(&[&*flow.head.upstream]);
        let idle_timeout = self.upstreams.settings().idle_timeout;
        while let Some(piece) = intake.next(transfer, idle_timeout).await? {
            received.inc_by(piece.len() as u64);
            let Some(piece) = transfer.unknown(piece, intake.available())? else { continue };
            if transfer.length().is_none() {
                self.check_open_ended(intake.available() + piece.len() as u64)?;
            }
            intake.push(piece);
            self.show(Phase::Receiving { flow: flow.clone(), available: intake.available() });
        }
        transfer.ended(intake.available())
    }

    /// A response that never says where it ends may never do so: it must neither empty the store nor go on for nobody.
    fn check_open_ended(&self, available: u64) -> Result<(), Interruption> {
        if available > self.shared.open_ended_max {
            self.shared.cache.remember_unstorable(&self.wanted.key, Unstorable::OpenEnded);
            return Err(Interruption::Fatal(FillError::OpenEnded));
        }
        // The register holds one receiver; every request and reader that follows holds another.
        let followers = self.phase.receiver_count() - usize::from(self.is_registered(&self.shared.lock()));
        if followers == 0 && self.wanted.classified.class == Class::Generic {
            return Err(Interruption::Fatal(FillError::Stopped));
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

impl Drop for Task {
    /// However the task ends, also by a panic or with the runtime, its object can be filled again.
    fn drop(&mut self) {
        self.leave();
    }
}
