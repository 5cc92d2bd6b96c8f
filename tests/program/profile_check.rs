//! `gupd check --profile`: test vectors that hold, and those that do not.

use std::path::Path;

use crate::process::{Ended, Process, gupd};

const VENDOR: &str = "[profile]\nname = \"vendor\"\ntitle = \"A vendor\"\n\
    [[path]]\npattern = \"/files/**\"\nclass = \"payload\"\nform = \"full\"\nkey_query = [\"id\"]\ncertainty = \"inferred\"\n\
    [[revision]]\npattern = \"/files/<number>/*\"\ncertainty = \"inferred\"\n\
    [origin]\nparameter = \"from\"\nhosts = [\"a.example\"]\ncertainty = \"inferred\"\n";

fn check(file: &Path) -> Ended {
    Process::start(gupd(["check", "--profile"]).arg(file)).wait_for_exit()
}

fn check_text(text: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vendor.toml");
    std::fs::write(&file, text).unwrap();
    check(&file)
}

#[test]
fn shipped_profiles_pass_their_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/profiles");
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_stem().unwrap().to_str().unwrap();
        let ended = check(&file);
        assert!(ended.status.success(), "{ended:?}");
        assert!(ended.lines[0].starts_with(&format!("profile {name} is valid: ")), "{ended:?}");
        assert!(ended.lines[0].ends_with(" tests passed"), "{ended:?}");
    }
}

#[test]
fn profile_without_tests_is_valid_with_a_warning() {
    let ended = check_text(VENDOR);
    assert!(ended.status.success(), "{ended:?}");
    assert!(
        ended.lines[0].starts_with("warning: ") && ended.lines[0].contains("has no [[test]]"),
        "{ended:?}"
    );
    assert_eq!(ended.lines[1], "profile vendor is valid: 1 rule, 0 tests passed");
}

#[test]
fn each_result_that_differs_is_named_with_its_line() {
    let test = "[[test]]\nrequest = \"/files/7/a?x=1&id=2\"\nclass = \"payload\"\n";
    for (wrong, expected) in [
        ("form = \"delta\"", "form is full, expected delta"),
        ("content_type = \"vendor\"", "content_type is liveupdate, expected vendor"),
        ("revision = \"none\"", "revision is 7, expected none"),
        ("revision = \"8\"", "revision is 7, expected 8"),
        ("key_query = \"x=1\"", "key_query is id=2, expected x=1"),
        ("origin = \"a.example\"", "origin is none, expected a.example"),
        ("digests = \"grd\"", "digests is none, expected grd"),
    ] {
        let line = VENDOR.lines().count() + 1;
        check_text(&format!("{VENDOR}{test}{wrong}\n")).assert_error(
            1,
            &[&format!("vendor.toml:{line}: test \"/files/7/a\": {expected}: correct the rule or the test")],
        );
    }
    let other = format!("{VENDOR}{}", test.replace("\"payload\"", "\"catalog\""));
    check_text(&other).assert_error(1, &["class is payload, expected catalog"]);
    let right = "form = \"full\"\nrevision = \"7\"\nkey_query = \"id=2\"\norigin = \"none\"\n";
    let refused =
        "[[test]]\nrequest = \"/files/a?from=b.example\"\nclass = \"payload\"\norigin = \"refused\"\n";
    let ended = check_text(&format!("{VENDOR}{test}{right}{refused}"));
    assert_eq!(ended.lines, ["profile vendor is valid: 1 rule, 2 tests passed"], "{ended:?}");
}

#[test]
fn invalid_profile_exits_with_2_and_one_line() {
    for (text, expected) in [
        (
            VENDOR.replace("inferred", "sure"),
            "vendor.toml:9: path.certainty: invalid value \"sure\": use one of",
        ),
        (format!("{VENDOR}[[paths]]\n"), "vendor.toml:17: paths: unknown section: did you mean path?"),
        (format!("{VENDOR}[[test]]\nrequest = \"/\"\n"), "vendor.toml:17: test.class: missing required key"),
        (format!("{VENDOR}!\n"), "vendor.toml:17: "),
    ] {
        let first = check_text(&text);
        assert_eq!(first.status.code(), Some(2), "{first:?}");
        assert!(first.errors.contains(expected), "{first:?}");
    }
    check(Path::new("/nowhere/vendor.toml")).assert_error(2, &["/nowhere/vendor.toml: cannot open file"]);
}
