//! One accepted configuration, compiled: routes, groups, upstreams, rollout rules and settings. A request loads the
//! generation in force once and uses it to its end, so it never sees parts of two. Limits and tasks
//! have state that outlives a configuration. They follow once requests are answered by the new generation.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};
use http::uri::PathAndQuery;

use crate::pass_limit::PassThroughLimits;
use gupd_cache::digest::SignatureRoots;
use gupd_config::Config;
use gupd_config::policy::{Policy, PolicyError};
use gupd_http::key;
use gupd_net::redirect::PublicUrls;
use gupd_net::upstream::Upstreams;
use gupd_rollout::engine::{RolloutRules, Rollouts};

/// One accepted configuration, compiled. Immutable.
#[derive(Debug)]
pub struct Generation {
    /// The settings in force. Those that need a restart still have their values of the start.
    pub config: Config,
    /// Routes, classes and groups.
    pub policy: Policy,
    /// The upstreams that requests go to.
    pub upstreams: Arc<Upstreams>,
    /// Rings, and the views that they give to clients.
    pub rollout: Arc<RolloutRules>,
    /// Roots that the signers of catalogs chain to.
    pub signature_roots: Arc<SignatureRoots>,
    pub(crate) public: PublicUrls,
    pub(crate) pass_through: PassThroughLimits,
    /// Paths of `refresh.catalogs` and `prefetch.paths` as written, by their normal form.
    pub(crate) configured_targets: HashMap<Box<str>, PathAndQuery>,
}

impl Generation {
    /// Compiles a configuration that uses these upstreams.
    ///
    /// # Errors
    /// Rules, content types or groups that do not compile.
    pub fn new(config: Config, upstreams: Arc<Upstreams>) -> Result<Self, PolicyError> {
        let policy = Policy::new(&config)?;
        Ok(Self {
            pass_through: PassThroughLimits::new(&policy),
            policy,
            rollout: Arc::new(RolloutRules::new(&config)),
            signature_roots: Arc::default(),
            public: PublicUrls::new(&config),
            configured_targets: configured_targets(&config),
            upstreams,
            config,
        })
    }
}

impl Generation {
    /// Sets the roots that the signers of catalogs chain to.
    #[must_use]
    pub fn with_signature_roots(self, roots: SignatureRoots) -> Self {
        Self { signature_roots: Arc::new(roots), ..self }
    }
}

fn configured_targets(config: &Config) -> HashMap<Box<str>, PathAndQuery> {
    let written = config.refresh.catalogs.iter().chain(&config.prefetch.paths);
    let by_normal_form = written.filter_map(|target| {
        let normal = key::normalize(target.path(), target.query()).ok()?;
        Some((normal.path_and_query().into(), target.clone()))
    });
    by_normal_form.collect()
}

type Follower = Box<dyn Fn(&Generation) + Send + Sync>;

/// The generation in force, and its followers.
pub struct Generations {
    current: ArcSwap<Generation>,
    rollouts: Rollouts,
    /// Held while a generation comes into force: one at a time.
    followers: Mutex<Vec<Follower>>,
}

impl Generations {
    /// Puts the first generation in force. `rollouts` were opened with its rollout rules.
    pub fn new(first: Generation, rollouts: Rollouts) -> Self {
        Self { current: ArcSwap::from_pointee(first), rollouts, followers: Mutex::default() }
    }

    /// The rollouts that follow every generation.
    pub fn rollouts(&self) -> &Rollouts {
        &self.rollouts
    }

    /// The generation in force, for one request. Cheaper than [`load_full`](Self::load_full).
    #[inline]
    pub fn load(&self) -> Guard<Arc<Generation>> {
        self.current.load()
    }

    /// The generation in force, for work that is kept.
    pub fn load_full(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// Calls `follower` with every later generation.
    pub fn follow(&self, follower: impl Fn(&Generation) + Send + Sync + 'static) {
        self.followers().push(Box::new(follower));
    }

    /// Puts a generation in force by one atomic store; running requests keep theirs. Returns after all followers have
    /// been called.
    pub fn store(&self, next: Generation) {
        let followers = self.followers();
        let next = Arc::new(next);
        self.rollouts.switch_rules(&next.rollout, || self.current.store(next.clone()));
        followers.iter().for_each(|follower| follower(&next));
    }

    fn followers(&self) -> MutexGuard<'_, Vec<Follower>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generations").field("current", &self.current).finish_non_exhaustive()
    }
}
