//! Fills over a network in memory and in paused time: the test controls each connection, byte and break. A seed
//! repeats its run, except for the store: its disk is real, and so is the time that it takes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by a panic")]

mod abandoned;
#[path = "../support/collector.rs"]
#[allow(dead_code, unreachable_pub, reason = "a test bed offers more than one test uses")]
mod collector;
mod failover;
mod limits;
mod names;
mod network;
mod plan;
mod revisions;
mod site;
mod waits;

/// An origin that serves `content` under every path.
pub(crate) fn origin(content: &[u8], tag: &str) -> gupd_site::OriginServer {
    let resource = gupd_site::Resource::tagged(content, &format!("\"{tag}\""));
    gupd_site::OriginServer::computed(move |_| Some(resource.clone()))
}
