//! Refresh schedules and prefetched paths in the configuration file.

use std::time::Duration;

use gupd_config::{Recurrence, WeekMinute};

use super::{MANAGER, load, problems};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn schedule_loads_and_displays_as_written() {
    for (text, expected) in [
        ("off", Recurrence::Off),
        ("continuous", Recurrence::Continuous),
        ("every 4h", Recurrence::Every(4 * HOUR)),
        ("daily 03:00", Recurrence::Daily(180)),
        ("weekly sun 23:59", Recurrence::Weekly(WeekMinute(7 * 24 * 60 - 1))),
    ] {
        let config = load(&format!("{MANAGER}[refresh]\nschedule = \"{text}\"\n")).unwrap();
        assert_eq!(config.refresh.schedule, expected);
        assert_eq!(expected.to_string(), text);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }
}

#[test]
fn default_random_offset_is_at_most_half_the_period() {
    let random =
        |text: &str| load(&format!("{MANAGER}[refresh]\nschedule = \"{text}\"\n")).unwrap().refresh.random;
    assert_eq!(random("every 20m"), HOUR / 6);
    assert_eq!(random("continuous"), Duration::ZERO);
    assert_eq!(random("weekly mon 00:00"), HOUR / 2);
}

#[test]
fn invalid_schedules_and_prefetches_are_reported_with_line() {
    for (schedule, expected) in [
        (
            "sometimes",
            "\"sometimes\" is not a schedule: use off, continuous, every 4h, daily 03:00 or weekly sun 03:00",
        ),
        (
            "weekly 03:00",
            "\"weekly 03:00\" is not a schedule: use off, continuous, every 4h, daily 03:00 or weekly sun 03:00",
        ),
        (
            "every",
            "\"every\" is not a schedule: use off, continuous, every 4h, daily 03:00 or weekly sun 03:00",
        ),
        ("every 5m", "5m is below the minimum of 15m"),
        ("every 31d", "31d is above the maximum of 30d"),
        ("daily 25:00", "\"25:00\" is not a time of day: write it like 07:00, from 00:00 to 24:00"),
        ("daily 24:00", "\"24:00\" cannot be a start time: use 00:00 of the next day"),
    ] {
        let lines = problems(load(&format!("{MANAGER}[refresh]\nschedule = \"{schedule}\"\n")));
        assert_eq!(lines, [format!("gupd.toml:4: refresh.schedule: {expected}")]);
    }
    let text = "\
[refresh]
schedule = \"every 1h\"
random = \"31m\"
retry = \"10s\"
catalogs = [\"minitri.flg\", \"/a\", \"/a\", \"/a b\", \"/*/a\"]
[prefetch]
learned = \"yes\"
revisions = 0
max_bytes = \"1KiB\"
paths = [\"\", \"/content/{a}/*/full.zip\", \"/content/*/1/*/x\", \"/a*\"]
";
    let expected = [
        "3: refresh.random: 31m exceeds half the period of every 1h: use at most 30m",
        "4: refresh.retry: 10s is below the minimum of 1m",
        "5: refresh.catalogs: \"/*/a\" contains *: write the path of one catalog",
        "5: refresh.catalogs: \"/a b\" is not a path: write it like /minitri.flg, as clients request it",
        "5: refresh.catalogs: \"/a\" is listed twice: list it once",
        "5: refresh.catalogs: \"minitri.flg\" is not a path: write it like /minitri.flg, as clients request it",
        "7: prefetch.learned: invalid value \"yes\": use one of true, false",
        "8: prefetch.revisions: 0 is below the minimum of 1",
        "9: prefetch.max_bytes: 1KiB is below the minimum of 1MiB",
        "10: prefetch.paths: \"\" is not a path: write it like /minitri.flg, as clients request it",
        "10: prefetch.paths: \"/a*\" contains * outside the place of a revision: write it like /content/{GUID}/*/full.zip",
        "10: prefetch.paths: \"/content/*/1/*/x\" contains * outside the place of a revision: write it like /content/{GUID}/*/full.zip",
    ]
    .map(|line| format!("gupd.toml:{line}"));
    assert_eq!(problems(load(&format!("{text}{MANAGER}"))), expected);
}

#[test]
fn unintended_schedule_is_a_warning() {
    for (text, expected) in [
        (
            "[wan]\nwindows = \"sat-sun 00:00-24:00\"\n[refresh]\nschedule = \"weekly mon 03:00\"\n",
            "6: refresh.schedule: weekly mon 03:00 is outside wan.windows: each run waits for the next window",
        ),
        (
            "[wan]\nwindows = \"20:00-03:00\"\n[refresh]\nschedule = \"daily 03:00\"\n",
            "6: refresh.schedule: daily 03:00 is outside wan.windows: each run waits for the next window",
        ),
        (
            "[refresh]\nretry = \"2h\"\n",
            "4: refresh.retry: exceeds refresh.retry_window (1h): a failed run is not retried",
        ),
        (
            "[refresh]\nschedule = \"continuous\"\nrandom = \"1m\"\n",
            "5: refresh.random: has no effect with a continuous schedule",
        ),
    ] {
        let config = load(&format!("{MANAGER}{text}")).unwrap();
        let lines: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.ends_with(&format!("gupd.toml:{expected}")), "{line}");
    }
}
