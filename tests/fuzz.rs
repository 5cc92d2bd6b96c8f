//! The fuzz targets without a fuzzer: every file of their corpora, and thousands of changed copies of it, the same ones
//! in every run. `tests/run` runs the targets under libFuzzer where cargo-fuzz is installed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step fails the test")]

#[path = "../fuzz/lib.rs"]
#[allow(unreachable_pub, reason = "the library of another workspace")]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Changed copies of each file; `FUZZ_COPIES` asks for more.
const COPIES: u64 = 1_000;

/// Bytes that mean something to a parser.
const SEPARATORS: &[u8] = b"\0\xff,;=\"\r\n -%*/.:9";

/// A generator of numbers (xorshift64), the same for every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (end.max(1) as u64)).unwrap()
    }
}

/// Changes a few places: a byte, a bit, a cut, a copied piece.
fn change(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        match (numbers.below(5), bytes.get_mut(at)) {
            (0, Some(byte)) => *byte = u8::try_from(numbers.below(256)).unwrap(),
            (1, Some(byte)) => *byte ^= 1 << numbers.below(8),
            (2, _) => bytes.truncate(at),
            (3, _) => {
                let piece = bytes[at..(at + numbers.below(16)).min(bytes.len())].to_vec();
                let to = numbers.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            _ => bytes.insert(at, SEPARATORS[numbers.below(SEPARATORS.len())]),
        }
    }
}

/// Returns the files of a target's corpus.
fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(folder).unwrap_or_else(|error| panic!("corpus of {name}: {error}"));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty(), "{name} has no corpus");
    files.sort();
    files
}

/// Runs a target on changed copies of its corpus, each change upon the one before, until the time is over.
#[expect(clippy::print_stdout, reason = "the number of inputs is the result of a longer run")]
fn run_for(name: &str, target: fn(&[u8]), time: Duration) {
    let contents: Vec<_> = corpus(name).iter().map(|file| fs::read(file).unwrap()).collect();
    let (begin, mut inputs) = (Instant::now(), 0_u64);
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    while begin.elapsed() < time {
        let mut copy = contents[numbers.below(contents.len())].clone();
        for _ in 0..16 {
            change(&mut copy, &mut numbers);
            inputs += 1;
            if std::panic::catch_unwind(|| target(&copy)).is_err() {
                panic!("{name} panics on {:?}", copy.escape_ascii().to_string());
            }
        }
    }
    println!("{name}: {inputs} inputs in {} s", begin.elapsed().as_secs());
}

/// Runs each target for the seconds of `FUZZ_SECONDS`. Without it there is nothing to do. `FUZZ_TARGETS` names some of
/// them, separated by commas.
#[test]
fn no_target_panics_in_a_longer_run() {
    let Ok(seconds) = std::env::var("FUZZ_SECONDS") else { return };
    let time = Duration::from_secs(seconds.parse().unwrap());
    let selected = std::env::var("FUZZ_TARGETS").ok();
    for (name, target) in targets::TARGETS {
        if selected.as_ref().is_none_or(|selected| selected.split(',').any(|one| one == name)) {
            run_for(name, target, time);
        }
    }
}

#[test]
fn no_target_panics_on_its_corpus_or_on_changed_copies() {
    let copies = std::env::var("FUZZ_COPIES").map_or(COPIES, |copies| copies.parse().unwrap());
    for (name, target) in targets::TARGETS {
        let files = corpus(name);
        target(b"");
        for file in files {
            let content = fs::read(&file).unwrap();
            println!("{}", file.display());
            target(&content);
            let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
            for _ in 0..copies {
                let mut copy = content.clone();
                change(&mut copy, &mut numbers);
                target(&copy);
            }
        }
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |sub: &str| {
        let mut names: Vec<_> = fs::read_dir(folder.join(sub))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let mut targets: Vec<_> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    targets.sort();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    assert!(targets.iter().all(|name| manifest.contains(&format!("name = \"{name}\""))), "{manifest}");
}
