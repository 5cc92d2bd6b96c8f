//! The `gupd` program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    gupd_cli::main()
}
