//! The `gupd` program. Its commands are in the crate `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    gupd_cli::main()
}
