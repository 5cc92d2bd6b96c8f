//! The clients of a scenario: what each needs, when it comes online, where its turn lies. All of it is dealt out by rule
//! and not by chance, so that a plan is the same each time and shares are kept by a dozen clients as by thousands.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::scenario::Scenario;
use gupd_config::policy::window::client_offset;

/// One client.
pub(super) struct Client {
    /// Its group and what it needs, by their index in the scenario.
    pub(super) group: usize,
    pub(super) content: usize,
    /// Its place in its group's spread, 0 to 1.
    pub(super) turn: f64,
    /// When it asks first.
    pub(super) appears: f64,
    /// Where it stands.
    pub(super) state: Now,
}

/// Where a client stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Now {
    /// It does not wait for anything; a request may be planned.
    Away,
    /// In the queue.
    Waiting,
    /// Its download has begun, or ended.
    Downloading,
}

/// The clients of every group that come online at all. What each needs, when it comes and at which moment of its
/// heartbeat are dealt out evenly and independently, so that shares are kept by a dozen clients as by thousands.
pub(super) fn clients(scenario: &Scenario) -> Vec<Client> {
    let mut clients = Vec::new();
    for (index, group) in scenario.groups.iter().enumerate() {
        let mut dealt = vec![0; scenario.contents.len()];
        for number in 0..group.clients {
            let (place, content) = (f64::from(number) + 0.5, deal(scenario, &mut dealt));
            let Some(online) = scenario.appearance.time_of(place / f64::from(group.clients)) else {
                continue;
            };
            clients.push(Client {
                group: index,
                content,
                turn: turn(clients.len()),
                appears: online + (place * GOLDEN).fract() * scenario.heartbeat,
                state: Now::Away,
            });
        }
    }
    clients
}

/// Its multiples spread evenly between whole numbers, however many there are.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// As the relay gives it to a client of a site's own network.
fn turn(client: usize) -> f64 {
    let address = Ipv4Addr::from(NETWORK.wrapping_add(u32::try_from(client).unwrap_or(u32::MAX)));
    client_offset(address.into(), REVISION, SCALE).as_secs_f64() / SCALE.as_secs_f64()
}

/// 10.0.0.1 and on.
const NETWORK: u32 = 0x0a00_0001;
/// Any will do: turns are evenly spread in each.
const REVISION: &str = "plan";
/// Long, so that rounding to milliseconds does not show.
const SCALE: Duration = Duration::from_secs(1 << 32);

/// The content that is most behind its share, with one client more.
fn deal(scenario: &Scenario, dealt: &mut [u32]) -> usize {
    let clients = f64::from(dealt.iter().sum::<u32>() + 1);
    let behind = |index: usize| scenario.contents[index].share * clients - f64::from(dealt[index]);
    let most = (0..dealt.len()).max_by(|a, b| behind(*a).total_cmp(&behind(*b))).unwrap_or_default();
    dealt[most] += 1;
    most
}
