//! Two managers with clients of their own: what each publishes goes through the rings by itself, and no client sees the
//! catalogs of the other manager.

use super::{
    BRANCH, CATALOGS, HOUR, OTHER, PILOT, all, catalog, get, order, pass, promote, publish, rollback,
    site_behind,
};
use crate::support::site::read_clock;
use crate::support::{Manager, Resource, Site};

struct Two {
    site: Site,
    second: Manager,
}

impl Two {
    /// The pilot and all others have the first manager, which has version 1; the branch the second, with version 11.
    async fn new() -> Self {
        let (first, second) = (Manager::start(), Manager::start());
        publish(&second, 11);
        let text = format!(
            "[[upstream]]\nname = \"first\"\nurl = \"{}\"\n[[upstream]]\nname = \"second\"\nurl = \"{}\"\n\
             [[route]]\nprefix = \"/\"\nupstreams = [\"first\"]\n\
             [[group]]\nname = \"pilot\"\nsubnets = \"127.1.0.0/16\"\n\
             [[group]]\nname = \"branch\"\nsubnets = \"127.2.0.0/16\"\nupstreams = [\"second\"]\n\
             [[ring]]\nname = \"first\"\ngroups = [\"pilot\"]\n\
             [[ring]]\nname = \"second\"\ngroups = [\"branch\", \"default\"]\ndelay = \"24h\"\n",
            first.url(),
            second.url()
        );
        let site = site_behind(first, &text);
        second.set_clock(read_clock(&site.clock));
        assert_eq!(all(&site).await, [1, 11, 1]);
        Self { site, second }
    }

    /// How many catalogs failed in a refresh.
    async fn refresh(&self) -> u64 {
        self.site.relay().refresher().refresh().await.unwrap().failed
    }
}

fn fail(manager: &Manager) {
    for path in CATALOGS {
        manager.put(path, Resource::new("busy").status(500));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_manager_does_not_stop_the_other_from_publishing() {
    let two = Two::new().await;
    let site = &two.site;
    publish(&two.second, 12);
    fail(&site.manager);
    assert_eq!(two.refresh().await, 3);
    assert_eq!(all(site).await, [1, 11, 1]);
    pass(site, 24 * HOUR).await;
    assert_eq!(all(site).await, [1, 12, 1]);
    publish(&site.manager, 2);
    fail(&two.second);
    assert_eq!(two.refresh().await, 3);
    assert_eq!(all(site).await, [2, 12, 1]);
    pass(site, 24 * HOUR).await;
    assert_eq!(all(site).await, [2, 12, 2]);
    publish(&two.second, 13);
    publish(&site.manager, 3);
    assert_eq!(two.refresh().await, 0);
    order(site, promote("second")).await;
    assert_eq!(all(site).await, [3, 13, 3]);
    order(site, rollback("branch")).await;
    assert_eq!(all(site).await, [3, 12, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_only_one_has_is_there_for_its_clients_alone() {
    let two = Two::new().await;
    let new = "/c_1.0_english_livetri.zip";
    two.second.put(new, catalog(new, 11));
    for (client, status) in [(PILOT, 404), (BRANCH, 200), (OTHER, 404)] {
        assert_eq!(get(&two.site, client, new).await.status, status);
    }
    assert_eq!(all(&two.site).await, [1, 11, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn group_moved_between_managers_sees_whole_catalogs() {
    let mut two = Two::new().await;
    let bound = two.site.config.groups.clone();
    for (batch, expected) in [(0, [11, 11, 1]), (1, [1, 11, 1]), (2, [1, 1, 1]), (1, [1, 11, 1])] {
        let mut groups = bound.clone();
        if batch == 0 {
            groups[0].binding = bound[1].binding.clone();
        } else if batch == 2 {
            groups[1].binding = None;
        }
        two.site.config.groups = groups;
        let config = two.site.config.clone();
        tokio::task::block_in_place(|| two.site.relay_mut().reload(config)).unwrap();
        super::settled(&two.site).await;
        assert_eq!(all(&two.site).await, expected);
    }
}
