//! What each of the demo's clients asks for, in which order, and when it begins. Owns the mix of the site: half SyLink
//! clients, most of them one revision behind, half LiveUpdate clients, Linux and Mac.
//! Random only in appearance: the same site, count and seed give the same sessions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::content::{Definitions, Object, Platform, Site, UNPUBLISHED_CATALOG, mix};

/// All clients begin within this time, as after a shift begins or a push: early enough that most of them meet fills
/// that still run.
pub const STARTS_WITHIN: Duration = Duration::from_secs(6);

/// One SyLink client in so many is new and needs full sets.
const NEW_ONE_IN: usize = 16;

/// One SyLink client in so many missed a revision (it was off) and needs the delta over two.
const BEHIND_ONE_IN: usize = 8;

/// One client's update.
#[derive(Clone, Debug)]
pub struct Session {
    /// What it is, as the table prints it.
    pub name: String,
    /// When it begins, after the first may.
    pub starts_after: Duration,
    /// Its requests, one after the other.
    pub steps: Vec<Step>,
}

/// One request of a session, and what must come of it.
#[derive(Clone, Debug)]
pub enum Step {
    /// `200` with exactly these bytes.
    Get(Arc<Object>),
    /// `404`: the manager does not publish this path.
    Missing(&'static str),
}

impl Step {
    /// The path to ask for.
    pub fn path(&self) -> &str {
        match self {
            Self::Get(object) => object.path(),
            Self::Missing(path) => path,
        }
    }
}

/// The sessions of `clients` clients of `site`.
pub fn sessions(site: &Site, clients: usize, seed: u64) -> Vec<Session> {
    (0..clients)
        .map(|number| {
            let random = mix(seed ^ number as u64);
            let (name, steps) = if number.is_multiple_of(2) {
                sylink(site, number / 2, random)
            } else {
                liveupdate(site, number / 2)
            };
            let starts_after = STARTS_WITHIN.mul_f64((random >> 32) as f64 / f64::from(u32::MAX));
            Session { name: format!("client {}, {name}", number + 1), starts_after, steps }
        })
        .collect()
}

/// Bytes that all sessions together get.
pub fn bytes_of(sessions: &[Session]) -> u64 {
    objects(sessions).map(|object| object.length()).sum()
}

/// Bytes that all sessions together get, each object once: the least that can cross the WAN.
pub fn distinct_bytes_of(sessions: &[Session]) -> u64 {
    let distinct: HashMap<_, _> = objects(sessions).map(|object| (object.path(), object.length())).collect();
    distinct.values().sum()
}

fn sylink(site: &Site, number: usize, random: u64) -> (&'static str, Vec<Step>) {
    // Every client has one set of virus definitions, by its word size, and all of the others.
    let other_word_size = usize::from(!random.is_multiple_of(4));
    let sets = site
        .definitions
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != other_word_size)
        .map(|(_, set)| set);
    type Choice = fn(&Definitions) -> Option<&Arc<Object>>;
    let (name, choice): (_, Choice) = match number {
        n if n % NEW_ONE_IN == 3 => ("SyLink, new", |set| Some(&set.full)),
        n if n % BEHIND_ONE_IN == 5 => ("SyLink, two behind", |set| set.deltas.get(1)),
        _ => ("SyLink, one behind", |set| set.deltas.first()),
    };
    (name, sets.filter_map(choice).cloned().map(Step::Get).collect())
}

fn liveupdate(site: &Site, number: usize) -> (&'static str, Vec<Step>) {
    let (name, platform) = if number.is_multiple_of(2) {
        ("LiveUpdate, Linux", Platform::Linux)
    } else {
        ("LiveUpdate, Mac", Platform::Mac)
    };
    let installed = || {
        let both = Platform::Both;
        site.products.iter().filter(move |product| product.platform == platform || product.platform == both)
    };
    let mut steps = vec![Step::Get(Arc::clone(&site.flag))];
    steps.extend(installed().map(|product| Step::Get(Arc::clone(&product.livetri))));
    steps.push(Step::Missing(UNPUBLISHED_CATALOG));
    steps.extend(installed().flat_map(|product| &product.payloads).cloned().map(Step::Get));
    (name, steps)
}

fn objects(sessions: &[Session]) -> impl Iterator<Item = &Arc<Object>> {
    sessions.iter().flat_map(|session| &session.steps).filter_map(|step| match step {
        Step::Get(object) => Some(object),
        Step::Missing(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_clients_ask_for_some_25_megabytes_dozens_of_times() {
        let site = Site::new(1);
        let sessions = sessions(&site, 200, 1);
        let (all, distinct) = (bytes_of(&sessions), distinct_bytes_of(&sessions));
        assert!((20_000_000..27_000_000).contains(&distinct), "{distinct} distinct bytes");
        assert!(all > 20 * distinct, "{all} bytes of {distinct} distinct ones");
        assert!(sessions.iter().all(|session| session.starts_after <= STARTS_WITHIN));
    }

    #[test]
    fn a_liveupdate_client_asks_for_catalogs_before_payloads_and_for_one_that_is_not_there() {
        let site = Site::new(1);
        let session = &sessions(&site, 2, 1)[1];
        assert_eq!(session.steps[0].path(), "/minitri.flg");
        let is_catalog = |step: &Step| step.path().ends_with("_livetri.zip");
        let first_payload = session.steps.iter().skip(1).position(|step| !is_catalog(step)).unwrap() + 1;
        assert!(session.steps[first_payload..].iter().all(|step| !is_catalog(step)));
        let missing: Vec<_> = session.steps.iter().filter(|step| matches!(step, Step::Missing(_))).collect();
        assert!(missing.len() == 1 && site.at(missing[0].path()).is_none());
    }

    #[test]
    fn most_sylink_clients_need_deltas_and_a_few_are_new() {
        let sessions = sessions(&Site::new(1), 200, 1);
        let count = |name: &str| sessions.iter().filter(|session| session.name.ends_with(name)).count();
        assert_eq!((count("SyLink, new"), count("two behind"), count("one behind")), (7, 12, 81));
    }
}
