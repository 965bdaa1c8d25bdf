//! Who a container's process is and what it may do: the security contexts of the pod and of the container.
//!
//! Invariant: what the container's context says wins over the pod's; nothing that loosens the default is assumed, and
//! nothing that tightens it is dropped in silence.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{
    Capabilities, Container, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};
use oci_spec::runtime::{Capability, User};
use stint_runtime::default_capabilities;

use super::Request;
use crate::error::Error;

/// The two security contexts, with what can't be honoured refused.
pub(super) struct Security {
    pod: PodSecurityContext,
    own: SecurityContext,
}

impl Security {
    pub(super) fn of(spec: &PodSpec, container: &Container) -> Result<Security, Error> {
        let pod = spec.security_context.clone().unwrap_or_default();
        let own = container.security_context.clone().unwrap_or_default();
        let refuse = |field: &str, why: &str| {
            Err(Error::config(format!(
                "container {:?}: securityContext.{field} is not supported: {why}",
                container.name
            )))
        };
        if own.se_linux_options.is_some() || pod.se_linux_options.is_some() {
            return refuse("seLinuxOptions", "SELinux labels can't be applied here");
        }
        Ok(Security { pod, own })
    }

    /// The process's user and groups, and its home folder.
    pub(super) fn user(&self, request: &Request<'_>, spec: &PodSpec) -> Result<(User, String), Error> {
        let run_as_user = self.own.run_as_user.or(self.pod.run_as_user);
        let named = match run_as_user {
            Some(uid) => id(uid, "runAsUser")?.to_string(),
            None => request.image.user.clone(),
        };
        let known = (request.users)(&named).map_err(Error::config)?;
        let gid = match self.own.run_as_group.or(self.pod.run_as_group) {
            Some(gid) => id(gid, "runAsGroup")?,
            None => known.gid,
        };
        let non_root = self.own.run_as_non_root.or(self.pod.run_as_non_root) == Some(true);
        if non_root && known.uid == 0 {
            let meta = &request.pod.metadata;
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let pod = format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid));
            let container = &request.container.name;
            return Err(Error::config(match run_as_user {
                Some(_) => {
                    format!("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")
                }
                None => format!(
                    "container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})"
                ),
            }));
        }
        let mut groups = Vec::new();
        if self.pod.supplemental_groups_policy.as_deref() != Some("Strict") {
            groups.extend(&known.additional_gids);
        }
        for group in self.pod.supplemental_groups.iter().flatten() {
            groups.push(id(*group, "supplementalGroups")?);
        }
        for group in spec.security_context.iter().filter_map(|context| context.fs_group) {
            groups.push(id(group, "fsGroup")?);
        }
        groups.sort_unstable();
        groups.dedup();
        let mut user = User::default();
        user.set_uid(known.uid).set_gid(gid).set_additional_gids((!groups.is_empty()).then_some(groups));
        Ok((user, known.home))
    }

    /// What the process may have of the host's, or of its own user namespace's, of which it can have all.
    pub(super) fn capabilities(&self, request: &Request<'_>) -> Result<HashSet<Capability>, Error> {
        let all = || match request.ids {
            Some(_) => all_capabilities(),
            None => request.held.clone(),
        };
        if self.is_privileged() {
            return Ok(all());
        }
        let mut set = default_capabilities();
        let Some(Capabilities { add, drop }) = &self.own.capabilities else { return Ok(set) };
        // Upstream's order: ALL first, then single ones; what is added wins over ALL dropped, and loses to its own drop.
        let names = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let (add, drop) = (names(add), names(drop));
        let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
        if add.iter().any(is_all) {
            set = all();
        }
        if drop.iter().any(is_all) {
            set.clear();
        }
        for name in add.iter().filter(|name| !is_all(name)) {
            set.insert(capability(name)?);
        }
        for name in drop.iter().filter(|name| !is_all(name)) {
            set.remove(&capability(name)?);
        }
        Ok(set)
    }

    /// Everything that the machine has.
    pub(super) fn is_privileged(&self) -> bool {
        self.own.privileged == Some(true)
    }

    /// Whether nothing of `/proc` is hidden or read-only.
    pub(super) fn shows_all_of_proc(&self) -> bool {
        self.is_privileged() || self.own.proc_mount.as_deref() == Some("Unmasked")
    }

    /// The pod's sysctls by name; whether it may set them was asked before.
    pub(super) fn sysctls(&self) -> Option<HashMap<String, String>> {
        let all = self.pod.sysctls.as_ref().filter(|all| !all.is_empty())?;
        Some(all.iter().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect())
    }

    pub(super) fn no_new_privileges(&self) -> bool {
        self.own.allow_privilege_escalation == Some(false)
    }

    pub(super) fn read_only_root(&self) -> bool {
        self.own.read_only_root_filesystem == Some(true)
    }

    /// Which system calls the container may make. `RuntimeDefault` is the default here.
    pub(super) fn seccomp(&self) -> Result<Seccomp, Error> {
        if self.is_privileged() {
            return Ok(Seccomp::Unconfined);
        }
        let profile: Option<&SeccompProfile> = self.own.seccomp_profile.as_ref().or(self.pod.seccomp_profile.as_ref());
        match profile.map(|profile| (profile.type_.as_str(), &profile.localhost_profile)) {
            None | Some(("RuntimeDefault", _)) => Ok(Seccomp::Default),
            Some(("Unconfined", _)) => Ok(Seccomp::Unconfined),
            Some(("Localhost", Some(file))) if !file.is_empty() => Ok(Seccomp::File(file.clone())),
            Some(("Localhost", _)) => {
                Err(Error::config("localhostProfile must be set if seccompProfile type is Localhost."))
            }
            Some((other, _)) => {
                Err(Error::config(format!("securityContext.seccompProfile.type {other:?} is not known")))
            }
        }
    }
}

/// Which seccomp profile a container has.
pub(super) enum Seccomp {
    /// None.
    Unconfined,
    /// The runtime's.
    Default,
    /// One of the node's, by its name in their folder.
    File(String),
}

fn id(id: i64, field: &str) -> Result<u32, Error> {
    u32::try_from(id).map_err(|_| Error::config(format!("securityContext.{field} {id} is no user or group id")))
}

fn capability(name: &str) -> Result<Capability, Error> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    // `strum` knows some of them with and some without their underscores; JSON names are the specification's.
    serde_json::from_value(serde_json::Value::String(format!("CAP_{short}")))
        .map_err(|_| Error::config(format!("securityContext.capabilities: {name:?} is no capability")))
}

fn all_capabilities() -> HashSet<Capability> {
    const NAMES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    NAMES.iter().map(|name| capability(name).expect("a capability of the specification")).collect()
}
