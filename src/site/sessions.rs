//! The update sessions of a site's clients: the requests of each in their order, and the start of each. Half are SyLink
//! clients, most of them one revision behind; half are LiveUpdate clients on Linux and Mac. The same content, count and
//! seed give the same sessions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::random::mix;
use crate::sep::{Definitions, Platform, SepContent, SepObject, UNPUBLISHED_CATALOG};

/// Time within which all clients start, as after a shift begins or a push: most of them meet fills that still run.
pub const STARTS_WITHIN: Duration = Duration::from_secs(6);

/// One SyLink client in so many is new and needs full sets.
const NEW_ONE_IN: usize = 16;

/// One SyLink client in so many was off for a revision and needs the delta over two.
const BEHIND_ONE_IN: usize = 8;

/// The update of one client.
#[derive(Clone, Debug)]
pub struct Session {
    /// Number and kind of the client, as the demo's table shows it.
    pub name: String,
    /// Start after the first possible one.
    pub starts_after: Duration,
    /// The requests, one after the other.
    pub steps: Vec<Step>,
}

/// A request of a session, and its right response.
#[derive(Clone, Debug)]
pub enum Step {
    /// `200` with exactly these bytes.
    Get(Arc<SepObject>),
    /// `404`: the manager does not publish this path.
    Missing(&'static str),
}

impl Step {
    /// The path to request.
    pub fn path(&self) -> &str {
        match self {
            Self::Get(object) => &object.path,
            Self::Missing(path) => path,
        }
    }
}

/// Returns the sessions of `clients` clients.
pub fn sessions(content: &SepContent, clients: usize, seed: u64) -> Vec<Session> {
    (0..clients)
        .map(|number| {
            let random = mix(seed ^ number as u64);
            let (name, steps) = if number.is_multiple_of(2) {
                sylink(content, number / 2, random)
            } else {
                liveupdate(content, number / 2)
            };
            let starts_after = STARTS_WITHIN.mul_f64((random >> 32) as f64 / f64::from(u32::MAX));
            Session { name: format!("client {}, {name}", number + 1), starts_after, steps }
        })
        .collect()
}

/// Bytes that all sessions together get.
pub fn bytes_of(sessions: &[Session]) -> u64 {
    objects(sessions).map(|object| object.content.length()).sum()
}

/// Bytes that all sessions together get, each object once: the least that can cross the WAN.
pub fn distinct_bytes_of(sessions: &[Session]) -> u64 {
    let lengths = objects(sessions).map(|object| (&object.path, object.content.length()));
    lengths.collect::<HashMap<_, _>>().values().sum()
}

fn sylink(content: &SepContent, number: usize, random: u64) -> (&'static str, Vec<Step>) {
    type Choice = fn(&Definitions) -> Option<&Arc<SepObject>>;
    let (name, choice): (_, Choice) = match number {
        n if n % NEW_ONE_IN == 3 => ("SyLink, new", |set| Some(&set.full)),
        n if n % BEHIND_ONE_IN == 5 => ("SyLink, two behind", |set| set.deltas.get(1)),
        _ => ("SyLink, one behind", |set| set.deltas.first()),
    };
    // Every client has one of the two sets of virus definitions, by its word size, and all of the others.
    let other_word_size = usize::from(!random.is_multiple_of(4));
    let sets = content.definitions.iter().enumerate().filter(|(index, _)| *index != other_word_size);
    (name, sets.filter_map(|(_, set)| choice(set)).cloned().map(Step::Get).collect())
}

fn liveupdate(content: &SepContent, number: usize) -> (&'static str, Vec<Step>) {
    let (name, platform) = if number.is_multiple_of(2) {
        ("LiveUpdate, Linux", Platform::Linux)
    } else {
        ("LiveUpdate, Mac", Platform::Mac)
    };
    let installed = || {
        content.products.iter().filter(move |product| [platform, Platform::Both].contains(&product.platform))
    };
    let mut steps = vec![Step::Get(Arc::clone(&content.flag))];
    steps.extend(installed().map(|product| Step::Get(Arc::clone(&product.livetri))));
    steps.push(Step::Missing(UNPUBLISHED_CATALOG));
    steps.extend(installed().flat_map(|product| &product.payloads).cloned().map(Step::Get));
    (name, steps)
}

fn objects(sessions: &[Session]) -> impl Iterator<Item = &Arc<SepObject>> {
    sessions.iter().flat_map(|session| &session.steps).filter_map(|step| match step {
        Step::Get(object) => Some(object),
        Step::Missing(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_sessions_share_25_megabytes() {
        let sessions = sessions(&SepContent::new(1), 200, 1);
        let (all, distinct) = (bytes_of(&sessions), distinct_bytes_of(&sessions));
        assert!((20_000_000..27_000_000).contains(&distinct), "{distinct} distinct bytes");
        assert!(all > 20 * distinct, "{all} bytes of {distinct} distinct ones");
        assert!(sessions.iter().all(|session| session.starts_after <= STARTS_WITHIN));
    }

    #[test]
    fn liveupdate_client_gets_flag_catalogs_and_payloads_in_order() {
        let session = &sessions(&SepContent::new(1), 2, 1)[1];
        assert_eq!(session.steps[0].path(), "/minitri.flg");
        let is_catalog = |step: &Step| step.path().ends_with("_livetri.zip");
        let first_payload = session.steps.iter().skip(1).position(|step| !is_catalog(step)).unwrap() + 1;
        assert!(session.steps[first_payload..].iter().all(|step| !is_catalog(step)));
        let missing = session.steps.iter().filter(|step| matches!(step, Step::Missing(_)));
        assert_eq!(missing.count(), 1);
    }

    #[test]
    fn most_sylink_clients_need_deltas_and_a_few_are_new() {
        let sessions = sessions(&SepContent::new(1), 200, 1);
        let count = |name: &str| sessions.iter().filter(|session| session.name.ends_with(name)).count();
        assert_eq!((count("SyLink, new"), count("two behind"), count("one behind")), (7, 12, 81));
    }
}
