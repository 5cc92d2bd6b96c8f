//! When clients last asked for the catalogs that the newest revision says there are none of: those that nobody asks for
//! make room for others. In memory alone: after a start each counts as asked for then. A request takes no lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;

use gupd_config::clock::UnixMillis;

/// Absent catalogs, and when each was last asked for.
#[derive(Debug, Default)]
pub struct Absentees(ArcSwap<HashMap<Arc<str>, AtomicI64>>);

impl Absentees {
    /// A client has asked for it, and was told that there is none.
    pub fn asked(&self, key: &str, now: UnixMillis) {
        if let Some(asked) = self.0.load().get(key) {
            asked.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// When a client last asked for it; `None` if it was not known to be absent.
    pub fn last_asked(&self, key: &str) -> Option<UnixMillis> {
        self.0.load().get(key).map(|asked| asked.load(Ordering::Relaxed))
    }

    /// These are absent from now on; what was not counts as just asked for.
    pub fn are<'a>(&self, keys: impl Iterator<Item = &'a Arc<str>>, now: UnixMillis) {
        let before = self.0.load();
        let asked = |key| before.get(key).map_or(now, |asked: &AtomicI64| asked.load(Ordering::Relaxed));
        let after = keys.map(|key| (key.clone(), AtomicI64::new(asked(key)))).collect();
        self.0.store(Arc::new(after));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_absent_keeps_its_time_and_what_does_not_is_forgotten() {
        let absentees = Absentees::default();
        let [a, b, c]: [Arc<str>; 3] = ["a", "b", "c"].map(Arc::from);
        absentees.are([&a, &b].into_iter(), 1);
        absentees.asked("a", 5);
        absentees.asked("c", 5);
        absentees.are([&a, &c].into_iter(), 9);
        assert_eq!(["a", "b", "c"].map(|key| absentees.last_asked(key)), [Some(5), None, Some(9)]);
        absentees.asked("a", 3);
        assert_eq!(absentees.last_asked(&a), Some(5), "clocks are set back");
    }
}
