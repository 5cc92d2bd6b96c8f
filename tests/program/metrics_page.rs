//! The page docs/metrics.md, generated from the code's help texts and the exposition of a relay. Run the test with
//! `UPDATE_REFERENCES=1` to write the page anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::exposition::{Family, parse};
use crate::process::{Relay, gupd};
use crate::support::Manager;

const INTRODUCTION: &str = "# Metrics\n\n\
    <!-- Generated from the code by tests/program/metrics_page.rs. -->\n\n\
    Every metric of `/metrics` on the admin address (`server.admin`). Counters count since the start of the process. A \
    series exists from the start if its labels are known by then. [operations.md](operations.md#metrics-to-watch) names \
    those to watch, [monitoring.md](monitoring.md) has alerts and dashboards.\n\n\
    | metric | type | labels | meaning |\n| --- | --- | --- | --- |\n";

/// A metric as the code registers it.
struct Registered {
    help: String,
    /// Labels that stand beside the help text.
    labels: Vec<String>,
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the text of the string literal at the begin of `code`, and what follows it.
fn literal(code: &str) -> Option<(String, &str)> {
    let (mut text, mut characters) = (String::new(), code.strip_prefix('"')?.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, &code[at + 2..])),
            '\\' => match characters.next()?.1 {
                // The literal continues behind the white space of the next line.
                '\n' => {
                    let rest = &code[at + 3..];
                    let (more, behind) = literal(&format!("\"{}", rest.trim_start()))
                        .map(|(more, behind)| (more, behind.len()))?;
                    return Some((text + &more, &code[code.len() - behind..]));
                }
                escaped => text.push(escaped),
            },
            _ => text.push(character),
        }
    }
    None
}

/// Returns the metrics that a file registers: a name, a comma and a help text, perhaps with labels behind them.
fn registered(code: &str) -> impl Iterator<Item = (String, Registered)> {
    let places = ["\"gupd_", "\"process_"].into_iter().flat_map(|begin| code.match_indices(begin));
    places.filter_map(|(at, _)| {
        let (name, rest) = literal(&code[at..]).filter(|(name, _)| !name.contains("::"))?;
        let (help, rest) = literal(rest.strip_prefix(',')?.trim_start())?;
        let listed = rest.trim_start_matches(',').trim_start().strip_prefix("&[");
        let listed = listed.and_then(|rest| rest.split_once(']')).map_or("", |(list, _)| list);
        let labels = listed.split(", ").filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.trim_matches('"').to_owned()).collect();
        Some((name, Registered { help, labels }))
    })
}

fn all_registered() -> BTreeMap<String, Registered> {
    let (mut folders, mut metrics) = (vec![repository("src")], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|name| name == "rs") {
                let code = fs::read_to_string(&path).unwrap();
                metrics.extend(registered(code.split("#[cfg(test)]\nmod ").next().unwrap()));
            }
        }
    }
    metrics
}

/// Returns the label names of a family's samples.
fn label_names(family: &Family) -> BTreeSet<String> {
    let labels = family.samples.keys().filter_map(|series| series.split_once('{'));
    let labels =
        labels.flat_map(|(_, labels)| labels.split("=\"").map(|part| part.rsplit(['"', ',', ' ']).next()));
    // What stands before each `="` is a name; the part behind the last one is not.
    labels.flatten().filter(|name| !matches!(*name, "" | "}" | "le")).map(str::to_owned).collect()
}

fn page(metrics: &BTreeMap<String, Registered>, families: &BTreeMap<String, Family>) -> String {
    let mut page = INTRODUCTION.to_owned();
    for (name, Registered { help, labels }) in metrics {
        let family = families.get(name);
        let kind = match family {
            Some(family) => family.kind.as_str(),
            None if name.ends_with("_total") => "counter",
            None => "gauge",
        };
        let labels: BTreeSet<String> = family.map_or_else(|| labels.iter().cloned().collect(), label_names);
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).unwrap();
    }
    page
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_page_equals_the_registered_metrics() {
    let (manager, peer, folder) = (Manager::start(), Manager::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("gupd.toml");
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n[store]\ndir = {:?}\nmin_free = \"0B\"\n\
         [[upstream]]\nurl = \"{}\"\n[[peer]]\nurl = \"{}\"\nverify = \"off\"\n[[ring]]\nname = \"all\"\ngroups = [\"default\"]\n",
        folder.path().join("store"),
        manager.url(),
        peer.url(),
    );
    fs::write(&file, text).unwrap();
    let relay = Relay::start(gupd(["serve", "--guard", "--config"]).arg(&file));
    let families = parse(&relay.metrics().await);
    let metrics = all_registered();
    let unknown: Vec<_> = families.keys().filter(|name| !metrics.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "no name with a help text was found for {unknown:?}");
    let absent =
        |(name, metric): &(&String, &Registered)| metric.labels.is_empty() && !families.contains_key(*name);
    let absent: Vec<_> = metrics.iter().filter(absent).map(|(name, _)| name).collect();
    assert!(absent.is_empty(), "neither the code nor the exposition shows the labels of {absent:?}");
    let (page, path) = (page(&metrics, &families), repository("docs/metrics.md"));
    if std::env::var_os("UPDATE_REFERENCES").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let is_current = fs::read_to_string(path).is_ok_and(|text| text == page);
    assert!(is_current, "docs/metrics.md is not current: UPDATE_REFERENCES=1 cargo nextest run metrics_page");
}

#[test]
fn names_help_and_labels_are_read_from_code() {
    let code = "counters(\n  \"gupd_a_total\",\n  \"First \\\"a\\\", \\\n     second.\",\n    &[\"by\", \"then\"])?;\n\
                gauge(\"process_b\", \"One.\")?; cookie(\"gupd_session\")";
    let found: Vec<_> = registered(code).map(|(name, it)| (name, it.help, it.labels.join(" "))).collect();
    let expected = [("gupd_a_total", "First \"a\", second.", "by then"), ("process_b", "One.", "")];
    assert_eq!(
        found,
        expected.map(|(name, help, labels)| (name.to_owned(), help.to_owned(), labels.to_owned()))
    );
}
