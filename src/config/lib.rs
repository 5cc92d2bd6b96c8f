//! Settings, units, schedules and compiled policy tables of gupd: every choice that an administrator can make.
//!
//! A [`Config`] is valid: it is built by [`Config::load`] only, which reports every problem with its location and key.
//! The crate opens no socket, and no file other than the configuration and the system's time zones. Its main types are
//! [`Config`], with one `…Settings` type for each section; [`policy::Policy`], the tables that route, class and group a
//! request; [`Week`], a value by minute of the week; and [`Clock`].
//!
//! The modules stand in layers. `units`, `week` and `problem` know nothing of settings. `file` and `document` find the
//! text of a setting, `reader` turns it into a value, and each section has a module above it. Start at `config`, which
//! composes them, or at `server` for the reading of one section.

// Guaranteed by lints, not by care: these rules run in the path of requests.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::string_slice, clippy::arithmetic_side_effects))]

mod access;
mod binding;
mod client_network;
mod clients;
pub mod clock;
mod config;
pub mod content;
mod defaults;
mod document;
mod duplicate;
mod file;
mod fill;
mod group;
mod group_id;
mod guard;
mod health;
mod lan;
mod limit;
mod listener;
mod log;
mod monitoring;
mod networks;
mod octets;
mod overrides;
mod pass;
pub mod pattern;
mod peer;
pub mod policy;
mod problem;
pub mod profile;
mod proxies;
mod public_name;
mod quantity;
mod reader;
mod redirects;
mod refresh;
mod ring;
mod rollout;
mod route;
mod server;
mod server_url;
mod store;
mod summary;
mod tier;
mod tls;
pub mod units;
mod unknown;
mod upstream;
mod upstream_id;
mod verify;
mod wan;
pub mod week;

pub use access::{AccessList, AccessSettings};
pub use binding::Binding;
pub use client_network::{
    ClientIdentity, certificate_identity, certificate_network, client_network, hardware_network,
};
pub use clients::ClientSettings;
pub use clock::Clock;
pub use config::{Config, DEFAULT_FILE};
pub use content::{Class, ContentMatch, ContentType, PolicySettings, Rule};
pub use document::ConfiguredFile;
pub use fill::{CacheSettings, FillSettings, FinishPolicy};
pub use group::{GroupSettings, OutsideWindow};
pub use group_id::GroupId;
pub use guard::{Fallback, GuardSettings};
pub use health::HealthSettings;
pub use lan::{LanSettings, SiteSettings};
pub use limit::{Ceiling, RateSchedule};
pub use listener::{ClientCertificates, ConnectionBounds, ListenerSettings, ListenerTls};
pub use log::{LogFormat, LogSettings};
pub use monitoring::{AlarmSettings, LedgerSettings, TraceSettings};
pub use networks::Networks;
pub use overrides::{Overrides, environment};
pub use pass::{ClosedTo, PassRules};
pub use peer::{PeerSettings, PeerVerification};
pub use problem::{Location, Problem, Problems};
pub use profile::{Profile, Profiles};
pub use proxies::{ClientAddressSource, ProxySettings};
pub use public_name::PublicName;
pub use quantity::Quantity;
pub use refresh::{PrefetchSettings, Recurrence, RefreshSettings};
pub use ring::{Gate, RingSettings, Steps};
pub use rollout::RolloutSettings;
pub use route::RouteSettings;
pub use server::ServerSettings;
pub use store::StoreSettings;
pub use summary::SummarySettings;
pub use tier::{BucketSettings, TierLocation, TierSettings};
pub use tls::{CertificateFiles, Pin, Trust};
pub use units::UnitError;
pub use upstream::{HttpProxy, UpstreamSettings};
pub use upstream_id::UpstreamId;
pub use verify::{Verification, VerifySettings};
pub use wan::{WanLimit, WanMatch, WanSettings};
pub use week::{Week, WeekMinute, WeekWindows};
