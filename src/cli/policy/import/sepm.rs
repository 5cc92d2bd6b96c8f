//! The LiveUpdate policy of a SEPM, as `GET /sepm/api/v1/policies/lu/{id}` returns it. An unknown field in a part that
//! is translated is an error: a policy of another version must not lose a setting in silence. Other fields are only
//! listed (`untranslated`).

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// Maximum size of a file. A policy with a thousand mappings has 200 KB.
const MAX_FILE: u64 = 4 << 20;

/// The translated part of a policy; settings that a manager leaves out are `None`.
#[derive(Debug, Deserialize)]
pub(super) struct LuPolicy {
    pub(super) name: Option<String>,
    pub(super) enabled: Option<bool>,
    pub(super) configuration: LuConfiguration,
}

#[derive(Debug, Deserialize)]
pub(super) struct LuConfiguration {
    /// Providers are Windows clients, and serve those only.
    pub(super) windows: WindowsSettings,
}

#[derive(Debug, Deserialize)]
pub(super) struct WindowsSettings {
    pub(super) server: LuServer,
    pub(super) schedule: Option<LuSchedule>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LuServer {
    pub(super) gup: Option<GroupUpdateProvider>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupUpdateProvider {
    pub(super) default_port: Option<i64>,
    pub(super) max_disk_cache_size: Option<i64>,
    pub(super) delete_unused_content_after: Option<i64>,
    pub(super) max_simultaneous_download: Option<i64>,
    pub(super) max_bandwidth_allowed: Option<i64>,
    pub(super) download_from_default_after: Option<i64>,
    pub(super) explicit_gup: Option<ExplicitProviders>,
    // Listed as untranslated.
    #[serde(rename = "single_gup")]
    _single_gup: Option<String>,
    #[serde(rename = "multi_gup")]
    _multi_gup: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplicitProviders {
    pub(super) explicit_mappings: Option<Vec<ExplicitMapping>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplicitMapping {
    pub(super) client_subnet_addr: String,
    pub(super) mapping_type: Option<MappingType>,
    pub(super) mapping_value: Option<String>,
    pub(super) port: Option<i64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum MappingType {
    IpAddress,
    HostName,
    Subnet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LuSchedule {
    pub(super) frequency: Option<Frequency>,
    pub(super) download_interval: Option<i64>,
    pub(super) start_hour: Option<i64>,
    pub(super) start_minute: Option<i64>,
    pub(super) day: Option<Day>,
    pub(super) randomize_window: Option<i64>,
    pub(super) retry_window: Option<i64>,
    // Conditions on each client, listed as untranslated.
    #[serde(rename = "start_time")]
    _start_time: Option<i64>,
    #[serde(rename = "idle_detection")]
    _idle_detection: Option<bool>,
    #[serde(rename = "av_def_age")]
    _av_def_age: Option<i64>,
    #[serde(rename = "av_def_check_enabled")]
    _av_def_check_enabled: Option<bool>,
    #[serde(rename = "av_def_check_freq")]
    _av_def_check_freq: Option<String>,
    #[serde(rename = "disconnection_check_duration")]
    _disconnection_check_duration: Option<i64>,
    #[serde(rename = "disconnection_check_enabled")]
    _disconnection_check_enabled: Option<bool>,
    #[serde(rename = "disconnection_check_freq")]
    _disconnection_check_freq: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Frequency {
    Continuous,
    Hourly,
    Daily,
    Weekly,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Day {
    Sunday,
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
}

impl Day {
    /// Returns the name of the day in the configuration.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sunday => "sun",
            Self::Monday => "mon",
            Self::Tuesday => "tue",
            Self::Wednesday => "wed",
            Self::Thursday => "thu",
            Self::Friday => "fri",
            Self::Saturday => "sat",
        }
    }
}

/// Reads a policy, and all of its values.
///
/// # Errors
/// One line with the place in the file and the remedy.
pub(super) fn read(path: &Path) -> Result<(LuPolicy, Value), String> {
    let size = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > MAX_FILE {
        return Err("has more than 4 MiB: pass the response of GET /sepm/api/v1/policies/lu/{id}".to_owned());
    }
    let octets = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    parse(&decode(&octets)?)
}

fn parse(text: &str) -> Result<(LuPolicy, Value), String> {
    let all: Value = serde_json::from_str(text).map_err(|error| match error.is_eof() {
        true => format!("is truncated: {error}: save the whole response of the manager"),
        false => format!("is not JSON: {error}: save the response of the manager unchanged"),
    })?;
    // Read from the text once more: its errors have a line.
    let policy: LuPolicy = serde_json::from_str(text).map_err(|error| {
        let shallow = all.pointer("/configuration/windows").or(all.pointer("/configuration"));
        match shallow {
            Some(Value::String(_)) => format!(
                "does not have the fields of a LiveUpdate policy: {error}: ConvertTo-Json of PowerShell shortens: pass it \
                 -Depth 20"
            ),
            _ if all.pointer("/configuration/windows/server").is_some() => format!(
                "is a LiveUpdate policy of another version of SEPM: {error}: remove that field from a copy of the file, \
                 import the copy, and set its counterpart by hand"
            ),
            _ => format!(
                "is no LiveUpdate policy of a known version of SEPM: {error}: pass the response of GET \
                 /sepm/api/v1/policies/lu/{{id}}"
            ),
        }
    })?;
    Ok((policy, all))
}

/// Decodes the forms that tools of Windows write: UTF-8 and UTF-16 with a byte order mark.
fn decode(octets: &[u8]) -> Result<String, String> {
    let utf16 = |octets: &[u8], read: fn([u8; 2]) -> u16| {
        let (units, []) = octets.as_chunks::<2>() else { return None };
        char::decode_utf16(units.iter().map(|unit| read(*unit))).collect::<Result<String, _>>().ok()
    };
    let decoded = match octets {
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        octets => String::from_utf8(octets.to_vec()).ok(),
    };
    decoded.ok_or_else(|| {
        "is not text in UTF-8 or UTF-16: save the response of the manager unchanged".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = r#"{"configuration":{"windows":{"server":{"gup":{"default_port":2967}}}}}"#;

    #[test]
    fn files_of_windows_tools_are_decoded() {
        let utf16 = |mark: [u8; 2], write: fn(u16) -> [u8; 2]| -> Vec<u8> {
            mark.into_iter().chain(SMALLEST.encode_utf16().flat_map(write)).collect()
        };
        for octets in [
            SMALLEST.as_bytes().to_vec(),
            ["\u{feff}", SMALLEST].concat().into_bytes(),
            utf16([0xff, 0xfe], u16::to_le_bytes),
            utf16([0xfe, 0xff], u16::to_be_bytes),
        ] {
            assert_eq!(decode(&octets).unwrap(), SMALLEST);
        }
        let odd = &utf16([0xff, 0xfe], u16::to_le_bytes)[..9];
        for octets in [&b"{\"name\": \"\xff\"}"[..], odd, b"\xff\xfe\x00\xd8"] {
            assert!(decode(octets).is_err(), "{octets:?}");
        }
    }

    #[test]
    fn other_json_is_one_line_with_its_place() {
        let policy = |old: &str, new: &str| SMALLEST.replace(old, new);
        for (text, expected) in [
            (SMALLEST[..40].to_owned(), "is truncated"),
            (String::new(), "is truncated"),
            ("[".repeat(100_000), "recursion limit"),
            ("<html>".to_owned(), "is not JSON"),
            ("[]".to_owned(), "of a known version of SEPM"),
            ("{}".to_owned(), "missing field `configuration`"),
            (policy("server", "servers"), "missing field `server`"),
            (policy("default_port", "port"), "unknown field `port`"),
            (policy("2967", "\"2967\""), "invalid type: string \"2967\""),
            (policy("2967", "2967.5"), "invalid type: floating point"),
            (policy("2967", "99999999999999999999"), "line 1 column"),
            (policy("{\"default_port\":2967}", "[2967]"), "line 1 column"),
            (r#"{"configuration":{"windows":"@{server=; schedule=}"}}"#.to_owned(), "-Depth 20"),
            (
                r#"{"configuration":{"windows":{"server":{},"schedule":{"frequency":"MONTHLY"}}}}"#
                    .to_owned(),
                "unknown variant `MONTHLY`",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expected) && error.lines().count() == 1, "{expected}: {error}");
        }
        assert!(parse(SMALLEST).is_ok());
    }
}
