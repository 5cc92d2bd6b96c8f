//! Two managers over lines that break, stall and recover: each client gets the right bytes or an error, in time.

use std::sync::Arc;
use std::time::Duration;

use gupd_site::{Random, Reachability, bytes};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::network::{Net, Weather};
use crate::origin;
use crate::site::{End, SHORT_TICK, Site};

const PATH: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/full.zip";
const NAMES: [&str; 2] = ["one", "two"];

/// No fault occurs after this time.
const STORM: Duration = Duration::from_secs(60);

/// Deadline of all requests: the storm, and an idle timeout for each attempt at each upstream.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Changes the state of a machine several times, and leaves it up.
async fn storm(net: Net, name: &'static str, mut random: Random) {
    let begin = Instant::now();
    loop {
        sleep(Duration::from_millis(random.below(10_000))).await;
        if begin.elapsed() >= STORM {
            break net.set(name, Reachability::Up);
        }
        net.set(
            name,
            [Reachability::Up, Reachability::Up, Reachability::Refusing, Reachability::Silent]
                [random.below(4) as usize],
        );
    }
}

/// Runs one seed and returns the clients' results. The managers have the same content, or different contents.
async fn play(seed: u64, same: bool) -> Vec<End> {
    let mut random = Random::new(seed);
    let length = 200_000 + random.below(1_000_000) as usize;
    let contents = [bytes(random.next_u64(), length), bytes(random.next_u64(), length)];
    let managers = match same {
        true => [&contents[0], &contents[0]].map(|content| origin(content, "same")),
        false => [0, 1].map(|number| origin(&contents[number], NAMES[number])),
    };
    let weather =
        Weather { often: 1 + random.below(3), bytes: 2 * length as u64, delay: Duration::from_millis(300) };
    let net = Net::new(seed, weather);
    for (name, manager) in NAMES.iter().zip(&managers) {
        net.put(name, manager);
    }
    let site = Arc::new(Site::new(&net, &NAMES));
    for name in NAMES {
        tokio::spawn(storm(net.clone(), name, Random::new(random.next_u64())));
    }
    let mut clients = JoinSet::new();
    for _ in 0..6 {
        let (site, begin) = (site.clone(), Duration::from_millis(random.below(50_000)));
        clients.spawn(async move {
            sleep(begin).await;
            timeout(PATIENCE, site.get(PATH)).await.unwrap_or_else(|_| panic!("seed {seed}: no end"))
        });
    }
    let mut ends = clients.join_all().await;
    // The relay works again after the faults.
    sleep(STORM).await;
    let end = timeout(PATIENCE, site.get(PATH)).await.unwrap();
    assert!(matches!(end, End::Whole(_)), "seed {seed}: {end:?} in fair weather");
    ends.push(end);
    for end in &ends {
        let of_one = |bytes: &[u8], whole: bool| {
            contents.iter().any(|content| if whole { content == bytes } else { content.starts_with(bytes) })
        };
        match end {
            End::Whole(bytes) => assert!(of_one(bytes, true), "seed {seed}: {} wrong bytes", bytes.len()),
            End::Broken(bytes) => assert!(of_one(bytes, false), "seed {seed}: a mixture"),
            End::Refused(_) => {}
        }
    }
    site.fills.wait_until_idle().await;
    assert_eq!(site.metrics.fills.running.get(), 0);
    // Twice the keep-alive time, after which idle connections are closed.
    sleep(Duration::from_secs(120)).await;
    assert_eq!(net.open(), 0, "seed {seed}: a connection leaked");
    ends
}

#[tokio::test(start_paused = true)]
async fn random_faults_end_in_content_or_error_in_time() {
    let mut whole = 0;
    for seed in 0..8 {
        whole += play(seed, true).await.iter().filter(|end| matches!(end, End::Whole(_))).count();
    }
    assert!(whole > 28, "only {whole} of 56 requests succeeded");
}

#[tokio::test(start_paused = true)]
async fn random_faults_never_mix_two_managers() {
    for seed in 100..108 {
        play(seed, false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn refusing_manager_costs_a_second_silent_one_idle_timeout() {
    let content = bytes(1, 1_500_000);
    for (state, most) in [(Reachability::Refusing, 1), (Reachability::Silent, 6)] {
        let managers = [(); 2].map(|()| origin(&content, "same"));
        let weather = Weather { often: 0, bytes: 0, delay: Duration::from_millis(2) };
        let net = Net::new(1, weather);
        NAMES.iter().zip(&managers).for_each(|(name, manager)| net.put(name, manager));
        let site = Site::with_tick(&net, &NAMES, SHORT_TICK, |_| {});
        let begin = Instant::now();
        let gone = async {
            sleep(Duration::from_millis(50)).await;
            net.set("one", state);
        };
        let (End::Whole(bytes), ()) = tokio::join!(site.get(PATH), gone) else {
            panic!("{state:?}: the transfer broke off")
        };
        assert!(bytes == content);
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(most), "{state:?}: {took:?}");
        assert_eq!(managers.map(|manager| manager.total_requests()), [1, 1], "{state:?}");
        assert_eq!(site.metrics.fills.failovers.get(), 1);
    }
}
