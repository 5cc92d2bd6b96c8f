//! A background fetch that its task gives up while another request joins it.

use std::time::Duration;

use gupd_cache::fill::{BackgroundFetch, FillRequest, Joined};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::network::{Net, Weather};
use crate::origin;
use crate::site::{End, Site};

async fn yield_times(times: usize) {
    for _ in 0..times {
        yield_now().await;
    }
}

/// The background fetch leaves after each number of steps, so also in the moment between its last byte and its end.
#[tokio::test(start_paused = true)]
async fn client_that_joins_an_abandoned_fetch_is_answered() {
    let net = Net::new(1, Weather { often: 0, bytes: 0, delay: Duration::ZERO });
    net.put("manager", &origin(b"content", "1"));
    let site = Site::new(&net, &["manager"]);
    for steps in 0..300 {
        let path = format!("/content/{steps}/a_livetri.zip");
        let request = FillRequest { background: Some(BackgroundFetch::Collect), ..site.fill_request(&path) };
        let Joined::Started(fill, _) = site.fills.join(request, &site.upstreams) else { panic!("{path}") };
        tokio::select! {
            biased;
            _ = fill.fetch_all() => break,
            () = yield_times(steps) => {}
        }
        drop(fill);
        yield_times(steps % 4).await;
        let answered = timeout(Duration::from_secs(600), site.get(&path)).await;
        let is_whole = matches!(&answered, Ok(End::Whole(body)) if body == b"content");
        assert!(is_whole, "{steps} steps: {answered:?}");
    }
}
