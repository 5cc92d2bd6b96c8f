//! What a sandboxed thread can do. Restrictions are those of a thread, so each case runs in one of its own.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use gupd_config::Overrides;

use super::*;

/// A configuration in `etc` of this folder, with a certificate in `certificates` and the store in `store`.
fn configuration(folder: &Path) -> Config {
    for name in ["etc", "certificates", "other"] {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("file"), name).unwrap();
    }
    let path = |name: &str| folder.join(name).display().to_string();
    let file = folder.join("etc/gupd.toml");
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:2967\"]\ntls_cert = {:?}\ntls_key = {:?}\n[store]\ndir = {:?}\n\
         [[upstream]]\nurl = \"http://manager\"\n",
        path("certificates/tls.pem"),
        path("certificates/tls.key"),
        path("store")
    );
    fs::write(&file, text).unwrap();
    fs::create_dir(folder.join("store")).unwrap();
    Config::load(&Overrides::default(), Some(&file), std::iter::empty()).unwrap()
}

/// Runs `probe` in a sandboxed thread. Returns `None` where the kernel offers no restriction of files.
fn run_sandboxed<T: Send>(folder: &Path, probe: impl FnOnce() -> T + Send) -> Option<T> {
    let config = configuration(folder);
    let folders = Folders::new(&config, Some(&folder.join("etc/gupd.toml")));
    let (restrictions, result) =
        std::thread::scope(|scope| scope.spawn(|| (restrict(&folders, &config), probe())).join().unwrap());
    assert_eq!(restrictions.calls, Restriction::Full);
    (!matches!(restrictions.files, Restriction::Missing(_))).then_some(result)
}

#[test]
fn file_outside_the_folders_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let read = |name: &str| fs::read(path(name)).map_err(|error| error.kind());
    let Some(results) = run_sandboxed(folder.path(), || {
        let renewed = fs::rename(path("other/file"), path("store/file")).map_err(|error| error.kind());
        let names = ["etc/file", "certificates/file", "other/file"];
        (names.map(read), renewed, fs::read_dir(path("other")).map(drop).map_err(|error| error.kind()))
    }) else {
        return;
    };
    let denied = ErrorKind::PermissionDenied;
    assert_eq!(results.0, [Ok(b"etc".to_vec()), Ok(b"certificates".to_vec()), Err(denied)]);
    assert_eq!((results.1, results.2), (Err(denied), Err(denied)));
}

#[test]
fn only_the_store_can_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str| File::create(path(name)).and_then(|mut file| file.write_all(b"x")).is_ok();
    let Some(results) = run_sandboxed(folder.path(), || {
        let moved = fs::create_dir(path("store/a")).and_then(|()| fs::create_dir(path("store/b")));
        let moved = moved.is_ok()
            && write("store/a/new")
            && fs::rename(path("store/a/new"), path("store/b/new")).is_ok();
        (moved, ["store/new", "etc/new", "certificates/file", "other/new"].map(write))
    }) else {
        return;
    };
    assert_eq!(results, (true, [true, false, false, false]));
}

#[test]
fn sandboxed_thread_starts_threads_but_no_program() {
    let folder = tempfile::tempdir().unwrap();
    run_sandboxed(folder.path(), || {
        std::thread::spawn(|| ()).join().unwrap();
        assert!(Command::new("/bin/true").status().is_err());
    });
}

#[test]
fn sandboxed_thread_connects_and_resolves() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    run_sandboxed(folder.path(), || {
        TcpStream::connect(address).unwrap();
        TcpStream::connect(("localhost", address.port())).unwrap();
    });
}

#[test]
fn only_configured_ports_can_be_bound() {
    let folder = tempfile::tempdir().unwrap();
    let Some(bound) = run_sandboxed(folder.path(), || TcpListener::bind("127.0.0.1:0").is_ok()) else {
        return;
    };
    // Landlock restricts ports from Linux 6.7 on.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version: Vec<u32> = release.split(['.', '-']).take(2).map(|part| part.parse().unwrap()).collect();
    assert!(!bound || version < vec![6, 7], "Linux {release}");
}

#[test]
fn sandboxed_thread_gets_no_socket_of_another_family() {
    let folder = tempfile::tempdir().unwrap();
    run_sandboxed(folder.path(), || {
        let packet = rustix::net::AddressFamily::PACKET;
        let raw = rustix::net::socket(packet, rustix::net::SocketType::RAW, None);
        assert_eq!(raw.unwrap_err(), rustix::io::Errno::NOSYS);
    });
}

#[test]
fn file_of_a_later_configuration_is_named_if_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let config = configuration(folder.path());
    let folders = Folders::new(&config, Some(&folder.path().join("etc/gupd.toml")));
    let restrictions = Restrictions { files: Restriction::Full, calls: Restriction::Full };
    let sandbox = Sandbox { folders, restrictions };
    assert_eq!(sandbox.hidden_file(&config), None);
    let path = folder.path().join("other/file");
    let added = ConfiguredFile { setting: "server.client_ca".to_owned(), path };
    let later = Config { files: vec![added.clone()], ..config };
    assert_eq!(sandbox.hidden_file(&later), Some(&added));
}

#[test]
fn guard_keeps_starting_programs() {
    let status = std::thread::spawn(|| {
        calls::forbid_dangerous().unwrap();
        assert!(rustix::process::chroot("/").is_err());
        Command::new("/bin/true").status().unwrap()
    });
    assert!(status.join().unwrap().success());
}
