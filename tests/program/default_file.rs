//! The configuration file that commands read without `--config`, and the flags that each command has.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{Ended, Process, Relay, gupd};
use crate::support::{Manager, PAYLOAD, Resource};

/// The program with this default file instead of that of `/etc`.
fn with_default(file: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gupd"));
    command.arg("--default-config").arg(file).args(arguments).env_clear();
    command
}

fn run(command: &mut Command) -> Ended {
    Process::start(command).wait_for_exit()
}

const COMMANDS: [&[&str]; 14] = [
    &["serve"],
    &["check"],
    &["clients-config", "--host", "relay"],
    &["refresh"],
    &["reload"],
    &["drain"],
    &["upgrade"],
    &["rollout", "status"],
    &["rollout", "halt"],
    &["plan", "--clients", "10", "--full", "1MiB"],
    &["policy", "explain", "--client", "10.1.2.3", "--path", "/a"],
    &["store", "ls"],
    &["store", "purge", "--path", "**"],
    &["store", "verify"],
];

#[test]
fn every_command_reads_the_default_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    fs::write(&file, "[store]\nqouta = 1\n").unwrap();
    let given = folder.path().join("given.toml");
    fs::write(&given, "[sotre]\n").unwrap();
    for arguments in COMMANDS {
        let ended = run(&mut with_default(&file, arguments));
        assert_eq!(ended.status.code(), Some(2), "{arguments:?} {ended:#?}");
        let place = format!("gupd: {}:2: store.qouta: unknown key", file.display());
        assert!(ended.errors.contains(&place), "{arguments:?} {ended:#?}");
        // An explicit file takes its place.
        let ended = run(with_default(&file, arguments).arg("--config").arg(&given));
        assert!(ended.errors.contains("given.toml:1: sotre: "), "{arguments:?} {ended:#?}");
        assert!(!ended.errors.contains("qouta"), "{arguments:?} {ended:#?}");
    }
}

#[test]
fn unreadable_default_file_is_error_and_missing_one_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    let check = || run(&mut with_default(&file, &["check", "--upstream", "http://manager"]));
    assert!(check().status.success());
    fs::create_dir(&file).unwrap();
    check().assert_error(2, &[&format!("{}: cannot read file", file.display())]);
    fs::remove_dir(&file).unwrap();
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &file).unwrap();
    check().assert_error(2, &[&format!("{}: cannot open file", file.display())]);
}

#[test]
fn error_about_a_missing_setting_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    let missing = file.display().to_string();
    for arguments in [&["refresh"][..], &["reload"], &["drain"], &["upgrade"], &["rollout", "halt"]] {
        run(&mut with_default(&file, arguments))
            .assert_error(2, &["no admin token", &format!("there is no {missing}"), "--config"]);
    }
    run(&mut with_default(&file, &["check"]))
        .assert_error(2, &["no upstream is configured", "/etc/gupd/gupd.toml"]);
    fs::write(&file, "").unwrap();
    let named = format!("set server.admin_token_file in {missing}");
    for arguments in [&["refresh"][..], &["reload"], &["drain"], &["upgrade"], &["rollout", "halt"]] {
        run(&mut with_default(&file, arguments)).assert_error(2, &["no admin token", &named]);
    }
    run(&mut with_default(&file, &["check"]))
        .assert_error(2, &[&format!("{missing}: no upstream is configured")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_and_its_commands_share_the_default_file() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let (file, token) = (folder.path().join("gupd.toml"), folder.path().join("token"));
    crate::support::write_secret(&token, "s3cret-of-the-site\n");
    let text = |attempts: u32| {
        let (store, token) = (folder.path().join("store"), token.display());
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nadmin_token_file = \"{token}\"\n\
             [store]\ndir = \"{}\"\nmin_free = 0\n[fill]\nattempts = {attempts}\n[[upstream]]\nurl = \"{}\"\n",
            store.display(),
            manager.url()
        )
    };
    fs::write(&file, text(8)).unwrap();
    for guard in [&["serve"][..], &["serve", "--guard"]] {
        let mut relay = Relay::start(&mut with_default(&file, guard));
        manager.put(PAYLOAD, Resource::new("content"));
        assert_eq!(relay.get(PAYLOAD).await.expect_body(), b"content");
        let serving = relay.process.logged_once("serving");
        assert_eq!(serving["config"], file.display().to_string());
        let admin = relay.admin.to_string();
        let reload = || run(&mut with_default(&file, &["reload", "--admin", &admin]));
        fs::write(&file, text(9)).unwrap();
        assert_eq!(reload().lines, ["reloaded"]);
        fs::write(&file, text(0)).unwrap();
        assert!(reload().errors.contains("fill.attempts: 0 is below the minimum"));
        fs::write(&file, text(8)).unwrap();
    }
}

#[test]
fn commands_for_a_running_relay_have_only_its_flags() {
    for arguments in [
        &["refresh"][..],
        &["reload"],
        &["drain"],
        &["upgrade"],
        &["rollout", "status"],
        &["rollout", "name"],
        &["rollout", "hold"],
        &["rollout", "rollback"],
        &["rollout", "release"],
        &["rollout", "halt"],
        &["rollout", "resume"],
        &["rollout", "promote"],
    ] {
        let help = run(gupd(arguments).arg("--help")).lines.join("\n");
        for flag in ["--config", "--admin", "/etc/gupd/gupd.toml"] {
            assert!(help.contains(flag), "{arguments:?}: no {flag}: {help}");
        }
        for flag in ["--listen", "--upstream", "--store", "--tls", "--wan-limit", "--default-config"] {
            assert!(!help.contains(flag), "{arguments:?}: {flag}: {help}");
        }
    }
    for command in ["serve", "check", "clients-config"] {
        let help = run(&mut gupd([command, "--help"])).lines.join("\n");
        for flag in ["--config", "--admin", "--listen", "--upstream", "--store", "--tls-cert", "--wan-limit"]
        {
            assert!(help.contains(flag), "{command}: no {flag}: {help}");
        }
        assert!(!help.contains("--default-config"), "{help}");
    }
}

/// Runs in a mount namespace with a folder of its own as `/etc/gupd`, which needs root.
#[test]
fn default_file_is_that_of_etc() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("gupd.toml"), "[store]\nqouta = 1\n").unwrap();
    let script = "mount -t tmpfs none /etc && mkdir /etc/gupd && cp \"$1\" /etc/gupd/ && exec \"$2\" check";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(folder.path().join("gupd.toml"));
    let Ok(output) = command
        .arg(env!("CARGO_BIN_EXE_gupd"))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
    else {
        println!("skipped: unshare is not installed");
        return;
    };
    let errors = String::from_utf8(output.stderr).unwrap();
    if errors.contains("unshare: ") || errors.contains("mount: ") {
        println!("skipped: no mount namespace: {errors}");
        return;
    }
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("gupd: /etc/gupd/gupd.toml:2: store.qouta: "), "{errors}");
}
