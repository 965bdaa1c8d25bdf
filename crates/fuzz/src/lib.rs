//! What whoever sends bytes to Stint may not bring about: targets for fuzzers, and for a test that needs none.
//!
//! ```text
//!   fuzz/fuzz_targets/*.rs (cargo-fuzz) ──┐
//!                                         ├─▶ Target::run(bytes) ─▶ panics, if the bytes did harm
//!   tests/mutations.rs (make test) ───────┘
//! ```
//!
//! Invariant: a run depends on its bytes alone, so that what failed fails again.
//! Left out: connections, which `crates/stint/tests/limits` attacks.

pub mod dice;
pub mod model;
pub mod mutate;
pub mod seeds;
pub mod targets;
pub mod world;

pub use targets::{TARGETS, Target};

/// Runs a target, for `fuzz/fuzz_targets`.
///
/// # Panics
///
/// If there is no such target, or if the bytes did harm.
pub fn run(name: &str, bytes: &[u8]) {
    let target = Target::named(name).expect("each file in fuzz_targets is named like a target");
    (target.run)(bytes);
}
