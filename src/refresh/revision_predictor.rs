//! Prediction of the payloads of a new revision file by file: clients will request the names that they requested of the
//! revisions before it. A name with the number of an older revision is a delta from that revision, repeated with the
//! same distance. A name without digits is repeated as it is. No name is built in. Pure and bounded: a function of the
//! keys in the store.

use std::collections::{BTreeMap, BTreeSet};

use gupd_config::policy::{RevisionFile, parse_revision_number};

/// Maximum number of contents: a manager has some dozens.
const MAX_SERIES: usize = 256;

/// Maximum number of revisions of a content, the newest: more than three weeks at three a day.
const MAX_REVISIONS: usize = 64;

/// Maximum number of names of a revision: a delta from each revision before it, and the full set.
const MAX_NAMES: usize = 64;

/// The predictor, with the known revisions.
#[derive(Debug)]
pub(super) struct RevisionPredictor {
    /// Number of revisions before the newest that count.
    revisions: usize,
    series: BTreeMap<Box<str>, Revisions>,
}

/// The names that clients requested, by revision.
type Revisions = BTreeMap<u64, BTreeSet<Box<str>>>;

/// A repeated name. The order is that of fetching: deltas first, from the newest revision first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Habit<'a> {
    /// A delta from a revision that is `back` revisions older.
    Delta { back: usize, before: &'a str, after: &'a str },
    /// The same name.
    Same(&'a str),
}

impl RevisionPredictor {
    pub(super) fn new(revisions: u32) -> Self {
        Self { revisions: usize::try_from(revisions).unwrap_or(usize::MAX), series: BTreeMap::new() }
    }

    /// Adds a revision.
    pub(super) fn add_revision(&mut self, series: &str, number: u64) {
        self.names(series, number);
    }

    /// Adds the request of a payload.
    pub(super) fn add_request(&mut self, file: RevisionFile<'_>) {
        let RevisionFile { series, number, name } = file;
        if let Some(names) = self.names(series, number)
            && names.len() < MAX_NAMES
        {
            names.insert(name.into());
        }
    }

    /// Returns the number of the newest known revision of a content.
    pub(super) fn newest_revision(&self, series: &str) -> Option<u64> {
        self.series.get(series)?.last_key_value().map(|(newest, _)| *newest)
    }

    /// Returns the keys of the expected requests for the newest revision of each content, deltas of all contents first.
    pub(super) fn predict(&self) -> Vec<String> {
        let mut predicted: Vec<(Habit<'_>, String)> = Vec::new();
        for (series, revisions) in &self.series {
            let numbers: Vec<u64> = revisions.keys().copied().collect();
            let Some((newest, older)) = numbers.split_last() else { continue };
            for habit in self.habits(revisions, older) {
                let name = match habit {
                    Habit::Same(name) => Some(name.to_owned()),
                    Habit::Delta { back, before, after } => {
                        let from = older.len().checked_sub(back).and_then(|at| older.get(at));
                        from.map(|from| format!("{before}{from}{after}"))
                    }
                };
                predicted.extend(name.map(|name| (habit, RevisionFile::format_key(series, *newest, &name))));
            }
        }
        predicted.sort();
        predicted.into_iter().map(|(_, key)| key).collect()
    }

    fn habits<'a>(&self, revisions: &'a Revisions, older: &[u64]) -> BTreeSet<Habit<'a>> {
        let counted = older.len().saturating_sub(self.revisions)..older.len();
        let taken = counted.filter_map(|at| Some((at, revisions.get(older.get(at)?)?)));
        taken.flat_map(|(at, names)| names.iter().filter_map(move |name| habit(name, &older[..at]))).collect()
    }

    fn names(&mut self, series: &str, number: u64) -> Option<&mut BTreeSet<Box<str>>> {
        if !self.series.contains_key(series) {
            if self.series.len() >= MAX_SERIES {
                return None;
            }
            self.series.insert(series.into(), Revisions::new());
        }
        let revisions = self.series.get_mut(series)?;
        revisions.entry(number).or_default();
        if revisions.len() > MAX_REVISIONS {
            revisions.pop_first();
        }
        revisions.get_mut(&number)
    }
}

/// Returns the habit that a name shows; `older` are the revisions before its own.
fn habit<'a>(name: &'a str, older: &[u64]) -> Option<Habit<'a>> {
    let mut at = 0;
    while let Some(digits) = name[at..].find(|c: char| c.is_ascii_digit()) {
        let begin = at + digits;
        let end = name[begin..].find(|c: char| !c.is_ascii_digit()).map_or(name.len(), |end| begin + end);
        let from =
            parse_revision_number(&name[begin..end]).and_then(|number| older.binary_search(&number).ok());
        if let Some(from) = from {
            return Some(Habit::Delta {
                back: older.len() - from,
                before: &name[..begin],
                after: &name[end..],
            });
        }
        at = end;
    }
    // Digits of no known revision cannot be predicted.
    (at == 0).then_some(Habit::Same(name))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use gupd_config::Config;
    use gupd_config::policy::Policy;

    use super::*;

    const AV: &str = "/ /content/{535cb6a4-441f-4e8a-a897-804cd859100e}";
    const IPS: &str = "/ /content/{55de35dc-862a-44c9-8a2b-3ef451665d0a}";

    static POLICY: LazyLock<Policy> =
        LazyLock::new(|| Policy::new(&Config::for_upstreams(&["http://manager"]).unwrap()).unwrap());

    fn add_request(predictor: &mut RevisionPredictor, key: &str) {
        // The path follows the route's name and a space.
        if let Some(file) = POLICY.find_route("/").unwrap().revision_file(key, 2) {
            predictor.add_request(file);
        }
    }

    fn predictor(revisions: u32, taken: &[&str]) -> RevisionPredictor {
        let mut predictor = RevisionPredictor::new(revisions);
        taken.iter().for_each(|path| add_request(&mut predictor, &format!("{AV}/{path}")));
        predictor
    }

    fn predict(predictor: &RevisionPredictor) -> Vec<String> {
        predictor.predict().iter().map(|key| key.strip_prefix(AV).unwrap().to_owned()).collect()
    }

    #[test]
    fn new_revision_repeats_requests_of_older_ones() {
        let mut predictor = predictor(3, &["100/full.zip", "110/xdelta100.dax", "120/xdelta110.dax"]);
        add_request(&mut predictor, &format!("{AV}/120/xdelta100.dax"));
        predictor.add_revision(AV, 130);
        assert_eq!(predict(&predictor), ["/130/xdelta120.dax", "/130/xdelta110.dax", "/130/full.zip"]);
        assert_eq!((predictor.newest_revision(AV), predictor.newest_revision(IPS)), (Some(130), None));
    }

    #[test]
    fn only_the_latest_revisions_count() {
        let mut predictor = predictor(1, &["100/full.zip", "110/xdelta100.dax"]);
        predictor.add_revision(AV, 120);
        assert_eq!(predict(&predictor), ["/120/xdelta110.dax"]);
        // No client requested a file of the revision before.
        predictor.add_revision(AV, 130);
        assert_eq!(predict(&predictor), [""; 0]);
    }

    #[test]
    fn unknown_numbers_predict_nothing() {
        let mut predictor = predictor(3, &["110/xdelta100.dax", "110/part2of3.zip", "110/0100.dax"]);
        predictor.add_revision(AV, 120);
        assert_eq!(predict(&predictor), [""; 0]);
        predictor.add_revision(AV, 100);
        assert_eq!(predict(&predictor), ["/120/xdelta110.dax"]);
    }

    #[test]
    fn nothing_is_predicted_without_a_new_revision() {
        assert_eq!(predict(&predictor(3, &["100/full.zip"])), [""; 0]);
        // Clients have the files that they requested of the newest.
        assert_eq!(predict(&predictor(3, &["100/full.zip", "110/full.zip"])), ["/110/full.zip"]);
    }

    #[test]
    fn deltas_of_all_contents_precede_full_sets() {
        let mut predictor = predictor(3, &["100/full.zip", "110/d100.dax", "120/d110.dax"]);
        for path in ["7/full.zip", "8/7.dax", "9/8.dax"] {
            add_request(&mut predictor, &format!("{IPS}/{path}"));
        }
        let keys = [
            format!("{IPS}/9/8.dax"),
            format!("{AV}/120/d110.dax"),
            format!("{AV}/120/full.zip"),
            format!("{IPS}/9/full.zip"),
        ];
        assert_eq!(predictor.predict(), keys);
    }

    #[test]
    fn predictor_is_bounded() {
        let mut predictor = RevisionPredictor::new(3);
        for number in 1..2_000 {
            add_request(&mut predictor, &format!("{AV}/{number}/full.zip"));
            add_request(&mut predictor, &format!("{AV}/5000/x{number}a.dax"));
            add_request(&mut predictor, &format!("/ /content/{{{number}}}/1/full.zip"));
        }
        assert_eq!((predictor.series.len(), predictor.series[AV].len()), (MAX_SERIES, MAX_REVISIONS));
        assert!(predictor.series.values().flat_map(BTreeMap::values).all(|names| names.len() <= MAX_NAMES));
        add_request(&mut predictor, "\u{fffd}/{a}/1/é٤x");
        add_request(&mut predictor, "/ /content/{a}/2/é٤1x");
        predictor.predict();
    }
}
