//! `gupd serve` from its command line: flags alone, flags over a file, inherited sockets, and the log.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Command;

use serde_json::Value;

use crate::process::{Process, Relay, gupd, parse_line, serve};
use crate::support::{Authority, Front, Manager, PAYLOAD, Request, Resource, bytes, get};

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_all_it_needs_to_be_told() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 100_000)));
    let relay = Relay::start(&mut serve(&manager, &folder.path().join("made/for/it")));
    assert!(relay.get(PAYLOAD).await.expect_body() == bytes(1, 100_000));
    relay.wait_until_stored(PAYLOAD).await;
    assert_eq!(manager.request_count(PAYLOAD), 1);
    assert_eq!(get(relay.admin, "/healthz").await.status, 200);
    assert_eq!(get(relay.admin, "/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commented_file_serves_and_flags_overrule_it() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new("content"));
    let mut command = serve(&manager, folder.path());
    let relay = Relay::start(command.args(["--config", "config/gupd.toml"]));
    assert_eq!(relay.get(PAYLOAD).await.expect_body(), b"content");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_listens_on_every_address_it_was_given() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new("content"));
    let mut process = Process::start(serve(&manager, folder.path()).args(["--listen", "127.0.0.1:0"]));
    let serving = process.wait_for_log("serving");
    let listen = serving["listen"].as_str().unwrap().trim_matches(['[', ']']).to_owned();
    let addresses: Vec<_> = listen.split(", ").map(|address| address.parse().unwrap()).collect();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        assert_eq!(get(address, PAYLOAD).await.expect_body(), b"content");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_one_line_in_the_log() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 70_000)));
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    relay.get(PAYLOAD).await.expect_body();
    relay.wait_until_stored(PAYLOAD).await;
    Request::head(PAYLOAD).send(relay.address).await;
    Request::get(&format!("{PAYLOAD}?nothing=1")).range("0-9").send(relay.address).await;
    Request::get("/../secret").send(relay.address).await;
    relay.process.signal("TERM");
    let ended = relay.process.wait_for_exit();
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
    let lines: Vec<_> = ended.lines.iter().map(|line| parse_line(line)).collect();
    let access: Vec<_> = lines.iter().filter(|line| line["target"] == "gupd::access").collect();
    // Each thread writes its lines in batches, and a record may be closed after that of a later request. The wait for
    // the commit may have taken several requests, one of them a hit.
    let the = |fits: &dyn Fn(&Value) -> bool| {
        let found: Vec<_> = access.iter().copied().filter(|line| fits(line)).collect();
        let [one] = found[..] else { panic!("{found:#?} of {access:#?}") };
        one
    };
    let miss = the(&|line| line["path"] == PAYLOAD && line["cache"] == "miss");
    assert_eq!(
        (&miss["client"], &miss["method"], &miss["path"], &miss["status"], &miss["bytes"], &miss["cache"]),
        (&"127.0.0.1".into(), &"GET".into(), &PAYLOAD.into(), &200.into(), &70_000.into(), &"miss".into())
    );
    assert_eq!(miss["content_type"], "virus-definitions-32");
    assert!(miss["duration_us"].as_u64().unwrap() > 0);
    let hit = the(&|line| line["method"] == "GET" && line["cache"] == "hit");
    let head = the(&|line| line["method"] == "HEAD");
    let part = the(&|line| line["path"] == format!("{PAYLOAD}?nothing=1"));
    let refused = the(&|line| line["status"] == 400);
    assert_eq!((&hit["cache"], &hit["bytes"]), (&"hit".into(), &70_000.into()));
    // The object's name is its SHA-256.
    assert_eq!(hit["object"].as_str().unwrap().len(), 64);
    assert_eq!((&head["method"], &head["bytes"], &head["cache"]), (&"HEAD".into(), &0.into(), &"hit".into()));
    assert_eq!((&part["status"], &part["bytes"]), (&206.into(), &10.into()));
    assert_eq!((&refused["status"], &refused["cache"]), (&400.into(), &"refused".into()));
    assert!(access.iter().all(|line| line["end"] == "complete"), "{access:#?}");
    // Each line of the log is a JSON object with a time and a level.
    for line in lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_can_be_text_and_omit_requests() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let mut command = serve(&manager, folder.path());
    command.env("GUPD_LOG_FORMAT", "text").env("GUPD_LOG_ACCESS", "false");
    let mut process = Process::start(&mut command);
    let line = process.wait_for_line(|line| line.contains(" serving ")).unwrap();
    assert!(line.contains(" INFO ") && !line.contains('\u{1b}'), "{line:?}");
    let address = line.split("listen=[").nth(1).unwrap().split(']').next().unwrap().parse().unwrap();
    assert_eq!(get(address, "/missing").await.status, 404);
    process.signal("TERM");
    let ended = process.wait_for_exit();
    assert!(ended.status.success(), "{ended:#?}");
    assert!(!ended.lines.iter().any(|line| line.contains("/missing")), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_of_the_service_manager_replaces_the_address() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new("content"));
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // A client that connected before the relay started is served too.
    let early = tokio::spawn(async move { get(address, PAYLOAD).await });
    let program = serve(&manager, folder.path());
    let mut command = Command::new("sh");
    // The socket is inherited as standard input and has to be descriptor 3 of a process that knows its own id.
    command.args(["-c", r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#]);
    command.arg(program.get_program()).args(program.get_args()).stdin(OwnedFd::from(socket));
    let relay = Relay::start(&mut command);
    assert_eq!(relay.address, address);
    assert_eq!(relay.get(PAYLOAD).await.expect_body(), b"content");
    assert_eq!(early.await.unwrap().expect_body(), b"content");
}

#[test]
fn it_explains_itself() {
    let version = Process::start(&mut gupd(["--version"])).wait_for_exit();
    assert!(version.status.success());
    assert_eq!(version.lines, [concat!("gupd ", env!("CARGO_PKG_VERSION"))]);
    let help = Process::start(&mut gupd(["serve", "--help"])).wait_for_exit();
    assert!(help.status.success());
    let help = help.lines.join("\n");
    for flag in [
        "--config",
        "--listen",
        "--upstream",
        "--store",
        "--admin",
        "--tls-cert",
        "--tls-key",
        "--wan-limit",
        "--guard",
    ] {
        assert!(help.contains(flag), "{help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_managers_with_a_trusted_root_are_used() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new("content"));
    let (known, unknown) = (Authority::new(), Authority::new());
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, known.pem()).unwrap();
    for (authority, store, status) in [(known, "known", 200), (unknown, "unknown", 504)] {
        let front = Front::start(manager.address(), authority.issue("127.0.0.1")).await;
        let mut command = gupd(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--upstream", &front.url(), "--store"]).arg(folder.path().join(store));
        // Replaces the system's roots.
        command.env("SSL_CERT_FILE", &roots).env_remove("SSL_CERT_DIR").env("GUPD_STORE_MIN_FREE", "0");
        assert_eq!(Relay::start(&mut command).get(PAYLOAD).await.status, status, "{store}");
    }
}
