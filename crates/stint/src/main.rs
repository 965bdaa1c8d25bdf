//! The `stint` program. See the library beside it, and ARCHITECTURE.md for the parts.

use std::process::ExitCode;

use stint_runtime::allocator::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    stint::main()
}
