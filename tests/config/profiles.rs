//! Profiles of an operator: files and folders, replaced built-in profiles, and problems with their line.

use std::path::{Path, PathBuf};

use gupd_config::policy::Policy;
use gupd_config::{Class, Config, Overrides};

/// A site with one route, of the profile `name`, and these files in the folder of profiles.
struct Site {
    folder: tempfile::TempDir,
    config: PathBuf,
}

const VENDOR: &str = "[profile]\nname = \"vendor\"\ntitle = \"A vendor\"\n";

impl Site {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        let config = folder.path().join("gupd.conf");
        let text = format!(
            "[[upstream]]\nurl = \"http://updates.example\"\n[profiles]\nfiles = [{:?}]\n\
             [[route]]\nprefix = \"/\"\nprofile = \"{name}\"\n",
            folder.path()
        );
        std::fs::write(&config, text).unwrap();
        Self { folder, config }
    }

    fn load(&self) -> Result<Config, String> {
        let loaded = Config::load(&Overrides::default(), Some(&self.config), std::iter::empty());
        let folder = format!("{}/", self.folder.path().display());
        loaded.map_err(|problems| problems.to_string().replace(&folder, ""))
    }

    fn class(&self, path: &str) -> Class {
        let policy = Policy::new(&self.load().unwrap()).unwrap();
        policy.classify(policy.route(None, path).unwrap(), path).class
    }
}

fn rule(pattern: &str, class: &str) -> String {
    format!("[[path]]\npattern = {pattern:?}\nclass = {class:?}\ncertainty = \"unverified\"\n")
}

#[test]
fn profile_of_a_folder_classifies_paths() {
    let text = format!("{VENDOR}{}{}", rule("**/list.xml", "catalog"), rule("/files/**", "payload"));
    let site = Site::new("vendor", &[("vendor.toml", &text), ("README", "not a profile")]);
    for (path, class) in [
        ("/a/LIST.xml", Class::Catalog),
        ("/files/list.xml", Class::Catalog),
        ("/files/a", Class::Payload),
        ("/other", Class::Generic),
        ("/minitri.flg", Class::Generic),
    ] {
        assert_eq!(site.class(path), class, "{path}");
    }
}

#[test]
fn own_profile_replaces_the_built_in_one_also_in_includes() {
    let text = VENDOR.replace("vendor", "sep") + &rule("/own/**", "payload");
    let site = Site::new("auto", &[("sep.toml", &text)]);
    for (path, class) in
        [("/own/x", Class::Payload), ("/agent/index.dat", Class::Generic), ("/minitri.flg", Class::Catalog)]
    {
        assert_eq!(site.class(path), class, "{path}");
    }
}

#[test]
fn own_rules_precede_those_of_included_profiles() {
    let included = VENDOR.replacen("title", "include = [\"liveupdate\"]\ntitle", 1);
    let site = Site::new("vendor", &[("vendor.toml", &(included + &rule("**/minitri.flg", "private")))]);
    assert_eq!((site.class("/minitri.flg"), site.class("/x.7z")), (Class::Private, Class::Payload));
}

#[test]
fn profile_problem_names_file_line_key_and_remedy() {
    for (text, expected) in [
        (
            "",
            "vendor.toml: profile.name: missing required key\nvendor.toml: profile.title: missing required key",
        ),
        ("[profile\n", "vendor.toml:1: "),
        ("[profil]\n", "vendor.toml:1: profil: unknown section: did you mean profile?"),
        ("name = \"a\"\n", "vendor.toml:1: name: key outside a section: "),
        (
            "[profile]\nname = \"Ven dor\"\n",
            "vendor.toml:2: profile.name: \"Ven dor\" is not a valid name: use ",
        ),
        ("[profile]\ntitle = \"\"\n", "vendor.toml:2: profile.title: text has 0 bytes: use 1 to 4096"),
        ("[profile]\ntitel = \"a\"\n", "vendor.toml:2: profile.titel: unknown key: did you mean title?"),
        ("include = \"a\"\n", "vendor.toml:1: include: key outside a section"),
    ] {
        assert_problem(text, expected);
    }
    for (lines, expected) in [
        ("include = [\"none\"]", "1: profile.include: unknown profile \"none\": use one of auto,"),
        ("include = [\"auto\"]", "1: profile.include: \"auto\" includes others itself: list those instead"),
        ("[path]", "4: path: expected a list of tables: write [[path]]"),
        ("[[revision]]\npattern = \"/a/*\"", "5: revision.pattern: \"/a/*\" has no <number>: write it like "),
        ("[[revision]]\npattern = \"/<number>/*\"", "4: revision.certainty: missing required key"),
        (
            "[[magic]]\nextensions = [\".zip\"]",
            "5: magic.extensions: \".zip\" is not an extension: write it like zip",
        ),
        (
            "[[magic]]\nbytes = [\"5g\"]",
            "5: magic.bytes: \"5g\" is not a sequence of up to 64 bytes: write it like ",
        ),
        (
            "[origin]\nparameter = \"a=b\"",
            "5: origin.parameter: \"a=b\" is not the name of a query parameter",
        ),
        ("[origin]\nparameter = \"a\"", "4: origin.hosts: missing required key"),
        ("[[content_type]]\nname = \"a\"\nguid = \"1\"", "6: content_type.guid: \"1\" is not a GUID: write"),
        (
            "[[test]]\nrequest = \"a\"",
            "5: test.request: \"a\" is not a request target: write it like /path/file?query",
        ),
        (
            "[[client]]\ntext = \"{relay}\"",
            "5: client.text: unknown placeholder {relay}: use {url}, {host}, {port}",
        ),
        ("[[client]]\nplace = \"\"\"a\nb\"\"\"", "5: client.place: text has several lines: write one"),
    ] {
        assert_problem(&format!("{VENDOR}{lines}\n"), &format!("vendor.toml:{expected}"));
    }
}

#[test]
fn rule_problem_names_file_line_key_and_remedy() {
    for (key, value, expected) in [
        ("class", "\"payloads\"", "6: path.class: invalid value \"payloads\": use one of payload, catalog,"),
        ("pattern", "\"a/**\"", "5: path.pattern: pattern \"a/**\" matches no path: begin it with / or **/"),
        ("pattern", "\"/[a\"", "5: path.pattern: invalid pattern \"/[a\": unclosed character class"),
        (
            "certainty",
            "\"sure\"",
            "7: path.certainty: invalid value \"sure\": use one of documented, observed,",
        ),
        ("certain", "\"inferred\"", "8: path.certain: unknown key: did you mean certainty?"),
        ("colour", "1", "8: path.colour: unknown key: path has the keys pattern, hosts, class,"),
        ("form", "\"whole\"", "8: path.form: invalid value \"whole\": use one of full, delta, other"),
        ("negative", "\"2d\"", "8: path.negative: 2d is above the maximum of 1d"),
        ("key_query", "[\"a\", \"none\"]", "8: path.key_query: has all or none beside names: write "),
        ("key_query", "[\"a\", \"a\"]", "8: path.key_query: repeats a name: list each once"),
        ("key_query", "\"a b\"", "8: path.key_query: \"a b\" is not the name of a query parameter"),
        (
            "key_fields",
            "[\"a b\"]",
            "8: path.key_fields: \"a b\" is not the name of a request field: write it",
        ),
        (
            "key_fields",
            "[\"Cookie\"]",
            "8: path.key_fields: \"Cookie\" cannot select content: credentials, ranges",
        ),
        ("key_fields", "[\"a\", \"b\", \"c\", \"d\", \"e\"]", "8: path.key_fields: more than 4 fields"),
        ("stamp_digits", "19", "8: path.stamp_digits: 19 is above the maximum of 18"),
        ("digests", "\"grd\"", "8: path.digests: is set for a class other than catalog: remove it"),
        (
            "hosts",
            "[\"http://a\"]",
            "8: path.hosts: \"http://a\" is not a host pattern: write it like updates.example",
        ),
    ] {
        let rule = rule("/a/**", "payload");
        let lines: Vec<_> = rule.lines().filter(|line| !line.starts_with(&format!("{key} = "))).collect();
        let at =
            lines.len().min(rule.lines().position(|line| line.starts_with(&format!("{key} "))).unwrap_or(9));
        let mut lines: Vec<_> = lines.into_iter().map(str::to_owned).collect();
        lines.insert(at, format!("{key} = {value}"));
        assert_problem(&(VENDOR.to_owned() + &lines.join("\n")), &format!("vendor.toml:{expected}"));
    }
    for (class, line, expected) in [
        ("catalog", "form = \"full\"", "8: path.form: is set for a class other than payload: remove it"),
        (
            "catalog",
            "stamp_digits = 10",
            "8: path.stamp_digits: is set for a class other than payload: remove",
        ),
        ("private", "negative = \"1s\"", "6: path.class: private paths are never stored: remove negative"),
        ("private", "key_query = \"none\"", "6: path.class: private paths are never stored: remove negative"),
    ] {
        let text = VENDOR.to_owned() + &rule("/a", class) + line;
        assert_problem(&text, &format!("vendor.toml:{expected}"));
    }
    let twice = VENDOR.to_owned() + &rule("/a", "payload") + &rule("/a", "catalog");
    assert_problem(
        &twice,
        "vendor.toml:9: path.pattern: is the pattern of an earlier table: the first that matches",
    );
}

fn assert_problem(text: &str, expected: &str) {
    let error = Site::new("sep", &[("vendor.toml", text)]).load().unwrap_err();
    assert!(error.contains(expected), "{text}\n\n{error}\n\n{expected}");
}

#[test]
fn missing_or_doubled_profile_is_a_problem() {
    let error = Site::new("sep", &[]).load().unwrap_err();
    assert!(
        error.contains("gupd.conf:4: profiles.files: ") && error.contains("has no *.toml file"),
        "{error}"
    );
    let error = Site::new("sep", &[("a.toml", VENDOR), ("b.toml", VENDOR)]).load().unwrap_err();
    assert!(error.contains("profile \"vendor\" of b.toml:1 is at a.toml:1 too: remove one"), "{error}");
    let site = Site::new("sep", &[("a.toml", VENDOR)]);
    let text = std::fs::read_to_string(&site.config).unwrap();
    let folder = format!("{:?}", site.folder.path());
    std::fs::write(&site.config, text.replace(&folder, "\"/nowhere/profiles\"")).unwrap();
    let error = site.load().unwrap_err();
    assert!(
        error.contains("gupd.conf:4: profiles.files: cannot read /nowhere/profiles: No such file"),
        "{error}"
    );
}

#[test]
fn unknown_profile_of_a_route_lists_own_ones_too() {
    let error = Site::new("vendr", &[("vendor.toml", VENDOR)]).load().unwrap_err();
    assert!(error.contains("route.profile: invalid value \"vendr\": use one of auto,"), "{error}");
    assert!(error.ends_with("vendor"), "{error}");
}

#[test]
fn content_types_of_profiles_can_be_denied() {
    let text = VENDOR.to_owned() + &rule("/a/**", "payload") + "content_type = \"vendor-files\"\n";
    let site = Site::new("vendor", &[("vendor.toml", &text)]);
    let config = std::fs::read_to_string(&site.config).unwrap() + "deny_download = [\"vendor-files\"]\n";
    std::fs::write(&site.config, config).unwrap();
    let policy = Policy::new(&site.load().unwrap()).unwrap();
    let route = policy.route(None, "/a/x").unwrap();
    let classified = policy.classify(route, "/a/x");
    assert_eq!(&*classified.content_type, "vendor-files");
    assert!(!policy.can_fetch(route, &classified));
    assert!(policy.content_types().any(|name| **name == *"vendor-files"));
}

#[test]
fn folder_of_the_built_in_profiles_equals_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/profiles");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())
    };
    let files: Vec<(String, String)> = std::fs::read_dir(folder).unwrap().map(read).collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let profiles = Site::new("auto", &files).load().unwrap().profiles;
    let built_in = Config::for_upstreams(&["http://a"]).unwrap().profiles;
    assert_eq!(profiles, built_in);
    assert_eq!(built_in.iter().count(), files.len(), "every file is built in");
}
