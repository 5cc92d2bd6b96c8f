//! `gupd refresh` against a running relay.

use crate::process::{Ended, Process, Relay, gupd, serve};
use crate::support::{Manager, Resource};

const MINITRI: &str = "/minitri.flg";

fn refresh(relay: &Relay, token: Option<&std::path::Path>) -> Ended {
    let mut command = gupd(["refresh", "--admin", &relay.admin.to_string()]);
    command.envs(token.map(|token| ("GUPD_SERVER_ADMIN_TOKEN_FILE", token)));
    Process::start(&mut command).wait_for_exit()
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_revalidates_catalogs_and_prints_result() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let [token, other] = ["token", "other"].map(|name| folder.path().join(name));
    crate::support::write_secret(&token, "s3cret-of-the-site\n");
    crate::support::write_secret(&other, "another-of-the-site\n");
    let mut command = serve(&manager, &folder.path().join("store"));
    let relay = Relay::start(command.env("GUPD_SERVER_ADMIN_TOKEN_FILE", &token));
    manager.put(MINITRI, Resource::new(" "));
    relay.wait_until_stored(MINITRI).await;
    manager.put(MINITRI, Resource::new("  "));
    let ended = refresh(&relay, Some(&token));
    assert!(ended.status.success(), "{ended:#?}");
    assert_eq!(ended.lines, ["refreshed 1 catalog: 1 changed, 0 failed"]);
    assert_eq!(relay.get(MINITRI).await.expect_body(), b"  ");

    refresh(&relay, None).assert_error(2, &["server.admin_token_file", "--config"]);
    refresh(&relay, Some(&folder.path().join("none"))).assert_error(2, &["server.admin_token_file", "none"]);
    refresh(&relay, Some(&other)).assert_error(1, &["refused", "wrong admin token"]);
    crate::support::write_secret(&token, "another-of-the-site\n");
    assert!(refresh(&relay, Some(&other)).status.success(), "a new token holds at once");
    assert!(manager.request_count(MINITRI) == 3);
    let Relay { mut process, admin, .. } = relay;
    process.kill();
    let relay = Relay { process, address: admin, admin };
    refresh(&relay, Some(&other)).assert_error(1, &["admin address", &admin.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_without_token_refuses_and_names_setting() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let token = folder.path().join("token");
    crate::support::write_secret(&token, "s3cret-of-the-site\n");
    let relay = Relay::start(&mut serve(&manager, &folder.path().join("store")));
    refresh(&relay, Some(&token)).assert_error(1, &["refused", "set server.admin_token_file"]);
}
