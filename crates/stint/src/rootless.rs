//! Without root: where an ordinary user's things are, and the one line about what can't be had.
//!
//! The machinery is [`stint_runtime::rootless`]; from [`enter`] on, this process is root of a namespace of the user's, and the
//! rest of the program does not know.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::Context;
use stint_runtime::rootless::{self, Member};

use crate::folder;

/// Becomes root in a namespace of the user's, if this is no root. The process must still have one thread.
pub fn enter(data: &Path) -> anyhow::Result<Option<Member>> {
    if rootless::caller() == 0 {
        return Ok(None);
    }
    let folder = folder::memory().unwrap_or_else(|| data.to_owned());
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.with_context(|| format!("can't make {}; choose another data folder with --data", folder.display()))?;
    Ok(rootless::enter(&folder)?)
}

/// What pods can't have here, in one line. `None`: this is root.
pub fn not_enforced(network: Network) -> Option<String> {
    if !rootless::is_confined() {
        return None;
    }
    let mut all = vec!["limits of CPU, memory and processes are not enforced"];
    if network == Network::Hosts {
        all.push("pods are on this machine's network");
    }
    if rootless::user_ids() == 1 {
        all.push("containers have no user but root (install uidmap, with ranges in /etc/subuid and /etc/subgid)");
    }
    Some(format!("without root: {}", all.join("; ")))
}

/// Which network pods are on, as far as it is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The machine's, where they would have had their own.
    Hosts,
    /// The one that was asked for.
    AsAsked,
}
