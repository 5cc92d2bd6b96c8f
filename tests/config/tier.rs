//! The shared tier in the configuration file.

use std::time::Duration;

use gupd_config::{BucketSettings, TierLocation};

use crate::{MANAGER, load, problems};

fn tier(text: &str) -> String {
    format!("{MANAGER}[tier]\n{text}\n")
}

#[test]
fn tier_is_absent_by_default() {
    assert_eq!(load(MANAGER).unwrap().tier, None);
}

#[test]
fn folder_of_a_tier_is_read_with_its_times() {
    let loaded = load(&tier("url = \"file:///mnt/share\"\nhedge = \"50ms\"\npublish = false")).unwrap();
    let tier = loaded.tier.unwrap();
    assert_eq!(tier.location, TierLocation::Folder("/mnt/share".into()));
    assert_eq!((tier.hedge, tier.publish, tier.wan), (Duration::from_millis(50), false, false));
}

#[test]
fn bucket_of_a_tier_is_read_with_its_service() {
    let loaded = load(&tier("url = \"s3://content/gupd/a/\"")).unwrap().tier.unwrap();
    let expected = BucketSettings {
        bucket: "content".into(),
        prefix: "gupd/a".into(),
        endpoint: None,
        region: "us-east-1".into(),
        credentials_file: None,
        ca: None,
    };
    assert_eq!(loaded.location, TierLocation::Bucket(expected.clone()));
    assert!(loaded.wan, "a bucket is across the WAN");
    let text = "url = \"s3://content\"\nendpoint = \"http://10.0.0.5:3900\"\nregion = \"garage\"\nwan = false\n\
                credentials_file = \"/etc/gupd/tier\"";
    let config = load(&tier(text)).unwrap();
    let loaded = config.tier.unwrap();
    let expected = BucketSettings {
        prefix: String::new(),
        endpoint: Some("http://10.0.0.5:3900".parse().unwrap()),
        region: "garage".into(),
        credentials_file: Some("/etc/gupd/tier".into()),
        ..expected
    };
    assert_eq!((loaded.location, loaded.wan), (TierLocation::Bucket(expected), false));
    assert!(config.files.iter().any(|file| file.path.ends_with("tier")), "the sandbox may read it");
    let folder = load(&tier("url = \"file:///a\"\nregion = \"x\"")).unwrap();
    assert!(folder.warnings.iter().any(|warning| warning.to_string().contains("has no effect")));
}

#[test]
fn unusable_settings_of_a_tier_are_refused_with_their_line() {
    for (text, expected) in [
        ("publish = true", "gupd.toml:3: tier.url: missing required key"),
        ("url = \"/mnt/share\"", "gupd.toml:4: tier.url: \"/mnt/share\" is not a URL"),
        (
            "url = \"file://share/gupd\"",
            "gupd.toml:4: tier.url: \"file://share/gupd\" names no absolute folder",
        ),
        ("url = \"file:///\"", "gupd.toml:4: tier.url: \"file:///\" names no absolute folder"),
        ("url = \"file:///a\"\nhedge = \"5ms\"", "gupd.toml:5: tier.hedge: 5ms is "),
        ("url = \"file:///a\"\ntimeout = \"1h\"", "gupd.toml:5: tier.timeout: 1h "),
        ("url = \"file:///a\"\nmax_object = \"1KiB\"", "gupd.toml:5: tier.max_object: 1KiB "),
        ("url = \"file:///a\"\nwan = 3", "gupd.toml:5: tier.wan: "),
        ("url = \"s3://\"", "gupd.toml:4: tier.url: \"s3://\" names no bucket"),
        ("url = \"s3://B_1/a\"", "gupd.toml:4: tier.url: \"s3://B_1/a\" names no bucket"),
        ("url = \"s3://key:secret@b/a\"", "gupd.toml:4: tier.url: "),
        ("url = \"s3://abc/a?b\"", "gupd.toml:4: tier.url: "),
        ("url = \"s3://abc\"\nendpoint = \"s3.example\"", "gupd.toml:5: tier.endpoint: "),
        ("url = \"s3://abc\"\nregion = \"a b\"", "gupd.toml:5: tier.region: "),
        ("url = \"file:///a\"\nbucket = \"b\"", "gupd.toml:5: "),
    ] {
        let problems = problems(load(&tier(text)));
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{text}: {problems:?}");
    }
    let named = format!(
        "[[upstream]]\nname = \"tier\"\n{}",
        tier("url = \"file:///a\"").replace("[[upstream]]\n", "")
    );
    assert!(problems(load(&named)).iter().any(|problem| problem.contains("rename it")));
}

#[test]
fn unknown_scheme_is_a_warning_and_leaves_no_tier() {
    for scheme in ["ftp", "http", "S3", "gs "] {
        let loaded = load(&tier(&format!("url = \"{scheme}://a/b\""))).unwrap();
        assert_eq!(loaded.tier, None, "{scheme}");
        let named =
            |line: String| line.contains("unknown scheme") && line.contains("serves without the tier");
        assert!(loaded.warnings.iter().any(|warning| named(warning.to_string())), "{:?}", loaded.warnings);
    }
}
