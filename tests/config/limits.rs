//! Limits, windows and groups in the configuration file: their values by time of the week, problems with their lines,
//! and warnings.

use gupd_config::units::Rate;
use gupd_config::{Ceiling, Config, OutsideWindow, Overrides, WanMatch};

use super::{MANAGER, load, load_with, problems};

const MONDAY_NINE: u16 = 9 * 60;
const MONDAY_TWENTY: u16 = 20 * 60;
const SATURDAY_NINE: u16 = 5 * 24 * 60 + 9 * 60;

fn mbit(count: u64) -> Ceiling {
    Ceiling::Rate(Rate(count * 125_000))
}

fn warnings(config: &Config) -> Vec<String> {
    let line =
        |warning: &gupd_config::Problem| warning.to_string().split_once("gupd.toml").unwrap().1.to_owned();
    config.warnings.iter().map(line).collect()
}

#[test]
fn limit_is_one_rate_or_rates_by_time_of_week() {
    let config = load(&format!(
        "{MANAGER}limit = \"unlimited mon-fri 20:00-06:00, 2Mbit/s\"\n\
         [wan]\nlimit = [\"2 Mbit/s mon-fri 07:00-19:00\", \"8Mbit/s\"]\n\
         [lan]\nlimit = \"500KiB/s sat 00:00-24:00\"\nclient_limit = \"1MiB/s\"\n"
    ))
    .unwrap();
    let wan = &config.wan.limit;
    assert_eq!(
        [MONDAY_NINE, MONDAY_TWENTY, SATURDAY_NINE].map(|m| wan.value_at(m)),
        [mbit(2), mbit(8), mbit(8)]
    );
    let own = &config.upstreams[0].limit;
    assert_eq!([MONDAY_NINE, MONDAY_TWENTY].map(|m| own.value_at(m)), [mbit(2), Ceiling::Unlimited]);
    let lan = &config.lan.limit;
    assert_eq!(lan.value_at(SATURDAY_NINE), Ceiling::Rate(Rate(500 << 10)));
    assert!(lan.value_at(MONDAY_NINE) == Ceiling::Unlimited && !lan.is_unlimited());
    assert_eq!(config.lan.client_limit.as_constant(), Some(Ceiling::Rate(Rate(1 << 20))));
}

#[test]
fn wan_limit_can_be_a_flag_or_variable() {
    let overrides = Overrides { wan_limit: Some("4Mbit/s".into()), ..Overrides::default() };
    let file = format!("{MANAGER}[wan]\nlimit = \"1Mbit/s\"\n");
    assert_eq!(load_with(&file, &overrides, &[]).unwrap().wan.limit.as_constant(), Some(mbit(4)));
    let env = [("GUPD_WAN_LIMIT", "2Mbit/s mon-fri 07:00-19:00, 8Mbit/s")];
    let config = load_with(&file, &Overrides::default(), &env).unwrap();
    assert_eq!([MONDAY_NINE, SATURDAY_NINE].map(|m| config.wan.limit.value_at(m)), [mbit(2), mbit(8)]);
    let wrong = Overrides { wan_limit: Some("4Mbit".into()), ..Overrides::default() };
    assert_eq!(
        problems(load_with(&file, &wrong, &[])),
        ["--wan-limit: \"4Mbit\" is not a rate: write it like 20MiB/s or 8Mbit/s, or unlimited"]
    );
}

#[test]
fn group_limits_load_and_are_unlimited_by_default() {
    let config = load(&format!(
        "{MANAGER}[[group]]\nname = \"branch\"\nsubnets = [\"10.1.0.0/16\", \"2001:db8::1\"]\nmax_downloads = 5\n\
         windows = [\"mon-fri 20:00-06:00\"]\nspread = \"4h\"\noutside = \"cached-only\"\n\
         [[group]]\nname = \"rest\"\nclient_downloads = \"unlimited\"\n\
         [[wan_limit]]\nname = \"av\"\ncontent_type = \"virus-definitions-64\"\nlimit = \"1Mbit/s\"\n"
    ))
    .unwrap();
    let [branch, rest] = &config.groups[..] else { panic!("{:?}", config.groups) };
    assert_eq!(
        (branch.subnets[0].to_string(), branch.subnets[1].to_string()),
        ("10.1.0.0/16".into(), "2001:db8::1/128".into())
    );
    assert_eq!(
        (branch.max_downloads, branch.client_downloads, branch.outside),
        (Some(5), None, OutsideWindow::CachedOnly)
    );
    assert!(branch.windows.value_at(MONDAY_TWENTY) && !branch.windows.value_at(MONDAY_NINE));
    assert!(rest.subnets.is_empty() && rest.limit.is_unlimited() && rest.windows.value_at(MONDAY_NINE));
    assert_eq!(config.wan_limits[0].matches, WanMatch::ContentType("virus-definitions-64".into()));
    assert_eq!(warnings(&config), [""; 0]);
}

#[test]
fn invalid_limits_and_windows_are_reported_with_their_line() {
    let text = "\
[site]
time_zone = \"Europe/Berln\"
[wan]
limit = [
  \"8Mbit/s\",
  \"2Mbit/s mon-fri 07:00-19:00\",
  \"4Mbit/s fri 18:00-20:00\",
  \"1Mbit/s\",
  \"0bit/s sat 00:00-12:00\",
  \"1000B/s\",
  \"2TiB/s\",
]
windows = [
  \"mon-fri 20:00-06:00\",
  \"sat-sun 00:00-24:00\",
  \"mon 12:00-12:00\",
  \"tue 12:00-25:00\",
]
congestion = \"Reno!\"
burst = \"0s\"
[lan]
limit = \"4Mbit/s mon-sun 08:00-18:00\"
queue = 4
client_queue = 5
max_downloads = 0
[[wan_limit]]
name = \"av\"
content_type = \"virus\"
limit = \"1Mbit/s\"
[[wan_limit]]
name = \"none\"
pattern = \"/a/[b\"
";
    let expected = [
        "2: site.time_zone: \"Europe/Berln\" is not a time zone: use an IANA name such as Europe/Berlin",
        "7: wan.limit: \"4Mbit/s fri 18:00-20:00\" overlaps another entry from fri 18:00 to fri 19:00: list each minute once",
        "8: wan.limit: \"1Mbit/s\" is a second rate without times: keep one rate for all other times",
        "9: wan.limit: 0bit/s is below the minimum of 1KiB/s: use unlimited for no limit",
        "10: wan.limit: 1000B/s is below the minimum of 1KiB/s: use unlimited for no limit",
        "11: wan.limit: 2TiB/s is above the maximum of 1TiB/s: use unlimited for no limit",
        "15: wan.windows: \"sat-sun 00:00-24:00\" overlaps another entry from sat 00:00 to sat 06:00: list each minute once",
        "16: wan.windows: \"mon 12:00-12:00\" has zero length: a whole day is 00:00-24:00",
        "17: wan.windows: \"25:00\" is not a time of day: write it like 07:00, from 00:00 to 24:00",
        "19: wan.congestion: \"Reno!\" is not an algorithm name: use the system's name for it, such as lp",
        "20: wan.burst: 0s is below the minimum of 20ms",
        "24: lan.client_queue: 5 exceeds lan.queue (4)",
        "25: lan.max_downloads: 0 is below the minimum of 1; unlimited is also allowed",
        "28: wan_limit.content_type: unknown content type \"virus\": known types are catalog, clamav-databases, clamav-deltas, \
         client-patches, debian-indices, debian-packages, eset-catalogs, eset-modules, iron-revocation, iron-whitelist, \
         liveupdate, management, microsoft-lists, microsoft-updates, network-threat, other, proactive-threat, \
         submission-control, trellix-catalogs, trellix-packages, trend-micro-catalogs, trend-micro-updates, unknown, \
         virus-definitions-32, virus-definitions-64, virus-definitions-legacy",
        "30: wan_limit.limit: missing required key",
        "32: wan_limit.pattern: invalid pattern \"/a/[b\": unclosed character class; missing ']'",
    ]
    .map(|line| format!("gupd.toml:{line}"));
    assert_eq!(problems(load(&format!("{text}{MANAGER}"))), expected);
}

#[test]
fn budgets_of_clients_follow_the_quota_and_have_bounds() {
    let clients = |text: &str| load(&format!("{text}{MANAGER}")).unwrap().clients;
    let default = clients("");
    assert_eq!((default.new_names, default.new_bytes), (Some(5_000), Some(10 << 30)));
    assert_eq!(clients("[store]\nquota = \"1GiB\"\n").new_bytes, Some(4 << 30));
    assert_eq!(clients("[clients]\nnew_bytes = \"unlimited\"\n").new_bytes, None);
    let text = "\
[clients]
new_names = 0
absent_names = \"many\"
new_bytes = \"1KiB\"
upstream_requests = \"unlimited\"
uploads = \"1\"
";
    let expected = [
        "2: clients.new_names: 0 is below the minimum of 1; unlimited is also allowed",
        "3: clients.absent_names: \"many\" is not a whole number: use 1 to 1000000; unlimited is also allowed",
        "4: clients.new_bytes: 1KiB is below the minimum of 1MiB; unlimited is also allowed",
        "6: clients.uploads: 1 is below the minimum of 1MiB; unlimited is also allowed",
    ]
    .map(|line| format!("gupd.toml:{line}"));
    assert_eq!(problems(load(&format!("{text}{MANAGER}"))), expected);
}

#[test]
fn invalid_groups_are_reported_with_their_line() {
    let text = "\
[wan]
limit = \"8Mbit/s\"
[lan]
limit = [\"4Mbit/s mon-fri 08:00-18:00\", \"100Mbit/s\"]
max_downloads = 10
[[group]]
subnets = [
  \"10.1.0.0/16\",
  \"10.1.0.0/16\",
  \"10.2.0.1/16\",
  \"::ffff:10.0.0.0/104\",
  \"10.3.0.0/33\",
]
[[group]]
name = \"b\"
subnets = [\"10.1.0.0/16\"]
limit = \"10Mbit/s\"
wan_limit = \"9Mbit/s\"
max_downloads = 11
spread = \"8d\"
outside = \"deny\"
[[group]]
name = \"rest\"
[[group]]
name = \"b\"
subnets = \"10.4.0.0/16\"
[[group]]
name = \"default\"
subnets = \"10.5.0.0/16\"
";
    let expected = [
        "6: group.name: missing required key",
        "9: group.subnets: 10.1.0.0/16 is listed twice: list it once",
        "10: group.subnets: 10.2.0.1/16 has bits set after its prefix: write 10.2.0.0/16 or a longer prefix",
        "11: group.subnets: \"::ffff:10.0.0.0/104\" is an IPv4-mapped IPv6 subnet: write it like 10.1.0.0/16",
        "12: group.subnets: \"10.3.0.0/33\" is not a subnet: write it like 10.1.0.0/16 or 2001:db8::/48",
        "16: group.subnets: 10.1.0.0/16 belongs to an earlier group: remove it from one of them",
        "17: group.limit: 10Mbit/s exceeds lan.limit (4Mbit/s from mon 08:00): lower the group's limit or raise the site's",
        "18: group.wan_limit: 9Mbit/s exceeds wan.limit (8Mbit/s): lower the group's limit or raise the site's",
        "19: group.max_downloads: 11 exceeds lan.max_downloads (10): lower the group's limit or raise the site's",
        "20: group.spread: 8d is above the maximum of 7d",
        "21: group.outside: invalid value \"deny\": use one of defer, cached-only, ignore",
        "25: group.name: duplicate name \"b\": give each group its own name",
        "25: group.name: never matches: group \"rest\" before it has no matcher and contains all clients",
        "28: group.name: \"default\" is reserved for clients of no other group: use another name",
        "28: group.name: never matches: group \"rest\" before it has no matcher and contains all clients",
    ]
    .map(|line| format!("gupd.toml:{line}"));
    assert_eq!(problems(load(&format!("{text}{MANAGER}"))), expected);
}

#[test]
fn unintended_limits_are_warnings_and_the_file_loads() {
    let text = "\
[wan]
limit = \"8Mbit/s\"
windows = \"mon-fri 20:00-06:00\"
[[wan_limit]]
name = \"a\"
pattern = \"**/full.zip\"
limit = \"10Mbit/s sun 01:00-02:00\"
[[wan_limit]]
name = \"b\"
pattern = \"**/full.zip\"
limit = \"1Mbit/s\"
[lan]
limit = \"8Mbit/s\"
client_limit = \"9Mbit/s\"
[[group]]
name = \"a\"
subnets = \"10.0.0.0/8\"
limit = \"8Mbit/s\"
client_limit = \"1Mbit/s\"
max_downloads = 7
windows = [\"mon-fri 20:00-22:00\", \"sat 00:00-01:00\"]
spread = \"50m\"
[[group]]
name = \"b\"
subnets = \"10.1.0.0/16\"
windows = \"sun 07:00-19:00\"
[[group]]
name = \"rest\"
outside = \"ignore\"
";
    let config = load(&format!("{text}{MANAGER}limit = \"9Mbit/s\"\n")).unwrap();
    let expected = [
        ":7: wan_limit.limit: 10Mbit/s exceeds wan.limit (8Mbit/s from sun 01:00): the smaller limit applies",
        ":9: wan_limit.name: \"b\" never applies: \"a\" has the same matcher",
        ":14: lan.client_limit: 9Mbit/s exceeds lan.limit (8Mbit/s): the smaller limit applies",
        ":18: group.limit: 8Mbit/s is never reached: 7 downloads at 1Mbit/s use 7Mbit/s",
        ":22: group.spread: 50m does not fit into the shortest window (1h): starts are spread over 45m there",
        ":25: group.subnets: 10.1.0.0/16 never matches: it is within the earlier group \"a\"",
        ":26: group.windows: never overlap wan.windows: the relay cannot prefetch for these clients",
        ":29: group.outside: has no effect without windows or spread",
        ":32: upstream.limit: 9Mbit/s exceeds wan.limit (8Mbit/s): the smaller limit applies",
    ];
    assert_eq!(warnings(&config), expected);
}

#[test]
fn unset_limit_exceeds_no_other_limit() {
    let config = load(&format!(
        "{MANAGER}[lan]\nlimit = \"4Mbit/s\"\n[[group]]\nname = \"a\"\nlimit = \"2Mbit/s mon-fri 08:00-18:00\"\n"
    ));
    assert_eq!(warnings(&config.unwrap()), [""; 0]);
}
