//! Prediction of the payloads of a new LiveUpdate catalog: clients will request the listed files with the names of
//! files that they requested before. Names compare without the number at their beginning; the profile states its
//! digits. Pure and bounded.

use std::collections::BTreeMap;

use gupd_config::policy::parse_revision_number;

/// Maximum number of names, of about 200 bytes each: more than a catalog of all products lists.
const MAX_NAMES: usize = 16_384;

/// The predictor: the newest number that clients requested, by folder and rest of the name.
#[derive(Debug, Default)]
pub(super) struct ListingPredictor {
    requested: BTreeMap<(Box<str>, Box<str>), u64>,
}

impl ListingPredictor {
    /// Adds the request of a payload with so many digits at the beginning of its name. Keys of another form are ignored.
    pub(super) fn add_request(&mut self, key: &str, digits: usize) {
        let Some((folder, stamp, rest)) = split_key(key, digits) else { return };
        let name = (folder.into(), rest.into());
        if self.requested.len() < MAX_NAMES || self.requested.contains_key(&name) {
            let newest = self.requested.entry(name).or_default();
            *newest = stamp.max(*newest);
        }
    }

    /// Returns the expected requests among listed keys, with the digits of each: the newest of each name, if it is newer
    /// than the requested one.
    pub(super) fn predict<'a>(&self, listed: impl Iterator<Item = (&'a str, usize)>) -> Vec<String> {
        let mut newest: BTreeMap<(&str, &str), (u64, &str)> = BTreeMap::new();
        for (key, digits) in listed {
            let Some((folder, stamp, rest)) = split_key(key, digits) else { continue };
            let requested = self.requested.get(&(folder.into(), rest.into()));
            if requested.is_some_and(|requested| *requested < stamp) {
                let best = newest.entry((folder, rest)).or_insert((stamp, key));
                *best = (stamp, key).max(*best);
            }
        }
        newest.into_values().map(|(_, key)| key.to_owned()).collect()
    }
}

/// Splits a key into folder, number and the rest of the name.
fn split_key(key: &str, digits: usize) -> Option<(&str, u64, &str)> {
    let (folder, name) = key.rsplit_once('/')?;
    let (stamp, rest) = name.split_at_checked(digits)?;
    let ends = !rest.starts_with(|c: char| c.is_ascii_digit()) && !rest.contains('?');
    Some((folder, parse_revision_number(stamp)?, rest)).filter(|_| ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_file_of_a_requested_name_is_predicted() {
        let mut predictor = ListingPredictor::default();
        for key in
            ["/ /1369163480jtun_nav.m26", "/ /1369163480spc.7z", "/ /136916348jtun.m26", "/ /minitri.flg"]
        {
            predictor.add_request(key, 10);
        }
        let catalog = [
            "/ /1369163481jtun_nav.m26",
            "/ /1369163490jtun_nav.m26",
            "/ /1369163490jtun_other.m26",
            "/ /1369163480spc.7z",
            "/ /a/1369163490spc.7z",
            "/ /13691634901jtun_nav.m26",
        ]
        .map(|key| (key, 10));
        assert_eq!(predictor.predict(catalog.into_iter()), ["/ /1369163490jtun_nav.m26"]);
        predictor.add_request("/ /1369163490jtun_nav.m26", 10);
        assert_eq!(predictor.predict(catalog.into_iter()), [""; 0]);
        predictor.add_request("/ /é٤٤٤٤", 10);
        predictor.add_request("/ /1369", 10);
    }
}
