//! What clients will want of a new LiveUpdate catalog: of the payloads that it lists, those whose names are those of
//! payloads that clients took, but for the number that they begin with, the second they were made at. Pure, bounded.

use std::collections::BTreeMap;

use gupd_config::policy::parse_revision_number;

/// Names that clients took, at about 200 bytes each: more than a catalog of all products lists.
const MAX_NAMES: usize = 16_384;

/// Digits of the number: seconds since 1970.
const STAMP: usize = 10;

/// The newest payload that clients took, by all of its key but the number.
#[derive(Debug, Default)]
pub(super) struct Listed {
    taken: BTreeMap<(Box<str>, Box<str>), u64>,
}

impl Listed {
    /// Clients took a payload; a key of another form says nothing.
    pub(super) fn taken(&mut self, key: &str) {
        let Some((folder, stamp, rest)) = stamped(key) else { return };
        let name = (folder.into(), rest.into());
        if self.taken.len() < MAX_NAMES || self.taken.contains_key(&name) {
            let newest = self.taken.entry(name).or_default();
            *newest = stamp.max(*newest);
        }
    }

    /// Those of the keys in catalogs that clients will want: of each name the newest, if it is newer than what they
    /// took.
    pub(super) fn wanted<'a>(&self, listed: impl Iterator<Item = &'a str>) -> Vec<String> {
        let mut newest: BTreeMap<(&str, &str), (u64, &str)> = BTreeMap::new();
        for key in listed {
            let Some((folder, stamp, rest)) = stamped(key) else { continue };
            let taken = self.taken.get(&(folder.into(), rest.into()));
            if taken.is_some_and(|taken| *taken < stamp) {
                let best = newest.entry((folder, rest)).or_insert((stamp, key));
                *best = (stamp, key).max(*best);
            }
        }
        newest.into_values().map(|(_, key)| key.to_owned()).collect()
    }
}

/// Folder, number and the rest of the name.
fn stamped(key: &str) -> Option<(&str, u64, &str)> {
    let (folder, name) = key.rsplit_once('/')?;
    let (stamp, rest) = name.split_at_checked(STAMP)?;
    let ends = !rest.starts_with(|c: char| c.is_ascii_digit()) && !rest.contains('?');
    Some((folder, parse_revision_number(stamp)?, rest)).filter(|_| ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_name_that_clients_took_is_wanted() {
        let mut listed = Listed::default();
        for key in
            ["/ /1369163480jtun_nav.m26", "/ /1369163480spc.7z", "/ /136916348jtun.m26", "/ /minitri.flg"]
        {
            listed.taken(key);
        }
        let catalog = [
            "/ /1369163481jtun_nav.m26",
            "/ /1369163490jtun_nav.m26",
            "/ /1369163490jtun_other.m26",
            "/ /1369163480spc.7z",
            "/ /a/1369163490spc.7z",
            "/ /13691634901jtun_nav.m26",
        ];
        assert_eq!(listed.wanted(catalog.into_iter()), ["/ /1369163490jtun_nav.m26"]);
        listed.taken("/ /1369163490jtun_nav.m26");
        assert_eq!(listed.wanted(catalog.into_iter()), [""; 0]);
        listed.taken("/ /é٤٤٤٤");
    }
}
