//! `gupd plan --sites`: output and refused lists. It needs neither a relay nor an upstream.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::process::{Ended, Process, gupd};

const LIST: &str = "name,region,clients,line\n\"Berlin, Mitte\",north,40,20Mbit/s\nOslo,north,40,20Mbit/s\n\
                    Rome,south,200,50Mbit/s\nShip,,25,256kbit/s\n";
const CONTENT: [&str; 6] = ["--full", "120MB", "--delta", "1500KB", "--start", "2026-11-23T20:00:00Z"];

fn plan(list: &Path, arguments: &[&str]) -> Ended {
    Process::start(gupd(["plan", "--sites"]).arg(list).args(CONTENT).args(arguments)).wait_for_exit()
}

fn json(ended: &Ended) -> Value {
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
    serde_json::from_str(&ended.lines.join("\n")).unwrap()
}

#[test]
fn plan_of_sites_compares_the_managers_line_with_tiers() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("sites.csv");
    fs::write(&list, LIST).unwrap();
    let lines = ["--manager-line", "30Mbit/s", "--region", "north=10Mbit/s"];
    let ended = plan(&list, &lines);
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
    let line = |begin: &str| ended.lines.iter().find(|line| line.starts_with(begin)).unwrap();
    assert!(ended.lines[0].starts_with("4 sites, 305 clients, published "), "{ended:#?}");
    assert!(
        line("relays  ").contains(" 30 Mbit/s ") && line("relays  ").contains(" 463.49 MiB"),
        "{ended:#?}"
    );
    assert!(line("relays, one tier filled first").contains(" 115.87 MiB "), "{ended:#?}");
    assert!(line("north ").contains(" 10 Mbit/s ") && line("Ship ").contains("its line"), "{ended:#?}");
    assert!(line("Berlin, Mitte ").contains("region's line"), "{ended:#?}");
    let first = ended.lines.iter().position(|line| line.starts_with("SLOWEST SITE")).unwrap();
    assert!(ended.lines[first + 1].starts_with("Ship "), "{ended:#?}");

    let chart = folder.path().join("plan.svg");
    let tier = ["--tier", "region", "--filled-first", "--json", "--chart", chart.to_str().unwrap()];
    let plan = json(&plan(&list, &[&lines[..], &tier].concat()));
    assert_eq!((&plan["clients"], &plan["clients_current"]), (&305.into(), &305.into()));
    assert_eq!(plan["topology"], "relays, tiers of regions filled first");
    // Two tiers, and the ship has none.
    let used =
        plan["manager"].as_array().unwrap().iter().find(|of| of["topology"] == plan["topology"]).unwrap();
    assert_eq!((&used["bytes"], &used["tier_bytes"]), (&364_500_000.into(), &364_500_000.into()));
    assert_eq!(plan["sites"][0]["name"], "Berlin, Mitte");
    assert_eq!(plan["sites"][3]["wan_bytes"], 121_500_000);
    assert_eq!(plan["regions"][0]["bytes"], 121_500_000);
    assert!(plan["current"][3]["sites_seconds"].as_f64() >= plan["sites"][3]["content_seconds"].as_f64());
    let svg = fs::read_to_string(&chart).unwrap();
    assert!(svg.contains(">manager<") && svg.contains(">tier<") && !svg.contains("NaN"), "{svg}");
}

#[test]
fn plan_of_sites_takes_limits_from_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (list, config) = (folder.path().join("sites.csv"), folder.path().join("gupd.toml"));
    fs::write(&list, "name;clients\r\nA;100\r\nB;100\r\n").unwrap();
    fs::write(&config, "[wan]\nlimit = \"8Mbit/s\"\n[[group]]\nname = \"a\"\nspread = \"4h\"\n").unwrap();
    let plan = json(&plan(&list, &["--config", config.to_str().unwrap(), "--json"]));
    let site = &plan["sites"][1];
    assert_eq!(site["limited_by"], "its clients, windows or LAN");
    assert!((3.8 * 3_600.0..4.2 * 3_600.0).contains(&site["current_seconds"].as_f64().unwrap()), "{plan:#}");
    assert_eq!(plan["manager"][0]["peak_bytes_per_second"], 2_000_000);
}

#[test]
fn wrong_list_of_sites_is_one_line_error() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("sites.csv");
    let refused = |text: &str, arguments: &[&str], words: &[&str]| {
        fs::write(&list, text).unwrap();
        plan(&list, arguments).assert_error(2, words);
    };
    refused(
        "name,clients,line\nA,1,1Mbit/s\nA,2,1Mbit/s\n",
        &[],
        &["sites.csv", "line 3", "column name", "\"A\""],
    );
    refused("name,clients,line\nA,0,1Mbit/s\n", &[], &["sites.csv", "line 2", "column clients", "\"0\""]);
    refused("name,clients\nA,1\n", &[], &["--line"]);
    let many: String = (0..10_001).map(|number| format!("{number},1\n")).collect();
    refused(&format!("name,clients\n{many}"), &["--line", "1Mbit/s"], &["line 10002", "10000 sites"]);
    refused(LIST, &["--region", "east=1Mbit/s"], &["--region east", "no site"]);
    refused(LIST, &["--region", "north=1Mbit/s", "--region", "north=2Mbit/s"], &["--region north", "twice"]);
    refused("name,clients,line\nA,1,1Mbit/s\n", &["--tier", "region"], &["--tier region"]);
    plan(&folder.path().join("missing.csv"), &[]).assert_error(2, &["missing.csv"]);
}
