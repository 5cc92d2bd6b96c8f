//! Bounds on the catalogs that a refresh requests because clients requested them. A client can make up any number of
//! queries of one catalog, and names that a manager happens to have: each would cost a request at every refresh.
//! Catalogs beyond the bounds stay stored, and are revalidated when a client requests them.

use std::cmp::Reverse;
use std::collections::HashMap;

use gupd_config::clock::UnixMillis;
use gupd_config::pattern;
use gupd_http::key::split_key;

/// Maximum number of queries of one path, and of spellings and stored variants of a path without one. No updater is
/// known to use any.
pub(super) const MAX_VARIANTS: usize = 4;

/// Maximum number of catalogs: several times those of a site with all products of the vendor.
pub(super) const MAX_REQUESTED: usize = 1_000;

/// Retains the catalogs that clients requested last, within the bounds. `describe` returns the key and the time of the
/// last use. Configured catalogs count for no bound.
pub(super) fn retain_latest<T>(
    catalogs: &mut Vec<T>,
    describe: impl Fn(&T) -> (&str, UnixMillis),
    is_configured: impl Fn(&str) -> bool,
) {
    catalogs.sort_by(|one, other| {
        let rank = |catalog| {
            let (key, last_used) = describe(catalog);
            (Reverse(last_used), key)
        };
        rank(one).cmp(&rank(other))
    });
    let (mut requested, mut variants) = (0, HashMap::<String, usize>::new());
    catalogs.retain(|catalog| {
        let (key, _) = describe(catalog);
        if is_configured(key) {
            return true;
        }
        let count = variants.entry(variants_name(key)).or_default();
        *count += 1;
        let is_retained = *count <= MAX_VARIANTS && requested < MAX_REQUESTED;
        requested += usize::from(is_retained);
        is_retained
    });
}

/// Returns the name that all queries of a path have in common, or all spellings of a path without a query.
fn variants_name(key: &str) -> String {
    let target = split_key(key).target;
    let (path, mark) = target.split_once('?').map_or((target, ""), |(path, _)| (path, "?"));
    format!("{}{}{mark}", &key[..key.len() - target.len()], pattern::fold(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retained(catalogs: &[(&str, UnixMillis)]) -> Vec<String> {
        let mut catalogs = catalogs.to_vec();
        retain_latest(&mut catalogs, |(key, last_used)| (key, *last_used), |key| key.starts_with("r /own"));
        catalogs.into_iter().map(|(key, _)| key.to_owned()).collect()
    }

    #[test]
    fn latest_queries_of_each_path_are_retained() {
        for (catalogs, expected) in [
            (
                &[("r /a?1", 1), ("r /a?2", 2), ("r /a?3", 3), ("r /a?4", 4), ("r /a?5", 5), ("r /a", 0)][..],
                &["r /a?5", "r /a?4", "r /a?3", "r /a?2", "r /a"][..],
            ),
            (&[("r /a?1", 1), ("r /b?1", 1), ("r ~m /a?1", 1)], &["r /a?1", "r /b?1", "r ~m /a?1"]),
            (&[("r /a?", 1), ("r /a??", 1), ("r /a", 1)], &["r /a", "r /a?", "r /a??"]),
            (
                &[("r /own?1", 1), ("r /own?2", 1), ("r /own?3", 1), ("r /own?4", 1), ("r /own?5", 1)],
                &["r /own?1", "r /own?2", "r /own?3", "r /own?4", "r /own?5"],
            ),
            // Spellings and stored variants of one path.
            (
                &[("r /A", 5), ("r /a", 4), ("r /%41", 3), ("r //a", 2), ("r /a;x", 1), ("R /a", 0)],
                &["r /A", "r /a", "r /%41", "r //a", "R /a"],
            ),
            (&[("r /a", 5), ("r /a", 4), ("r /a", 3), ("r /a", 2), ("r /a", 1)], &["r /a"; 4]),
            (&[], &[]),
        ] {
            assert_eq!(retained(catalogs), expected, "{catalogs:?}");
        }
    }

    #[test]
    fn names_of_clients_are_bounded_and_configured_ones_are_not() {
        let names: Vec<String> = (0..MAX_REQUESTED + 200).map(|at| format!("r /{at}/index.dat")).collect();
        let times = 0..;
        let mut catalogs: Vec<(&str, UnixMillis)> = names.iter().map(String::as_str).zip(times).collect();
        catalogs.push(("r /own", -1));
        let retained = retained(&catalogs);
        assert_eq!(retained.len(), MAX_REQUESTED + 1);
        assert!(retained.contains(&"r /own".to_owned()) && retained.contains(&names[200]));
        assert!(!retained.contains(&names[199]), "requested before all others");
    }
}
