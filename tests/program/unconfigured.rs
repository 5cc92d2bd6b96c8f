//! A relay whose configuration file names no upstream, as after the installation of a package: it runs, says what is
//! missing, and a reload configures it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guarded::workers;
use crate::process::{Ended, Process, Relay, gupd};
use crate::support::{Manager, PAYLOAD, Resource, get, write_secret};

/// The shipped configuration, with addresses and a store of the test.
struct Site {
    file: PathBuf,
    text: String,
    manager: Manager,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gupd.toml");
        let token = folder.path().join("token");
        write_secret(&token, "a-token-of-the-test\n");
        let settings = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nadmin_token_file = \"{}\"\n\
             [store]\ndir = \"{}\"\nmin_free = 0\n",
            token.display(),
            folder.path().join("store").display()
        );
        let text = format!("{}\n{settings}", fs::read_to_string(shipped).unwrap());
        let manager = Manager::start();
        manager.put(PAYLOAD, Resource::new("content"));
        let site = Self { file: folder.path().join("gupd.toml"), text, manager, _folder: folder };
        site.remove_upstream();
        site
    }

    fn remove_upstream(&self) {
        fs::write(&self.file, &self.text).unwrap();
    }

    fn add_upstream(&self) {
        let upstream = format!("[[upstream]]\nurl = \"{}\"\n", self.manager.url());
        fs::write(&self.file, format!("{}{upstream}", self.text)).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = gupd(arguments);
        command.arg("--config").arg(&self.file);
        command
    }

    fn order(&self, relay: &Relay, name: &str) -> Ended {
        Process::start(self.command(&[name]).args(["--admin", &relay.admin.to_string()])).wait_for_exit()
    }
}

async fn readiness(relay: &Relay) -> (u16, String) {
    let ready = get(relay.admin, "/readyz").await;
    (ready.status, String::from_utf8(ready.body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_without_upstream_says_so_and_is_configured_by_reload() {
    for serve in [&["serve"][..], &["serve", "--guard"]] {
        let site = Site::new();
        let relay = Relay::start(&mut site.command(serve));
        let warnings = relay.process.warnings();
        let is_told = |line: &&&String| {
            line.contains("no upstream is configured") && line.contains(&site.file.display().to_string())
        };
        assert_eq!(warnings.iter().filter(is_told).count(), 1, "{warnings:#?}");
        let (status, text) = readiness(&relay).await;
        assert_eq!((status, text.lines().count()), (503, 1), "{text}");
        assert!(text.starts_with("not configured: ") && text.contains("[[upstream]]"), "{text}");
        assert_eq!(get(relay.admin, "/healthz").await.status, 200);
        for path in [PAYLOAD, "/", "/secars/secars.dll?h=1"] {
            let refused = relay.get(path).await;
            assert_eq!((refused.status, refused.header("retry-after")), (503, Some("300")), "{path}");
        }
        assert!(relay.metrics().await.contains("gupd_refused_total{reason=\"not-configured\"} 3\n"));
        assert!(site.order(&relay, "reload").errors.contains("no upstream is configured"));
        site.add_upstream();
        assert_eq!(site.order(&relay, "reload").lines, ["reloaded"]);
        assert_eq!(readiness(&relay).await, (200, "serving\n".to_owned()));
        assert_eq!(relay.get(PAYLOAD).await.expect_body(), b"content");
        // From now on a file without upstreams is a mistake.
        site.remove_upstream();
        assert!(site.order(&relay, "reload").errors.contains("no upstream is configured"));
        assert_eq!(relay.get(PAYLOAD).await.expect_body(), b"content");
        relay.process.signal("TERM");
        assert!(relay.process.wait_for_exit().status.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_needs_an_upstream_only_if_the_relay_had_one() {
    let site = Site::new();
    let mut relay = Relay::start(&mut site.command(&["serve", "--guard"]));
    let first = workers(&relay);
    assert!(site.order(&relay, "upgrade").status.success());
    relay.process.wait_for_log("serving");
    assert_ne!(workers(&relay), first);
    site.add_upstream();
    assert_eq!(site.order(&relay, "reload").lines, ["reloaded"]);
    site.remove_upstream();
    let refused = site.order(&relay, "upgrade");
    assert!(
        !refused.status.success() && refused.errors.contains("the old worker keeps serving"),
        "{refused:#?}"
    );
    assert_eq!(relay.get(PAYLOAD).await.expect_body(), b"content");
}

#[test]
fn start_without_file_or_upstream_is_refused() {
    for serve in [&["serve"][..], &["serve", "--guard"]] {
        Process::start(&mut gupd(serve))
            .wait_for_exit()
            .assert_error(2, &["no upstream is configured", "--upstream URL"]);
    }
}
