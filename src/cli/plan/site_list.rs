//! The list of `gupd plan --sites`: CSV with a line of headings and one site a line. A wrong line makes no plan: an error
//! names file, line and column, and the remedy.
//!
//! Lines are parsed one by one, so that their numbers are those of an editor: no field may have a line break.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::CommandError;
use gupd_config::units::Rate;
use gupd_plan::{MAX_CLIENTS, MAX_SITES};

/// Maximum bytes of a list: 10,000 lines of 800 bytes.
const MAX_BYTES: u64 = 8 << 20;

/// Columns of the list. The first two are necessary.
const COLUMNS: [&str; 4] = ["name", "clients", "line", "region"];
const NECESSARY: usize = 2;

/// One site of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedSite {
    pub(super) name: String,
    pub(super) clients: u32,
    /// Capacity of its line; `None` for that of `--line`.
    pub(super) line: Option<Rate>,
    /// Name of its region.
    pub(super) region: Option<String>,
}

/// Reads the list.
///
/// # Errors
/// A file that cannot be read, or a wrong line.
pub(super) fn read_sites(file: &Path) -> Result<Vec<ListedSite>, CommandError> {
    let wrong = |message: String| CommandError::Configuration(format!("{}: {message}", file.display()));
    let mut bytes = Vec::new();
    let opened = File::open(file).and_then(|opened| opened.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    opened.map_err(|error| wrong(format!("{error}: pass a CSV file with --sites")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong(format!("larger than {} MiB: list at most {MAX_SITES} sites", MAX_BYTES >> 20)));
    }
    parse_sites(&bytes).map_err(wrong)
}

fn parse_sites(bytes: &[u8]) -> Result<Vec<ListedSite>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line}: not UTF-8: save the list as CSV in UTF-8")
    })?;
    let lines = text.trim_start_matches('\u{feff}').lines();
    let mut lines = (1..).zip(lines).filter(|(_, line)| !line.trim().is_empty());
    let Some((number, first)) = lines.next() else {
        return Err(format!("empty: begin it with the line {}", COLUMNS.join(",")));
    };
    // Spreadsheets of some countries write semicolons.
    let delimiter = [b';', b'\t'].into_iter().find(|byte| first.as_bytes().contains(byte)).unwrap_or(b',');
    let places = find_columns(&split(first, number, delimiter)?, number)?;
    let (mut sites, mut names) = (Vec::new(), HashSet::new());
    for (number, line) in lines {
        if sites.len() >= MAX_SITES {
            return Err(format!("line {number}: more than {MAX_SITES} sites: plan for a part of them"));
        }
        let site = parse_site(&split(line, number, delimiter)?, &places, number)?;
        if !names.insert(site.name.clone()) {
            let name = site.name;
            return Err(format!("line {number}: column name: {name:?} is there twice: name each site once"));
        }
        sites.push(site);
    }
    if sites.is_empty() {
        return Err(format!("line {number}: no site follows: add one line for each site"));
    }
    Ok(sites)
}

/// Returns the fields of a line.
fn split(line: &str, number: usize, delimiter: u8) -> Result<csv::StringRecord, String> {
    if !line.matches('"').count().is_multiple_of(2) {
        return Err(format!("line {number}: a quote is not closed: close it in the same line"));
    }
    let mut builder = csv::ReaderBuilder::new();
    let builder = builder.has_headers(false).trim(csv::Trim::All).delimiter(delimiter);
    let mut records = builder.from_reader(line.as_bytes()).into_records();
    let record = records.next().transpose().map_err(|error| format!("line {number}: {error}"))?;
    Ok(record.unwrap_or_default())
}

/// Returns the position of each of [`COLUMNS`] in the list.
fn find_columns(
    headings: &csv::StringRecord,
    number: usize,
) -> Result<[Option<usize>; COLUMNS.len()], String> {
    let mut places = [None; COLUMNS.len()];
    for (position, heading) in headings.iter().enumerate() {
        let known = COLUMNS.iter().position(|column| column.eq_ignore_ascii_case(heading));
        let Some(place) = known.and_then(|column| places.get_mut(column)) else {
            let known = COLUMNS.join(", ");
            return Err(format!("line {number}: unknown column {heading:?}: known columns are {known}"));
        };
        if place.replace(position).is_some() {
            return Err(format!("line {number}: column {heading} is there twice: remove one"));
        }
    }
    match COLUMNS.iter().zip(&places).take(NECESSARY).find(|(_, place)| place.is_none()) {
        Some((column, _)) => {
            Err(format!("line {number}: no column {column}: begin the list with {}", COLUMNS.join(",")))
        }
        None => Ok(places),
    }
}

fn parse_site(
    record: &csv::StringRecord,
    places: &[Option<usize>; COLUMNS.len()],
    number: usize,
) -> Result<ListedSite, String> {
    let [name, clients, line, region] =
        places.map(|place| place.and_then(|place| record.get(place)).filter(|field| !field.is_empty()));
    let wrong = |column: usize, message: String| {
        let column = COLUMNS.get(column).unwrap_or(&"");
        format!("line {number}: column {column}: {message}")
    };
    let expected = places.iter().flatten().count();
    if record.len() > expected {
        return Err(format!(
            "line {number}: {} fields for {expected} columns: quote a field that has a delimiter",
            record.len()
        ));
    }
    let name = name.ok_or_else(|| wrong(0, "is empty: name the site".to_owned()))?;
    let clients = clients.unwrap_or_default();
    let count = clients.parse().ok().filter(|count| (1..=MAX_CLIENTS).contains(count));
    let line = line.map(|line| match line.parse() {
        Ok(Rate(0)) | Err(_) => Err(wrong(2, format!("{line:?} is not a rate: write it like 20Mbit/s"))),
        Ok(rate) => Ok(rate),
    });
    Ok(ListedSite {
        name: name.to_owned(),
        clients: count.ok_or_else(|| {
            wrong(1, format!("{clients:?} is not a number of clients: use 1 to {MAX_CLIENTS}"))
        })?,
        line: line.transpose()?,
        region: region.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_spreadsheets_are_read() {
        let expected = [
            ListedSite {
                name: "Berlin, Mitte".into(),
                clients: 30,
                line: Some(Rate(2_500_000)),
                region: None,
            },
            ListedSite { name: "Oslo".into(), clients: 1, line: None, region: Some("north".into()) },
        ];
        for text in [
            "name,region,clients,line\n\"Berlin, Mitte\",,30,20Mbit/s\n\nOslo,north,1,\n",
            "\u{feff}Name;Clients;Line;Region\r\n\"Berlin, Mitte\";30; 20Mbit/s;\r\nOslo;1;;north\r\n",
        ] {
            assert_eq!(parse_sites(text.as_bytes()).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn wrong_list_is_one_line_with_its_place() {
        let many =
            format!("name,clients\n{}", (0..=MAX_SITES).map(|n| format!("{n},1\n")).collect::<String>());
        for (text, expected) in [
            ("", "empty"),
            ("name,clients\n", "line 1: no site"),
            ("name,line\nA,1Mbit/s\n", "line 1: no column clients"),
            ("name,clients,clients\nA,1,1\n", "line 1: column clients is there twice"),
            ("name,clients,lines\nA,1,1\n", "line 1: unknown column \"lines\""),
            ("name,clients\nA,1\n\nB,0\n", "line 4: column clients: \"0\""),
            ("name,clients\nA,many\n", "line 2: column clients: \"many\""),
            ("name,clients\nA\n", "line 2: column clients: \"\""),
            ("name,clients\n,5\n", "line 2: column name: is empty"),
            ("name,clients,line\nA,5,20Mbps\n", "line 2: column line: \"20Mbps\""),
            ("name,clients,line\nA,5,0Mbit/s\n", "line 2: column line: \"0Mbit/s\""),
            ("name,clients\nA,1\nB,2\nA,3\n", "line 4: column name: \"A\" is there twice"),
            ("name,clients\nBerlin, Mitte,3\n", "line 2: 3 fields for 2 columns"),
            ("name,clients\n\"A,3\n", "line 2: a quote is not closed"),
            (&many, "line 10002: more than 10000 sites"),
        ] {
            let error = parse_sites(text.as_bytes()).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{error}");
        }
        assert!(parse_sites(b"name,clients\nA\xff,1\n").unwrap_err().starts_with("line 2: not UTF-8"));
    }
}
