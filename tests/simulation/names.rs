//! A manager that moves to another address: DNS changes, while open connections stay with the old machine.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::network::{Net, Weather};
use crate::origin;
use crate::site::{End, Site};

#[tokio::test(start_paused = true)]
async fn moved_manager_is_found_within_minutes_under_load() {
    let net = Net::new(1, Weather { often: 0, bytes: 0, delay: Duration::ZERO });
    let (old, new) = (origin(b"old", "old"), origin(b"new", "new"));
    net.put("manager", &old);
    let site = Site::new(&net, &["manager"]);
    let begin = Instant::now();
    let mut requests = 0;
    let at_new = loop {
        requests += 1;
        let End::Whole(_) = site.get(&format!("/content/{requests}")).await else {
            panic!("the transfer broke off")
        };
        if requests == 1 {
            // The old machine continues to serve its open connections.
            net.put("manager", &new);
        }
        if new.total_requests() > 0 {
            break begin.elapsed();
        }
        sleep(Duration::from_secs(1)).await;
    };
    assert!((250..=310).contains(&at_new.as_secs()), "{at_new:?}");
    assert_eq!((old.total_requests(), net.made()), (requests - 1, 2), "one connection was kept until then");
}
