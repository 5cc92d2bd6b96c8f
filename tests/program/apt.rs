//! `apt-get` updates and downloads from a small signed repository through the relay, with rings on, while the
//! repository changes: no client sees a hash mismatch. The tests use no configuration of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::process::{Relay, gupd};
use crate::rollout::post;
use crate::support::{Manager, Resource};

const DIST: &str = "dists/stable";
const INDEX: &str = "main/binary-amd64";
const PACKAGE: &str = "gupd-test";

/// A signed repository on disk, which a manager publishes file by file.
struct Repository {
    folder: TempDir,
    manager: Manager,
    by_hash: bool,
}

/// Runs a program, and returns its standard output.
fn run(command: &mut Command) -> Vec<u8> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = command.output().unwrap_or_else(|error| panic!("{program}: {error}: tests/run installs it"));
    assert!(ended.status.success(), "{program}: {ended:#?}");
    ended.stdout
}

impl Repository {
    fn new(by_hash: bool) -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap(), manager: Manager::start(), by_hash };
        fs::create_dir_all(repository.keys()).unwrap();
        let key = ["--quick-generate-key", "test@repository.example", "ed25519", "sign", "never"];
        run(repository.gpg().args(["--passphrase", ""]).args(key));
        let public = run(repository.gpg().arg("--export"));
        fs::write(repository.folder.path().join("key.gpg"), public).unwrap();
        repository
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(self.keys()).args(["--batch", "--quiet", "--no-permission-warning"]);
        gpg
    }

    /// Writes the repository with a package of this version beside the older ones.
    fn build(&self, version: u32) {
        let (root, tree) = (self.root(), self.folder.path().join(format!("tree-{version}")));
        for folder in
            [tree.join("DEBIAN"), tree.join("usr/share"), root.join("pool"), root.join(DIST).join(INDEX)]
        {
            fs::create_dir_all(folder).unwrap();
        }
        let control = format!(
            "Package: {PACKAGE}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@repository.example>\n\
             Description: content of version {version}\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        fs::write(tree.join("usr/share/version"), version.to_string()).unwrap();
        let package = root.join(format!("pool/{PACKAGE}_{version}_all.deb"));
        run(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(tree).arg(package));
        let ftparchive = || {
            let mut ftparchive = Command::new("apt-ftparchive");
            ftparchive.current_dir(&root);
            ftparchive
        };
        let packages = run(ftparchive().args(["packages", "pool"]));
        fs::write(root.join(DIST).join(INDEX).join("Packages"), packages).unwrap();
        let mut release = ftparchive();
        for (field, value) in [("Suite", "stable"), ("Components", "main"), ("Architectures", "amd64")] {
            release.arg("-o").arg(format!("APT::FTPArchive::Release::{field}={value}"));
        }
        let by_hash = if self.by_hash { "yes" } else { "no" };
        release.arg("-o").arg(format!("APT::FTPArchive::Release::Acquire-By-Hash={by_hash}"));
        let _ = fs::remove_file(root.join(DIST).join("InRelease"));
        let text = run(release.arg("release").arg(DIST));
        let unsigned = self.folder.path().join("Release");
        fs::write(&unsigned, text).unwrap();
        let signed = root.join(DIST).join("InRelease");
        run(self.gpg().arg("--clearsign").arg("--output").arg(signed).arg(unsigned));
    }

    /// Publishes a file of the repository as it is on disk.
    fn publish(&self, path: &str) {
        let bytes = fs::read(self.root().join(path)).unwrap();
        self.manager.put(&format!("/debian/{path}"), Resource::new(bytes));
    }

    fn publish_packages(&self, version: u32) {
        self.publish(&format!("pool/{PACKAGE}_{version}_all.deb"));
        let packages = format!("{DIST}/{INDEX}/Packages");
        if self.by_hash {
            // apt asks for the strongest digest of Release.
            let digest = run(Command::new("sha512sum").arg(self.root().join(&packages)));
            let digest = String::from_utf8(digest).unwrap()[..128].to_owned();
            let bytes = fs::read(self.root().join(&packages)).unwrap();
            let path = format!("/debian/{DIST}/{INDEX}/by-hash/SHA512/{digest}");
            self.manager.put(&path, Resource::new(bytes));
        }
        self.publish(&packages);
    }

    fn publish_release(&self) {
        self.publish(&format!("{DIST}/InRelease"));
    }

    /// Starts a relay in front of the manager: one ring for all clients, and no refresh but those of the test.
    fn serve(&self) -> Relay {
        let (token, store) = (self.folder.path().join("token"), self.folder.path().join("store"));
        crate::support::write_secret(&token, "s3cret-of-the-site\n");
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nadmin_token_file = {token:?}\n\
             [store]\ndir = {store:?}\nmin_free = \"0B\"\n\
             [refresh]\nschedule = \"off\"\n\
             catalogs = [\"/debian/{DIST}/InRelease\", \"/debian/{DIST}/{INDEX}/Packages\"]\n\
             [[upstream]]\nurl = \"{}\"\n[[route]]\nprefix = \"/\"\nprofile = \"debian\"\n\
             [[ring]]\nname = \"all\"\ngroups = [\"default\"]\n",
            self.manager.url()
        );
        let file = self.folder.path().join("gupd.toml");
        fs::write(&file, text).unwrap();
        Relay::start(gupd(["serve", "--config"]).arg(file))
    }

    /// Creates a client with a folder of its own. With a relay, that is its proxy.
    fn client(&self, name: &str, relay: Option<&Relay>) -> Client {
        let folder = self.folder.path().join(name);
        for path in
            ["state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "log"]
        {
            fs::create_dir_all(folder.join(path)).unwrap();
        }
        fs::write(folder.join("status"), "").unwrap();
        let key = self.folder.path().join("key.gpg");
        let source = format!("deb [signed-by={}] {}/debian stable main\n", key.display(), self.manager.url());
        fs::write(folder.join("etc/sources.list"), source).unwrap();
        let proxy = relay.map(|relay| format!("http://{}/", relay.address));
        let config = format!(
            "Dir {folder:?};\nDir::State \"state\";\nDir::State::status {status:?};\nDir::Cache \"cache\";\n\
             Dir::Etc \"etc\";\nDir::Log \"log\";\nAPT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             APT::Sandbox::User \"\";\nAcquire::Languages \"none\";\nAcquire::Retries \"0\";\n\
             Acquire::http::Proxy {proxy:?};\n",
            status = folder.join("status"),
            proxy = proxy.as_deref().unwrap_or("DIRECT"),
        );
        fs::write(folder.join("apt.conf"), config).unwrap();
        Client { folder }
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.keys()).args(["--kill", "all"]).status();
    }
}

/// `apt-get` with a folder of its own.
struct Client {
    folder: PathBuf,
}

impl Client {
    fn apt_get(&self, arguments: &[&str]) -> Output {
        let mut apt = Command::new("apt-get");
        for name in ["http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"] {
            apt.env_remove(name);
        }
        apt.env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C").args(arguments);
        apt.output()
            .unwrap_or_else(|error| panic!("apt-get: {error}: the tests of a repository need Debian's apt"))
    }

    /// Updates the lists, and returns the newest version in them.
    fn update(&self) -> String {
        let ended = self.apt_get(&["update", "-o", "APT::Update::Error-Mode=any"]);
        assert!(ended.status.success(), "{ended:#?}");
        let mut apt_cache = Command::new("apt-cache");
        apt_cache.env("APT_CONFIG", self.folder.join("apt.conf")).args([
            "show",
            "--no-all-versions",
            PACKAGE,
        ]);
        let text = String::from_utf8(run(&mut apt_cache)).unwrap();
        text.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap().to_owned()
    }

    /// Downloads the package as an installation does, and returns the version that is in it.
    fn install(&self) -> String {
        let ended = self.apt_get(&["install", "--yes", "--download-only", PACKAGE]);
        assert!(ended.status.success(), "{ended:#?}");
        let archives = fs::read_dir(self.folder.join("cache/archives")).unwrap();
        let packages = archives.map(|entry| entry.unwrap().path());
        let packages = packages.filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let newest = packages.max().unwrap();
        unpacked_version(&newest, &self.folder.join("unpacked"))
    }
}

fn unpacked_version(package: &Path, folder: &Path) -> String {
    run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(folder));
    fs::read_to_string(folder.join("usr/share/version")).unwrap()
}

async fn refresh(relay: &Relay) {
    let refreshed = post("/api/v1/refresh", "").send(relay.admin).await;
    assert_eq!(refreshed.status, 200, "{refreshed:?}");
    assert!(String::from_utf8(refreshed.expect_body()).unwrap().contains("\"failed\":0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_published_repository_reaches_no_client() {
    let repository = Repository::new(false);
    repository.build(1);
    repository.publish_packages(1);
    repository.publish_release();
    let relay = repository.serve();
    refresh(&relay).await;
    let client = repository.client("client", Some(&relay));
    assert_eq!((client.update(), client.install()), ("1".to_owned(), "1".to_owned()));

    repository.build(2);
    repository.publish_release();
    let direct = repository.client("direct", None).apt_get(&["update", "-o", "APT::Update::Error-Mode=any"]);
    assert!(!direct.status.success(), "the repository is in the midst of a change: {direct:#?}");
    assert_eq!(client.update(), "1");
    assert_eq!(repository.client("new", Some(&relay)).update(), "1");

    repository.publish_packages(2);
    assert_eq!(client.update(), "1", "no refresh has seen the change");
    refresh(&relay).await;
    assert_eq!((client.update(), client.install()), ("2".to_owned(), "2".to_owned()));

    repository.manager.set_down(true);
    let late = repository.client("late", Some(&relay));
    assert_eq!((late.update(), late.install()), ("2".to_owned(), "2".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_during_changes_have_no_hash_mismatch() {
    let repository = Repository::new(true);
    repository.build(1);
    repository.publish_packages(1);
    repository.publish_release();
    let relay = repository.serve();
    refresh(&relay).await;
    let clients: Vec<_> =
        (0..3).map(|number| repository.client(&format!("client-{number}"), Some(&relay))).collect();
    let is_done = AtomicBool::new(false);
    let versions = std::thread::scope(|threads| {
        let update = |client: &Client| {
            let mut versions = vec![client.update()];
            while !is_done.load(Ordering::SeqCst) {
                versions.push(client.update());
            }
            versions.push(client.update());
            versions
        };
        let running: Vec<_> = clients.iter().map(|client| threads.spawn(move || update(client))).collect();
        let runtime = tokio::runtime::Handle::current();
        for version in 2..6 {
            repository.build(version);
            repository.publish_packages(version);
            repository.publish_release();
            tokio::task::block_in_place(|| runtime.block_on(refresh(&relay)));
        }
        is_done.store(true, Ordering::SeqCst);
        running.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    for versions in versions {
        assert!(versions.is_sorted(), "a client went back: {versions:?}");
        assert_eq!(versions.last().map(String::as_str), Some("5"));
    }
    assert_eq!(clients[0].install(), "5");
}
