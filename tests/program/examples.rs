//! The shell blocks of the documents, run on machines that the pages describe: one with a relay and its clients, one that
//! holds unproven content, and some with a configuration only.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::example_blocks::{Examples, Machine};
use crate::process::{Relay, gupd};
use crate::support::{Authority, Manager, Resource, bytes, get, write_secret};

const FULL: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261120002/full.zip";
const DELTA: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261120002/xdelta261120001.dax";
const CATALOG: &str = "/minitri.flg";

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// Returns the block of a page that begins with this line.
fn table(name: &str, begin: &str) -> String {
    let page = page(name);
    let lines = page.lines().skip_while(|line| line.trim_start() != begin);
    let block = lines.take_while(|line| line.is_empty() || line.starts_with("    "));
    block.map(|line| format!("{}\n", line.trim_start())).collect()
}

/// Returns content that begins as a zip archive does.
fn archive(seed: u64, length: usize) -> Vec<u8> {
    [b"PK\x03\x04", bytes(seed, length - 4).as_slice()].concat()
}

/// Windows that open in six hours, every day: clients are deferred now.
fn later() -> String {
    let hour = (jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).hour() + 6) % 24;
    format!("mon-sun {hour:02}:00-{:02}:00", (hour + 6) % 24)
}

/// The configuration of a site with rings, a window and a token.
fn site(folder: &Path, manager: &Manager) -> String {
    write_secret(folder.join("admin-token"), "s3cret-of-the-site\n");
    format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nadmin_token_file = {:?}\n\n\
         [site]\ntime_zone = \"UTC\"\n\n[store]\ndir = {:?}\nmin_free = \"0B\"\n\n[wan]\nlimit = \"10Gbit/s\"\n\n\
         [lan]\nmax_downloads = 200\n\n[[upstream]]\nname = \"sepm\"\nurl = \"{}\"\n\n\
         [[group]]\nname = \"pilot\"\nsubnets = [\"127.0.0.1\"]\n\n\
         [[group]]\nname = \"branch\"\nsubnets = [\"10.1.0.0/16\"]\nwindows = [\"{}\"]\nspread = \"4h\"\n\n\
         [[ring]]\nname = \"pilot\"\ngroups = [\"pilot\"]\n\n\
         [[ring]]\nname = \"all\"\ngroups = [\"branch\", \"default\"]\nshares = [10, 100]\n",
        folder.join("admin-token"),
        folder.join("store"),
        manager.url(),
        later(),
    )
}

/// Starts the relay of a folder's configuration with its guard.
fn start(folder: &Path) -> Relay {
    Relay::start(gupd(["serve", "--guard", "--config"]).arg(folder.join("gupd.toml")))
}

/// Points the commands of a machine at a running relay.
fn with_relay<'a>(folder: &'a Path, relay: &Relay, manager: &Manager) -> Machine<'a> {
    let mut machine = Machine::new(folder);
    machine.replacements.push(("127.0.0.1:8014".to_owned(), manager.address().to_string()));
    machine.replacements.push(("127.0.0.1:9467".to_owned(), relay.admin.to_string()));
    machine.environment.push(("GUPD_SERVER_ADMIN".to_owned(), relay.admin.to_string()));
    machine
}

async fn stop(relay: Relay) {
    relay.process.signal("TERM");
    relay.process.wait_for_exit();
}

/// Pages whose commands need a configuration and no relay.
fn run_without_a_relay(examples: &mut Examples) {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new(folder.path());
    let file = folder.path().join("gupd.toml");
    let wrong = "[store]\nquotta = \"1GiB\"\nmemory = \"x\"\n[[upstream]]\nurl = \"http://sepm\"\n";
    fs::write(&file, wrong).unwrap();
    examples.run(&machine, "docs/configure.md", "gupd check");
    let [upstreams, groups] = ["[[upstream]]", "[[content_type]]"].map(|begin| table("configure.md", begin));
    fs::write(&file, format!("{upstreams}\n{groups}")).unwrap();
    examples.run(&machine, "docs/configure.md", "gupd policy explain");
    fs::write(folder.path().join("policy.json"), crate::import::POLICY).unwrap();
    examples.run(&machine, "docs/configure.md", "gupd policy import");
    examples.run(&machine, "docs/install.md", "gupd clients-config");
    examples.run(&machine, "docs/sizing.md", "gupd plan");
    let vendor = folder.path().join("profiles/vendor.toml");
    fs::create_dir(vendor.parent().unwrap()).unwrap();
    fs::write(&vendor, table("profiles.md", "[profile]")).unwrap();
    examples.run(&machine, "docs/profiles.md", "gupd check --profile");
    fs::remove_file(&file).unwrap();
    examples.run(&machine, "docs/status.md", "gupd init");
    let window = "[site]\ntime_zone = \"UTC\"\n[wan]\nlimit = \"8Mbit/s\"\n[[group]]\nname = \"branch\"\n\
        windows = [\"mon-fri 20:00-06:00\"]\nspread = \"4h\"\n";
    fs::write(&file, format!("{upstreams}\n{window}")).unwrap();
    fs::write(folder.path().join("sites.csv"), table("planning.md", "name,region,clients,line")).unwrap();
    examples.run(&machine, "docs/planning.md", "gupd plan");
}

/// A relay that a client has used: pages about its state and its control.
async fn run_beside_a_relay(examples: &mut Examples) {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    for (path, length) in [(FULL, 20 << 20), (DELTA, 900 << 10), (CATALOG, 30 << 10)] {
        manager.put(path, Resource::new(archive(1, length)));
    }
    fs::write(folder.path().join("gupd.toml"), site(folder.path(), &manager)).unwrap();
    let relay = start(folder.path());
    // Twice each: a client that takes content again and again counts as failing.
    for path in [CATALOG, FULL, DELTA, FULL, DELTA] {
        relay.get(path).await.expect_body();
        relay.wait_for_fills().await;
    }
    let machine = with_relay(folder.path(), &relay, &manager);
    examples.run(&machine, "docs/configure.md", "gupd refresh");
    for (page, begin) in [
        ("docs/status.md", "gupd status"),
        ("docs/status.md", "gupd why"),
        ("docs/status.md", "gupd doctor"),
        ("docs/windows.md", "gupd policy explain"),
        ("docs/rollouts.md", "gupd rollout status"),
        ("docs/rollouts.md", "gupd rollout name"),
        ("docs/operations.md", "curl"),
        ("docs/operations.md", "gupd"),
    ] {
        examples.run(&machine, page, begin);
    }
    stop(relay).await;
    let machine = Machine::new(folder.path());
    examples.run(&machine, "docs/content.md", "gupd store ls");
    examples.run(&machine, "docs/content.md", "gupd store verify");
    examples.run(&machine, "docs/content.md", "gupd store export");
    examples.run(&machine, "docs/content.md", "gupd store purge --revision");
    let relay = start(folder.path());
    relay.get(FULL).await.expect_body();
    relay.wait_for_fills().await;
    examples.run(&with_relay(folder.path(), &relay, &manager), "docs/content.md", "gupd store purge --path");
}

/// A relay that holds two payloads without a proof.
async fn run_with_held_content(examples: &mut Examples) {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    fs::write(folder.path().join("roots.pem"), Authority::new().pem()).unwrap();
    let route = "[[route]]\nprefix = \"/\"\nprofile = \"liveupdate\"\nverify = \"hold\"\n";
    let text = site(folder.path(), &manager).replace("\"sepm\"", "\"lua.example:7070\"");
    fs::write(folder.path().join("gupd.toml"), format!("{text}\n{route}")).unwrap();
    let relay = start(folder.path());
    for name in ["a", "b"] {
        let path = format!("/clu-prod/1369163480jtun_{name}.zip");
        manager.put(&path, Resource::new(archive(u64::from(name == "b"), 114_000)));
        assert_eq!(get(relay.address, &path).await.status, 503, "{path}");
    }
    let machine = with_relay(folder.path(), &relay, &manager);
    examples.run(&machine, "docs/content-trust.md", "gupd store held");
    examples.run(&machine, "docs/content-trust.md", "gupd store release");
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_documents_run_and_print_what_pages_show() {
    if Command::new("curl").arg("--version").output().is_err() {
        panic!("curl is missing: the gate installs it");
    }
    let mut examples = Examples::read();
    run_without_a_relay(&mut examples);
    run_beside_a_relay(&mut examples).await;
    run_with_held_content(&mut examples).await;
    examples.assert_all();
}
