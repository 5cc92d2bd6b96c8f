//! Catalogs are collected whatever clients make up, and what is known of one store stays its own.

use std::sync::Arc;

use gupd_config::Config;
use gupd_rollout::command::{AttributedCommand, RolloutCommand};
use gupd_store::Store;
use tokio::task::JoinSet;

use crate::collect::{collector, is_version, publish};
use crate::support::{Manager, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn invented_names_do_not_stall_refresh() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = Arc::new(collector(&[&manager]).await);
    collector.refresh().await;
    // The maximum number of absent catalogs of a revision.
    let mut known = JoinSet::new();
    for at in 0..1_000 {
        let collector = collector.clone();
        known.spawn(async move { collector.wait_for_catalog(&format!("/{at}_livetri.zip")).await });
    }
    known.join_all().await;
    let mut endless = JoinSet::new();
    for client in 0..64 {
        let collector = collector.clone();
        endless.spawn(async move {
            for at in 0_u64.. {
                collector.wait_for_catalog(&format!("/{client}_{at}_livetri.zip")).await;
            }
        });
    }
    publish(&manager, 2);
    tokio::time::timeout(PATIENCE, collector.refresh()).await.expect("names are made up all the time");
    assert!(is_version(&collector, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_one_store_is_not_written_to_its_replacement() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = collector(&[&manager]).await;
    collector.refresh().await;
    let (place, other) = (collector.folder.path().to_owned(), tempfile::tempdir().unwrap());
    let config = gupd_config::StoreSettings {
        dir: other.path().to_owned(),
        ..Config::for_upstreams(&[&manager.url()]).unwrap().store
    };
    drop(Store::open(&config, collector.clock.clone()).unwrap());
    let away = tempfile::tempdir().unwrap();
    std::fs::rename(&place, away.path().join("store")).unwrap();
    std::fs::rename(other.path(), &place).unwrap();
    while !collector.store.probe().await || collector.store.generation() == 0 {}
    let command = RolloutCommand::Name { revision: 1.into(), name: "good".into() };
    let command = AttributedCommand { command, by: "test".into(), from: "here".into(), reason: None };
    let refusal = collector.rollouts.execute(command).await.unwrap_err();
    assert!(refusal.to_string().starts_with("there is no revision yet"), "{refusal}");
    assert_eq!(collector.store.records("rollout/").await.unwrap(), []);
}
