//! One file per verb. None of them names a kind.

pub(crate) mod bind;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod evict;
pub(crate) mod get;
mod json_patch;
pub(crate) mod list;
mod parts;
pub(crate) mod patch;
pub(crate) mod update;
pub(crate) mod watch;
