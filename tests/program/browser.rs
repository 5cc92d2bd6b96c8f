//! The status page in Chromium, driven by `tests/browser/page.mjs`: each command end to end, live values, accessibility by
//! axe-core, no error and no request to another host.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::{Relay, gupd};
use crate::rollout::Place;

/// The driver.
const DRIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/page.mjs");

/// Folder of the driver's packages, which `tests/run` fills. No other test looks for files there.
const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/browser");

/// Returns the program of the browser if this machine can run the driver.
fn browser() -> Option<&'static str> {
    let browsers = ["/usr/bin/chromium", "/usr/bin/chromium-browser"];
    let browser = browsers.into_iter().find(|path| Path::new(path).exists());
    let has_node = Command::new("node").arg("--version").output().is_ok_and(|output| output.status.success());
    let missing = match (browser, has_node, Path::new(PACKAGES).join("node_modules/puppeteer-core").exists())
    {
        (Some(browser), true, true) => return Some(browser),
        (None, ..) => "no Chromium",
        (_, false, _) => "no Node.js",
        (.., false) => "no packages of tests/browser/package.json in target/browser",
    };
    println!("skipped: {missing}");
    if let Some(list) = std::env::var_os("SKIPPED_TESTS") {
        let mut list = std::fs::File::options().append(true).create(true).open(list).unwrap();
        writeln!(list, "test of the status page in a browser ({missing})").unwrap();
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_works_in_a_browser() {
    let Some(browser) = browser() else { return };
    let (place, mut relay) = Place::published().await;
    let admin = relay.admin.to_string();
    // The driver finds packages beside itself.
    let driver = Path::new(PACKAGES).join("page.mjs");
    std::fs::copy(DRIVER, &driver).unwrap();
    let url = format!("http://{admin}");
    // The driver has time-outs of its own.
    let mut command = Command::new("node");
    command.arg(driver).args([browser, &url, "s3cret-of-the-site"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut driving = command.spawn().unwrap();
    let (mut answers, mut steps) = (driving.stdin.take().unwrap(), Vec::new());
    for line in BufReader::new(driving.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match &*line {
            "end the relay?" => relay.process.kill(),
            "start the relay?" => {
                let mut command = gupd(["serve", "--admin", &admin, "--config"]);
                relay = Relay::start(command.arg(place.file()));
            }
            _ => {
                steps.push(line);
                continue;
            }
        }
        answers.write_all(b"done\n").unwrap();
    }
    let mut errors = String::new();
    driving.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    let steps = steps.join("\n");
    assert!(driving.wait().unwrap().success(), "{steps}\n{errors}");
    assert!(steps.contains("a restart is noticed"), "{steps}");
    println!("{steps}");
}
