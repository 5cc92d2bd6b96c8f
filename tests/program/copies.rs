//! Revision copies in the store commands: listed with their mark, and never purged.

use gupd_config::Config;
use gupd_config::clock::Clock;
use gupd_store::{ObjectCopy, Publication, Store};

use crate::process::{Relay, serve};
use crate::store_commands::{list_objects, store};
use crate::support::{Manager, Resource, bytes};

const CATALOG: &str = "/liveupdt.tri";

#[tokio::test(flavor = "multi_thread")]
async fn pinned_copy_is_listed_and_survives_purge() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    manager.put(CATALOG, Resource::new(bytes(1, 5000)));
    let relay = Relay::start(&mut serve(&manager, folder));
    relay.get(CATALOG).await.expect_body();
    relay.wait_until_stored(CATALOG).await;
    relay.process.signal("TERM");
    relay.process.wait_for_exit();

    let mut config = Config::for_upstreams(&[&manager.url()]).unwrap().store;
    config.dir = folder.to_owned();
    let opened = Store::open(&config, Clock::system()).unwrap();
    let object = opened.page(0).await.unwrap().remove(0);
    let key = format!("@7 {}", object.key).into();
    let copies = vec![ObjectCopy { object: object.id, blob: object.blob, key, last_used: 0 }];
    opened.publish(Publication { copies, ..Publication::default() }).await.unwrap();
    drop(opened);

    let objects = list_objects(folder, &["--path", "**/*.tri"]);
    let shown: Vec<_> =
        objects.iter().map(|object| (object["path"].as_str(), object["copy"].as_str())).collect();
    assert_eq!(shown, [(Some(CATALOG), None), (Some(CATALOG), Some("@7"))]);
    let table = store("ls", folder, &[]);
    assert!(table.lines[2].ends_with(&format!(" @7 {CATALOG}")), "{table:#?}");
    let rehearsed = store("purge", folder, &["--path", "**", "--dry-run"]);
    assert_eq!(rehearsed.lines.len(), 3, "{rehearsed:#?}");
    let purged = store("purge", folder, &["--path", "**"]);
    assert_eq!(purged.lines, ["removed 1 object, 0 B on disk"], "{purged:#?}");
    assert_eq!(list_objects(folder, &[]).len(), 1);
    let verified = store("verify", folder, &[]);
    assert_eq!(verified.lines, ["verified 1 blob, 4.88 KiB"], "{verified:#?}");
}
