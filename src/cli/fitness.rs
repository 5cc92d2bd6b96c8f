//! Fitness of a configuration for the machine: settings that are valid and cannot work here, or not as intended. They
//! are warnings, because the machine may be another one later: a disk that is mounted, a certificate that is renewed.

use std::time::Duration;

use indicatif::BinaryBytes;

use super::machine::{Machine, StoreFolder, TokenFile};
use gupd_config::units::Time;
use gupd_config::{Config, Problem};

/// Remaining time of a certificate from which it is a warning.
const RENEWAL: Duration = Duration::from_secs(14 * 86_400);

const DAY: u64 = 86_400_000;

/// Returns every warning about a configuration on this machine.
pub(super) fn warnings(config: &Config, machine: &Machine) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let mut warn = |key: &str, message: String| {
        warnings.push(Problem { location: None, key: Some(key.to_owned()), message });
    };
    if let Some(folder) = &machine.folder {
        folder_warnings(config, folder).into_iter().for_each(|(key, message)| warn(key, message));
    }
    if let Some(memory) = machine.memory.filter(|memory| config.store.memory > memory / 4 * 3) {
        let (own, most) = (BinaryBytes(config.store.memory), BinaryBytes(memory / 2));
        let all = BinaryBytes(memory);
        warn("store.memory", format!("{own} leaves too little of the memory ({all}): set at most {most}"));
    }
    for (setting, address) in &machine.foreign_addresses {
        warn(
            setting,
            format!(
                "no interface of this machine has {address}, and the relay does not start without: correct it"
            ),
        );
    }
    match &machine.token {
        Some(TokenFile::Unusable(error)) => {
            warnings.push(Problem { location: None, key: None, message: error.clone() });
        }
        Some(TokenFile::Good) | None => {}
    }
    warnings.extend(certificate_warnings(machine));
    warnings
}

fn folder_warnings(config: &Config, folder: &StoreFolder) -> Vec<(&'static str, String)> {
    let StoreFolder { path, is_folder, is_empty, is_read_only, is_in_memory, total, free } = folder;
    let (quota, min_free) = (config.store.quota, config.store.min_free);
    let (path, size, left) = (path.display(), BinaryBytes(*total), BinaryBytes(*free));
    if !is_folder {
        return vec![("store.dir", format!("{path} is a file: name a folder"))];
    }
    if *is_read_only {
        return vec![(
            "store.dir",
            format!("the file system of {path} is read-only: nothing is stored there"),
        )];
    }
    let mut warnings = Vec::new();
    if *is_in_memory {
        let message = format!("{path} is in memory: content uses it up and is lost at a restart: use a disk");
        warnings.push(("store.dir", message));
    }
    let (own_quota, own_min_free) = (BinaryBytes(quota), BinaryBytes(min_free));
    if min_free >= *total {
        let message =
            format!("{own_min_free} leaves no room in the file system of {path} ({size}): lower it");
        warnings.push(("store.min_free", message));
    } else if min_free > *free && *is_empty {
        let message =
            format!("{own_min_free} is more than {path} has free ({left}), and nothing is stored: free some");
        warnings.push(("store.min_free", message));
    } else if quota > total - min_free {
        let most = BinaryBytes(total - min_free);
        let message = format!(
            "{own_quota} exceeds the file system of {path} ({size}, {own_min_free} of it store.min_free): set at most {most}"
        );
        warnings.push(("store.quota", message));
    } else if *is_empty && quota > free - min_free {
        let most = BinaryBytes(free - min_free);
        let message = format!(
            "{own_quota} exceeds what {path} has free ({left}, {own_min_free} of it store.min_free): set at most {most}"
        );
        warnings.push(("store.quota", message));
    }
    warnings
}

fn certificate_warnings(machine: &Machine) -> impl Iterator<Item = Problem> {
    machine.certificates.iter().filter_map(|(setting, path, validity)| {
        let millis = |from: i64, to: i64| u64::try_from(to.saturating_sub(from)).unwrap_or_default();
        let days = |millis: u64| Time(Duration::from_millis(millis / DAY * DAY));
        let (path, left) = (path.display(), millis(machine.now, validity.until));
        let message = if machine.now < validity.from {
            let wait = days(millis(machine.now, validity.from));
            format!("{path} becomes valid in {wait} only: correct the clock of this machine, or replace it")
        } else if machine.now > validity.until {
            let ago = days(millis(validity.until, machine.now));
            format!("{path} expired {ago} ago, and connections are refused: renew it")
        } else if Duration::from_millis(left) < RENEWAL {
            format!("{path} expires in {}: renew it", days(left))
        } else {
            return None;
        };
        Some(Problem { location: None, key: Some(setting.clone()), message })
    })
}

#[cfg(test)]
mod tests {
    use gupd_net::pem::Validity;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn machine() -> Machine {
        Machine {
            now: 1_000 * DAY as i64,
            memory: Some(8 * GIB),
            folder: Some(StoreFolder {
                path: "/var/lib".into(),
                is_folder: true,
                is_empty: false,
                is_read_only: false,
                is_in_memory: false,
                total: 100 * GIB,
                free: 60 * GIB,
            }),
            foreign_addresses: Vec::new(),
            token: Some(TokenFile::Good),
            certificates: Vec::new(),
        }
    }

    fn found(change: impl FnOnce(&mut Config, &mut Machine)) -> Vec<String> {
        let (mut config, mut machine) = (Config::for_upstreams(&["http://manager"]).unwrap(), machine());
        change(&mut config, &mut machine);
        warnings(&config, &machine).iter().map(ToString::to_string).collect()
    }

    fn with_folder(change: impl FnOnce(&mut Config, &mut StoreFolder)) -> Vec<String> {
        found(|config, machine| change(config, machine.folder.as_mut().unwrap()))
    }

    #[test]
    fn fitting_configuration_has_no_warning() {
        assert_eq!(found(|_, _| {}), [""; 0]);
        assert_eq!(found(|_, machine| (machine.memory, machine.folder) = (None, None)), [""; 0]);
        // A store with content: its own bytes are among those that are not free.
        assert_eq!(with_folder(|_, folder| folder.free = GIB / 2), [""; 0]);
    }

    #[test]
    fn store_that_does_not_fit_is_a_warning() {
        for (warnings, expected) in [
            (
                with_folder(|config, _| config.store.quota = 200 * GIB),
                "store.quota: 200.00 GiB exceeds the file system",
            ),
            (with_folder(|_, folder| folder.total = 40 * GIB), "set at most 39.00 GiB"),
            (
                with_folder(|_, folder| (folder.is_empty, folder.free) = (true, 30 * GIB)),
                "store.quota: 40.00 GiB exceeds what /var/lib has free (30.00 GiB, 1.00 GiB of it store.min_free): set at \
                 most 29.00 GiB",
            ),
            (
                with_folder(|config, _| config.store.min_free = 100 * GIB),
                "store.min_free: 100.00 GiB leaves no room",
            ),
            (
                with_folder(|_, folder| (folder.is_empty, folder.free) = (true, 1)),
                "and nothing is stored: free some",
            ),
            (with_folder(|_, folder| folder.is_folder = false), "store.dir: /var/lib is a file"),
            (with_folder(|_, folder| folder.is_read_only = true), "is read-only: nothing is stored there"),
            (with_folder(|_, folder| folder.is_in_memory = true), "store.dir: /var/lib is in memory"),
            (found(|config, _| config.store.memory = 8 * GIB), "(8.00 GiB): set at most 4.00 GiB"),
        ] {
            assert!(warnings.len() == 1 && warnings[0].contains(expected), "{expected}: {warnings:?}");
        }
    }

    #[test]
    fn certificate_outside_its_time_is_a_warning() {
        let day = DAY as i64;
        for (from, until, expected) in [
            (0, 997, Some("expired 3d ago")),
            (0, 1_009, Some("expires in 9d: renew it")),
            (1_002, 2_000, Some("becomes valid in 2d only: correct the clock")),
            (0, 1_015, None),
            (1_000, 2_000, None),
        ] {
            let warnings = found(|_, machine| {
                let validity = Validity { from: from * day, until: until * day };
                machine.certificates = vec![("server.tls_cert".to_owned(), "/c.pem".into(), validity)];
            });
            match expected {
                None => assert_eq!(warnings, [""; 0]),
                Some(expected) => {
                    let begin = format!("server.tls_cert: /c.pem {expected}");
                    assert!(warnings.len() == 1 && warnings[0].starts_with(&begin), "{warnings:?}");
                }
            }
        }
    }

    #[test]
    fn token_and_address_that_do_not_work_are_warnings() {
        let address = |_: &mut Config, machine: &mut Machine| {
            machine.foreign_addresses = vec![("server.listen", [10, 9, 9, 9].into())];
        };
        assert!(found(address)[0].starts_with("server.listen: no interface of this machine has 10.9.9.9"));
        let unusable = |_: &mut Config, machine: &mut Machine| {
            machine.token = Some(TokenFile::Unusable("server.admin_token_file /t: missing".to_owned()));
        };
        assert_eq!(found(unusable), ["server.admin_token_file /t: missing"]);
    }
}
