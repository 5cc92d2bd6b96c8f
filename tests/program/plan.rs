//! `gupd plan`: output, charts and refused arguments. It needs neither a relay nor an upstream.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::{Ended, Process, Relay, gupd, serve};
use crate::support::{Manager, Resource, bytes};

const SITE: &str = r#"
    [site]
    time_zone = "Europe/Berlin"
    [wan]
    limit = ["2Mbit/s mon-fri 07:00-19:00", "8Mbit/s"]
    [lan]
    client_limit = "10Mbit/s"
    [[group]]
    name = "branch-a"
    subnets = ["10.1.0.0/16"]
    windows = ["mon-fri 20:00-06:00"]
    spread = "4h"
    [[group]]
    name = "others"
    limit = "100Mbit/s"
"#;

const ASKED: [&str; 8] =
    ["--full", "120MB", "--delta", "1500KB", "--start", "2026-11-23T08:00", "--clients", "branch-a=300"];

fn plan(arguments: &[&str]) -> Ended {
    Process::start(gupd(["plan"]).args(arguments)).wait_for_exit()
}

fn site(folder: &Path) -> PathBuf {
    let file = folder.join("gupd.toml");
    fs::write(&file, SITE).unwrap();
    file
}

fn plan_as_json(arguments: &[&str]) -> Value {
    let ended = plan(&[&["--json"], arguments].concat());
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
    serde_json::from_str(&ended.lines.join("\n")).unwrap()
}

#[test]
fn plan_has_end_of_rollout_and_cost_of_each_limit() {
    let folder = tempfile::tempdir().unwrap();
    let file = site(folder.path());
    let with_site = ["--config", file.to_str().unwrap()];
    let ended = plan(&[&with_site, &ASKED[..], &["--clients", "others=200"]].concat());
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
    let line = |begin: &str| ended.lines.iter().find(|line| line.starts_with(begin)).unwrap();
    assert!(ended.lines[0].starts_with("500 clients, published Mon 2026-11-23 08:00"), "{ended:#?}");
    // The window opens at 20:00. The last client's scheduled start is at 24:00, and it sends its request within five
    // minutes.
    assert!(
        line("100 % ").contains("  16h 0") && line("100 % ").contains("  Tue 2026-11-24 00:0"),
        "{ended:#?}"
    );
    assert!(line("WAN ").contains(" 2 Mbit/s ") && line("WAN ").contains(" 115.87 MiB "), "{ended:#?}");
    assert!(line("group branch-a: windows").contains("  4h 0"), "{ended:#?}");
    assert!(line("group branch-a: spread").contains("  12h 0"), "{ended:#?}");
    assert!(!ended.lines.iter().any(|line| line.starts_with("lan.client_limit")), "{ended:#?}");
}

#[test]
fn json_plan_has_base_units_and_deadline_answers() {
    let folder = tempfile::tempdir().unwrap();
    let file = site(folder.path());
    let asked = [&ASKED[..], &["--config", file.to_str().unwrap(), "--deadline", "14h", "--line", "8Mbit/s"]]
        .concat();
    let plan = plan_as_json(&asked);
    assert_eq!((&plan["start"], &plan["clients"]), (&"2026-11-23T07:00:00Z".into(), &300.into()));
    assert_eq!(plan["wan"]["bytes"], 121_500_000);
    let last = plan["current"][3]["seconds"].as_f64().unwrap();
    assert!((15.9 * 3_600.0..16.1 * 3_600.0).contains(&last), "{plan:#}");
    let deadline = &plan["deadline"];
    assert_eq!(deadline["met"], false);
    // The spread alone exceeds the deadline, so no line rate is enough.
    assert_eq!(deadline["line"]["smallest_bytes_per_second"], Value::Null);
    assert_eq!(
        deadline["line"]["because"],
        serde_json::json!(["group branch-a: windows", "group branch-a: spread"])
    );
    let longest = deadline["spread"]["longest_seconds"].as_f64().unwrap();
    assert!((1.7 * 3_600.0..=2.0 * 3_600.0).contains(&longest), "{plan:#}");
    assert_eq!(deadline["spread"]["shortest_seconds"], 0.0);
}

#[test]
fn plan_names_clients_that_never_come_online() {
    let asked = [
        "--clients",
        "5000",
        "--delta",
        "1500KB",
        "--line",
        "8Mbit/s",
        "--appear",
        "estate",
        "--deadline",
        "1d",
    ];
    let ended = plan(&asked);
    let has = |words: &str| ended.lines.iter().any(|line| line.contains(words));
    assert!(has("1,000 of 5,000 clients do not come online within 14d"), "{ended:#?}");
    assert!(has("none, and no spread: only 60 % of clients come online by then"), "{ended:#?}");
    assert!(ended.lines.iter().any(|line| line.starts_with("90 %") && line.ends_with("never")), "{ended:#?}");
    let plan = plan_as_json(&asked);
    assert_eq!((&plan["clients_that_come"], &plan["clients_current"]), (&4_000.into(), &4_000.into()));
    assert_eq!(plan["current"][1]["seconds"], Value::Null);
}

#[test]
fn chart_is_well_formed_and_agrees_with_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let chart = folder.path().join("plan.svg");
    let path = chart.to_str().unwrap();
    let ended = plan(&["--clients", "50", "--full", "60MB", "--line", "8Mbit/s", "--chart", path]);
    assert!(ended.status.success(), "{ended:#?}");
    let svg = fs::read_to_string(&chart).unwrap();
    for text in
        ["<svg xmlns=\"http://www.w3.org/2000/svg\"", ">WAN<", ">LAN<", ">clients current<", ">8 Mbit/s<"]
    {
        assert!(svg.contains(text), "no {text} in {svg}");
    }
    let open = svg.matches('<').count() - svg.matches("</").count();
    assert_eq!(open, svg.matches("/>").count() + svg.matches("</").count(), "{svg}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let nowhere = folder.path().join("missing/plan.svg");
    plan(&["--clients", "5", "--full", "1MB", "--line", "8Mbit/s", "--chart", nowhere.to_str().unwrap()])
        .assert_error(1, &["missing/plan.svg", "--chart"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_takes_sizes_from_the_store() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    let content = "/content/{07B590B3-9282-482f-BBAA-6D515D385869}";
    for (path, length) in
        [("261120001/full.zip", 900_000), ("261121001/full.zip", 800_000), ("261121001/x1.dax", 7_000)]
    {
        let path = format!("{content}/{path}");
        manager.put(&path, Resource::new(bytes(length as u64, length)));
        relay.wait_until_stored(&path).await;
    }
    let store = folder.path().to_str().unwrap();
    let plan = plan_as_json(&[
        "--from-store",
        "--store",
        store,
        "--clients",
        "10",
        "--line",
        "8Mbit/s",
        "--full-share",
        "50%",
    ]);
    let sizes: Vec<_> = (0..2).map(|of| plan["contents"][of]["bytes"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [7_000, 800_000]);
    assert_eq!(plan["wan"]["bytes"], 807_000);
}

#[test]
fn invalid_plan_is_one_line_error() {
    let line = ["--line", "8Mbit/s"];
    let folder = tempfile::tempdir().unwrap();
    for (arguments, status, words) in [
        (&["--clients", "5", "--full", "1MB"][..], 2, &["--line"][..]),
        (&["--clients", "5", "--line", "8Mbit/s"], 2, &["--full", "--delta"]),
        (&["--clients", "0", "--full", "1MB", "--line", "8Mbit/s"], 2, &["--clients"]),
        (&["--clients", "x=5", "--full", "1MB", "--line", "8Mbit/s"], 2, &["\"x\"", "default"]),
        (&["--clients", "5", "--full", "0", "--line", "8Mbit/s"], 2, &["--full"]),
        (&["--clients", "5", "--config", "/nonexistent.toml"], 2, &["/nonexistent.toml"]),
    ] {
        plan(arguments).assert_error(status, words);
    }
    let nothing = folder.path().to_str().unwrap();
    plan(&[&line[..], &["--clients", "5", "--from-store", "--store", nothing]].concat())
        .assert_error(1, &["no store"]);
}
