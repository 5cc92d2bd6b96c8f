//! Behaviour of the relay over real sockets, one module per stage. One binary keeps build and start quick.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by a panic")]

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a test bed offers more than one test uses")]
mod support;

mod alarms;
mod bad_page;
mod balance;
mod bindings;
mod broken_body;
mod budgets;
mod caching;
mod client_certificates;
mod clock;
mod closed_unanswered;
mod collect;
mod collect_under_stress;
mod connection_auth;
mod content_trust;
mod content_types;
mod cookies;
mod corruption;
mod damage;
mod denied;
mod digests;
mod explicit_freshness;
mod failover;
mod field_names;
mod fields;
mod fill;
mod forward;
mod framing;
mod freshness;
mod groups;
mod half_close;
mod handover;
mod health;
mod hierarchy;
mod hostile;
mod http2;
mod invalidation;
mod ledger;
mod limits;
mod listeners;
mod loops;
mod negative;
mod next_upstream;
mod offline;
mod pages;
mod panics;
mod passing;
mod peers;
#[cfg(debug_assertions)]
mod pipeline;
mod plan;
mod plan_fleet;
mod poisoning;
mod prefetch;
mod profiles;
mod proxied_tls;
mod proxies;
mod queue;
mod range_jobs;
mod ranges;
mod refresh;
mod refusals;
mod relocation;
mod rollout;
mod running_fills;
mod scrub;
mod sharing;
mod sparse;
mod spellings;
mod starvation;
mod summary;
mod targets;
mod tier;
mod tier_bucket;
mod tls;
mod unrequested;
mod upstream_proxy;
mod upstream_tls;
mod validators;
mod windows;
