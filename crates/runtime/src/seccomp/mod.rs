//! Seccomp: the default profile, and the compiler from a profile to a filter for the kernel.
//!
//! Invariant: what a filter lets through is what the profile allows on this architecture, or less.

mod compile;
mod file;
mod profile;
mod syscalls;

pub(crate) use compile::compile;
pub use file::{BadProfile, parse};
pub use profile::{default_profile, default_profile_with};
