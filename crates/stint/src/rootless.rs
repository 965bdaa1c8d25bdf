//! Without root: where an ordinary user's things are, and the one line about what can't be had.
//!
//! The machinery is [`stint_runtime::rootless`]; from [`enter`] on, this process is root of a namespace of the user's, and the
//! rest of the program does not know.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use stint_runtime::has_controller;
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

/// What pods can't have here, in one line. `None`: this is root, or they can have all.
pub fn not_enforced(network: &Network) -> Option<String> {
    if !rootless::is_confined() {
        return None;
    }
    let mut all: Vec<String> = limits().into_iter().collect();
    match network {
        Network::Hosts => all.push("pods are on this machine's network".to_owned()),
        Network::HostsFor(lack) => all.push(format!("pods are on this machine's network ({lack})")),
        Network::AsAsked => {}
    }
    if rootless::user_ids() == 1 {
        let lack = "containers have no user but root (install uidmap, with ranges in /etc/subuid and /etc/subgid)";
        all.push(lack.to_owned());
    }
    (!all.is_empty()).then(|| format!("without root: {}", all.join("; ")))
}

/// Which limits are not enforced, and why.
fn limits() -> Option<String> {
    const KINDS: [(&str, &str); 3] = [("cpu", "CPU"), ("memory", "memory"), ("pids", "processes")];
    let lacking: Vec<_> = KINDS.into_iter().filter(|(controller, _)| !has_controller(controller)).collect();
    let why = match lacking.as_slice() {
        [] => return None,
        _ if !rootless::has_cgroup() && can_ask_for_cgroup() => {
            " (no cgroup is delegated to you: start with `systemd-run --user --scope -p Delegate=yes` in front)"
                .to_owned()
        }
        _ if !rootless::has_cgroup() => String::new(),
        [(controller, _)] => format!(": the controller {controller} is not delegated to you"),
        several => {
            format!(": the controllers {} are not delegated to you", listed(several.iter().map(|(name, _)| *name)))
        }
    };
    Some(format!("limits of {} are not enforced{why}", listed(lacking.iter().map(|(_, name)| *name))))
}

fn can_ask_for_cgroup() -> bool {
    rootless::can_have_cgroup() && Path::new("/run/systemd/system").is_dir()
}

/// As one says it: "a, b and c".
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    match names.as_slice() {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listed_as_one_says_them() {
        let said = |names: &[&'static str]| listed(names.iter().copied());
        assert_eq!([said(&["a"]), said(&["a", "b"]), said(&["a", "b", "c"])], ["a", "a and b", "a, b and c"]);
    }
}
