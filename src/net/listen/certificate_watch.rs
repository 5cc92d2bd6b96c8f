//! The watch on the certificate files of listeners. A file that changes is loaded for new connections without a reload
//! of the configuration; open connections stay. Certificate and key are two files, so a change counts once it has
//! lasted for an interval. Files that cannot be used change nothing: the old ones stay in use.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::listener::{ClientListener, ClientListeners, LoadedTls};
use gupd_config::ListenerTls;
use gupd_config::clock::Clock;

/// Interval of the watch. A look costs one system call for each file.
const INTERVAL: Duration = Duration::from_secs(1);

/// Identity and state of one file; `None` if there is none.
type FileState = Option<(u64, u64, i64, i64)>;

/// States of the files of one listener, in the order of its settings.
pub(super) type FileStates = Vec<FileState>;

/// What the watch knows about one listener.
#[derive(Default)]
struct WatchedListener {
    /// A change that has been seen once.
    changed: Option<FileStates>,
    /// The change that could not be used.
    refused: Option<FileStates>,
    /// TLS with a revocation list that was reported as expired.
    expired: Option<Arc<LoadedTls>>,
}

impl ClientListeners {
    /// Loads changed files until the future is dropped; calls `on_change` after each.
    pub async fn watch_files(&self, clock: Clock, on_change: impl Fn()) {
        let mut watched: Vec<(&Arc<ClientListener>, WatchedListener)> =
            self.with_files().map(|listener| (listener, WatchedListener::default())).collect();
        let mut interval = interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            for (listener, state) in &mut watched {
                let Some(tls) = listener.tls() else { continue };
                state.report_expiry(listener, &tls, &clock);
                if state.update(listener, &tls).await {
                    on_change();
                }
            }
        }
    }
}

impl WatchedListener {
    /// Loads the files of a listener if they have changed. Returns true if new ones are in use.
    async fn update(&mut self, listener: &ClientListener, tls: &Arc<LoadedTls>) -> bool {
        let settings = tls.settings.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || read_states(&settings)).await else { return false };
        if now == tls.files || self.refused.as_ref() == Some(&now) {
            self.changed = None;
            return false;
        }
        if self.changed.as_ref() != Some(&now) {
            self.changed = Some(now);
            return false;
        }
        self.changed = None;
        let (settings, has_http2) = (tls.settings.clone(), listener.has_http2);
        let loaded = tokio::task::spawn_blocking(move || LoadedTls::load(settings, has_http2)).await;
        match loaded {
            Ok(Ok(renewed)) => {
                tracing::info!(listener = &**listener.name(), "changed certificates are in use");
                self.refused = None;
                listener.replace_tls(tls, renewed);
                true
            }
            Ok(Err(error)) => {
                let listener = &**listener.name();
                tracing::error!(%error, listener, "changed certificates refused; the old ones stay in use");
                self.refused = Some(now);
                false
            }
            // The runtime ends.
            Err(_) => false,
        }
    }

    fn report_expiry(&mut self, listener: &ClientListener, tls: &Arc<LoadedTls>, clock: &Clock) {
        let is_reported = self.expired.as_ref().is_some_and(|reported| Arc::ptr_eq(reported, tls));
        if !is_reported && tls.crl_expiry.is_some_and(|until| until < clock.now()) {
            tracing::error!(
                listener = &**listener.name(),
                "revocation list expired: clients with certificates are refused: replace client_crl"
            );
            self.expired = Some(tls.clone());
        }
    }
}

/// Reads the states of all files of a listener.
pub(super) fn read_states(tls: &ListenerTls) -> FileStates {
    let pairs = tls.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
    pairs.chain(&tls.client_ca).chain(&tls.client_crl).map(|path| read_state(path)).collect()
}

fn read_state(path: &Path) -> FileState {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}
