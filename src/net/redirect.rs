//! Sending clients to the manager itself: whether that is wanted of a relay that drains, and where it is. Shared by the
//! proxy and the guard. Who is well the upstreams say; that a client can reach it, the configuration.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};

use http::HeaderValue;

use crate::upstream::Upstreams;
use gupd_config::Config;
use gupd_http::target::Target;

/// How clients reach each upstream: scheme and authority, by name.
#[derive(Debug)]
pub struct PublicUrls(HashMap<String, String>);

impl PublicUrls {
    /// As a configuration says.
    pub fn new(config: &Config) -> Self {
        let public = config.upstreams.iter().map(|upstream| {
            let url = upstream.client_url();
            // Without the slash that a URL without a path has: the client's path follows.
            (upstream.name.clone(), url.to_string().trim_end_matches('/').to_owned())
        });
        Self(public.collect())
    }

    /// The target at the manager that goes first of those that it may go to and that are well; `None` if none is.
    pub fn redirect_location(&self, upstreams: &Upstreams, target: &Target) -> Option<HeaderValue> {
        let manager = upstreams.preferred(target.upstreams())?;
        HeaderValue::from_str(&format!("{}{}", self.0.get(&*manager.name)?, target.original)).ok()
    }
}

/// Whether an administrator wants clients to go elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum DrainMode {
    /// No.
    #[default]
    Off,
    /// Load balancers are to send none; those who come are served.
    Unready,
    /// Those who come are sent to the manager as well. What runs goes on.
    Redirecting,
}

/// What an administrator wants at this moment.
#[derive(Debug, Default)]
pub struct DrainState(AtomicU8);

impl DrainState {
    /// Wants this from now on.
    pub fn set(&self, draining: DrainMode) {
        self.0.store(draining as u8, Ordering::Relaxed);
    }

    /// What is wanted. Asked on every request: one load.
    pub fn get(&self) -> DrainMode {
        match self.0.load(Ordering::Relaxed) {
            0 => DrainMode::Off,
            1 => DrainMode::Unready,
            _ => DrainMode::Redirecting,
        }
    }
}
