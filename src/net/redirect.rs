//! Redirects of clients to a manager: where to, and whether a draining relay wants them. Shared by the proxy and the
//! guard. `Upstreams` knows the healthy managers, the configuration the URLs for clients.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};

use http::HeaderValue;

use crate::upstream::Upstreams;
use gupd_config::Config;
use gupd_http::target::Target;

/// URLs by which clients reach each upstream: scheme and authority, by name.
#[derive(Debug)]
pub struct PublicUrls(HashMap<String, String>);

impl PublicUrls {
    /// Reads the URLs of a configuration.
    pub fn new(config: &Config) -> Self {
        let public = config.upstreams.iter().map(|upstream| {
            let url = upstream.client_url();
            // Without the slash that a URL without a path has: the client's path follows.
            (upstream.name.clone(), url.to_string().trim_end_matches('/').to_owned())
        });
        Self(public.collect())
    }

    /// Returns the URL of the target at the preferred healthy upstream; `None` if no upstream is healthy.
    pub fn redirect_location(&self, upstreams: &Upstreams, target: &Target) -> Option<HeaderValue> {
        let manager = upstreams.preferred(target.upstreams())?;
        HeaderValue::from_str(&format!("{}{}", self.0.get(&*manager.name)?, target.original)).ok()
    }
}

/// Drain mode that an administrator selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum DrainMode {
    /// Not draining.
    #[default]
    Off,
    /// `/readyz` fails, so that load balancers send no clients. Requests are served.
    Unready,
    /// Requests are also redirected to the manager. Running responses finish.
    Redirecting,
}

/// The current drain mode.
#[derive(Debug, Default)]
pub struct DrainState(AtomicU8);

impl DrainState {
    /// Sets the mode.
    pub fn set(&self, mode: DrainMode) {
        self.0.store(mode as u8, Ordering::Relaxed);
    }

    /// Returns the mode: one load, made for every request.
    pub fn get(&self) -> DrainMode {
        match self.0.load(Ordering::Relaxed) {
            0 => DrainMode::Off,
            1 => DrainMode::Unready,
            _ => DrainMode::Redirecting,
        }
    }
}
