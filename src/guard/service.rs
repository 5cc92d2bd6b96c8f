//! Notifications to the service manager systemd (`sd_notify`). Without `NOTIFY_SOCKET` in the environment every call
//! does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Environment variables of systemd that concern one process and not its children.
pub const VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Notifies that clients are served, or that a reload has ended.
pub fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Notifies that the configuration is being read again; [`notify_ready`] must follow.
pub fn notify_reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// Notifies that running downloads finish and the process exits.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Sets the status line.
pub fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Notifies the watchdog; due every [`watchdog_interval`].
pub fn notify_watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// Returns the interval of [`notify_watchdog`], half the timeout of the service manager, if it has a watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 2)
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "service manager could not be notified");
    }
}
