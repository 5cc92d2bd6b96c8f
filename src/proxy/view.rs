//! A request where rollouts are on: what its client sees decides. A catalog is the one of the client's revision, from the
//! store alone; a payload of a manager whose number that revision has not is put off. Owns what a client gets in each of
//! these cases; `rollout` says what it sees, `refresh` brings what no revision has yet. Whatever the request says of
//! freshness, the client's revision is what it gets: it was published for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::body::Incoming;

use super::reply::Reply;
use super::turn::deferred;
use super::{Arrived, Asked, Proxy, respond, shared};
use crate::access::RequestObserver;
use gupd_cache::fill::Joined;
use gupd_cache::{Entry, Found};
use gupd_config::Class;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::{Classification, ClientAttributes, Group, RevisionFile};
use gupd_http::control::Directive;
use gupd_http::field;
use gupd_http::status::{CacheStatus, FinishedResponse};
use gupd_net::shape::Purpose;
use gupd_rollout::clients::{ClientTracker, Observation, RequestKind};
use gupd_rollout::revision::{Catalog, RevisionNumber, version_key};
use gupd_rollout::state::Published;
use gupd_rollout::views::{Due, Views};

/// The longest that a client waits for a catalog that no revision has: less than updaters' own patience. It is published
/// all the same, and found by whoever asks again.
const ARRIVAL: Duration = Duration::from_secs(25);

/// When a client comes again for a catalog that is not there now.
const AGAIN: Duration = Duration::from_secs(60);

/// When a client comes again whose turn is in nobody's calendar: it is held, or waits for an administrator. An hour is a
/// heartbeat of most endpoints.
const HELD: i64 = 3_600_000;

/// What a request is for, as views have it.
enum Object {
    /// A catalog, by its plain key.
    Catalog(Arc<str>),
    /// A payload, by its key.
    Payload(Arc<str>),
    /// Anything else.
    Other,
}

impl Proxy {
    /// Answers a request by its client's visible revision. The observer subscribes to the end of the response.
    pub(super) async fn in_view(
        &self,
        asked: &Asked<'_>,
        body: Incoming,
    ) -> (Reply, Option<Box<dyn RequestObserver>>) {
        let Some(views) = asked.generation.rollout.views().clone() else {
            return (self.look_up(asked, body).await, None);
        };
        let classified =
            asked.generation.policy.classify(&asked.target.route, asked.target.normalized.path());
        let is_read = asked.is_cacheable();
        let object = match classified.class {
            Class::Catalog if is_read => Object::Catalog(asked.target.key().into()),
            Class::Payload if is_read => Object::Payload(asked.target.key().into()),
            _ => Object::Other,
        };
        let now = self.cache.clock().now();
        let (reply, sees) = match &object {
            Object::Catalog(key) => self.catalog(asked, key, &classified, views).await,
            Object::Payload(key) => self.payload(asked, key, &classified, views, body).await,
            Object::Other => {
                let sees = sees(&views, asked.group, asked.peer.address.ip(), now);
                (self.by_windows(asked, body).await, sees)
            }
        };
        let request = match &object {
            Object::Catalog(_) => RequestKind::Catalog,
            Object::Payload(key) => RequestKind::payload(key),
            Object::Other => RequestKind::Other,
        };
        (reply, Some(self.observer(asked, now, sees, request)))
    }

    /// Returns the observer of a request whose content the policy denies.
    pub(super) fn observer_of_denial(&self, asked: &Asked<'_>) -> Option<Box<dyn RequestObserver>> {
        let views = asked.generation.rollout.views();
        let now = self.cache.clock().now();
        let sees = sees(views.as_ref()?, asked.group, asked.peer.address.ip(), now);
        Some(self.observer(asked, now, sees, RequestKind::Other))
    }

    fn observer(
        &self,
        asked: &Asked<'_>,
        now: UnixMillis,
        sees: Option<RevisionNumber>,
        request: RequestKind,
    ) -> Box<dyn RequestObserver> {
        let peer = (asked.peer.address.ip(), asked.peer.certificate_names());
        let observation = Observation::new(peer, &asked.group.name, now, sees, request);
        Box::new(ClientObserver { tracker: self.rollouts.clients().clone(), observation })
    }

    /// Views and group of the request's client by the configuration in force. A request that has waited goes on by these:
    /// views of a configuration that was replaced meanwhile show nothing new. `None` without rings.
    fn views_in_force(&self, asked: &Asked<'_>) -> Option<(Arc<Views>, Arc<Group>)> {
        let generation = self.generations.load();
        let views = generation.rollout.views().clone()?;
        let client = ClientAttributes::new(asked.peer.address.ip(), asked.target.normalized.path());
        let group = generation.policy.group(&client.with_names(asked.peer.certificate_names())).clone();
        Some((views, group))
    }

    /// The catalog of the client's revision, and which that is.
    async fn catalog(
        &self,
        asked: &Asked<'_>,
        key: &Arc<str>,
        classified: &Classification,
        mut views: Arc<Views>,
    ) -> (Reply, Option<RevisionNumber>) {
        let now = || self.cache.clock().now();
        let (client, mut group) = (asked.peer.address.ip(), asked.group.clone());
        let revision = views.of(&group.name, client, now());
        let has = revision.is_some_and(|revision| revision.catalogs.contains_key(key));
        if !has && !views.knows(key) {
            if asked.control.has(Directive::OnlyIfCached) {
                return (shared::only_if_cached(classified), sees(&views, &group, client, now()));
            }
            let arrived = tokio::time::timeout(ARRIVAL, self.arrivals.wanted(key)).await;
            (views, group) = self.views_in_force(asked).unwrap_or((views, group));
            let sees = sees(&views, &group, client, now());
            match arrived {
                Ok(Arrived::Published) => {}
                Ok(Arrived::Absent | Arrived::Refused) => return (absent(classified), sees),
                Ok(Arrived::Unpublished) | Err(_) => return (not_now(classified), sees),
            }
        }
        let Some(revision) = views.of(&group.name, client, views.time(now())) else {
            return (not_now(classified), None);
        };
        let reply = match revision.catalogs.get(key) {
            Some(Catalog::Present { since, .. }) => {
                self.version(asked, &version_key(*since, key).into(), classified).await
            }
            Some(Catalog::Absent) => {
                self.absentees.asked(key, now());
                absent(classified)
            }
            // It came with a later one.
            None => absent(classified),
        };
        (reply, Some(revision.number))
    }

    /// A version of a catalog, as it is stored.
    async fn version(&self, asked: &Asked<'_>, key: &Arc<str>, classified: &Classification) -> Reply {
        // Whatever its `Vary` says, there is one of it, which was asked for as nobody in particular.
        let entry = match self.cache.find(key, &HeaderMap::new(), classified).await {
            Ok(Found::Entry(entry)) => Ok(entry),
            Ok(Found::OtherVariant { .. } | Found::Nothing) => Err("it is gone".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let reply = match entry {
            Ok(entry) => {
                let headers = exactly(asked.headers, &entry);
                let asked = Asked { headers: headers.as_ref().unwrap_or(asked.headers), ..*asked };
                let reply = respond::stored(self, &asked, &entry).await;
                reply
                    .map(|reply| reply.told(CacheStatus::Hit, classified, Some(entry.object.blob)))
                    .map_err(|error| error.to_string())
            }
            Err(error) => Err(error),
        };
        reply.unwrap_or_else(|error| {
            tracing::error!(key = &**key, error, "a catalog of a kept revision cannot be served");
            not_now(classified)
        })
    }

    /// A payload, if the client's revision has come to its number, and which revision that is.
    async fn payload(
        &self,
        asked: &Asked<'_>,
        key: &Arc<str>,
        classified: &Classification,
        views: Arc<Views>,
        body: Incoming,
    ) -> (Reply, Option<RevisionNumber>) {
        let due = match RevisionFile::parse(key) {
            Some(file) if *asked.method == Method::GET => {
                self.due(asked, key, file, classified, &views).await
            }
            _ => Due::Now,
        };
        // It may have been announced meanwhile.
        let (views, group) = self.views_in_force(asked).unwrap_or((views, asked.group.clone()));
        let now = self.cache.clock().now();
        let sees = sees(&views, &group, asked.peer.address.ip(), now);
        let reply = match due {
            Due::Later(opens) => {
                self.metrics.deferred.with_label_values(&[&asked.group.name]).inc();
                let opens = opens.unwrap_or(now.saturating_add(HELD));
                return (
                    deferred(opens.max(now + 1), now).told(CacheStatus::Deferred, classified, None),
                    sees,
                );
            }
            Due::AtOnce => self.in_place(asked, body).await,
            Due::Now | Due::Unheard => self.by_windows(asked, body).await,
        };
        if let Some(sees) = sees.filter(|_| reply.brings_content()) {
            self.rollouts.takes(key, sees);
        }
        (reply, sees)
    }

    /// Whether it is the client's turn for a numbered payload. Of a number that is new, only what its manager has counts:
    /// whoever makes numbers up announces nothing.
    async fn due(
        &self,
        asked: &Asked<'_>,
        key: &Arc<str>,
        file: RevisionFile<'_>,
        classified: &Classification,
        views: &Views,
    ) -> Due {
        let due = |views: &Views, group: &Group| {
            let now = views.time(self.cache.clock().now());
            views.due(&group.name, asked.peer.address.ip(), file.series, file.number, now)
        };
        let first = due(views, asked.group);
        if first != Due::Unheard {
            return first;
        }
        // What is not known, or cannot be written down, is not staged, and content is not held up for it, but where
        // somebody holds it.
        let unstaged = || {
            let is_held = views.holds_back(&asked.group.name, file.series);
            if is_held { Due::Later(None) } else { first }
        };
        match self.is_there(asked, key, classified).await {
            Some(true) => {}
            Some(false) => return first,
            None => return unstaged(),
        }
        match self.rollouts.announce(file.series, file.number).await {
            Ok(Published::Nothing) => {}
            Ok(Published::New(_) | Published::Joined(_)) => self.news.hear(key),
            Err(error) => {
                tracing::warn!(%error, key = &**key, "what a client announces cannot be noted");
                return unstaged();
            }
        }
        self.views_in_force(asked).map_or(first, |(views, group)| due(&views, &group))
    }

    /// Whether a payload is stored, or its manager has it: that is asked as the client asks, and what comes is kept. `None`
    /// if that cannot be found out.
    async fn is_there(&self, asked: &Asked<'_>, key: &Arc<str>, classified: &Classification) -> Option<bool> {
        let mut variant = String::new();
        match self.cache.find(key, asked.headers, classified).await {
            Ok(Found::Entry(entry)) if entry.object.status == StatusCode::OK => return Some(true),
            Ok(Found::Entry(_)) => return Some(false),
            // Its own request finds out what is wrong.
            Err(_) => return None,
            Ok(Found::OtherVariant { variant: known }) => variant = known,
            Ok(Found::Nothing) => {}
        }
        if asked.control.has(Directive::OnlyIfCached) || self.cache.unstorable(key).is_some() {
            return None;
        }
        let mut wanted = self.wanted(asked, key.clone(), variant, classified, None);
        wanted.bandwidth = asked.bandwidth_class(classified, Purpose::Client);
        let fill = match self.fills.join(wanted, &asked.generation.upstreams) {
            Joined::Started(fill, _) | Joined::Following(fill) => fill,
            Joined::Stored(entry) => return Some(entry.object.status == StatusCode::OK),
        };
        let status = fill.outcome().await.status();
        status.map(|status| matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT))
    }

    /// What the windows and counts of its group make of it.
    async fn by_windows(&self, asked: &Asked<'_>, body: Incoming) -> Reply {
        if self.may_wait(asked) {
            Box::pin(self.in_turn(asked, body)).await
        } else {
            Box::pin(self.look_up(asked, body)).await
        }
    }
}

/// Sends an observation to the client tracker once the response has ended.
#[derive(Debug)]
struct ClientObserver {
    tracker: ClientTracker,
    observation: Observation,
}

impl RequestObserver for ClientObserver {
    fn finished(self: Box<Self>, response: FinishedResponse) {
        self.tracker.record(self.observation.with_response(response));
    }
}

/// The number of the revision that a client sees.
fn sees(views: &Views, group: &Group, client: IpAddr, now: UnixMillis) -> Option<RevisionNumber> {
    views.of(&group.name, client, views.time(now)).map(|revision| revision.number)
}

/// Without what would have a client take parts of two revisions for one, or what it has for what it sees now. `None` if
/// nothing is to be changed.
fn exactly(headers: &HeaderMap, entry: &Entry) -> Option<HeaderMap> {
    let modified = field::date(&entry.object.headers, header::LAST_MODIFIED);
    let is_of_another = |since| modified.is_none() || field::parse_date(since) != modified;
    // A later date says nothing: a client that has it, and sees an earlier revision now, does not have that.
    let since = headers.get(header::IF_MODIFIED_SINCE).is_some_and(is_of_another);
    // It goes on with a download that may have been of another revision, and does not say of which.
    let range = headers.contains_key(header::RANGE) && !headers.contains_key(header::IF_RANGE);
    if !since && !range {
        return None;
    }
    let mut headers = headers.clone();
    if since {
        headers.remove(header::IF_MODIFIED_SINCE);
    }
    if range {
        headers.remove(header::RANGE);
    }
    Some(headers)
}

/// To clients a catalog that there is none of is normal.
fn absent(classified: &Classification) -> Reply {
    let reply =
        Reply::text(StatusCode::NOT_FOUND, "gupd: the revision that this client sees has no such catalog\n");
    reply.told(CacheStatus::Hit, classified, None)
}

fn not_now(classified: &Classification) -> Reply {
    let sentence = "gupd: this catalog is not known for one moment now: see Retry-After\n";
    let mut reply = Reply::text(StatusCode::SERVICE_UNAVAILABLE, sentence);
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(AGAIN.as_secs()));
    reply.told(CacheStatus::Failed, classified, None)
}
