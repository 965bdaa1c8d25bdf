//! The seam through which time enters. Nothing in this crate calls it: decisions take the time as an argument.

use jiff::Timestamp;

/// Tells the wall-clock time. The real one lives in the binary, the simulator has a virtual one.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}
