//! Warnings about the guard's redirects: upstreams that clients are redirected to but probably cannot reach. Such an
//! upstream has a private address, a proxy, or its own certificate rules.

use std::net::IpAddr;

use crate::config::Config;
use crate::guard::Fallback;
use crate::problem::Problem;
use crate::route::RouteSettings;
use crate::tls::Trust;

impl Config {
    /// Returns a warning for each upstream that the guard redirects clients to and that they probably cannot reach.
    pub fn redirect_warnings(&self) -> Vec<Problem> {
        let is_redirect_target = |at: usize| {
            let mut bindings = self.groups.iter().filter_map(|group| group.binding.as_deref());
            let is_bound = bindings.any(|binding| binding.upstreams().contains(&at));
            self.routes
                .iter()
                .any(|route| self.is_redirected(route) && (is_bound || route.upstreams.contains(&at)))
        };
        let unreachable = self.upstreams.iter().enumerate().filter_map(|(at, upstream)| {
            let is_hidden = is_private(upstream.url.host()?)
                || upstream.proxy.is_some()
                || upstream.trust != Trust::default();
            (upstream.public_url.is_none() && is_redirect_target(at) && is_hidden).then(|| Problem {
                location: None,
                key: Some("guard.answer".to_owned()),
                message: format!(
                    "clients are redirected to upstream {} at {} while no worker serves: if they cannot reach it, set \
                     guard.answer = \"relay\" or the upstream's public_url",
                    upstream.name, upstream.url
                ),
            })
        });
        unreachable.collect()
    }

    fn is_redirected(&self, route: &RouteSettings) -> bool {
        route.fallback.unwrap_or(self.guard.answer) == Fallback::Redirect
    }
}

/// Returns true for a loopback, private or link-local host of a URL.
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

    use super::*;
    use crate::{Binding, GroupSettings};

    fn warnings(urls: &[&str], change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::for_upstreams(urls).unwrap();
        change(&mut config);
        config.redirect_warnings().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn redirect_to_private_address_is_a_warning() {
        for url in ["http://10.0.0.1:8014", "http://127.0.0.1", "http://[fd00::1]:80", "http://LOCALHOST:1"] {
            let found = warnings(&[url], |_| {});
            assert_eq!(found.len(), 1, "{url}");
            assert!(
                found[0].contains("guard.answer = \"relay\"") && found[0].contains("public_url"),
                "{found:?}"
            );
        }
        assert!(warnings(&["http://manager:8014", "http://192.0.2.1"], |_| {}).is_empty());
        let trusted = |config: &mut Config| config.upstreams[0].trust.ca = Some("/etc/gupd/ca.pem".into());
        assert_eq!(warnings(&["https://manager"], trusted).len(), 1);
    }

    #[test]
    fn upstream_without_redirects_has_no_warning() {
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
    fn redirect_to_bound_upstream_is_a_warning() {
        let count = |is_bound: bool| {
            warnings(&["http://manager", "http://10.0.0.2"], |config| {
                config.routes[0].upstreams = vec![0];
                let binding = Binding::new(&config.upstreams, vec![1]).filter(|_| is_bound).map(Arc::new);
                config.groups = vec![GroupSettings { binding, ..GroupSettings::catch_all("moved") }];
            })
            .len()
        };
        assert_eq!((count(true), count(false)), (1, 0));
    }
}
