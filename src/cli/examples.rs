//! Examples in the help of commands, in one list: their manual pages have them too. A test parses each of them.

use clap::Command;

/// Commands by their words, and their examples. Commands with other text after their options have it beside their
/// flags.
const EXAMPLES: [(&str, &[&str]); 32] = [
    (
        "serve",
        &[
            "gupd serve --config /etc/gupd/gupd.toml",
            "gupd serve --guard --upstream https://sepm.example.com:8014 --wan-limit 8Mbit/s",
        ],
    ),
    ("check", &["gupd check", "gupd check --probe", "gupd check --json", "gupd check --profile vendor.toml"]),
    ("refresh", &["gupd refresh", "gupd refresh --json"]),
    ("upgrade", &["gupd upgrade", "gupd upgrade --json"]),
    ("reload", &["gupd reload", "gupd reload --admin 192.0.2.10:9467 --admin-ca ca.pem --token-file token"]),
    ("drain", &["gupd drain", "gupd drain --redirect", "gupd drain --end"]),
    (
        "clients-config",
        &[
            "gupd clients-config --host relay.example.com",
            "gupd clients-config --only pac",
            "gupd clients-config --json",
        ],
    ),
    ("completions", &["gupd completions bash"]),
    ("man", &["gupd man man8"]),
    (
        "plan",
        &[
            "gupd plan --clients 500 --line 8Mbit/s",
            "gupd plan --clients 500 --line 8Mbit/s --deadline 4h --json",
            "gupd plan --sites sites.csv --full 300MiB --manager-line 1Gbit/s --region north=200Mbit/s --tier region",
        ],
    ),
    ("policy explain", &["gupd policy explain --client 10.1.3.4 --path /content/{GUID}/261121001/full.zip"]),
    (
        "rollout status",
        &["gupd rollout status", "gupd rollout status --clients", "gupd rollout status --watch"],
    ),
    ("rollout name", &["gupd rollout name 42 before-holidays", "gupd rollout name --remove before-holidays"]),
    ("rollout hold", &["gupd rollout hold branch-a 42 --reason \"scanner crashes\""]),
    ("rollout rollback", &["gupd rollout rollback branch-a", "gupd rollout rollback branch-a 41 --dry-run"]),
    ("rollout release", &["gupd rollout release branch-a", "gupd rollout release --now --dry-run"]),
    ("rollout halt", &["gupd rollout halt --reason \"false positive in 261121001\""]),
    ("rollout resume", &["gupd rollout resume"]),
    ("rollout promote", &["gupd rollout promote pilot", "gupd rollout promote pilot --dry-run --json"]),
    ("store ls", &["gupd store ls", "gupd store ls --path '**/full.zip' --json", "gupd store ls --by-type"]),
    (
        "store purge",
        &["gupd store purge --revision 261121001 --dry-run", "gupd store purge --path '**/full.zip'"],
    ),
    ("store held", &["gupd store held", "gupd store held --json"]),
    ("store verify", &["gupd store verify --dry-run --json", "sudo gupd store verify"]),
    ("store export", &["gupd store export --since 7d --output week.tar"]),
    ("demo", &["gupd demo", "gupd demo --clients 50 --exit"]),
    ("tier ls", &["gupd tier ls", "gupd tier ls --json"]),
    ("tier verify", &["gupd tier verify", "gupd tier verify --json"]),
    ("tier gc", &["gupd tier gc --older 30d --keep 3 --dry-run", "gupd tier gc --keep 3 --json"]),
    ("store release", &["gupd store release 0a1b2c3d"]),
    ("store reject", &["gupd store reject 0a1b2c3d --reason \"not from the vendor\""]),
    (
        "store warm",
        &[
            "gupd store warm --from http://192.0.2.11:9467 --from-token-file relay-1.token",
            "gupd store warm --from s3://content/gupd --since 30d --json",
        ],
    ),
    ("store import", &["sudo gupd store import week.tar"]),
];

/// Adds the examples to the help of each command.
pub(super) fn add(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (words, examples)| {
        let words: Vec<&str> = words.split(' ').collect();
        add_to(command, &words, &format!("Examples:\n  {}", examples.join("\n  ")))
    })
}

fn add_to(command: Command, words: &[&str], text: &str) -> Command {
    match words {
        [] => command.after_help(text.to_owned()),
        [first, rest @ ..] => command.mut_subcommand(first, |below| add_to(below, rest, text)),
    }
}
