//! Clients of a scenario: needed content, time online and position in the spread. All are assigned by rule and not at
//! random, so a plan is reproducible, and a dozen clients keep the shares as well as thousands.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::scenario::Scenario;
use gupd_config::policy::window::client_offset;

/// One client.
pub(super) struct SimulatedClient {
    /// Indices of its group and its content in the scenario.
    pub(super) group: usize,
    pub(super) content: usize,
    /// Position in its group's spread, 0 to 1.
    pub(super) turn: f64,
    /// Time of its first request.
    pub(super) appears: f64,
    /// Current state.
    pub(super) state: ClientState,
}

/// State of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientState {
    /// Not waiting; a request may be planned.
    Idle,
    /// Queued for a slot.
    Queued,
    /// Its download has started or ended.
    Started,
}

/// Creates the clients of every group that come online. Content, time online and phase of the heartbeat are spread
/// evenly and independently.
pub(super) fn create_clients(scenario: &Scenario) -> Vec<SimulatedClient> {
    let mut clients = Vec::new();
    for (index, group) in scenario.groups.iter().enumerate() {
        let mut assigned = vec![0; scenario.contents.len()];
        for number in 0..group.clients {
            let (rank, content) = (f64::from(number) + 0.5, assign_content(scenario, &mut assigned));
            let Some(online) = scenario.appearance.online_time(rank / f64::from(group.clients)) else {
                continue;
            };
            clients.push(SimulatedClient {
                group: index,
                content,
                turn: spread_position(clients.len()),
                appears: online + (rank * GOLDEN).fract() * scenario.heartbeat,
                state: ClientState::Idle,
            });
        }
    }
    clients
}

/// Its multiples spread evenly between whole numbers, however many there are.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// Returns the position that the relay gives to a client of a private network.
fn spread_position(client: usize) -> f64 {
    let address = Ipv4Addr::from(NETWORK.wrapping_add(u32::try_from(client).unwrap_or(u32::MAX)));
    client_offset(address.into(), REVISION, SCALE).as_secs_f64() / SCALE.as_secs_f64()
}

/// 10.0.0.1 and on.
const NETWORK: u32 = 0x0a00_0001;
/// Any revision: offsets are uniform in each.
const REVISION: &str = "plan";
/// Long enough to make rounding to milliseconds negligible.
const SCALE: Duration = Duration::from_secs(1 << 32);

/// Assigns the content that is most behind its share.
fn assign_content(scenario: &Scenario, assigned: &mut [u32]) -> usize {
    let clients = f64::from(assigned.iter().sum::<u32>() + 1);
    let behind = |index: usize| scenario.contents[index].share * clients - f64::from(assigned[index]);
    let most = (0..assigned.len()).max_by(|a, b| behind(*a).total_cmp(&behind(*b))).unwrap_or_default();
    assigned[most] += 1;
    most
}
