//! Warnings about settings that do not fit this machine, by `gupd check` and in the log of a relay that starts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use crate::process::{Ended, Process, Relay, gupd};
use crate::support::{Manager, RefusingPort};

/// A good configuration with these settings besides.
fn write(folder: &Path, server: &str, store: &str, url: &str) -> std::path::PathBuf {
    let file = folder.join("gupd.toml");
    let dir = if store.contains("dir = ") {
        String::new()
    } else {
        format!("dir = \"{}\"\n", folder.join("store").display())
    };
    let text = format!(
        "[guard]\nanswer = \"relay\"\n[server]\n{server}\n[store]\n{dir}{store}\n[[upstream]]\nurl = \"{url}\"\n"
    );
    fs::write(&file, text).unwrap();
    file
}

fn check(file: &Path) -> Ended {
    Process::start(gupd(["check", "--config"]).arg(file)).wait_for_exit()
}

/// Returns the warnings, without that of a temporary folder in memory.
fn warnings(ended: &Ended) -> Vec<&str> {
    let warnings = ended.lines.iter().filter_map(|line| line.strip_prefix("warning: "));
    warnings.filter(|line| !line.contains(" is in memory")).collect()
}

/// Writes a certificate with these dates, and its key.
fn write_certificate(folder: &Path, from: i32, until: i32) -> String {
    let (cert, key) = (folder.join(format!("{until}.pem")), folder.join(format!("{until}.key")));
    let own = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["relay".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
    fs::write(&cert, params.self_signed(&own).unwrap().pem()).unwrap();
    fs::write(&key, own.serialize_pem()).unwrap();
    format!("tls_cert = \"{}\"\ntls_key = \"{}\"", cert.display(), key.display())
}

const SMALL: &str = "quota = \"64MiB\"\nmin_free = 0\nmemory = \"16MiB\"";

#[test]
fn setting_that_does_not_fit_the_machine_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    crate::support::write_secret(at("empty"), "");
    crate::support::write_secret(at("open"), "s3cret-of-the-site");
    fs::set_permissions(at("open"), fs::Permissions::from_mode(0o644)).unwrap();
    let token = |name: &str| format!("admin_token_file = \"{}\"", at(name));
    let in_store = |text: &str| (String::new(), text.to_owned());
    let in_server = |text: String| (text, SMALL.to_owned());
    for ((server, store), expected) in [
        (
            in_store("quota = \"1000TiB\"\nmin_free = 0\nmemory = \"16MiB\""),
            "store.quota: 1000.00 TiB exceeds the file system",
        ),
        (
            in_store("quota = \"64MiB\"\nmin_free = \"1000TiB\"\nmemory = \"16MiB\""),
            "store.min_free: 1000.00 TiB leaves no room",
        ),
        (
            in_store("quota = \"64MiB\"\nmin_free = 0\nmemory = \"1TiB\""),
            "store.memory: 1.00 TiB leaves too little of the memory",
        ),
        (in_store(&format!("{SMALL}\ndir = \"{}\"", at("empty"))), "is a file: name a folder"),
        (
            in_server(token("missing")),
            "missing: No such file or directory (os error 2): write a token to it, or correct the path",
        ),
        (in_server(token("empty")), "the first line is empty"),
        (in_server(token("open")), "open: other users may read or change it (mode 644): chmod 600"),
        (
            in_server("listen = \"192.0.2.1:2967\"".to_owned()),
            "server.listen: no interface of this machine has 192.0.2.1",
        ),
        (
            in_server("admin = \"192.0.2.1:9467\"\nadmin_allow_insecure = true".to_owned()),
            "server.admin: no interface of this machine has 192.0.2.1",
        ),
        (in_server(write_certificate(folder.path(), 2000, 2001)), "server.tls_cert: "),
        (in_server(write_certificate(folder.path(), 2150, 2151)), "2151.pem becomes valid in "),
    ] {
        let ended = check(&write(folder.path(), &server, &store, "http://manager"));
        assert!(ended.status.success() && ended.errors.is_empty(), "{server}{store} {ended:#?}");
        let found = warnings(&ended);
        assert!(found.iter().any(|line| line.contains(expected)), "{server}{store} {ended:#?}");
    }
    fs::set_permissions(at("open"), fs::Permissions::from_mode(0o600)).unwrap();
    let good = format!("{}\n{}", token("open"), write_certificate(folder.path(), 2000, 2150));
    let ended = check(&write(folder.path(), &good, SMALL, "http://manager"));
    assert!(ended.status.success() && warnings(&ended).is_empty(), "{ended:#?}");
}

#[test]
fn certificate_with_another_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) =
        (write_certificate(folder.path(), 2000, 2150), write_certificate(folder.path(), 2000, 2151));
    let mixed = format!("{}\n{}", one.lines().next().unwrap(), two.lines().nth(1).unwrap());
    let ended = check(&write(folder.path(), &mixed, SMALL, "http://manager"));
    ended.assert_error(
        2,
        &["2150.pem and ", "2151.key: certificate and key do not match", "use the key with which"],
    );
}

#[test]
fn warnings_about_the_machine_are_logged_at_start() {
    let (manager, folder, away) = (Manager::start(), tempfile::tempdir().unwrap(), RefusingPort::new());
    let server = format!(
        "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nadmin_token_file = \"{}\"",
        folder.path().join("missing").display()
    );
    let store = "quota = \"1000TiB\"\nmin_free = 0\nmemory = \"16MiB\"";
    let file = write(folder.path(), &server, store, &manager.url());
    let mut relay = Relay::start(gupd(["serve", "--config"]).arg(&file));
    let first = relay.process.count_log("configuration warning");
    assert!(first >= 2, "{first}");
    // The same at a reload.
    fs::write(&file, fs::read_to_string(&file).unwrap().replace(&manager.url(), &away.url())).unwrap();
    relay.process.signal("HUP");
    relay.process.wait_for_log("configuration reloaded");
    assert_eq!(relay.process.count_log("configuration warning"), 2 * first);
}
