//! The spec's namespaces: which the container is born into, which it joins, and whose they are.
//!
//! ```text
//!   born      pid, or that of another container by path, or the host's
//!   joined    network and others by path ─▶ root filesystem ─▶ user namespace of its own, and with it mount, uts, ipc
//! ```
//!
//! Invariant: with a user namespace, what it is root of (mounts, host name, System V objects) is the user namespace's, and
//! what shows the kernel (procfs, sysfs, devices) is made before it is entered.

use std::ffi::CString;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType as Ns, Spec};

use super::{Result, c_path, has_namespace, invalid, unsupported};
use crate::plan::{Ids, Step, Users};

/// What becomes of the spec's namespaces.
pub(super) struct Namespaces {
    /// `CLONE_NEW*` at birth.
    pub(super) flags: u64,
    /// The PID namespace to be born into.
    pub(super) processes: Option<CString>,
    /// Before the root filesystem.
    pub(super) early: Vec<Step>,
    /// Right after it: the step into the user namespace.
    pub(super) enter: Option<Step>,
    /// Who is who in the user namespace.
    pub(super) users: Option<Users>,
}

impl Namespaces {
    /// Whether the container's processes end with its first.
    pub(super) fn own_processes(&self) -> bool {
        self.flags & bits(libc::CLONE_NEWPID) != 0
    }
}

/// `detached` says whether the kernel can put a root filesystem together out of sight.
pub(super) fn of(spec: &Spec, detached: bool) -> Result<Namespaces> {
    let none = Vec::new();
    let asked = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref()).unwrap_or(&none);
    let users = users(spec, detached)?;
    let (mut flags, mut later) = (0, 0);
    let mut processes = None;
    let (mut join, mut new) = (Vec::new(), Vec::new());
    for namespace in asked {
        let (flag, name, joinable) = match namespace.typ() {
            Ns::Pid => (libc::CLONE_NEWPID, "pid", true),
            Ns::Mount => (libc::CLONE_NEWNS, "mount", false),
            Ns::Cgroup => (libc::CLONE_NEWCGROUP, "cgroup", false),
            Ns::Uts => (libc::CLONE_NEWUTS, "uts", true),
            Ns::Ipc => (libc::CLONE_NEWIPC, "ipc", true),
            Ns::Network => (libc::CLONE_NEWNET, "network", true),
            Ns::User if namespace.path().is_none() => continue,
            Ns::User => return unsupported("joining a user namespace", "give it a new one (no path)"),
            Ns::Time => return unsupported("a time namespace", "leave it out of linux.namespaces"),
        };
        match namespace.path() {
            Some(path) if joinable => {
                let path = c_path(path, "linux.namespaces.path")?;
                if flag == libc::CLONE_NEWPID {
                    processes = Some(path);
                } else {
                    join.push(Step::JoinNamespace(path, flag.cast_unsigned()));
                }
            }
            Some(_) => return unsupported(format!("joining a {name} namespace"), "give it a new one (no path)"),
            None if flag == libc::CLONE_NEWCGROUP => new.push(Step::HideCgroups),
            None if users.is_some() && matches!(flag, libc::CLONE_NEWUTS | libc::CLONE_NEWIPC) => later |= flag,
            None => {
                flags |= bits(flag);
                if flag == libc::CLONE_NEWNET {
                    new.push(Step::Loopback);
                }
            }
        }
    }
    if flags & bits(libc::CLONE_NEWNS) == 0 {
        return unsupported("running without its own mount namespace", "add it to linux.namespaces");
    }
    if (spec.hostname().is_some() || spec.domainname().is_some()) && !has_namespace(spec, Ns::Uts) {
        return invalid("hostname or domainname needs a uts namespace: it would be the host's");
    }
    join.extend(new);
    let enter = users.clone().map(|users| {
        let user = spec.process().as_ref().map_or(0, |process| process.user().uid());
        let owner = Ids::outside(&users.uids, user);
        let owner = owner.map_or_else(|| invalid(format!("user {user} is not among linux.uidMappings")), Ok)?;
        Ok(Step::EnterUsers { users, namespaces: later | libc::CLONE_NEWNS, owner })
    });
    Ok(Namespaces { flags, processes, early: join, enter: enter.transpose()?, users })
}

fn bits(flag: i32) -> u64 {
    u64::from(flag.cast_unsigned())
}

/// The ids of the user namespace that the spec asks for.
fn users(spec: &Spec, detached: bool) -> Result<Option<Users>> {
    let linux = spec.linux().as_ref();
    let uids = ids(linux.and_then(|linux: &Linux| linux.uid_mappings().as_ref()))?;
    let gids = ids(linux.and_then(|linux: &Linux| linux.gid_mappings().as_ref()))?;
    if !has_namespace(spec, Ns::User) {
        return if uids.is_empty() && gids.is_empty() {
            Ok(None)
        } else {
            invalid("linux.uidMappings and gidMappings need a user namespace in linux.namespaces")
        };
    }
    if Ids::outside(&uids, 0).is_none() || Ids::outside(&gids, 0).is_none() {
        return invalid("a user namespace needs its user 0 and group 0 in linux.uidMappings and gidMappings");
    }
    if !detached {
        return unsupported("a user namespace", "it takes Linux 6.15 or later: leave it out of linux.namespaces");
    }
    if linux.and_then(|linux| linux.devices().as_ref()).is_some_and(|devices| !devices.is_empty()) {
        return unsupported("linux.devices in a user namespace", "the standard ones are there: leave the others out");
    }
    Ok(Some(Users { uids, gids }))
}

fn ids(mappings: Option<&Vec<LinuxIdMapping>>) -> Result<Vec<Ids>> {
    let all = mappings.into_iter().flatten();
    all.map(|one| {
        let (inside, outside, size) = (one.container_id(), one.host_id(), one.size());
        if size == 0 || inside.checked_add(size).is_none() || outside.checked_add(size).is_none() {
            return invalid(format!(
                "a mapping of {size} ids from {inside} to {outside} in linux.uidMappings or gidMappings"
            ));
        }
        Ok(Ids { inside, outside, size })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(namespaces: &serde_json::Value, mappings: &serde_json::Value) -> Spec {
        let mut spec = serde_json::to_value(crate::default_spec()).unwrap();
        spec["linux"]["namespaces"] = namespaces.clone();
        spec["linux"]["uidMappings"] = mappings.clone();
        spec["linux"]["gidMappings"] = mappings.clone();
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_user_namespace_takes_the_others_along() {
        let all = json!([{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "user"}]);
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        let found = of(&spec(&all, &ids), true).ok().unwrap();
        assert_eq!(found.flags, bits(libc::CLONE_NEWPID | libc::CLONE_NEWNS));
        let Some(Step::EnterUsers { namespaces, owner, .. }) = found.enter else { panic!("it is entered") };
        assert_eq!(namespaces, libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC);
        assert_eq!(owner, 100_000);
    }

    #[test]
    fn ids_without_sense_are_refused() {
        let all = json!([{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "user"}]);
        for ids in [
            json!([]),
            json!([{"containerID": 1, "hostID": 100_000, "size": 65536}]),
            json!([{"containerID": 0, "hostID": 100_000, "size": 0}]),
            json!([{"containerID": 0, "hostID": u32::MAX, "size": 2}]),
        ] {
            assert!(of(&spec(&all, &ids), true).is_err(), "{ids}");
        }
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        assert!(of(&spec(&all, &ids), false).is_err(), "the kernel is too old");
        let none = json!([{"type": "pid"}, {"type": "mount"}, {"type": "uts"}]);
        assert!(of(&spec(&none, &ids), true).is_err(), "ids without a user namespace");
    }
}
