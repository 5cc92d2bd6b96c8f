//! Random rollout events in any order: no client sees two revisions at once, or goes back except by a command, and in
//! the end all clients see the newest revision.

use std::time::Duration;

use gupd_rollout::command::RolloutCommand;

use super::{
    Crowd, GROUPS, HOUR, group_of, hold, newest, promote, publish_and_refresh, release, reload, rollback,
    settled, site_of, try_order,
};
use crate::support::bytes;

const NAMES: [&str; 3] = ["pilot", "branch", "default"];

/// Rings with a spread of this many hours.
fn rings(hours: u8) -> String {
    format!(
        "{GROUPS}[[ring]]\nname = \"first\"\ngroups = \"pilot\"\nspread = \"{hours}h\"\n\
         [[ring]]\nname = \"second\"\ngroups = \"branch\"\ndelay = \"5h\"\nspread = \"3h\"\nwindows = \"20:00-06:00\"\n\
         [[ring]]\nname = \"last\"\ngroups = \"default\"\ndelay = \"1h\"\nshares = [20, 100]\nstep = \"{hours}h\"\n\
         [rollout]\nkeep = 3\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn random_events_never_mix_or_revert_revisions() {
    for seed in 1..=3 {
        let mut site = site_of(&rings(2));
        let mut crowd = Crowd::of(&site, [4, 4, 4]).await;
        crowd.look().await;
        let (mut version, mut done) = (1, Vec::new());
        for event in bytes(seed, 80).chunks(2) {
            let (what, which) = (event[0] % 16, usize::from(event[1]));
            let group = NAMES[which % 3];
            done.push((what, which));
            match what {
                0..=3 => site.clock.advance(u32::from(event[1]) * HOUR / 16),
                4..=6 => {
                    version += 1;
                    publish_and_refresh(&site, version).await;
                }
                7 => site.restart(),
                8 => {
                    site.stop();
                    site.clock.advance(u32::from(event[1]) * HOUR);
                    site.restart();
                }
                9 => site.clock.set_forward(u32::from(event[1]) * HOUR),
                10 => site.clock.set_back(u32::from(event[1]) * HOUR / 8),
                11 => reload(&mut site, &rings(event[1] % 9 + 1)).await,
                12 => {
                    let order = if which % 2 == 0 { RolloutCommand::Halt } else { RolloutCommand::Resume };
                    drop(try_order(&site, order).await);
                }
                13 => drop(try_order(&site, promote(["first", "second", "last"][which % 3])).await),
                14 => drop(try_order(&site, release(Some(group), which % 2 == 0)).await),
                // These two may show an older one.
                _ => {
                    let order = if which % 2 == 0 {
                        rollback(group)
                    } else {
                        hold(group, &newest(&site).to_string())
                    };
                    drop(try_order(&site, order).await);
                    let of_group = crowd
                        .0
                        .iter_mut()
                        .filter(|one| NAMES[usize::from(group_of(one.address)) - 1] == group);
                    of_group.for_each(|one| one.saw = 0);
                }
            }
            settled(&site).await;
            // After a hold at a newer revision a client sees that of its ring.
            if what == 14 {
                crowd.0.iter_mut().for_each(|one| one.saw = 0);
            }
            crowd.connect(&site).await;
            eprintln!("seed {seed}: {done:?}");
            crowd.look().await;
        }
        drop(try_order(&site, RolloutCommand::Resume).await);
        site.clock.advance(Duration::from_secs(1));
        try_order(&site, release(None, true)).await.unwrap();
        assert_eq!(crowd.count(version).await, [4, 4, 4], "seed {seed}");
    }
}
