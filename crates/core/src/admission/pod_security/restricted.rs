//! The rules that `restricted` has besides: what a pod has to say of itself, since the default is more than it needs.
//!
//! Upstream: `staging/src/k8s.io/pod-security-admission/policy/check_*.go`, v1.36.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Volume;

use super::baseline::{added, confines, seccomp_of};
use super::checks::Violation;
use super::subject::{Subject, containers, plural, quoted, setters};

pub(super) fn escalation(subject: &Subject<'_>) -> Option<Violation> {
    let names = subject.those(|member| member.security.and_then(|own| own.allow_privilege_escalation) != Some(false));
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    Some(Violation::new("allowPrivilegeEscalation != false", detail))
}

pub(super) fn escalation_on_linux(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_for_windows() { None } else { escalation(subject) }
}

pub(super) fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    let keeping = subject.those(|member| {
        let dropped = member.security.and_then(|own| own.capabilities.as_ref()).and_then(|it| it.drop.as_ref());
        !dropped.is_some_and(|dropped| dropped.iter().any(|name| name == "ALL"))
    });
    let mut bad = BTreeSet::new();
    let adding = subject.those(|member| {
        let own: Vec<&String> = added(member).filter(|name| *name != "NET_BIND_SERVICE").collect();
        bad.extend(own.iter().copied().cloned());
        !own.is_empty()
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        let who = containers(&adding);
        details.push(format!("{who} must not include {} in securityContext.capabilities.add", quoted(bad)));
    }
    if details.is_empty() { None } else { Some(Violation::new("unrestricted capabilities", details.join("; "))) }
}

pub(super) fn capabilities_on_linux(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_for_windows() { None } else { capabilities(subject) }
}

pub(super) fn volumes(subject: &Subject<'_>) -> Option<Violation> {
    let bad: Vec<(&str, &str)> = subject
        .spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| Some((volume.name.as_str(), restricted_type(volume)?)))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let types: BTreeSet<&str> = bad.iter().map(|(_, kind)| *kind).collect();
    let volumes = plural("volume", "volumes", bad.len());
    let names = quoted(bad.iter().map(|(name, _)| *name));
    let uses = plural("uses", "use", bad.len());
    let what = plural("restricted volume type", "restricted volume types", types.len());
    Some(Violation::new("restricted volume types", format!("{volumes} {names} {uses} {what} {}", quoted(types))))
}

/// What a volume is, if it is none that any pod may have.
fn restricted_type(volume: &Volume) -> Option<&'static str> {
    let may_be_had = volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some();
    let kinds = [
        (volume.host_path.is_some(), "hostPath"),
        (volume.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (volume.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.glusterfs.is_some(), "glusterfs"),
        (volume.rbd.is_some(), "rbd"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.cinder.is_some(), "cinder"),
        (volume.cephfs.is_some(), "cephfs"),
        (volume.flocker.is_some(), "flocker"),
        (volume.fc.is_some(), "fc"),
        (volume.azure_file.is_some(), "azureFile"),
        (volume.vsphere_volume.is_some(), "vsphereVolume"),
        (volume.quobyte.is_some(), "quobyte"),
        (volume.azure_disk.is_some(), "azureDisk"),
        (volume.portworx_volume.is_some(), "portworxVolume"),
        (volume.scale_io.is_some(), "scaleIO"),
        (volume.storageos.is_some(), "storageos"),
    ];
    let known = kinds.iter().find(|(is_it, _)| *is_it).map(|(_, name)| *name);
    (!may_be_had).then(|| known.unwrap_or("unknown"))
}

pub(super) fn non_root(subject: &Subject<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = subject.security().and_then(|own| own.run_as_non_root);
    let says =
        |wanted: Option<bool>| subject.those(|member| member.security.and_then(|own| own.run_as_non_root) == wanted);
    if let Some(who) = setters(of_pod == Some(false), &says(Some(false))) {
        return Some(Violation::new(REASON, format!("{who} must not set securityContext.runAsNonRoot=false")));
    }
    let silent = says(None);
    if of_pod == Some(true) || silent.is_empty() {
        return None;
    }
    Some(Violation::new(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent))))
}

pub(super) fn non_root_of_the_nodes_users(subject: &Subject<'_>) -> Option<Violation> {
    if subject.has_own_users() { None } else { non_root(subject) }
}

pub(super) fn user(subject: &Subject<'_>) -> Option<Violation> {
    let pod = subject.security().and_then(|own| own.run_as_user) == Some(0);
    let names = subject.those(|member| member.security.and_then(|own| own.run_as_user) == Some(0));
    let who = setters(pod, &names)?;
    Some(Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0")))
}

pub(super) fn user_of_the_nodes_users(subject: &Subject<'_>) -> Option<Violation> {
    if subject.has_own_users() { None } else { user(subject) }
}

pub(super) fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    if let Some(violation) = super::baseline::seccomp(subject) {
        return Some(violation);
    }
    let pod = subject.security().and_then(|own| own.seccomp_profile.as_ref());
    let silent = subject.those(|member| seccomp_of(member).is_none());
    if pod.is_some_and(|profile| confines(&profile.type_)) || silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    let detail =
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"");
    Some(Violation::new("seccompProfile", detail))
}

pub(super) fn seccomp_on_linux(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_for_windows() { None } else { seccomp(subject) }
}
