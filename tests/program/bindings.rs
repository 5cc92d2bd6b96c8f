//! Clients that are sent to a manager by the relay or its guard are sent to their group's.

use crate::guarded::{exchange, kill};
use crate::orders::{configured, order};
use crate::process::Relay;
use crate::support::{Manager, PAYLOAD, Request};

#[tokio::test(flavor = "multi_thread")]
async fn bound_group_is_redirected_to_its_manager() {
    let (first, second, folder) = (Manager::start(), Manager::start(), tempfile::tempdir().unwrap());
    let more = format!(
        "[[upstream]]\nurl = \"{}\"\nname = \"second\"\n\
         [[group]]\nname = \"moved\"\npaths = \"/content/**\"\nupstreams = \"second\"\n",
        second.url()
    );
    let mut command = configured(folder.path(), &first, &more);
    let relay = Relay::start(command.arg("--guard").env("GUPD_GUARD_RESTART_MAX", "3s"));
    let are_sent = async || {
        for (path, manager) in [(PAYLOAD, &second), ("/minitri.flg", &first)] {
            let answer = exchange(relay.address, &Request::get(path)).await.unwrap();
            let place = format!("{}{path}", manager.url());
            assert_eq!((answer.status, answer.header("location")), (307, Some(&*place)));
        }
    };
    assert!(order(&relay, folder.path(), &["drain", "--redirect"]).status.success());
    are_sent().await;
    assert!(order(&relay, folder.path(), &["drain", "--end"]).status.success());
    // The first time it is back at once, then not.
    for _ in 0..3 {
        kill(&relay).await;
    }
    are_sent().await;
}
