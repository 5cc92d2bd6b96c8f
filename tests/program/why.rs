//! `gupd why` against a running relay: text, JSON, and its errors.

use serde_json::Value;

use crate::process::{Ended, Process, Relay, gupd, serve};
use crate::support::{Manager, PAYLOAD, RefusingPort, Resource, bytes};

fn why(relay: &Relay, flags: &[&str]) -> Ended {
    let mut command = gupd(["why", "--admin", &relay.admin.to_string()]);
    Process::start(command.args(flags)).wait_for_exit()
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_explained_in_a_table_and_as_json() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 3 << 20)));
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    relay.wait_until_stored(PAYLOAD).await;
    let ended = why(&relay, &["--since", "1h"]);
    assert!(ended.status.success(), "{ended:#?}");
    let text = ended.lines.join("\n");
    for words in ["WAN: 3.00 MiB received", "a client requested a full set", "127.0.0.1", PAYLOAD, "WHY"] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    assert!(ended.lines.iter().all(|line| !line.ends_with(' ')), "{text}");
    let ended = why(&relay, &["--client", "127.0.0.1", "--top", "1", "--json"]);
    let report: Value = serde_json::from_str(&ended.lines.join("\n")).unwrap();
    assert_eq!(report["causes"][0]["cause"], "full-set", "{report:#}");
    let ended = why(&relay, &["--object", "{no/such object}"]);
    assert!(ended.lines.iter().any(|line| line == "No traffic is recorded for this."), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_flags_and_absent_relay_are_one_line_errors() {
    let refusing = RefusingPort::new();
    let address = refusing.address().to_string();
    let command =
        |flags: &[&str]| Process::start(gupd(["why", "--admin", &address]).args(flags)).wait_for_exit();
    command(&[]).assert_error(1, &[&address, "start the relay"]);
    for flags in [&["--since", "soon"][..], &["--top", "-1"], &["--client", "a", "--object", "b"]] {
        assert_eq!(command(flags).status.code(), Some(2), "{flags:?}");
    }
}
