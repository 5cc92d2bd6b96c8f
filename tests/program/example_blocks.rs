//! Shell blocks of the documents, and their comparison with the output of their commands. Numbers, times and sizes may
//! differ; each line of a page must come in its order. `UPDATE_REFERENCES=1` writes the actual output into the pages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Words in the line above a block that no test runs: a comment, or a sentence for readers.
const NOT_RUN: &str = "Not run by the tests: ";
/// Comment of a page without a block that a test runs.
const PAGE_NOT_RUN: &str = "<!-- No block of this page is run by the tests: ";

/// First characters of blocks that are no commands: tables of a configuration and their keys, log lines, errors, a
/// diagram, the layout of a folder.
const OTHER_BLOCKS: [&str; 8] =
    ["[", "{", "gupd: ", "/etc/gupd/", "clients   ", "store.dir/", "tls_cert = ", "│"];

/// Units behind a number, which differ with it.
const UNITS: [&str; 10] = ["B", "KiB", "MiB", "GiB", "bit/s", "kbit/s", "Mbit/s", "Gbit/s", "%", "-"];

/// Commands whose exit status depends on the machine.
const ANY_STATUS: [&str; 1] = ["sudo gupd doctor"];

/// A block of commands.
#[derive(Debug)]
struct Block {
    file: PathBuf,
    /// Indices of its lines in the file.
    first: usize,
    indent: String,
    is_run: bool,
    /// Commands with the output that the page shows.
    commands: Vec<(String, Vec<String>)>,
}

/// A machine on which blocks run.
pub(crate) struct Machine<'a> {
    pub(crate) folder: &'a Path,
    /// Text of the pages, and its replacement on this machine.
    pub(crate) replacements: Vec<(String, String)>,
    pub(crate) environment: Vec<(String, String)>,
}

/// All blocks, and what has become of them.
pub(crate) struct Examples {
    blocks: Vec<Block>,
    ran: BTreeSet<usize>,
    problems: Vec<String>,
    output: Vec<(usize, Vec<String>)>,
}

impl Machine<'_> {
    /// Creates the folder with `gupd` and `sudo` as the blocks call them.
    pub(crate) fn new(folder: &Path) -> Machine<'_> {
        let bin = folder.join("bin");
        fs::create_dir_all(&bin).unwrap();
        let gupd = format!(
            "#!/bin/sh\nexec {:?} --default-config {:?} \"$@\"\n",
            env!("CARGO_BIN_EXE_gupd"),
            folder.join("gupd.toml")
        );
        for (name, script) in [("gupd", gupd.as_str()), ("sudo", "#!/bin/sh\nexec \"$@\"\n")] {
            fs::write(bin.join(name), script).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(bin.join(name), mode).unwrap();
        }
        let replacements = vec![("/etc/gupd/".to_owned(), format!("{}/", folder.display()))];
        Machine { folder, replacements, environment: Vec::new() }
    }

    /// Runs a line, and returns whether it succeeded and its output as a page would show it.
    fn run(&self, line: &str) -> (bool, Vec<String>) {
        let replaced = |line: &str, back: bool| {
            self.replacements.iter().fold(line.to_owned(), |line, (page, here)| {
                if back { line.replace(here, page) } else { line.replace(page, here) }
            })
        };
        let path = format!("{}:{}", self.folder.join("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{} 2>&1", replaced(line, false))).current_dir(self.folder);
        command.env_clear().env("PATH", path).env("HOME", self.folder).env("TZ", "UTC");
        let ended = command.envs(self.environment.iter().cloned()).output().unwrap();
        let text = replaced(&String::from_utf8(ended.stdout).unwrap(), true);
        (ended.status.success(), text.lines().map(str::to_owned).collect())
    }
}

impl Examples {
    /// Reads the pages.
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut pages =
            vec![root.join("README.md"), root.join("CONTRIBUTING.md"), root.join("benches/README.md")];
        for folder in ["docs", "docs/design"] {
            pages.extend(fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()));
        }
        pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
        pages.sort();
        let blocks = pages.iter().flat_map(|page| blocks(page, &fs::read_to_string(page).unwrap())).collect();
        Self { blocks, ran: BTreeSet::new(), problems: Vec::new(), output: Vec::new() }
    }

    /// Runs the blocks of a page whose first command begins so.
    pub(crate) fn run(&mut self, machine: &Machine<'_>, page: &str, begin: &str) {
        let fits = |block: &Block| {
            let first = &block.commands[0].0;
            let is_so = first.starts_with(begin) || first.starts_with(&format!("sudo {begin}"));
            block.is_run && block.file.ends_with(page) && is_so
        };
        let chosen: Vec<usize> = (0..self.blocks.len()).filter(|at| fits(&self.blocks[*at])).collect();
        assert!(!chosen.is_empty(), "{page} has no block that begins with {begin}");
        for at in chosen {
            self.ran.insert(at);
            let (block, mut lines) = (&self.blocks[at], Vec::new());
            for (command, expected) in &block.commands {
                let (succeeded, actual) = machine.run(command);
                let should_fail = expected.iter().any(|line| line.starts_with("gupd: "));
                let mut problem = missing_line(expected, &actual);
                if succeeded == should_fail && !ANY_STATUS.contains(&command.as_str()) {
                    problem = Some(format!("it {}", if succeeded { "succeeds" } else { "fails" }));
                }
                if let Some(problem) = problem {
                    let (place, actual) = (block.place(), actual.join("\n"));
                    self.problems.push(format!("{place}: {command}: {problem}; it prints:\n{actual}\n"));
                }
                lines.push(format!("$ {command}"));
                lines.extend(actual);
            }
            self.output.push((at, lines));
        }
    }

    /// Asserts that each block has run, or says why not, and that the pages show what was printed.
    pub(crate) fn assert_all(mut self) {
        if std::env::var_os("UPDATE_REFERENCES").is_some() {
            self.update();
            return;
        }
        for (at, block) in self.blocks.iter().enumerate() {
            if block.is_run && !self.ran.contains(&at) {
                let how = format!(
                    "run it in tests/program/examples.rs, or put `<!-- {NOT_RUN}REASON. -->` above it"
                );
                self.problems.push(format!("{}: no test runs this block: {how}", block.place()));
            }
        }
        assert!(self.ran.len() > 20, "only {} blocks were run", self.ran.len());
        assert!(self.problems.is_empty(), "{}", self.problems.join("\n"));
    }

    /// Writes the actual output in place of each output that a page shows.
    fn update(&mut self) {
        self.output.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        for (at, lines) in &self.output {
            let block = &self.blocks[*at];
            if block.commands.iter().all(|(_, output)| output.is_empty()) {
                continue;
            }
            let text = fs::read_to_string(&block.file).unwrap();
            let mut page: Vec<String> = text.lines().map(str::to_owned).collect();
            let end = (block.first..page.len())
                .find(|at| !page[*at].is_empty() && !page[*at].starts_with("    "))
                .unwrap_or(page.len());
            let end = (block.first..end).rev().find(|at| !page[*at].is_empty()).unwrap() + 1;
            let indented = lines.iter().map(|line| format!("{}{line}", block.indent).trim_end().to_owned());
            page.splice(block.first..end, indented.collect::<Vec<_>>());
            fs::write(&block.file, page.join("\n") + "\n").unwrap();
        }
    }
}

impl Block {
    fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.first + 1)
    }
}

/// Returns the blocks of commands of a page.
fn blocks(file: &Path, text: &str) -> Vec<Block> {
    let (lines, mut blocks): (Vec<&str>, Vec<Block>) = (text.lines().collect(), Vec::new());
    let is_inside = |at: usize| lines.get(at).is_some_and(|line| line.starts_with("    "));
    let mut at = 0;
    while at < lines.len() {
        let first = at;
        at += 1;
        if !is_inside(first) {
            continue;
        }
        while is_inside(at) || (lines.get(at) == Some(&"") && is_inside(at + 1)) {
            at += 1;
        }
        let indent: String = lines[first].chars().take_while(|character| *character == ' ').collect();
        let block = lines[first..at].iter().map(|line| line.strip_prefix(&indent).unwrap_or_default());
        let block: Vec<&str> = block.collect();
        if OTHER_BLOCKS.iter().any(|begin| block[0].starts_with(begin)) {
            continue;
        }
        let above = lines[..first].iter().rev().find(|line| !line.is_empty()).copied().unwrap_or_default();
        let is_run = !above.contains(NOT_RUN) && !text.contains(PAGE_NOT_RUN);
        let mut commands: Vec<(String, Vec<String>)> = Vec::new();
        for line in &block {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
                (None, Some((_, output))) if block[0].starts_with("$ ") => output.push((*line).to_owned()),
                (None, _) => commands.push(((*line).to_owned(), Vec::new())),
            }
        }
        blocks.push(Block { file: file.to_owned(), first, indent, is_run, commands });
    }
    blocks
}

/// Returns a line without what differs from run to run: numbers, units, days, and the plural of a noun after a number.
fn shape(line: &str) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let words = line.split_whitespace().filter(|word| !UNITS.contains(word) && !DAYS.contains(word));
    let mut shapes: Vec<String> = Vec::new();
    for word in words {
        let follows_number = shapes.last().is_some_and(|last| last == "#");
        let noun = word.trim_end_matches([',', ';']);
        shapes.push(match noun.strip_suffix('s') {
            _ if word.contains(|c: char| c.is_ascii_digit()) => "#".to_owned(),
            Some(singular) if follows_number => format!("{singular}{}", &word[noun.len()..]),
            _ => word.to_owned(),
        });
    }
    shapes.join(" ")
}

/// Returns the first line of a page that the output does not have, in its order.
fn missing_line(expected: &[String], actual: &[String]) -> Option<String> {
    let mut actual = actual.iter().map(|line| shape(line));
    let missing = expected.iter().find(|line| !line.is_empty() && !actual.any(|other| other == shape(line)));
    missing.map(|line| format!("it does not print: {line}"))
}

#[test]
fn blocks_are_commands_with_their_output_and_mark() {
    let page = "Text:\n\n    $ gupd a --b 1\n    one\n\n    two 3 MiB\n    $ sudo gupd c\n\n1. Step:\n\n   \
        <!-- Not run by the tests: needs it. -->\n\n       gupd d\n       gupd e\n\nText.\n\n    [server]\n    x = 1\n";
    let found = blocks(Path::new("page.md"), page);
    let commands = |at: usize| -> Vec<(&str, String)> {
        found[at].commands.iter().map(|(line, output)| (line.as_str(), output.join("|"))).collect()
    };
    assert_eq!(found.iter().map(|block| block.is_run).collect::<Vec<_>>(), [true, false]);
    assert_eq!(commands(0), [("gupd a --b 1", "one||two 3 MiB".to_owned()), ("sudo gupd c", String::new())]);
    assert_eq!(commands(1), [("gupd d", String::new()), ("gupd e", String::new())]);
    assert_eq!((found[0].indent.len(), found[1].indent.len()), (4, 7));
}

#[test]
fn output_may_differ_in_numbers_and_have_more_lines() {
    let lines = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
    let page = lines("removed 2 objects, 20.89 MiB on disk||until Mon 2026-11-30 20:00");
    assert_eq!(
        missing_line(&page, &lines("x|removed 1 object, 3 B on disk|y|until Tue 2027-01-01 20:00")),
        None
    );
    assert!(
        missing_line(&page, &lines("until Tue 2027-01-01 20:00|removed 1 object, 3 B on disk")).is_some()
    );
    assert!(
        missing_line(&page, &lines("removed 2 files, 20.89 MiB on disk"))
            .unwrap()
            .contains("removed 2 objects")
    );
}
