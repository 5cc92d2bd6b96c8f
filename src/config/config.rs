//! The configuration: composes all sections, and checks settings of one against another. Every problem is recorded
//! before any is reported. A refused value is replaced by its default, so that reading goes on and finds the next
//! problem.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clients::{ClientSettings, read_clients};
use crate::content::{ContentType, PolicySettings, Rule, TypeNames};
use crate::content::{read_content_types, read_policy, read_rules};
use crate::defaults;
use crate::document::{ConfiguredFile, Document};
use crate::fill::{CacheSettings, FillSettings, read_cache, read_fill};
use crate::group::{GroupContext, GroupSettings, read_groups};
use crate::guard::{GuardSettings, read_guard};
use crate::health::{HealthSettings, read_health};
use crate::lan::{LanSettings, SiteSettings, read_lan, read_site};
use crate::limit::RateSchedule;
use crate::log::{LogSettings, read_log};
use crate::monitoring::{
    AlarmSettings, LedgerSettings, TraceSettings, read_alarms, read_ledger, read_traces,
};
use crate::overrides::{Overrides, environment};
use crate::peer::{PeerSettings, read_peers};
use crate::problem::{Problem, Problems};
use crate::profile::{Profile, Profiles, read_profiles};
use crate::refresh::{PrefetchSettings, RefreshSettings, read_prefetch, read_refresh};
use crate::ring::{RingSettings, read_rings};
use crate::rollout::{RolloutSettings, read_rollout};
use crate::route::{RouteSettings, read_routes};
use crate::server::{ServerSettings, read_server};
use crate::store::{StoreSettings, default_dir, read_store};
use crate::summary::{SummarySettings, read_summary};
use crate::tier::{TierSettings, read_tier};
use crate::upstream::{KnownUpstreams, UpstreamSettings, read_upstreams};
use crate::verify::{VerifySettings, read_verify};
use crate::wan::{WanLimit, WanSettings, read_wan, read_wan_limits};

/// Configuration file that commands read if none is given and it exists.
pub const DEFAULT_FILE: &str = "/etc/gupd/gupd.toml";

/// All settings of a relay, checked by [`Config::load`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Client listeners, admin listener and limits of a connection.
    pub server: ServerSettings,
    /// Folder and limits of the store.
    pub store: StoreSettings,
    /// History of traffic.
    pub ledger: LedgerSettings,
    /// Alarms.
    pub alarms: AlarmSettings,
    /// The daily summary.
    pub summary: SummarySettings,
    /// The shared tier, if there is one.
    pub tier: Option<TierSettings>,
    /// Export of spans.
    pub traces: TraceSettings,
    /// Time-outs and limits of fills.
    pub fill: FillSettings,
    /// Health checks of upstreams.
    pub health: HealthSettings,
    /// Freshness where neither response nor class decides.
    pub cache: CacheSettings,
    /// Log format and level.
    pub log: LogSettings,
    /// The managers, by priority. Never empty, except from [`Config::load_without_upstreams`].
    pub upstreams: Vec<UpstreamSettings>,
    /// Other relays of the site, asked before the managers.
    pub peers: Vec<PeerSettings>,
    /// Routes of paths to upstreams. Never empty; the longest prefix wins.
    pub routes: Vec<RouteSettings>,
    /// Profiles that routes can have.
    pub profiles: Profiles,
    /// Content types in addition to those of profiles.
    pub content_types: Vec<ContentType>,
    /// Class rules that precede the built-in ones.
    pub rules: Vec<Rule>,
    /// Response to denied requests.
    pub denials: PolicySettings,
    /// Time zone of the site.
    pub site: SiteSettings,
    /// Limits of the line to the upstreams.
    pub wan: WanSettings,
    /// Limits by path within `wan.limit`; the first that matches applies.
    pub wan_limits: Vec<WanLimit>,
    /// Limits of the line to the clients.
    pub lan: LanSettings,
    /// Budgets of each client.
    pub clients: ClientSettings,
    /// Groups of clients; a client belongs to the first that matches. One without matchers is the last.
    pub groups: Vec<GroupSettings>,
    /// Stages of a rollout; without any, clients see a new revision at once.
    pub rings: Vec<RingSettings>,
    /// Retention of revisions and criteria of trouble.
    pub rollout: RolloutSettings,
    /// Schedule of background refreshes.
    pub refresh: RefreshSettings,
    /// Content that is fetched before clients request it.
    pub prefetch: PrefetchSettings,
    /// Proof of content on routes that need it, and checks of stored payloads.
    pub verify: VerifySettings,
    /// Behaviour while no worker serves.
    pub guard: GuardSettings,
    /// Files and folders that the settings name and the relay reads.
    pub files: Vec<ConfiguredFile>,
    /// Valid but probably unintended settings, by location: for `gupd check` and the log.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Reads every setting: from `overrides`, else `GUPD_…` in `env`, else `file`, else its default.
    ///
    /// # Errors
    /// All problems together, by location.
    pub fn load(
        overrides: &Overrides,
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        let (mut document, config) = Self::read(overrides, file, env)?;
        if document.has_no_tables("upstream") {
            document.refuse_missing("upstream", file, no_upstream(file));
        }
        Ok(Self { warnings: document.finish()?, ..config })
    }

    /// Like [`Config::load`], for the start of a relay: a file without upstreams is only a warning. The relay of a
    /// fresh installation then runs, says what is missing, and is configured by a reload.
    ///
    /// # Errors
    /// As for [`Config::load`]; also without upstreams if there is no file to add them to.
    pub fn load_for_start(
        overrides: &Overrides,
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        let (mut document, config) = Self::read(overrides, file, env)?;
        if document.has_no_tables("upstream") {
            match file {
                Some(path) => document.warn_about_file(path, no_upstream(file)),
                None => document.refuse_missing("upstream", file, no_upstream(file)),
            }
        }
        Ok(Self { warnings: document.finish()?, ..config })
    }

    /// Like [`Config::load`], for commands that need no upstream: the list of upstreams may be empty.
    ///
    /// # Errors
    /// All problems together, by location.
    pub fn load_without_upstreams(
        overrides: &Overrides,
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        let (mut document, config) = Self::read(overrides, file, env)?;
        document.ignore_relay_problems();
        Ok(Self { warnings: document.finish()?, ..config })
    }

    /// Returns the defaults with these upstreams by priority, as a relay without a file has them.
    ///
    /// # Errors
    /// The problems of the URLs.
    pub fn for_upstreams(urls: &[&str]) -> Result<Self, Problems> {
        let overrides =
            Overrides { upstream: urls.iter().map(|&url| url.to_owned()).collect(), ..Overrides::default() };
        Self::load(&overrides, None, environment().filter(|(name, _)| !name.starts_with("GUPD_")))
    }

    /// Returns a configuration with one route, of this profile and host, to evaluate test vectors.
    pub(crate) fn for_profile(
        profile: &Arc<Profile>,
        profiles: &Profiles,
        host: Option<&str>,
    ) -> Result<Self, Problems> {
        let mut config = Self::for_upstreams(&["http://upstream.example"])?;
        for route in &mut config.routes {
            route.profile = Arc::clone(profile);
            route.host = host.map(str::to_owned);
        }
        Ok(Self { profiles: profiles.clone(), ..config })
    }

    /// Checks that a content type of this name can exist: a configured one, one of a profile, or one of a class.
    ///
    /// # Errors
    /// The known names.
    pub fn check_content_type(&self, name: &str) -> Result<(), String> {
        TypeNames::new(&self.content_types, &self.profiles).read(name).map(drop)
    }

    /// Returns the configuration of one of several processes: with an equal part of every rate.
    pub fn divide_limits(&self, processes: u32) -> Self {
        let mut config = self.clone();
        if processes <= 1 {
            return config;
        }
        config.limits_mut().for_each(|limit| *limit = limit.divide(processes));
        config
    }

    fn limits_mut(&mut self) -> impl Iterator<Item = &mut RateSchedule> {
        let site = [&mut self.wan.limit, &mut self.lan.limit, &mut self.lan.client_limit];
        let upstreams = self.upstreams.iter_mut().map(|upstream| &mut upstream.limit);
        let wan_limits = self.wan_limits.iter_mut().map(|limit| &mut limit.limit);
        let groups = self.groups.iter_mut();
        let groups =
            groups.flat_map(|group| [&mut group.limit, &mut group.client_limit, &mut group.wan_limit]);
        site.into_iter().chain(upstreams).chain(wan_limits).chain(groups)
    }

    fn read(
        overrides: &Overrides,
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Document, Self), Problems> {
        let env: Vec<_> = env.collect();
        let store_dir = default_dir(Path::new(defaults::STORE_DIR), &env);
        let mut document = Document::open(overrides, file, env.into_iter())?;
        let mut config = Self::read_sections(&mut document, store_dir);
        config.files = document.take_files();
        config.check_time_zone(&mut document);
        Ok((document, config))
    }

    fn read_sections(document: &mut Document, store_dir: PathBuf) -> Self {
        let server = read_server(document);
        let store = read_store(document, store_dir);
        let health = read_health(document);
        let wan = read_wan(document);
        let lan = read_lan(document);
        let clients = read_clients(document, store.quota);
        let (upstreams, upstream_tables) = read_upstreams(document, &server, &wan, &health);
        let known = KnownUpstreams { list: &upstreams, replaced_by: upstream_tables.replaced_by() };
        let peers = read_peers(document, &upstreams);
        let content_types = read_content_types(document);
        let profiles = read_profiles(document);
        let types = TypeNames::new(&content_types, &profiles);
        let verify = read_verify(document);
        let routes = read_routes(document, known, &types, &profiles, &verify);
        let context = GroupContext {
            server: &server,
            wan: &wan,
            lan: &lan,
            content_types: &types,
            upstreams: known,
            routes: &routes,
        };
        let groups = read_groups(document, &context);
        upstream_tables.close(document, &routes, &groups);
        let rollout = read_rollout(document);
        Self {
            wan_limits: read_wan_limits(document, &wan, &types),
            rings: read_rings(document, &groups, &rollout),
            tier: read_tier(document, &upstreams, &peers),
            refresh: read_refresh(document, &wan, &routes),
            prefetch: read_prefetch(document, &store, &routes),
            guard: read_guard(document),
            server,
            store,
            ledger: read_ledger(document),
            alarms: read_alarms(document),
            summary: read_summary(document),
            traces: read_traces(document),
            fill: read_fill(document),
            health,
            cache: read_cache(document),
            log: read_log(document),
            upstreams,
            peers,
            routes,
            profiles,
            content_types,
            rules: read_rules(document),
            denials: read_policy(document),
            site: read_site(document),
            wan,
            lan,
            clients,
            groups,
            rollout,
            files: Vec::new(),
            verify,
            warnings: Vec::new(),
        }
    }

    /// Warns that times of day are UTC if neither the configuration nor the machine has a time zone, as in many
    /// containers.
    fn check_time_zone(&self, document: &mut Document) {
        let is_constant = |limit: &RateSchedule| limit.as_constant().is_some();
        let limits = [&self.wan.limit, &self.lan.limit, &self.lan.client_limit];
        let limits = limits.into_iter().chain(self.upstreams.iter().map(|upstream| &upstream.limit));
        let limits = limits.chain(self.wan_limits.iter().map(|limit| &limit.limit));
        let is_group_constant = |group: &GroupSettings| {
            group.windows.as_constant().is_some()
                && [&group.limit, &group.client_limit, &group.wan_limit].into_iter().all(is_constant)
        };
        let uses_times = self.wan.windows.as_constant().is_none()
            || !limits.into_iter().all(is_constant)
            || !self.groups.iter().all(is_group_constant);
        if uses_times && self.site.time_zone.is_unknown() {
            document.warn_missing(
                "site.time_zone",
                "is not set and the machine has no time zone: times of day are in UTC",
            );
        }
    }
}

/// Message about a configuration without upstreams.
fn no_upstream(file: Option<&Path>) -> String {
    match file {
        Some(_) => "no upstream is configured: add [[upstream]] to it, or pass --upstream URL".to_owned(),
        None => {
            format!("no upstream is configured: pass --upstream URL, or add [[upstream]] to {DEFAULT_FILE}")
        }
    }
}
