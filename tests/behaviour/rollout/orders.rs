//! What an administrator orders while clients are being moved: halt and resume, hold and rollback, emergency release.

use gupd_rollout::command::RolloutCommand;

use super::{
    BRANCH, CATALOGS, Crowd, DAY, GROUPS, HOUR, OTHER, PILOT, STAGED, all, get, hold, order, pass,
    publish_and_refresh, refresh, release, rollback, sees, send, site, site_of, try_order, version_of,
};
use crate::support::{PAYLOAD, Request, Resource, bytes};

const SPREAD: &str =
    "[[ring]]\nname = \"all\"\ngroups = [\"pilot\", \"branch\", \"default\"]\nspread = \"10h\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn resumed_halt_continues_from_same_share() {
    let site = site(SPREAD);
    let mut crowd = Crowd::of(&site, [30, 30, 30]).await;
    crowd.look().await;
    publish_and_refresh(&site, 2).await;
    pass(&site, 4 * HOUR).await;
    let moved = crowd.look().await;
    let count = moved.iter().filter(|(_, sees)| *sees == 2).count();
    assert!((15..60).contains(&count), "{count}");
    order(&site, RolloutCommand::Halt).await;
    for _ in 0..3 {
        pass(&site, DAY).await;
        assert_eq!(crowd.look().await, moved);
    }
    publish_and_refresh(&site, 3).await;
    assert_eq!(crowd.look().await, moved, "what is published meanwhile waits too");
    order(&site, RolloutCommand::Resume).await;
    assert_eq!(crowd.look().await, moved);
    pass(&site, 3 * HOUR).await;
    let third = crowd.look().await;
    let three = third.iter().filter(|(_, sees)| *sees == 3).count();
    assert!((10..50).contains(&three), "{three}");
    assert!(third.iter().any(|(_, sees)| *sees == 2));
    pass(&site, 7 * HOUR).await;
    assert_eq!(crowd.count(3).await, [30, 30, 30]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rolled_back_group_gets_whole_older_catalogs() {
    let site = site(STAGED);
    assert_eq!(all(&site).await, [1, 1, 1]);
    publish_and_refresh(&site, 2).await;
    let path = CATALOGS[0];
    let newer = get(&site, PILOT, path).await;
    let [etag, date] = ["etag", "last-modified"].map(|name| newer.header(name).unwrap().to_owned());
    let conditions = || {
        [
            Request::get(path).header("If-None-Match", &etag),
            Request::get(path).header("If-Modified-Since", &date),
            Request::get(path).header("If-Modified-Since", "Tue, 01 Jan 2030 00:00:00 GMT"),
            Request::get(path).header("If-None-Match", &etag).header("If-Modified-Since", &date),
            Request::get(path).header("Cache-Control", "no-cache").header("Pragma", "no-cache"),
        ]
    };
    for request in &conditions()[..2] {
        assert_eq!(send(&site, PILOT, request).await.status, 304);
    }
    let asked = site.manager.request_count(path);
    order(&site, rollback("pilot")).await;
    for request in &conditions() {
        let older = send(&site, PILOT, request).await;
        assert_eq!(older.status, 200, "{:?}", older.headers);
        assert_eq!(version_of(path, older), 1);
    }
    // Nor does it put the rest of the older one behind what it has of the newer.
    for request in [Request::get(path).range("5-"), Request::get(path).range("5-").header("If-Range", &etag)]
    {
        assert_eq!(version_of(path, send(&site, PILOT, &request).await), 1);
    }
    let older = get(&site, PILOT, path).await;
    let [etag, date] = ["etag", "last-modified"].map(|name| older.header(name).unwrap().to_owned());
    for (name, value) in [("If-None-Match", &etag), ("If-Modified-Since", &date)] {
        let request = Request::get(path).header(name, value);
        assert_eq!(send(&site, PILOT, &request).await.status, 304, "{name}");
    }
    let rest = Request::get(path).range("5-").header("If-Range", &etag);
    assert_eq!(send(&site, PILOT, &rest).await.status, 206);
    assert_eq!(site.manager.request_count(path), asked, "no client has the manager asked");
    order(&site, release(Some("pilot"), false)).await;
    assert_eq!(all(&site).await, [2, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_group_keeps_named_revision() {
    let site = site_of(&format!("{GROUPS}{STAGED}[rollout]\nkeep = 2\n"));
    assert_eq!(all(&site).await, [1, 1, 1]);
    order(&site, RolloutCommand::Name { revision: 1.into(), name: "good".into() }).await;
    order(&site, hold("pilot", "good")).await;
    let error = try_order(&site, hold("branch", "bad")).await.unwrap_err().to_string();
    assert_eq!(error, "no kept revision is called \"bad\": kept are good (1), 1");
    for version in 2..=7 {
        publish_and_refresh(&site, version).await;
        order(&site, release(Some("default"), true)).await;
        pass(&site, 2 * DAY).await;
        assert_eq!((sees(&site, PILOT).await, sees(&site, OTHER).await), (1, version));
    }
    let kept: Vec<u64> =
        site.relay().rollouts().snapshot().state.revisions().map(|revision| revision.number.get()).collect();
    assert_eq!(kept.first(), Some(&1), "{kept:?}");
    assert!(kept.len() <= 4, "{kept:?}");
    order(&site, rollback("branch")).await;
    assert_eq!(sees(&site, BRANCH).await, kept[kept.len() - 2]);
    order(&site, release(None, false)).await;
    assert_eq!(sees(&site, PILOT).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn emergency_release_moves_all_despite_windows() {
    let next = PAYLOAD.replace("261121001", "261121002");
    let site = site_of(&format!(
        "[[group]]\nname = \"pilot\"\nsubnets = \"127.1.0.0/16\"\n\
         [[group]]\nname = \"branch\"\nsubnets = \"127.2.0.0/16\"\nwindows = \"20:00-06:00\"\n{STAGED}"
    ));
    for path in [PAYLOAD, &next] {
        site.manager.put(path, Resource::new(bytes(1, 50_000)));
    }
    assert_eq!(all(&site).await, [1, 1, 1]);
    for client in [PILOT, OTHER] {
        get(&site, client, PAYLOAD).await.expect_body();
    }
    publish_and_refresh(&site, 2).await;
    pass(&site, HOUR).await;
    assert_eq!(get(&site, PILOT, &next).await.status, 200);
    assert_eq!((get(&site, BRANCH, &next).await.status, get(&site, OTHER, &next).await.status), (503, 503));
    order(&site, release(None, true)).await;
    assert_eq!(all(&site).await, [2, 2, 2]);
    for client in [PILOT, BRANCH, OTHER] {
        assert_eq!(get(&site, client, &next).await.status, 200, "at one in the afternoon");
    }
    // As long as it is the newest of all: rings that come to their ends do not close windows again.
    for _ in 0..26 {
        pass(&site, HOUR).await;
    }
    order(&site, super::promote("last")).await;
    pass(&site, HOUR).await;
    pass(&site, 18 * HOUR).await;
    assert_eq!(get(&site, BRANCH, &next).await.status, 200);
    refresh(&site).await;
    assert_eq!(all(&site).await, [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn emergency_release_opens_windows_for_unringed_content() {
    let site = site_of(
        "[[group]]\nname = \"branch\"\nsubnets = \"127.2.0.0/16\"\nwindows = \"20:00-06:00\"\n\
         [[ring]]\nname = \"all\"\ngroups = [\"branch\", \"default\"]\n",
    );
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 50_000)));
    assert_eq!(sees(&site, BRANCH).await, 1);
    get(&site, OTHER, PAYLOAD).await.expect_body();
    assert_eq!(get(&site, BRANCH, PAYLOAD).await.status, 503);
    order(&site, release(Some("branch"), true)).await;
    assert_eq!(get(&site, BRANCH, PAYLOAD).await.status, 200);
    pass(&site, HOUR).await;
    pass(&site, HOUR).await;
    assert_eq!(get(&site, BRANCH, PAYLOAD).await.status, 200, "while nothing newer has come");
}
