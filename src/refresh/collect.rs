//! Collecting the catalogs of one source, what its route and binding have, from one of its upstreams: collects until two
//! in a row agree, all of them by the same upstream, or none of it counts. What clients wait for meanwhile is taken in.
//! Owns whom to ask for what, in which order; that what comes is of one moment is `snapshot`'s to say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::Worker;
use super::catalogs::AT_ONCE;
use super::snapshot::{Collect, Memory, Room, agree, has};
use gupd_config::clock::UnixMillis;
use gupd_net::shape::Purpose;
use gupd_proxy::background::{CatalogFetchError, CatalogSource, OriginError, PendingOutcome};
use gupd_rollout::revision::Revision;
use gupd_rollout::state::{CollectedCatalog, source_of_key};
use gupd_store::ObjectKey;

/// Collects of one upstream in a row. A manager that publishes takes a moment; one whose files differ after each of so
/// many is several, behind one name.
const MAX_COLLECTS: usize = 4;

/// Names that clients wait for of one collect, at most: whoever makes up new ones all the time must not keep it from its end.
/// The others are next.
const MAX_ARRIVALS: usize = 256;

/// What is to be collected.
pub(super) struct Source<'a> {
    /// What its keys begin with.
    pub(super) name: Arc<str>,
    /// Its catalogs, and when a client last asked for each.
    pub(super) known: BTreeMap<ObjectKey, UnixMillis>,
    /// What clients may see already.
    pub(super) newest: Option<&'a Revision>,
    /// Also if nobody waits for any of it.
    pub(super) is_whole: bool,
}

/// What was collected.
pub(super) struct Collected {
    /// Everything, as it was at one moment; `None` if only what there is none of was asked for.
    pub(super) catalogs: Option<Collect>,
    /// What clients wait for, and there is none of.
    pub(super) absent: Collect,
    /// What clients waited for that was asked for.
    pub(super) asked: BTreeSet<ObjectKey>,
}

/// Why a source was not collected.
#[derive(Debug, thiserror::Error)]
pub(super) enum Uncollected {
    #[error("it has no upstream")]
    Nobody,
    #[error(transparent)]
    Unroutable(#[from] OriginError),
    /// What clients wait for, before anything else was asked for.
    #[error(transparent)]
    Unwanted(CatalogFetchError),
    #[error(transparent)]
    CatalogFetchError(#[from] CatalogFetchError),
    #[error(
        "catalogs of upstream {upstream} changed during each of {MAX_COLLECTS} collects; if it is several managers behind one name, configure each as an upstream"
    )]
    Unsettled { upstream: Arc<str> },
}

impl Uncollected {
    /// That nobody answers for what a client asked for says nothing of the others: clients may make names up.
    pub(super) fn is_of_one_name(&self) -> bool {
        matches!(self, Self::Unwanted(_))
    }
}

impl Worker {
    /// Collects a source from the first of its upstreams that answers for all of it.
    pub(super) async fn collect(
        &self,
        source: &Source<'_>,
        memory: &mut Memory,
        room: &mut Room,
    ) -> Result<Collected, Uncollected> {
        let mut failure = Uncollected::Nobody;
        for upstream in self.background.catalog_sources(&ObjectKey::from(format!("{} /", source.name)))? {
            let mut left = room.clone();
            let before = memory.last(&source.name, upstream.name());
            match self.collect_from(&upstream, source, before, &mut left).await {
                Ok(collected) => {
                    *room = left;
                    if let Some(all) = &collected.catalogs {
                        memory.keep(&source.name, upstream.name(), all.clone());
                    }
                    memory.add(&source.name, upstream.name(), &collected.absent);
                    return Ok(collected);
                }
                // It answers. What another one has is no better for that.
                Err(error @ Uncollected::Unsettled { .. }) => return Err(error),
                Err(error) => {
                    if !error.is_of_one_name() {
                        tracing::warn!(upstream = &**upstream.name(), source = &*source.name, %error,
                            "catalogs are not collected from this upstream");
                    }
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    async fn collect_from(
        &self,
        upstream: &CatalogSource,
        source: &Source<'_>,
        mut before: Collect,
        room: &mut Room,
    ) -> Result<Collected, Uncollected> {
        let mut known = source.known.clone();
        let (mut asked, mut absent) = (BTreeSet::new(), Collect::new());
        for round in 0..MAX_COLLECTS {
            let came = self.ask_arrivals(upstream, source, &mut asked, room).await;
            let nothing_came = came.there.is_empty() && came.absent.is_empty();
            absent.extend(came.absent.into_iter().map(|key| (key, None)));
            if round == 0 && !source.is_whole {
                match came.failure {
                    Some(error) if nothing_came => return Err(Uncollected::Unwanted(error)),
                    _ if came.there.is_empty() => return Ok(Collected { catalogs: None, absent, asked }),
                    _ => {}
                }
            }
            // What has come alone is of one moment with what does not change around it.
            let mut again = known.clone();
            let now = self.clock.now();
            if came.there.len() > 1 {
                again.extend(came.there.keys().map(|key| (key.clone(), now)));
            }
            known.extend(came.there.keys().map(|key| (key.clone(), now)));
            before.extend(came.there);
            let collected = self.ask_all(upstream, &again).await?;
            let mut is_settled = agree(&before, &collected);
            before.extend(collected);
            before.retain(|key, _| known.contains_key(key));
            // Clients may see exactly this already, so it has been of one moment.
            is_settled |= before.iter().all(|(key, found)| has(source.newest, key, *found));
            if is_settled || known.len() == 1 {
                return Ok(Collected { catalogs: Some(before), absent, asked });
            }
        }
        Err(Uncollected::Unsettled { upstream: upstream.name().clone() })
    }

    /// All of these, of one upstream; the first that fails is the end of it.
    async fn ask_all(
        &self,
        upstream: &CatalogSource,
        keys: &BTreeMap<ObjectKey, UnixMillis>,
    ) -> Result<Collect, CatalogFetchError> {
        let ask = |(key, last_asked): (&ObjectKey, &UnixMillis)| {
            let (key, last_asked) = (key.clone(), *last_asked);
            async move { self.ask_for_one(upstream, key, last_asked, Purpose::Revalidation).await }
        };
        stream::iter(keys.iter().map(ask)).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// What clients wait for of this source, until nobody waits for more that was not asked for, or enough was.
    async fn ask_arrivals(
        &self,
        upstream: &CatalogSource,
        source: &Source<'_>,
        asked: &mut BTreeSet<ObjectKey>,
        room: &mut Room,
    ) -> Came {
        let mut came = Came::default();
        loop {
            let (mut new, mut left) = (Vec::new(), room.clone());
            for key in self.background.pending_catalogs().keys() {
                if asked.len() == MAX_ARRIVALS {
                    break;
                }
                if source_of_key(&key) == &*source.name
                    && !asked.contains(&key)
                    && self.may_be_asked(source, &key, &left).await
                {
                    left.take(&key, false);
                    asked.insert(key.clone());
                    new.push(key);
                }
            }
            if new.is_empty() {
                return came;
            }
            let now = self.clock.now();
            let ask = |key: ObjectKey| async move {
                let answer = self.ask_for_one(upstream, key.clone(), now, Purpose::Client).await;
                (key, answer)
            };
            let mut answers = stream::iter(new.into_iter().map(ask)).buffer_unordered(AT_ONCE);
            while let Some((key, answer)) = answers.next().await {
                match answer {
                    Ok((key, Some(found))) => {
                        room.take(&key, false);
                        came.there.insert(key, Some(found));
                    }
                    Ok((key, None)) if room.admits_absent() => {
                        room.take(&key, true);
                        came.absent.push(key);
                    }
                    Ok((key, None)) => {
                        self.background.pending_catalogs().resolve(&key, PendingOutcome::Absent);
                    }
                    Err(error) => {
                        tracing::debug!(%error, key = &*key, "a client's catalog could not be asked for");
                        came.failure = Some(error);
                    }
                }
            }
        }
    }

    /// Tells at once who waits for what need not be asked for.
    async fn may_be_asked(&self, source: &Source<'_>, key: &ObjectKey, room: &Room) -> bool {
        let told = if source.newest.is_some_and(|newest| newest.catalogs.contains_key(key)) {
            Some(PendingOutcome::Published)
        } else if !self.background.is_catalog_key(key) || !room.admits(key) {
            Some(PendingOutcome::Refused)
        } else if !room.admits_absent() && self.background.was_absent(key).await {
            Some(PendingOutcome::Absent)
        } else {
            None
        };
        if let Some(told) = told {
            self.background.pending_catalogs().resolve(key, told);
        }
        told.is_none()
    }

    async fn ask_for_one(
        &self,
        upstream: &CatalogSource,
        key: ObjectKey,
        last_used: UnixMillis,
        purpose: Purpose,
    ) -> Result<(ObjectKey, Option<CollectedCatalog>), CatalogFetchError> {
        let entry = Box::pin(self.background.fetch_catalog(upstream, &key, purpose)).await?;
        let found = entry.map(|entry| {
            // To be asked for by the relay is no use, but it is used as what clients get of it.
            entry.touch(last_used);
            CollectedCatalog {
                object: entry.object.id,
                blob: entry.object.blob,
                len: entry.object.len,
                last_used,
            }
        });
        Ok((key, found))
    }
}

/// What came of what clients wait for.
#[derive(Default)]
struct Came {
    there: Collect,
    absent: Vec<ObjectKey>,
    failure: Option<CatalogFetchError>,
}
