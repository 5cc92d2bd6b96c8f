//! Reports of commands as JSON, and the ways of commands to the admin address of a relay.

use serde_json::{Value, json};

use crate::process::{Ended, Process, Relay, gupd};
use crate::store_commands::{blob_path, flip_a_bit, list_objects, start_filled_relay, stop, store};
use crate::support::{Manager, Resource, bytes, get, write_secret};

const PAYLOAD: &str = crate::support::PAYLOAD;

fn parse(ended: &Ended) -> Value {
    serde_json::from_str(&ended.lines.join("\n")).unwrap_or_else(|error| panic!("{error}: {ended:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn store_commands_report_their_figures_as_json() {
    let (manager, folder, new) =
        (Manager::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    stop(start_filled_relay(&manager, folder.path()).await);
    let folder = folder.path();
    let bytes: u64 = list_objects(folder, &[]).iter().map(|object| object["bytes"].as_u64().unwrap()).sum();
    let sound = parse(&store("verify", folder, &["--json"]));
    assert_eq!(
        (&sound["findings"], &sound["blobs"], &sound["bytes"]),
        (&json!([]), &5.into(), &bytes.into())
    );
    let bundle = new.path().join("bundle.tar.zst").display().to_string();
    let exported = parse(&store("export", folder, &["--json", "--output", &bundle]));
    assert_eq!(exported, json!({ "objects": 5, "blobs": 5, "bytes": bytes, "damaged": [] }));
    let target = new.path().join("store");
    let imported = parse(&store("import", &target, &["--json", &bundle]));
    assert_eq!(imported, json!({ "objects": 5, "bytes": bytes, "skipped": 0 }));

    let damaged = blob_path(folder, &list_objects(folder, &[])[0]);
    flip_a_bit(&damaged, 2_400_000);
    let found = store("verify", folder, &["--dry-run", "--json"]);
    assert_eq!(found.status.code(), Some(1), "{found:#?}");
    let finding = &parse(&found)["findings"][0];
    assert_eq!((&finding["kind"], &finding["outcome"]), (&"damaged".into(), &"left".into()), "{finding}");
    assert_eq!(finding["blob"], damaged.file_name().unwrap().to_str().unwrap());
    let partly = store("export", folder, &["--json", "--output", &bundle]);
    assert_eq!((partly.status.code(), &parse(&partly)["damaged"][0]), (Some(1), &finding["blob"]));
    let repaired = store("verify", folder, &["--json", "--upstream", &manager.url()]);
    assert_eq!(repaired.status.code(), Some(0), "{repaired:#?}");
    let repaired = parse(&repaired);
    assert_eq!((&repaired["repaired"], &repaired["findings"][0]["fetched"]), (&1.into(), &65_536.into()));

    let listed = parse(&store("purge", folder, &["--path", "**", "--dry-run", "--json"]));
    assert_eq!(listed.as_array().unwrap().len(), 5, "{listed}");
    let purged = parse(&store("purge", folder, &["--path", "**", "--json"]));
    assert_eq!((&purged["objects"], &purged["fills"]), (&5.into(), &0.into()), "{purged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn store_commands_take_the_token_of_a_flag() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let route = "[[route]]\nprefix = \"/clu\"\nprofile = \"liveupdate\"\nverify = \"hold\"\n\
                 [[route]]\nprefix = \"/\"\n";
    let relay = Relay::start(&mut crate::orders::configured(folder.path(), &manager, route));
    let held = "/clu/1369163480jtun_a.zip";
    manager.put(held, Resource::new("right"));
    assert_eq!(get(relay.address, held).await.status, 503);
    manager.put(PAYLOAD, Resource::new(bytes(1, 70_000)));
    relay.wait_until_stored(PAYLOAD).await;
    let (wrong, token, place) =
        (folder.path().join("wrong"), folder.path().join("token"), folder.path().join("store"));
    write_secret(&wrong, "another-secret-of-another-site\n");
    // No configuration names the relay or its token.
    let run = |arguments: &[&str], token: &std::path::Path| {
        let mut command = gupd(["store"]);
        command.args(arguments).args(["--json", "--admin", &relay.admin.to_string(), "--store"]).arg(&place);
        Process::start(command.arg("--token-file").arg(token)).wait_for_exit()
    };
    let list = Process::start(gupd(["store", "held", "--json", "--store"]).arg(&place)).wait_for_exit();
    let sha256 = parse(&list)[0]["sha256"].as_str().unwrap().to_owned();
    for arguments in [&["purge", "--path", PAYLOAD][..], &["release", &sha256]] {
        run(arguments, &wrong).assert_error(1, &["wrong admin token"]);
        let done = run(arguments, &token);
        assert!(done.status.success(), "{done:#?}");
        let report = parse(&done);
        assert!(report["objects"] == 1 || report["sha256"] == *sha256, "{report}");
    }
    run(&["reject", &sha256], &token).assert_error(1, &["no held content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn process_commands_report_their_result_as_json() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&mut crate::orders::configured(folder.path(), &manager, ""));
    for (arguments, result) in [
        (&["reload"][..], "reloaded"),
        (&["drain"], "draining: /readyz answers 503"),
        (&["drain", "--end"], "serving"),
    ] {
        let ended = crate::orders::order(&relay, folder.path(), &[arguments, &["--json"]].concat());
        let report = parse(&ended);
        assert!(report["result"].as_str().unwrap().starts_with(result), "{report}");
    }
}

#[test]
fn client_settings_are_reported_as_json() {
    let run = |more: &[&str]| {
        let mut command = gupd(["clients-config", "--upstream", "http://sepm:8014", "--host", "relay.site"]);
        Process::start(command.args(more)).wait_for_exit()
    };
    let all = parse(&run(&["--json"]));
    let settings = all.as_array().unwrap();
    assert!(settings.len() > 3, "{all:#}");
    for setting in settings {
        assert_ne!(setting["text"].is_null(), setting["not_applicable"].is_null(), "{setting:#}");
        assert!(setting["title"].is_string() && setting["certainty"].is_string(), "{setting:#}");
    }
    let pac = parse(&run(&["--json", "--only", "pac"]));
    assert!(pac[0]["text"].as_str().unwrap().contains("PROXY relay.site:2967"), "{pac:#}");
    run(&["--json", "--only", "none"]).assert_error(2, &["unknown part"]);
}
