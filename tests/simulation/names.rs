//! A manager that moves: its name leads elsewhere, and the connections that there are do not tell.

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
    let mut asked = 0;
    let at_new = loop {
        asked += 1;
        let End::Whole(_) = site.get(&format!("/content/{asked}")).await else { panic!("it broke") };
        if asked == 1 {
            // The old machine goes on serving whoever is connected.
            net.put("manager", &new);
        }
        if new.total_requests() > 0 {
            break begin.elapsed();
        }
        sleep(Duration::from_secs(1)).await;
    };
    assert!((250..=310).contains(&at_new.as_secs()), "{at_new:?}");
    assert_eq!((old.total_requests(), net.made()), (asked - 1, 2), "until then one connection was kept");
}
