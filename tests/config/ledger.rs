//! The ledger in the configuration file.

use super::{MANAGER, load, problems};

#[test]
fn ledger_size_is_read_within_its_bounds() {
    let ledger = |text: &str| load(&format!("{MANAGER}[ledger]\nmax_size = \"{text}\"\n"));
    assert_eq!(ledger("16MiB").unwrap().ledger.max_size, 16 << 20);
    assert_eq!(load(MANAGER).unwrap().ledger.max_size, 64 << 20);
    for (text, expected) in [
        ("15MiB", "15MiB is below the minimum of 16MiB"),
        ("17GiB", "17GiB is above the maximum of 16GiB"),
        ("off", "not a size"),
    ] {
        let problems = problems(ledger(text));
        assert!(problems.len() == 1 && problems[0].starts_with("gupd.toml:4:"), "{problems:?}");
        assert!(problems[0].contains(expected), "{problems:?}");
    }
}
