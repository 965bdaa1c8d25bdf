//! Without root: where an ordinary user's things are, and the one line about what can't be had.
//!
//! The machinery is [`stint_runtime::rootless`]; from [`enter`] on, this process is root of a namespace of the user's, and the
//! rest of the program does not know.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use stint_runtime::rootless::{self, Member};

use crate::folder;

/// Becomes root in a namespace of the user's, if this is no root. The process must still have one thread.
pub fn enter(data: &Path) -> anyhow::Result<Option<Member>> {
    if rootless::caller() == 0 {
        return Ok(None);
    }
    let folder = meeting_place(data);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.with_context(|| format!("can't make {}; choose another data folder with --data", folder.display()))?;
    Ok(rootless::enter(&folder)?)
}

/// Where this user's processes find each other.
pub fn meeting_place(data: &Path) -> PathBuf {
    folder::memory().unwrap_or_else(|| data.to_owned())
}

/// What pods can't have here, in one line. `None`: this is root.
pub fn not_enforced(network: &Network) -> Option<String> {
    if !rootless::is_confined() {
        return None;
    }
    let mut all = vec!["limits of CPU, memory and processes are not enforced".to_owned()];
    match network {
        Network::Hosts => all.push("pods are on this machine's network".to_owned()),
        Network::HostsFor(lack) => all.push(format!("pods are on this machine's network ({lack})")),
        Network::AsAsked => {}
    }
    if rootless::user_ids() == 1 {
        let lack = "containers have no user but root (install uidmap, with ranges in /etc/subuid and /etc/subgid)";
        all.push(lack.to_owned());
    }
    Some(format!("without root: {}", all.join("; ")))
}

/// Which network pods are on, as far as it is worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// The machine's.
    Hosts,
    /// The machine's, since something is missing for networks of their own.
    HostsFor(String),
    /// The one that was asked for.
    AsAsked,
}
