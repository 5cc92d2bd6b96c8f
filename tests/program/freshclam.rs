//! `freshclam` updates a database of the site's own through the relay: unchanged, changed, and with the manager away.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use crate::process::{Relay, gupd};
use crate::support::{Manager, Resource};

const DATABASE: &str = "/own/site.hdb";
const FIRST: &str = "44d88612fea8a8f36de82e1278abb02f:68:Site.First\n";
const SECOND: &str = "44d88612fea8a8f36de82e1278abb02f:68:Site.Second\n";

/// Runs `freshclam` for the custom databases of its configuration in `folder`.
fn update(folder: &Path, relay: &Relay) -> Output {
    let (databases, file) = (folder.join("databases"), folder.join("freshclam.conf"));
    fs::create_dir_all(&databases).unwrap();
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let text = format!(
        "DatabaseDirectory {}\nDatabaseOwner {user}\nPrivateMirror {address}\nTestDatabases no\nMaxAttempts 1\n\
         DatabaseCustomURL http://{address}{DATABASE}\n",
        databases.display(),
        address = relay.address
    );
    fs::write(&file, text).unwrap();
    let mut freshclam = Command::new("freshclam");
    freshclam.arg("--config-file").arg(&file).args(["--update-db=custom", "--stdout", "--no-dns"]);
    freshclam
        .output()
        .unwrap_or_else(|error| panic!("freshclam: {error}: tests/run installs clamav-freshclam"))
}

/// Asserts that an update succeeds with this line, and leaves this database.
fn assert_update(folder: &Path, relay: &Relay, line: &str, database: &str) {
    let ended = update(folder, relay);
    let output = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && output.contains(line), "{ended:#?}");
    assert_eq!(fs::read_to_string(folder.join("databases/site.hdb")).unwrap(), database);
}

#[tokio::test(flavor = "multi_thread")]
async fn freshclam_updates_unchanged_changed_and_without_manager() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let config = folder.path().join("gupd.toml");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[store]\ndir = {:?}\nmin_free = \"0B\"\n\
         [cache]\ncatalog_fresh = \"0s\"\n[refresh]\nschedule = \"off\"\n[[upstream]]\nurl = \"{}\"\n\
         [[route]]\nprefix = \"/\"\nprofile = \"clamav\"\n",
        folder.path().join("store"),
        manager.url()
    );
    fs::write(&config, text).unwrap();
    let relay = Relay::start(gupd(["serve", "--config"]).arg(&config));
    let publish = |text: &str, date: &str| {
        manager.put(DATABASE, Resource::new(text.to_owned()).header("Last-Modified", date));
    };
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));

    publish(FIRST, "Mon, 05 Jan 2026 10:00:00 GMT");
    assert_update(&first, &relay, "site.hdb updated", FIRST);
    relay.wait_for_fills().await;
    let bytes = manager.body_bytes();
    assert_update(&first, &relay, "site.hdb is up-to-date", FIRST);
    assert_update(&second, &relay, "site.hdb updated", FIRST);
    assert_eq!(manager.body_bytes(), bytes, "an unchanged database crosses once");

    // freshclam asks with the time of its file: as if the download had been before the change.
    let downloaded = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_650_400);
    fs::File::open(first.join("databases/site.hdb")).unwrap().set_modified(downloaded).unwrap();
    publish(SECOND, "Tue, 06 Jan 2026 10:00:00 GMT");
    relay.wait_for_fills().await;
    assert_update(&first, &relay, "site.hdb updated", SECOND);
    relay.wait_for_fills().await;

    manager.set_down(true);
    assert_update(&first, &relay, "site.hdb is up-to-date", SECOND);
    assert_update(&folder.path().join("third"), &relay, "site.hdb updated", SECOND);
}
