//! The sandbox of `gupd serve`. That files outside cannot be opened is tested beside the code (src/guard/sandbox); every
//! other test of the program runs in the sandbox, because it is on by default.

use std::fs;
use std::path::Path;

use crate::guarded::workers;
use crate::process::{Relay, gupd, serve};
use crate::support::{Authority, Manager, PAYLOAD, Resource, bytes};

/// A field of `/proc/<pid>/status`.
fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned()
}

/// Maximum size of core dumps of a process.
fn core_limit(pid: u32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    limit.split_whitespace().next().unwrap().to_owned()
}

fn restrictions(pid: u32) -> [String; 3] {
    [status(pid, "NoNewPrivs:"), status(pid, "Seccomp:"), core_limit(pid)]
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_and_guard_are_sandboxed_unless_switched_off() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 100_000)));
    for (setting, is_guarded, expected) in [
        ("auto", false, ["1", "2", "0"]),
        ("auto", true, ["1", "2", "0"]),
        ("off", true, ["0", "0", "unlimited"]),
    ] {
        let mut command = serve(&manager, &folder.path().join(format!("{setting}-{is_guarded}")));
        command.env("GUPD_SERVER_SANDBOX", setting).args(is_guarded.then_some("--guard"));
        let mut relay = Relay::start(&mut command);
        let mut pids = vec![relay.process.id()];
        pids.extend(workers(&relay));
        let own = restrictions(std::process::id());
        for pid in pids {
            let found = restrictions(pid);
            match setting {
                // Inherited from the test.
                "off" => assert_eq!(found, own, "{setting} {is_guarded}"),
                _ => assert_eq!(found, expected, "{setting} {is_guarded}"),
            }
        }
        assert!(relay.get(PAYLOAD).await.expect_body() == bytes(1, 100_000));
        relay.wait_until_stored(PAYLOAD).await;
        let line = relay.process.logged_once("sandbox");
        assert_eq!(line["calls"], if setting == "off" { "off" } else { "full" }, "{line}");
        relay.process.kill();
    }
}

/// Writes a configuration with an upstream that trusts the issuers in `ca`.
fn write(file: &Path, manager: &str, ca: &Path) {
    fs::write(file, format!("[[upstream]]\nurl = {manager:?}\nca = {ca:?}\n")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_refuses_a_file_that_the_sandbox_hides() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["etc", "elsewhere"] {
        fs::create_dir(path(name)).unwrap();
    }
    let authority = Authority::new();
    for name in ["etc/first.pem", "etc/second.pem", "elsewhere/third.pem"] {
        fs::write(path(name), authority.pem()).unwrap();
    }
    let file = path("etc/gupd.toml");
    let url = "https://127.0.0.1:1";
    write(&file, url, &path("etc/first.pem"));
    let mut command = gupd(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.arg("--config").arg(&file).arg("--store").arg(path("store")).env("GUPD_STORE_MIN_FREE", "0");
    let mut relay = Relay::start(&mut command);
    if relay.process.logged_once("sandbox")["files"] != "full" {
        println!("SKIPPED: the kernel has no Landlock");
        return;
    }

    write(&file, url, &path("etc/second.pem"));
    relay.process.signal("HUP");
    relay.process.wait_for_log("configuration reloaded");

    write(&file, url, &path("elsewhere/third.pem"));
    relay.process.signal("HUP");
    let refused = relay.process.wait_for_log("reload refused; the old configuration stays in force");
    let error = refused["error"].as_str().unwrap();
    assert!(
        error.starts_with("upstream.ca: ") && error.contains("third.pem: outside the folders"),
        "{error}"
    );

    fs::rename(path("elsewhere/third.pem"), path("etc/third.pem")).unwrap();
    write(&file, url, &path("etc/third.pem"));
    relay.process.signal("HUP");
    relay.process.wait_for_log("configuration reloaded");
}
