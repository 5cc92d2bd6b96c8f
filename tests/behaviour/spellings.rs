//! Spellings of a path that a lenient server takes for one file: none evades a denial or a class. Plain spellings and
//! odd private paths pass as the client wrote them.

use std::sync::Arc;

use gupd_config::{Class, Config, ContentMatch, ContentType, GroupSettings, Profiles, Rule};

use crate::support::{PAYLOAD, Resource, Site};

const SETUP: &str = "/packages/14.3/setup.zip";

/// Returns the spellings of a file at a path of at least three segments.
pub(crate) fn odd_spellings(path: &str) -> Vec<String> {
    let slashes: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
    let mut spellings = Vec::new();
    for replacement in [
        "//",
        "///",
        "%2F",
        "%2f",
        "/%2F",
        "%5C",
        "\\",
        "%252F",
        "%25252f",
        "%25%32F",
        "%c0%af",
        "%e0%80%af",
        "/./",
        "/%2e/",
        "/%252E/",
        "/x/../",
        "/x/..;/",
        "/x/..;a/",
        "/x/%2e%2e%3b/",
        "/x%2F../",
        "/.../",
        "/;a/",
        ";a/",
        "%3Ba/",
        "./",
        "%20/",
        "::$DATA/",
    ] {
        let begins_segment = !replacement.starts_with('/');
        for &slash in slashes.iter().skip(usize::from(begins_segment)) {
            spellings.push(format!("{}{replacement}{}", &path[..slash], &path[slash + 1..]));
        }
    }
    for end in [";a", "%3Ba", ".", "...", "%20", "::$DATA", "%3A%3A$DATA"] {
        spellings.push(format!("{path}{end}"));
    }
    spellings
}

/// Returns the spellings that every server takes for the file.
pub(crate) fn plain_spellings(path: &str) -> Vec<String> {
    let (folder, name) = path.split_at(path.rfind('/').unwrap() + 1);
    let encoded: String = name.bytes().map(|octet| format!("%{octet:02x}")).collect();
    let braces = path.replace('{', "%7B").replace('}', "%7d");
    vec![
        path.to_uppercase(),
        path.to_lowercase(),
        format!("{folder}{encoded}"),
        format!("/%{:02X}{}", path.as_bytes()[1], &path[2..]),
        braces,
    ]
}

/// Puts a file at the path of every target, as a manager has it that reads them all alike.
pub(crate) fn put_at_all(site: &Site, targets: &[String], resource: &Resource) {
    for target in targets {
        site.manager.put(target, resource.clone());
    }
}

fn deny(config: &mut Config) {
    let matches = ContentMatch::Pattern("/packages/14.3/**".to_owned());
    config.content_types.push(ContentType { name: "client-patches".to_owned(), matches });
    let deny = vec!["client-patches".to_owned(), "virus-definitions-32".to_owned()];
    config.groups = vec![GroupSettings { deny, ..GroupSettings::catch_all("all") }];
}

fn use_profile(config: &mut Config, name: &str) {
    config.routes[0].profile = Arc::clone(Profiles::built_in().unwrap().find(name).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_content_has_no_other_spelling() {
    for profile in ["auto", "sep", "liveupdate", "generic"] {
        let site = Site::with_config(|config| {
            deny(config);
            use_profile(config, profile);
        });
        for path in [SETUP, PAYLOAD] {
            let mut targets = odd_spellings(path);
            targets.extend(plain_spellings(path));
            targets.extend([path.to_owned(), format!("{path}/")]);
            put_at_all(&site, &targets, &Resource::new("secret"));
            for target in &targets {
                let absolute = format!("http://{}{target}", site.manager.address());
                for target in [target.clone(), format!("{target}?"), format!("{target}?x=1"), absolute] {
                    let status = site.get(&target).await.status;
                    assert!(matches!(status, 400 | 404), "{profile}: {target} is {status}");
                }
            }
        }
        assert_eq!(site.metric("gupd_upstream_bytes_total").await, 0.0);
        let refused = site.metric("gupd_refused_total{reason=\"ambiguous-spelling\"}").await;
        assert_eq!(refused > 0.0, profile != "generic", "{profile}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_spelling_of_content_is_refused() {
    let site = Site::new();
    for path in [PAYLOAD, "/a/b/index2.dax", "/a/b/minitri.flg", "/lu/a/1369163480x.zip"] {
        let targets = odd_spellings(path);
        put_at_all(&site, &targets, &Resource::new("content"));
        for target in &targets {
            assert_eq!(site.get(target).await.status, 400, "{target}");
        }
        let targets = plain_spellings(path);
        put_at_all(&site, &targets, &Resource::new("content"));
        for target in &targets {
            assert_eq!(site.get(target).await.status, 200, "{target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_private_and_generic_paths_pass_unchanged() {
    let site = Site::with_config(deny);
    for path in [
        "/secars/secars.dll;x",
        "/secars//secars.dll",
        "/reporting//x",
        "/reporting/a%2Fb;c=d/e.",
        "/g/q;v=1",
        "//g/q",
        "/g/a%252Fb",
        "/a%20b.7z",
        "/100%25.7z",
        "/norton$202009_1.0_livetri.zip",
    ] {
        site.manager.put(path, Resource::new("own"));
        assert_eq!(site.get(path).await.status, 200, "{path}");
        assert_eq!(&*site.manager.requests_for(path)[0].target, path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_spelling_has_the_class_of_its_file() {
    let site = Site::with_config(|config| {
        use_profile(config, "generic");
        config.rules.push(Rule { pattern: "/secret/**".to_owned(), class: Class::Private });
    });
    let fresh = Resource::new("x").header("Cache-Control", "max-age=600");
    let targets =
        ["//secret/x", "/secret;a/x", "/secret%2Fx", "/SECRET%252fx", "/secret./x", "/%73ecret//x", "/./x"];
    for target in targets {
        site.manager.put(target, fresh.clone());
        let status = site.get(target).await.status;
        assert_eq!(status == 200, target != "/./x", "{target}");
        assert_eq!(site.get(target).await.status, status);
    }
    let counted = "gupd_requests_total{cache=\"bypass\",class=\"private\"}";
    assert_eq!(site.metric(counted).await, 12.0, "private content is never stored");
}
