//! What clients get while the relay's worker does not serve: `[guard]`, and what upstreams and routes say to it. Owns
//! these types and their reading, and says which managers clients most likely cannot be sent to.

use std::net::IpAddr;
use std::time::Duration;

use super::document::Document;
use super::settings::{choice, time};
use super::{Config, Location, Problem, Trust, defaults};

/// `[guard]`: how `gupd serve --guard` stands in for its worker.
#[derive(Clone, Debug, PartialEq)]
pub struct GuardSettings {
    /// What clients get meanwhile.
    pub answer: Fallback,
    /// A worker that says nothing for so long is ended and started again; 100 ms to 10 m.
    pub watchdog: Duration,
    /// The longest pause before a worker that keeps dying is started again; 100 ms to 1 h.
    pub restart_max: Duration,
}

/// What clients get while no worker serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// `307` to the manager.
    Redirect,
    /// The manager's answer, passed through.
    Relay,
}

/// The words of `guard.answer` and of a route's `fallback`.
pub(super) const FALLBACKS: [(&str, Fallback); 2] =
    [("redirect", Fallback::Redirect), ("relay", Fallback::Relay)];

pub(super) fn guard(document: &mut Document) -> GuardSettings {
    let mut s = document.section("guard");
    let guard = GuardSettings {
        answer: s.one("answer", |text| choice(text, &FALLBACKS)).unwrap_or(Fallback::Redirect),
        watchdog: time(&mut s, "watchdog", defaults::WATCHDOG),
        restart_max: time(&mut s, "restart_max", defaults::RESTART_MAX),
    };
    document.close(s);
    guard
}

impl Config {
    /// What is odd about the guard's redirects, for whoever runs one: managers that clients are sent to, and may
    /// not reach: at a private address, behind a proxy, or with a certificate of their own.
    pub fn redirect_warnings(&self) -> Vec<Problem> {
        let redirected = |at: usize| {
            let mut bindings = self.groups.iter().filter_map(|group| group.binding.as_deref());
            let is_bound = bindings.any(|binding| binding.upstreams().contains(&at));
            self.routes
                .iter()
                .any(|route| self.redirects(route) && (is_bound || route.upstreams.contains(&at)))
        };
        let unreachable = self.upstreams.iter().enumerate().filter_map(|(at, upstream)| {
            let hidden = is_private(upstream.url.host()?)
                || upstream.proxy.is_some()
                || upstream.trust != Trust::default();
            (upstream.public_url.is_none() && redirected(at) && hidden).then(|| Problem {
                place: None::<Location>,
                key: Some("guard.answer".to_owned()),
                message: format!(
                    "clients are sent to upstream {} at {} while the worker does not serve; if they cannot reach it, \
                     set guard.answer = \"relay\", or the upstream's public_url",
                    upstream.name, upstream.url
                ),
            })
        });
        unreachable.collect()
    }

    fn redirects(&self, route: &super::RouteSettings) -> bool {
        route.fallback.unwrap_or(self.guard.answer) == Fallback::Redirect
    }
}

/// Whether an address of a URL is one of loopback, a private network or a link.
fn is_private(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    match literal.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_private() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Binding, GroupSettings};
    use super::*;

    fn warnings(urls: &[&str], change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::for_upstreams(urls).unwrap();
        change(&mut config);
        config.redirect_warnings().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_redirect_to_an_address_of_a_private_network_is_odd() {
        for url in ["http://10.0.0.1:8014", "http://127.0.0.1", "http://[fd00::1]:80", "http://LOCALHOST:1"] {
            let told = warnings(&[url], |_| {});
            assert_eq!(told.len(), 1, "{url}");
            assert!(
                told[0].contains("guard.answer = \"relay\"") && told[0].contains("public_url"),
                "{told:?}"
            );
        }
        assert!(warnings(&["http://manager:8014", "http://192.0.2.1"], |_| {}).is_empty());
        let trusted = |config: &mut Config| config.upstreams[0].trust.ca = Some("/etc/gupd/ca.pem".into());
        assert_eq!(warnings(&["https://manager"], trusted).len(), 1);
    }

    #[test]
    fn who_is_not_sent_there_is_not_warned_of_it() {
        let private = "http://192.168.0.1:8014";
        assert!(warnings(&[private], |config| config.guard.answer = Fallback::Relay).is_empty());
        assert!(warnings(&[private], |config| config.routes[0].fallback = Some(Fallback::Relay)).is_empty());
        let public = Some("https://manager.example".parse().unwrap());
        assert!(warnings(&[private], |config| config.upstreams[0].public_url = public).is_empty());
        let redirected = |config: &mut Config| {
            config.guard.answer = Fallback::Relay;
            config.routes[0].fallback = Some(Fallback::Redirect);
        };
        assert_eq!(warnings(&[private], redirected).len(), 1);
    }

    #[test]
    fn a_manager_that_only_a_group_is_sent_to_counts() {
        let told = |is_bound: bool| {
            warnings(&["http://manager", "http://10.0.0.2"], |config| {
                config.routes[0].upstreams = vec![0];
                let binding = Binding::new(&config.upstreams, vec![1]).filter(|_| is_bound).map(Arc::new);
                config.groups = vec![GroupSettings { binding, ..GroupSettings::catch_all("moved") }];
            })
        };
        assert_eq!((told(true).len(), told(false).len()), (1, 0));
    }
}
