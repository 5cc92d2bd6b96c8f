//! The log of a running relay: the order of its lines under load.

use crate::process::{Relay, parse_line, serve};
use crate::support::{Manager, Request, Resource, WireClient};

#[tokio::test(flavor = "multi_thread")]
async fn lines_under_load_are_in_order_of_time() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put("/minitri.flg", Resource::new("catalog"));
    let mut command = serve(&manager, folder.path());
    command.env("GUPD_LOG_LEVEL", "info,gupd=debug").env("GUPD_SERVER_WORKERS", "4");
    let relay = Relay::start(&mut command);
    let clients: Vec<_> = (0..16)
        .map(|client: u8| {
            let address = relay.address;
            tokio::spawn(async move {
                let mut wire = WireClient::connect(address).await;
                for request in 0..40 {
                    let path = match request % 4 {
                        0 => format!("/missing/{client}/{request}"),
                        _ => "/minitri.flg".to_owned(),
                    };
                    wire.send(&Request::get(&path)).await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    relay.process.signal("TERM");
    let ended = relay.process.wait_for_exit();
    let time = |line: &String| parse_line(line)["timestamp"].as_str().map(str::to_owned);
    let times: Vec<String> = ended.lines.iter().filter_map(time).collect();
    assert!(times.len() > 16 * 40 && times.len() == ended.lines.len(), "{} lines", times.len());
    assert!(times.is_sorted(), "{:#?}", ended.lines);
}
