//! The `gupd` program. Its commands are in the crate `cli`.
//!
//! The allocator is chosen here, for all its processes. jemalloc costs a cold miss a quarter less CPU than glibc's, and
//! a hit a twentieth (`benches/README.md`).

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    gupd_cli::main()
}
