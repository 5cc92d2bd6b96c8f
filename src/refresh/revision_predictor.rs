//! What clients will want of a new revision: the files of those names that they took of the ones before it. A name with
//! the number of an older revision in it is taken for a delta from that revision, and what is repeated is how far
//! back it lay; a name without any digit is repeated as it is. No name is known beforehand. Pure and bounded: a
//! function of the keys in the store.

use std::collections::{BTreeMap, BTreeSet};

use gupd_config::policy::{RevisionFile, parse_revision_number};

/// Contents learned from: a manager has some dozens.
const MAX_SERIES: usize = 256;

/// Revisions of each that deltas may be from, the newest: more than three weeks at three a day.
const MAX_REVISIONS: usize = 64;

/// Names of each revision: a delta from each revision before it, and the full set.
const MAX_NAMES: usize = 64;

/// What is known of revisions.
#[derive(Debug)]
pub(super) struct Learner {
    /// Revisions before the newest that are learned from.
    revisions: usize,
    series: BTreeMap<Box<str>, Revisions>,
}

/// The names that clients took, by revision.
type Revisions = BTreeMap<u64, BTreeSet<Box<str>>>;

/// What is repeated of one name. Ordered as it is wanted: deltas first, from the newest revision first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Habit<'a> {
    /// A delta from so many revisions before.
    Delta { back: usize, before: &'a str, after: &'a str },
    /// The same name.
    Same(&'a str),
}

impl Learner {
    pub(super) fn new(revisions: u32) -> Self {
        Self { revisions: usize::try_from(revisions).unwrap_or(usize::MAX), series: BTreeMap::new() }
    }

    /// There is such a revision.
    pub(super) fn exists(&mut self, series: &str, number: u64) {
        self.names(series, number);
    }

    /// Clients took a payload; a key of another form says nothing.
    pub(super) fn taken(&mut self, key: &str) {
        let Some(RevisionFile { series, number, name }) = RevisionFile::parse(key) else { return };
        if let Some(names) = self.names(series, number)
            && names.len() < MAX_NAMES
        {
            names.insert(name.into());
        }
    }

    /// The key of this file in the newest revision of a content, if one is known.
    pub(super) fn of_newest(&self, series: &str, name: &str) -> Option<String> {
        let (newest, _) = self.series.get(series)?.last_key_value()?;
        Some(RevisionFile::format_key(series, *newest, name))
    }

    /// Keys of what clients will want of each content's newest revision, the smallest kind first over all contents.
    pub(super) fn wanted(&self) -> Vec<String> {
        let mut wanted: Vec<(Habit<'_>, String)> = Vec::new();
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
                wanted.extend(name.map(|name| (habit, RevisionFile::format_key(series, *newest, &name))));
            }
        }
        wanted.sort();
        wanted.into_iter().map(|(_, key)| key).collect()
    }

    fn habits<'a>(&self, revisions: &'a Revisions, older: &[u64]) -> BTreeSet<Habit<'a>> {
        let learned_from = older.len().saturating_sub(self.revisions)..older.len();
        let taken = learned_from.filter_map(|at| Some((at, revisions.get(older.get(at)?)?)));
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

/// What a name of one revision says about the next ones; `older` are the revisions before it.
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
    // Digits that are no revision known here: nobody can tell what they are of the next one.
    (at == 0).then_some(Habit::Same(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AV: &str = "/ /content/{535cb6a4-441f-4e8a-a897-804cd859100e}";
    const IPS: &str = "/ /content/{55de35dc-862a-44c9-8a2b-3ef451665d0a}";

    fn learner(revisions: u32, taken: &[&str]) -> Learner {
        let mut learner = Learner::new(revisions);
        taken.iter().for_each(|path| learner.taken(&format!("{AV}/{path}")));
        learner
    }

    fn wanted(learner: &Learner) -> Vec<String> {
        learner.wanted().iter().map(|key| key.strip_prefix(AV).unwrap().to_owned()).collect()
    }

    #[test]
    fn a_new_revision_is_wanted_as_the_ones_before_it_were() {
        let mut learner = learner(3, &["100/full.zip", "110/xdelta100.dax", "120/xdelta110.dax"]);
        learner.taken(&format!("{AV}/120/xdelta100.dax"));
        learner.exists(AV, 130);
        assert_eq!(wanted(&learner), ["/130/xdelta120.dax", "/130/xdelta110.dax", "/130/full.zip"]);
        assert_eq!(learner.of_newest(AV, "x"), Some(format!("{AV}/130/x")));
        assert_eq!(learner.of_newest(IPS, "x"), None);
    }

    #[test]
    fn only_the_last_revisions_are_learned_from() {
        let mut learner = learner(1, &["100/full.zip", "110/xdelta100.dax"]);
        learner.exists(AV, 120);
        assert_eq!(wanted(&learner), ["/120/xdelta110.dax"]);
        // Nobody took anything of the one before.
        learner.exists(AV, 130);
        assert_eq!(wanted(&learner), [""; 0]);
    }

    #[test]
    fn a_number_that_is_no_revision_known_here_says_nothing() {
        let mut learner = learner(3, &["110/xdelta100.dax", "110/part2of3.zip", "110/0100.dax"]);
        learner.exists(AV, 120);
        assert_eq!(wanted(&learner), [""; 0]);
        learner.exists(AV, 100);
        assert_eq!(wanted(&learner), ["/120/xdelta110.dax"]);
    }

    #[test]
    fn without_a_new_revision_nothing_new_is_wanted() {
        assert_eq!(wanted(&learner(3, &["100/full.zip"])), [""; 0]);
        // What clients of the newest took is what they have.
        assert_eq!(wanted(&learner(3, &["100/full.zip", "110/full.zip"])), ["/110/full.zip"]);
    }

    #[test]
    fn small_kinds_of_all_contents_come_before_large_ones() {
        let mut learner = learner(3, &["100/full.zip", "110/d100.dax", "120/d110.dax"]);
        for path in ["7/full.zip", "8/7.dax", "9/8.dax"] {
            learner.taken(&format!("{IPS}/{path}"));
        }
        let keys = [
            format!("{IPS}/9/8.dax"),
            format!("{AV}/120/d110.dax"),
            format!("{AV}/120/full.zip"),
            format!("{IPS}/9/full.zip"),
        ];
        assert_eq!(learner.wanted(), keys);
    }

    #[test]
    fn whatever_is_asked_for_it_stays_bounded() {
        let mut learner = Learner::new(3);
        for number in 1..2_000 {
            learner.taken(&format!("{AV}/{number}/full.zip"));
            learner.taken(&format!("{AV}/5000/x{number}a.dax"));
            learner.taken(&format!("/ /content/{{{number}}}/1/full.zip"));
        }
        assert_eq!((learner.series.len(), learner.series[AV].len()), (MAX_SERIES, MAX_REVISIONS));
        assert!(learner.series.values().flat_map(BTreeMap::values).all(|names| names.len() <= MAX_NAMES));
        learner.taken("\u{fffd}/{a}/1/é٤x");
        learner.taken("/ /content/{a}/2/é٤1x");
        learner.wanted();
    }
}
