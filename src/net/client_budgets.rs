//! Budgets of each client: how much it may cost the relay and its upstreams in a time. Each has a default that no honest
//! updater meets, also behind an address that a whole site shares. Hits spend nothing, so the hit path takes no lock.
//! Names that clients asked for lately are no new names for anybody, or a site behind one address would
//! spend the budget of one client with the names of all.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::arrival_times::{Allowance, ArrivalTimes};
use crate::client_variants::ClientVariants;
use crate::shape::Nanos;
use gupd_config::{Config, client_network};
use gupd_http::refusal::BudgetKind;

/// Names remembered in each of two generations, about 1 MiB in all.
const RECENT_NAMES: usize = 32_768;

/// Bounds of `Retry-After`: whole seconds, and a time after which clients ask again in any case.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));

/// Budgets of all clients.
#[derive(Debug)]
pub struct ClientBudgets {
    created: Instant,
    budgets: [Budget; BudgetKind::ALL.len()],
    /// Hashes of the names that clients asked for lately.
    recent: Mutex<RecentNames>,
    variants: Mutex<ClientVariants>,
    hasher: RandomState,
}

/// One kind of budget.
#[derive(Debug, Default)]
struct Budget {
    /// 0 without a limit, since a limit is at least 1.
    amount: AtomicU64,
    // Locked for a lookup, by requests that go upstream only.
    spent: Mutex<ArrivalTimes>,
}

#[derive(Debug, Default)]
struct RecentNames {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

/// A request that exceeds a budget of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetRefusal {
    /// The budget.
    pub kind: BudgetKind,
    /// Time after which the client can spend again, in whole seconds from 1 s to 1 h.
    pub retry_after: Duration,
}

impl ClientBudgets {
    /// Creates the budgets of a configuration.
    pub fn new(config: &Config) -> Self {
        let budgets = Self {
            created: Instant::now(),
            budgets: Default::default(),
            recent: Mutex::default(),
            variants: Mutex::default(),
            hasher: RandomState::new(),
        };
        budgets.reconfigure(config);
        budgets
    }

    /// Applies other budgets. What clients have spent stays, as a part of the period.
    pub fn reconfigure(&self, config: &Config) {
        for kind in BudgetKind::ALL {
            let amount = amount(kind, config).unwrap_or(0);
            if let Some(budget) = self.budgets.get(kind as usize) {
                budget.amount.store(amount, Ordering::Relaxed);
            }
        }
    }

    /// Spends one unit.
    ///
    /// # Errors
    /// If the client has none left.
    pub fn try_spend(&self, kind: BudgetKind, client: IpAddr) -> Result<(), BudgetRefusal> {
        self.with(kind, |spent, allowance, now| {
            let client = client_network(client);
            let wait = spent.waiting_time(client, allowance, 1, now);
            spent.admit(client, allowance, 1, now).then_some(()).ok_or_else(|| BudgetRefusal::new(kind, wait))
        })
        .unwrap_or(Ok(()))
    }

    /// Spends an amount that is known only now.
    pub fn spend(&self, kind: BudgetKind, client: IpAddr, amount: u64) {
        self.with(kind, |spent, allowance, now| spent.spend(client_network(client), allowance, amount, now));
    }

    /// Checks that the client has anything left.
    ///
    /// # Errors
    /// If it has not.
    pub fn check(&self, kind: BudgetKind, client: IpAddr) -> Result<(), BudgetRefusal> {
        let wait = self.with(kind, |spent, allowance, now| {
            spent.waiting_time(client_network(client), allowance, 1, now)
        });
        match wait {
            None | Some(0) => Ok(()),
            Some(wait) => Err(BudgetRefusal::new(kind, wait)),
        }
    }

    /// Spends a unit for a name that no client has asked for lately.
    ///
    /// # Errors
    /// If the client has none left.
    pub fn try_spend_name(&self, client: IpAddr, name: &str) -> Result<(), BudgetRefusal> {
        let name = self.hasher.hash_one(name);
        if self.recent().contains(name) {
            return Ok(());
        }
        self.try_spend(BudgetKind::NewNames, client)?;
        self.recent().insert(name);
        Ok(())
    }

    /// Counts a variant of a stored name for the client that brings it. False if the client has brought `most` already. A
    /// variant that any client brought lately is not counted.
    pub fn admits_variant(&self, client: IpAddr, name: &str, variant: &str, most: u32) -> bool {
        let variant = self.hasher.hash_one((name, variant));
        if self.recent().contains(variant) {
            return true;
        }
        let pair = self.hasher.hash_one((client_network(client), name));
        let mut variants = self.variants.lock().unwrap_or_else(PoisonError::into_inner);
        let is_admitted = variants.try_add(pair, most, self.now());
        if is_admitted {
            self.recent().insert(variant);
        }
        is_admitted
    }

    fn now(&self) -> Nanos {
        u64::try_from(self.created.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn with<T>(
        &self,
        kind: BudgetKind,
        act: impl FnOnce(&mut ArrivalTimes, Allowance, Nanos) -> T,
    ) -> Option<T> {
        let budget = self.budgets.get(kind as usize)?;
        let amount = budget.amount.load(Ordering::Relaxed);
        if amount == 0 {
            return None;
        }
        let now = self.now();
        let mut spent = budget.spent.lock().unwrap_or_else(PoisonError::into_inner);
        Some(act(&mut spent, Allowance { amount, period: kind.period() }, now))
    }

    fn recent(&self) -> MutexGuard<'_, RecentNames> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the amount that a client may spend in a period; `None` without a limit.
fn amount(kind: BudgetKind, config: &Config) -> Option<u64> {
    let clients = &config.clients;
    match kind {
        BudgetKind::NewNames => clients.new_names.map(u64::from),
        BudgetKind::AbsentNames => clients.absent_names.map(u64::from),
        BudgetKind::NewBytes => clients.new_bytes,
        BudgetKind::UpstreamRequests => clients.upstream_requests.map(u64::from),
        BudgetKind::Uploads => clients.uploads,
    }
}

impl RecentNames {
    fn contains(&self, name: u64) -> bool {
        self.young.contains(&name) || self.old.contains(&name)
    }

    fn insert(&mut self, name: u64) {
        if self.young.len() >= RECENT_NAMES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name);
    }
}

impl BudgetRefusal {
    fn new(kind: BudgetKind, wait: Nanos) -> Self {
        let seconds = Duration::from_secs(wait.div_ceil(1_000_000_000));
        Self { kind, retry_after: seconds.clamp(RETRY_AFTER.0, RETRY_AFTER.1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn budgets(change: impl FnOnce(&mut Config)) -> ClientBudgets {
        let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
        change(&mut config);
        ClientBudgets::new(&config)
    }

    #[tokio::test(start_paused = true)]
    async fn new_names_are_counted_once_for_all_clients() {
        let budgets = budgets(|config| config.clients.new_names = Some(3));
        for name in ["a", "b", "c", "a", "b"] {
            assert_eq!(budgets.try_spend_name(CLIENT, name), Ok(()), "{name}");
        }
        let refusal = budgets.try_spend_name(CLIENT, "d").unwrap_err();
        assert_eq!((refusal.kind, refusal.retry_after), (BudgetKind::NewNames, Duration::from_secs(1_200)));
        assert_eq!(budgets.try_spend_name(OTHER, "d"), Ok(()));
        assert_eq!(budgets.try_spend_name(CLIENT, "d"), Ok(()));
        tokio::time::advance(refusal.retry_after).await;
        assert_eq!(budgets.try_spend_name(CLIENT, "e"), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_beyond_the_budget_are_owed() {
        let budgets = budgets(|config| config.clients.uploads = Some(1 << 20));
        assert_eq!(budgets.check(BudgetKind::Uploads, CLIENT), Ok(()));
        budgets.spend(BudgetKind::Uploads, CLIENT, 3 << 19);
        assert!(budgets.check(BudgetKind::Uploads, CLIENT).is_err());
        assert_eq!(budgets.check(BudgetKind::Uploads, OTHER), Ok(()));
        tokio::time::advance(Duration::from_secs(1_801)).await;
        assert_eq!(budgets.check(BudgetKind::Uploads, CLIENT), Ok(()));
    }

    #[test]
    fn unlimited_budget_refuses_nothing() {
        let budgets = budgets(|config| {
            let clients = &mut config.clients;
            (clients.new_names, clients.absent_names, clients.upstream_requests) = (None, None, None);
            (clients.new_bytes, clients.uploads) = (None, None);
        });
        for kind in BudgetKind::ALL {
            budgets.spend(kind, CLIENT, u64::MAX);
            assert_eq!(budgets.try_spend(kind, CLIENT), Ok(()));
        }
    }

    #[test]
    fn recent_names_are_bounded() {
        let mut recent = RecentNames::default();
        for name in 0..5 * RECENT_NAMES as u64 {
            recent.insert(name);
            assert!(recent.contains(name) && recent.young.len() <= RECENT_NAMES);
        }
        assert!(!recent.contains(0) && recent.old.len() <= RECENT_NAMES);
    }
}
