//! Hints of errors: each names the setting that is wrong and the remedy, for the mistakes of a first configuration.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::process::{Ended, Process, gupd};
use crate::support::{Authority, Front, Identity, Manager, RefusingPort};

/// Starts a server that reads something from each connection, answers this, and closes.
fn answering(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            // The client may be gone.
            let _read = client.read(&mut [0; 4096]);
            let _written = client.write_all(answer);
        }
    });
    address
}

/// `gupd check --probe` of one upstream with these settings.
fn probe(folder: &Path, settings: &str) -> Ended {
    let file = folder.join("gupd.toml");
    fs::write(&file, format!("[[upstream]]\n{settings}\n[guard]\nanswer = \"relay\"\n")).unwrap();
    let mut command = gupd(["check", "--probe", "--config"]);
    command.arg(file).env("GUPD_STORE_QUOTA", "64MiB").env("GUPD_STORE_MIN_FREE", "0");
    Process::start(&mut command).wait_for_exit()
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_probe_names_the_mistake_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let manager = Manager::start();
    let (authority, other) = (Authority::new(), Authority::new());
    let (ca, other_ca) = (folder.path().join("ca.pem"), folder.path().join("other.pem"));
    fs::write(&ca, authority.pem()).unwrap();
    fs::write(&other_ca, other.pem()).unwrap();
    let with_ca = |url: &str, ca: &Path| format!("url = \"{url}\"\nca = \"{}\"", ca.display());
    let good = Front::start(manager.address(), authority.issue("127.0.0.1")).await;
    let misnamed = Front::start(manager.address(), authority.issue("manager.test")).await;
    let strict =
        Front::start_with_client_auth(manager.address(), authority.issue("127.0.0.1"), &authority).await;
    let web = answering(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    let page = answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let (ssh, silent) = (answering(b"SSH-2.0-OpenSSH_9.2\r\n"), answering(b""));
    let refusing = RefusingPort::new();
    let proxied = |proxy: &str| format!("{}\nproxy = \"http://{proxy}\"", with_ca("https://manager", &ca));
    let pin = Identity::self_signed().pin();
    for (settings, expected) in [
        (with_ca(&format!("https://{page}"), &ca), "does not speak TLS on this port: write http in its URL"),
        (with_ca(&format!("https://{silent}"), &ca), "ended the TLS handshake"),
        (format!("url = \"http://{}\"", good.address()), "speaks TLS on this port: write https in its URL"),
        (format!("url = \"http://{ssh}\""), "does not speak HTTP on this port: check its URL"),
        (with_ca(&good.url(), &other_ca), "set ca to the certificate of its issuer, or pin it"),
        (with_ca(&misnamed.url(), &ca), "write one of its names in the URL"),
        (
            format!("url = \"{}\"\npin = \"{pin}\"", good.url()),
            "not pinned: if it was renewed, replace the pin",
        ),
        (with_ca(&strict.url(), &ca), "set client_cert and client_key"),
        (format!("url = \"{}\"", refusing.url()), "check that the server runs, and its port"),
        (proxied(&refusing.address().to_string()), "check that the server runs, and its port"),
        (proxied(&web.to_string()), "it is a web server rather than a proxy: check its port"),
        (proxied(&ssh.to_string()), "check the port of the proxy"),
    ] {
        let ended = probe(folder.path(), &settings);
        assert_eq!(
            (ended.status.code(), ended.errors.lines().count()),
            (Some(1), 1),
            "{settings} {ended:#?}"
        );
        assert!(ended.errors.contains(expected), "{settings} {ended:#?}");
        for misleading in ["InvalidContentType", "corrupt", "--listen"] {
            assert!(!ended.errors.contains(misleading), "{ended:#?}");
        }
    }
    let ended = probe(folder.path(), &format!("url = \"http://{page}\""));
    assert!(ended.lines.iter().any(|line| line.contains("status 400 after")
        && line.ends_with(": check that its port is for http, and not for https or a proxy")));
}

#[test]
fn name_without_address_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let ended = probe(folder.path(), "url = \"http://manager.invalid:8014\"");
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    for word in ["host manager.invalid has no address: ", "check its spelling"] {
        assert!(ended.errors.contains(word), "{ended:#?}");
    }
}

#[test]
fn address_that_cannot_be_bound_names_its_flag() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap().to_string();
    for (flag, other, address, expected) in [
        ("--listen", "--admin", &*busy, "choose another port with --listen or server.listen"),
        ("--admin", "--listen", &*busy, "choose another port with --admin or server.admin"),
        ("--listen", "--admin", "192.0.2.1:2967", "no interface of this machine has the address: name one"),
        ("--admin", "--listen", "192.0.2.1:9467", "with --admin or server.admin, or 0.0.0.0"),
        ("--admin", "--listen", "[2001:db8::1]:9467", "--admin or server.admin"),
    ] {
        let mut command = gupd(["serve", "--upstream", &manager.url(), flag, address, other, "127.0.0.1:0"]);
        command.arg("--store").arg(folder.path()).env("GUPD_SERVER_ADMIN_ALLOW_INSECURE", "true");
        let ended = Process::start(&mut command).wait_for_exit();
        ended.assert_error(1, &[address, expected]);
        let wrong = if flag == "--admin" { "--listen" } else { "--admin" };
        assert!(!ended.errors.contains(wrong), "{ended:#?}");
    }
}

/// Runs as another user, which needs root.
#[test]
fn user_without_permission_is_advised_to_use_sudo() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str, mode: u32| {
        fs::write(at(name), text).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The folder of the build may be closed to other users.
    fs::copy(env!("CARGO_BIN_EXE_gupd"), at("gupd")).unwrap();
    fs::create_dir(at("store")).unwrap();
    fs::set_permissions(at("store"), fs::Permissions::from_mode(0o700)).unwrap();
    write("token", "s3cret-of-the-site", 0o600);
    let token = format!("[server]\nadmin_token_file = \"{}\"\n", at("token").display());
    write("open.toml", &format!("{token}[store]\ndir = \"{}\"\n", at("store").display()), 0o644);
    write("closed.toml", "", 0o600);
    for (file, arguments, expected) in [
        (
            "closed.toml",
            &["check"][..],
            "closed.toml: cannot open file: Permission denied (os error 13): make it readable",
        ),
        (
            "missing.toml",
            &["check"],
            "missing.toml: cannot open file: No such file or directory (os error 2): check the path",
        ),
        ("open.toml", &["reload"], "token: Permission denied (os error 13): run commands with sudo"),
        ("open.toml", &["rollout", "halt"], "token: Permission denied (os error 13): run commands with sudo"),
        ("open.toml", &["store", "ls"], "store: permission denied: run the command with sudo"),
        (
            "open.toml",
            &["store", "export", "-o", "/dev/null"],
            "store: permission denied: run the command with sudo",
        ),
    ] {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(at("gupd")).args(arguments);
        let Ok(output) = command.arg("--config").arg(at(file)).output() else {
            println!("skipped: setpriv is not installed");
            return;
        };
        let errors = String::from_utf8(output.stderr).unwrap();
        if errors.contains("setpriv: ") {
            println!("skipped: not root: {errors}");
            return;
        }
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
}
