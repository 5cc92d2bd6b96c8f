//! Administrator errors: each problem gives one clear line and the right exit status, and leaves no files behind.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::process::{Ended, Process, Relay, gupd, serve};
use crate::support::{Manager, PAYLOAD, RefusingPort};

fn run(command: &mut Command) -> Ended {
    Process::start(command).wait_for_exit()
}

/// Runs `serve` and `check` with the same file, and a store in a folder that cannot be created.
fn serve_and_check(folder: &Path, text: &str, more: &[&str]) -> [Ended; 2] {
    let (file, store) = (folder.join("gupd.toml"), folder.join("store"));
    fs::write(&file, text).unwrap();
    let ends = ["serve", "check"].map(|command| {
        let mut command = gupd([command]);
        command.arg("--config").arg(&file).arg("--store").arg(&store).args(more);
        run(command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]))
    });
    assert!(!store.exists(), "{ends:#?} left a store behind");
    ends
}

const MANAGER: &str = "[[upstream]]\nurl = \"http://manager.example:8014\"\n";

#[test]
fn typo_is_reported_with_file_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    for ended in serve_and_check(folder.path(), &format!("{MANAGER}[store]\nqouta = \"40GiB\"\n"), &[]) {
        ended.assert_error(2, &["gupd.toml:4: ", "store.qouta: ", "quota"]);
    }
}

// Programs for releases are built without the feature `otlp`, and so is that of the tests.
#[test]
fn traces_are_refused_by_a_program_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("{MANAGER}[traces]\nratio = 0.5\nendpoint = \"http://127.0.0.1:4318/v1/traces\"\n");
    for ended in serve_and_check(folder.path(), &text, &[]) {
        ended.assert_error(2, &["gupd.toml:5: ", "traces.endpoint: ", "--features otlp"]);
    }
    let file = folder.path().join("ratio.toml");
    fs::write(&file, format!("{MANAGER}[traces]\nratio = 0.5\n")).unwrap();
    let ended = run(gupd(["check", "--config"]).arg(&file));
    assert!(!ended.errors.contains("traces"), "{ended:#?}");
}

#[test]
fn all_problems_are_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[server]\nworkers = 0\nlisten = [\"nowhere\"]\n[strore]\n[log]\nlevel = 3\n";
    for ended in serve_and_check(folder.path(), text, &["--upstream", "http://manager:1/path"]) {
        assert_eq!(ended.status.code(), Some(2), "{ended:#?}");
        let flag = ended.errors.lines().filter(|line| line.starts_with("gupd: --upstream: ")).count();
        assert_eq!(flag, 1, "{ended:#?}");
        for place in ["gupd.toml:2: server.workers: ", "gupd.toml:4: strore: "] {
            assert_eq!(ended.errors.matches(place).count(), 1, "{place} in {ended:#?}");
        }
        assert!(ended.errors.lines().all(|line| line.starts_with("gupd: ")), "{ended:#?}");
    }
}

#[test]
fn missing_or_invalid_file_is_one_line_error() {
    let folder = tempfile::tempdir().unwrap();
    for ended in serve_and_check(folder.path(), "[store\nquota = 1\n", &[]) {
        ended.assert_error(2, &["gupd.toml:1: "]);
    }
    let missing = folder.path().join("missing.toml");
    run(gupd(["check", "--config"]).arg(&missing)).assert_error(2, &["missing.toml: "]);
}

#[test]
fn upstream_url_that_is_no_origin_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (url, why) in [
        ("http://manager:8014/content", "path"),
        ("http://admin:secret@manager:8014", "credentials"),
        ("http://manager:8014/?x=1", "query"),
        ("ftp://manager", "http"),
        ("manager:8014", "http"),
    ] {
        for ended in serve_and_check(folder.path(), "", &["--upstream", url]) {
            ended.assert_error(2, &["--upstream: ", why]);
            assert!(!ended.errors.contains("secret"), "{ended:#?}");
        }
    }
}

#[test]
fn missing_upstream_is_error_of_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    fs::write(&file, "").unwrap();
    // A relay starts without any, see `unconfigured`.
    run(gupd(["check"]).arg("--config").arg(&file)).assert_error(2, &["upstream"]);
}

#[test]
fn invalid_log_level_is_configuration_error() {
    let folder = tempfile::tempdir().unwrap();
    // Filters by span or field are not offered.
    for level in ["gupd=loud", "info,", "gupd[request]=debug", "[{client}]=debug", "verbose"] {
        let text = format!("{MANAGER}[log]\nlevel = \"{level}\"\n");
        for ended in serve_and_check(folder.path(), &text, &[]) {
            ended.assert_error(2, &["log.level"]);
        }
    }
}

#[test]
fn unknown_congestion_algorithm_is_reported_with_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    for ended in serve_and_check(folder.path(), &format!("{MANAGER}[wan]\ncongestion = \"nosuch\"\n"), &[]) {
        ended.assert_error(2, &["wan.congestion", "nosuch", "reno"]);
    }
}

#[test]
fn unusable_certificates_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [one, other] = [(); 2].map(|()| rcgen::generate_simple_self_signed(["relay".to_owned()]).unwrap());
    fs::write(at("cert.pem"), one.cert.pem()).unwrap();
    fs::write(at("key.pem"), one.signing_key.serialize_pem()).unwrap();
    fs::write(at("other.pem"), other.signing_key.serialize_pem()).unwrap();
    fs::write(at("broken.pem"), "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n").unwrap();
    fs::write(at("empty.pem"), "").unwrap();
    for (cert, key, named) in [
        ("missing.pem", "key.pem", "missing.pem"),
        ("broken.pem", "key.pem", "broken.pem"),
        ("empty.pem", "key.pem", "empty.pem"),
        ("cert.pem", "missing.pem", "missing.pem"),
        ("cert.pem", "cert.pem", "private key"),
        ("cert.pem", "other.pem", "other.pem"),
    ] {
        for ended in
            serve_and_check(folder.path(), MANAGER, &["--tls-cert", &at(cert), "--tls-key", &at(key)])
        {
            ended.assert_error(2, &[named]);
        }
    }
    for ended in serve_and_check(folder.path(), MANAGER, &["--tls-cert", &at("cert.pem")]) {
        ended.assert_error(2, &["tls_key"]);
    }
}

#[test]
fn port_in_use_is_reported_before_store_is_created() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--admin"] {
        let store = folder.path().join("store");
        let mut command = gupd(["serve", "--upstream", &manager.url(), flag, &address]);
        let other = if flag == "--listen" { "--admin" } else { "--listen" };
        command.args([other, "127.0.0.1:0", "--store"]).arg(&store);
        run(&mut command).assert_error(1, &[&address, "in use"]);
        assert!(!store.exists());
    }
    let mut command = gupd(["serve", "--upstream", &manager.url(), "--admin", "127.0.0.1:0"]);
    command.args(["--listen", "192.0.2.1:2967", "--store"]).arg(folder.path());
    run(&mut command).assert_error(1, &["192.0.2.1:2967"]);
}

#[test]
fn unwritable_store_is_reported() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    for store in [file.clone(), file.join("below")] {
        run(&mut serve(&manager, &store)).assert_error(1, &[store.to_str().unwrap()]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"in the way");
}

#[test]
fn store_in_use_by_another_relay_is_refused() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let _first = Relay::start(&mut serve(&manager, folder.path()));
    let second = run(&mut serve(&manager, folder.path()));
    second.assert_error(1, &[folder.path().to_str().unwrap(), "in use by another gupd"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_starts_without_a_reachable_manager() {
    let folder = tempfile::tempdir().unwrap();
    let away = RefusingPort::new();
    let mut command = gupd(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--upstream", &away.url(), "--store"]).arg(folder.path());
    let mut relay = Relay::start(&mut command);
    // The first check and the start of the relay run at the same time.
    let line = relay.process.logged_once("upstreams unavailable; only stored content of theirs is served");
    assert_eq!((line["failing"].as_u64(), line["of"].as_u64()), (Some(1), Some(1)));
    let error = line["error"].as_str().unwrap();
    assert!(error.contains(&away.address().to_string()) && error.contains("refused"), "{error}");
    let response = relay.get(PAYLOAD).await;
    assert_eq!(response.status, 504);
    assert!(response.header("retry-after").is_some());
    let metric =
        format!("gupd_upstream_requests_total{{outcome=\"connect\",upstream=\"{}\"}} 1\n", away.address());
    assert!(relay.metrics().await.contains(&metric));
}

#[test]
fn probe_reports_each_upstream() {
    let (manager, away) = (Manager::start(), RefusingPort::new());
    let good = run(&mut gupd(["check", "--probe", "--upstream", &manager.url()]));
    assert!(good.status.success() && good.errors.is_empty(), "{good:#?}");
    assert!(good.lines.iter().any(|line| line.contains("status 404")), "{good:#?}");
    let url = away.url();
    let bad = run(&mut gupd(["check", "--probe", "--upstream", &manager.url(), "--upstream", &url]));
    assert_eq!(bad.status.code(), Some(1), "{bad:#?}");
    assert_eq!(bad.errors.lines().count(), 1, "{bad:#?}");
    assert!(bad.errors.contains(&url) && bad.errors.contains("refused"), "{bad:#?}");
    // Without --probe no upstream is contacted.
    assert!(run(&mut gupd(["check", "--upstream", &url])).status.success());
}

#[test]
fn unknown_flag_is_usage_error() {
    for arguments in [vec!["serve", "--upstraem", "http://manager"], vec!["sevre"], vec![]] {
        let ended = run(&mut gupd(&arguments));
        assert_eq!(ended.status.code(), Some(2), "{ended:#?}");
        assert!(ended.lines.is_empty() && !ended.errors.is_empty(), "{ended:#?}");
    }
}

#[test]
fn warnings_have_their_line_and_do_not_prevent_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    let text = "[[group]]\nname = \"a\"\nwindows = \"mon-fri 20:00-22:00\"\nspread = \"4h\"\n";
    fs::write(&file, text).unwrap();
    let manager = Manager::start();
    let mut command = gupd(["check", "--upstream", &manager.url()]);
    // The machine of the test may be a small one.
    let small = [("GUPD_STORE_QUOTA", "64MiB"), ("GUPD_STORE_MIN_FREE", "0"), ("GUPD_STORE_MEMORY", "16MiB")];
    command.env("GUPD_GUARD_ANSWER", "relay").envs(small).arg("--store").arg(folder.path()).arg("--config");
    let ended = run(command.arg(&file).env("TZ", "/nowhere"));
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
    // The folder for temporary files may be in memory, which is a warning too.
    let lines: Vec<_> = ended.lines.iter().filter(|line| !line.contains(" is in memory")).collect();
    let [no_zone, spread, good, sandbox] = lines[..] else { panic!("{ended:#?}") };
    assert!(no_zone.starts_with("warning: site.time_zone: is not set"), "{no_zone}");
    assert!(
        spread.starts_with("warning: ") && spread.contains("gupd.toml:4: group.spread: 4h does not fit"),
        "{spread}"
    );
    assert_eq!(good, "configuration is valid");
    assert!(sandbox.starts_with("sandbox of this machine: files "), "{sandbox}");
    let mut command = serve(&manager, &folder.path().join("store"));
    let mut relay = Relay::start(command.envs(small).arg("--config").arg(&file));
    let logged = relay.process.warnings().into_iter().filter(|line| !line.contains(" is in memory"));
    assert_eq!(logged.filter(|line| line.contains("configuration warning")).count(), 1);
    relay.process.kill();
}
