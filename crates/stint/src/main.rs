//! The `stint` program. See the library beside it, and ARCHITECTURE.md for the parts.

use std::process::ExitCode;

fn main() -> ExitCode {
    stint::main()
}
