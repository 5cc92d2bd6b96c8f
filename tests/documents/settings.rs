//! The page docs/settings.md, generated from config/gupd.toml, whose defaults `tests/config/main.rs` compares with the
//! code. Run the test with `UPDATE_REFERENCES=1` to write the page anew.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::{assert_current, read, repository};

/// Begin of the page. The first paragraph of config/gupd.toml follows, without its first line.
const INTRODUCTION: &str = "# Settings\n\n\
    <!-- Generated from config/gupd.toml by tests/documents/settings.rs: change that file. -->\n\n\
    Every setting of [config/gupd.toml](../config/gupd.toml) by section. The second column has the default, or an example \
    where the text says so. [configure.md](configure.md) explains which settings a site needs.\n\n";

/// A section of the file, with its keys.
struct Section {
    /// As in the file, with its brackets.
    name: String,
    /// Paragraphs before its tables.
    parts: Vec<Part>,
}

/// A table of keys. A section that the file has twice has two.
#[derive(Default)]
struct Part {
    description: String,
    rows: Vec<Row>,
}

/// Keys that share one comment.
struct Row {
    keys: Vec<String>,
    values: Vec<String>,
    meaning: String,
}

/// Returns the sections of the file in their order.
fn sections(config: &str) -> Vec<Section> {
    let (mut sections, mut current): (Vec<Section>, usize) = (Vec::new(), 0);
    let (mut comment, mut known) = (String::new(), BTreeSet::new());
    for line in config.lines() {
        let Some(text) = line.strip_prefix('#') else {
            comment.clear();
            continue;
        };
        if text.is_empty() || text.starts_with(' ') {
            comment += text;
        } else if text.starts_with('[') {
            let part = Part { description: std::mem::take(&mut comment), rows: Vec::new() };
            current = sections.iter().position(|section| section.name == text).unwrap_or(sections.len());
            match sections.get_mut(current) {
                Some(section) => section.parts.push(part),
                None => sections.push(Section { name: text.to_owned(), parts: vec![part] }),
            }
        } else {
            let (key, value) = text.split_once(" = ").unwrap();
            let section = &mut sections[current];
            let is_known = !known.insert(format!("{} {key}", section.name));
            let rows = &mut section.parts.last_mut().unwrap().rows;
            let meaning = std::mem::take(&mut comment);
            match rows.last_mut() {
                _ if is_known && meaning.is_empty() => {}
                Some(row) if meaning.is_empty() => {
                    row.keys.push(key.to_owned());
                    row.values.push(value.to_owned());
                }
                _ => rows.push(Row { keys: vec![key.to_owned()], values: vec![value.to_owned()], meaning }),
            }
        }
    }
    sections
}

/// Returns text of a comment as Markdown: names of pages become links, and no character is markup outside of code.
fn markdown(comment: &str) -> String {
    let mut parts: Vec<String> = comment.trim().split('`').map(str::to_owned).collect();
    for plain in parts.iter_mut().step_by(2) {
        let words = plain.split(' ').map(|word| {
            let name = word.trim_end_matches(['.', ',', ';']);
            match name.strip_prefix("docs/") {
                Some(page) => word.replace(name, &format!("[{page}]({page})")),
                None => word.replace('*', "\\*").replace('<', "\\<"),
            }
        });
        *plain = words.collect::<Vec<_>>().join(" ");
    }
    parts.join("`").replace('|', "\\|")
}

fn code(words: &[String]) -> String {
    words.iter().map(|word| format!("`{}`", word.replace('|', "\\|"))).collect::<Vec<_>>().join("<br>")
}

fn page(config: &str) -> String {
    let (preamble, rest) = config.split_once("\n\n").unwrap();
    let preamble = preamble.lines().skip(2).map(|line| line.trim_start_matches('#'));
    let mut page = format!("{INTRODUCTION}{}\n", markdown(&preamble.collect::<String>()));
    for Section { name, parts } in sections(rest) {
        write!(page, "\n## `{name}`\n").unwrap();
        for Part { description, rows } in parts {
            if !description.is_empty() {
                write!(page, "\n{}\n", markdown(&description)).unwrap();
            }
            if rows.is_empty() {
                continue;
            }
            page += "\n| key | default | meaning |\n| --- | --- | --- |\n";
            for Row { keys, values, meaning } in rows {
                writeln!(page, "| {} | {} | {} |", code(&keys), code(&values), markdown(&meaning)).unwrap();
            }
        }
    }
    page
}

#[test]
fn settings_page_equals_the_shipped_file() {
    let config = read(&repository().join("config/gupd.toml"));
    let page = page(&config);
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert!(rows > 150, "only {rows} settings were found");
    assert_current("docs/settings.md", &page);
}

#[test]
fn comments_become_tables_with_shared_rows_and_links() {
    let config = "# gupd: title.\n#\n# Sizes: `40GiB`.\n\n# The server.\n#[server]\n# Files, *.pem, see docs/tls.md.\n#a = 1\n\
        #b = \"x|y\"\n\n# First.\n#[[peer]]\n# Where.\n#url = \"u\"\n\n# Second.\n#[[peer]]\n#url = \"v\"\n#ca = \"c\"\n";
    let page = page(config);
    let expected = "Sizes: `40GiB`.\n\n## `[server]`\n\nThe server.\n\n| key | default | meaning |\n| --- | --- | --- |\n\
        | `a`<br>`b` | `1`<br>`\"x\\|y\"` | Files, \\*.pem, see [tls.md](tls.md). |\n\n## `[[peer]]`\n\nFirst.\n\n\
        | key | default | meaning |\n| --- | --- | --- |\n| `url` | `\"u\"` | Where. |\n\nSecond.\n\n\
        | key | default | meaning |\n| --- | --- | --- |\n| `ca` | `\"c\"` |  |\n";
    assert_eq!(page.strip_prefix(INTRODUCTION), Some(expected));
}
