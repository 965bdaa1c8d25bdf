//! What a pod may ask of a cluster's node and asks of this one in vain: told when it is created, so that nobody has to
//! find out the hard way.
//!
//! Invariant: a field of a pod's spec is honoured, refused by validation, without a meaning on one node, or in a row here;
//! `docs/compatibility.md` says of each which (the server's `differences::fields`, whose tests compare it with these rows).
//! What would be unsafe to leave out, or would mean something else, is also refused by the node: the pod will not start.

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Volume, VolumeProjection};

use super::{items, pod as pods, text};
use crate::field::Path;

/// A field that is not honoured.
struct Row<T> {
    /// The member of its type, as `docs/compatibility.md` lists it.
    field: &'static str,
    /// Where it is in a `T`.
    path: &'static str,
    /// What happens instead.
    instead: &'static str,
    /// Whether it is asked for.
    is_asked: fn(&T) -> bool,
}

const fn row<T>(field: &'static str, path: &'static str, instead: &'static str, is_asked: fn(&T) -> bool) -> Row<T> {
    Row { field, path, instead, is_asked }
}

const NO_DRIVER: &str = "this kind of volume is not supported; the pod will not start";
const NO_SOURCE: &str = "this source is not supported; the pod will not start";
const NO_DEVICES: &str = "devices can't be claimed";
const NO_SELINUX: &str = "SELinux labels can't be applied; the pod will not start";

static OF_SPEC: &[Row<PodSpec>] = &[
    row("PodSpec.runtimeClassName", "runtimeClassName", "there is one runtime", |spec| {
        spec.runtime_class_name.is_some()
    }),
    row("PodSpec.readinessGates", "readinessGates", "they are not waited for", |spec| {
        !items(spec.readiness_gates.as_ref()).is_empty()
    }),
    row("PodSpec.resourceClaims", "resourceClaims", NO_DEVICES, |spec| {
        !items(spec.resource_claims.as_ref()).is_empty()
    }),
    row("PodSpec.schedulingGroup", "schedulingGroup", "pods are bound one by one", |spec| {
        spec.scheduling_group.is_some()
    }),
    row("PodSpec.os", "os", "this node runs Linux", |spec| spec.os.as_ref().is_some_and(|os| os.name == "windows")),
    row("PodSecurityContext.seLinuxOptions", "securityContext.seLinuxOptions", NO_SELINUX, |spec| {
        spec.security_context.as_ref().is_some_and(|context| context.se_linux_options.is_some())
    }),
];

static OF_VOLUME: &[Row<Volume>] = &[
    row(
        "EmptyDirVolumeSource.medium",
        "emptyDir.medium",
        "there is no such medium; the pod will not start",
        |volume| {
            let medium = volume.empty_dir.as_ref().map_or("", |source| text(source.medium.as_ref()));
            !matches!(medium, "" | "Memory" | "HugePages") && !medium.starts_with("HugePages-")
        },
    ),
    row("Volume.gcePersistentDisk", "gcePersistentDisk", NO_DRIVER, |volume| volume.gce_persistent_disk.is_some()),
    row("Volume.awsElasticBlockStore", "awsElasticBlockStore", NO_DRIVER, |volume| {
        volume.aws_elastic_block_store.is_some()
    }),
    row("Volume.gitRepo", "gitRepo", NO_DRIVER, |volume| volume.git_repo.is_some()),
    row("Volume.nfs", "nfs", NO_DRIVER, |volume| volume.nfs.is_some()),
    row("Volume.iscsi", "iscsi", NO_DRIVER, |volume| volume.iscsi.is_some()),
    row("Volume.glusterfs", "glusterfs", NO_DRIVER, |volume| volume.glusterfs.is_some()),
    row("Volume.rbd", "rbd", NO_DRIVER, |volume| volume.rbd.is_some()),
    row("Volume.flexVolume", "flexVolume", NO_DRIVER, |volume| volume.flex_volume.is_some()),
    row("Volume.cinder", "cinder", NO_DRIVER, |volume| volume.cinder.is_some()),
    row("Volume.cephfs", "cephfs", NO_DRIVER, |volume| volume.cephfs.is_some()),
    row("Volume.flocker", "flocker", NO_DRIVER, |volume| volume.flocker.is_some()),
    row("Volume.fc", "fc", NO_DRIVER, |volume| volume.fc.is_some()),
    row("Volume.azureFile", "azureFile", NO_DRIVER, |volume| volume.azure_file.is_some()),
    row("Volume.vsphereVolume", "vsphereVolume", NO_DRIVER, |volume| volume.vsphere_volume.is_some()),
    row("Volume.quobyte", "quobyte", NO_DRIVER, |volume| volume.quobyte.is_some()),
    row("Volume.azureDisk", "azureDisk", NO_DRIVER, |volume| volume.azure_disk.is_some()),
    row("Volume.photonPersistentDisk", "photonPersistentDisk", NO_DRIVER, |volume| {
        volume.photon_persistent_disk.is_some()
    }),
    row("Volume.portworxVolume", "portworxVolume", NO_DRIVER, |volume| volume.portworx_volume.is_some()),
    row("Volume.scaleIO", "scaleIO", NO_DRIVER, |volume| volume.scale_io.is_some()),
    row("Volume.storageos", "storageos", NO_DRIVER, |volume| volume.storageos.is_some()),
    row("Volume.csi", "csi", NO_DRIVER, |volume| volume.csi.is_some()),
];

static OF_PROJECTION: &[Row<VolumeProjection>] = &[
    row("VolumeProjection.clusterTrustBundle", "clusterTrustBundle", NO_SOURCE, |source| {
        source.cluster_trust_bundle.is_some()
    }),
    row("VolumeProjection.podCertificate", "podCertificate", NO_SOURCE, |source| source.pod_certificate.is_some()),
];

static OF_CONTAINER: &[Row<Container>] = &[
    row(
        "Container.restartPolicyRules",
        "restartPolicyRules",
        "RestartAllContainers is not followed: the other rules and the restart policy decide",
        |container| {
            items(container.restart_policy_rules.as_ref()).iter().any(|rule| rule.action == "RestartAllContainers")
        },
    ),
    row("Container.volumeDevices", "volumeDevices", "block devices are not supported", |container| {
        !items(container.volume_devices.as_ref()).is_empty()
    }),
    row(
        "ResourceRequirements.limits",
        "resources.limits",
        "of the limits only cpu, memory, ephemeral-storage and hugepages are enforced",
        |container| {
            let is_enforced =
                |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
            limits.is_some_and(|limits| limits.keys().any(|name| !is_enforced(name)))
        },
    ),
    row("ResourceRequirements.claims", "resources.claims", NO_DEVICES, |container| {
        container.resources.as_ref().is_some_and(|resources| !items(resources.claims.as_ref()).is_empty())
    }),
    row("SecurityContext.seLinuxOptions", "securityContext.seLinuxOptions", NO_SELINUX, |container| {
        container.security_context.as_ref().is_some_and(|context| context.se_linux_options.is_some())
    }),
];

static OF_VARIABLE: &[Row<EnvVar>] = &[row("EnvVarSource.fileKeyRef", "valueFrom.fileKeyRef", NO_SOURCE, |variable| {
    variable.value_from.as_ref().is_some_and(|from| from.file_key_ref.is_some())
})];

/// Every field that is not honoured, as `Type.member`, with what happens instead.
pub fn fields() -> impl Iterator<Item = (&'static str, &'static str)> {
    fn of<T>(rows: &'static [Row<T>]) -> impl Iterator<Item = (&'static str, &'static str)> {
        rows.iter().map(|row| (row.field, row.instead))
    }
    let pod = of(OF_SPEC).chain(of(OF_VOLUME)).chain(of(OF_PROJECTION));
    pod.chain(of(OF_CONTAINER)).chain(of(OF_VARIABLE))
}

/// What comes of a field that is not honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pod runs without it.
    PassedOver,
    /// The pod will not start.
    NotStarted,
}

/// What comes of the field that `warning` is about, if it is one of those that are not honoured.
pub fn outcome(warning: &str) -> Option<Outcome> {
    let is_about = |(field, instead): &(&str, &str)| {
        let member = field.rsplit('.').next().unwrap_or_default();
        warning
            .strip_suffix(instead)
            .and_then(|path| path.strip_suffix(": "))
            .is_some_and(|path| path.ends_with(member))
    };
    let (_, instead) = fields().find(is_about)?;
    Some(if instead.ends_with("the pod will not start") { Outcome::NotStarted } else { Outcome::PassedOver })
}

/// Warns of what `spec` asks for in vain.
pub(super) fn warn(spec: &PodSpec, path: &Path<'_>, warnings: &mut Vec<String>) {
    tell(OF_SPEC, spec, path, warnings);
    let volumes = path.field("volumes");
    for (i, volume) in items(spec.volumes.as_ref()).iter().enumerate() {
        let path = volumes.index(i);
        tell(OF_VOLUME, volume, &path, warnings);
        let sources = path.field("projected.sources");
        let projected = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
        for (j, source) in items(projected).iter().enumerate() {
            tell(OF_PROJECTION, source, &sources.index(j), warnings);
        }
    }
    for (list, i, container) in pods::visit(spec) {
        let list = path.field(list);
        let path = list.index(i);
        tell(OF_CONTAINER, container, &path, warnings);
        let variables = path.field("env");
        for (j, variable) in items(container.env.as_ref()).iter().enumerate() {
            tell(OF_VARIABLE, variable, &variables.index(j), warnings);
        }
    }
}

fn tell<T>(rows: &[Row<T>], asking: &T, path: &Path<'_>, warnings: &mut Vec<String>) {
    let asked = rows.iter().filter(|row| (row.is_asked)(asking));
    warnings.extend(asked.map(|row| format!("{}: {}", path.field(row.path), row.instead)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn warned(spec: serde_json::Value) -> Vec<String> {
        let mut warnings = Vec::new();
        let root = Path::root();
        warn(&serde_json::from_value(spec).unwrap(), &root.field("spec"), &mut warnings);
        warnings
    }

    #[test]
    fn every_field_that_is_not_honoured_is_told_with_its_path() {
        let volumes: Vec<serde_json::Value> = OF_VOLUME
            .iter()
            .filter(|row| row.field.starts_with("Volume."))
            .map(|row| json!({"name": "v", row.path: {}}))
            .chain([
                json!({"name": "v", "emptyDir": {"medium": "Paper"}}),
                json!({"name": "v", "projected": {"sources": [{"clusterTrustBundle": {}}, {"podCertificate": {}}]}}),
            ])
            .collect();
        let contexts = json!({"seLinuxOptions": {}});
        let told = warned(json!({
            "runtimeClassName": "gvisor",
            "readinessGates": [{"conditionType": "a"}], "resourceClaims": [{"name": "gpu"}], "os": {"name": "windows"},
            "schedulingGroup": {}, "securityContext": contexts, "volumes": volumes,
            "containers": [{
                "name": "c", "restartPolicyRules": [{"action": "RestartAllContainers"}], "volumeDevices": [{}],
                "resources": {"limits": {"cpu": "1", "example.com/gpu": "1"}, "claims": [{}]}, "securityContext": contexts,
                "env": [{"name": "A", "valueFrom": {"fileKeyRef": {}}}],
            }],
        }));
        for (field, instead) in fields() {
            let member = field.split('.').next_back().unwrap();
            let is_it = |warning: &&String| warning.ends_with(&format!("{member}: {instead}"));
            assert!(told.iter().any(|warning| is_it(&warning)), "{field} is not told in {told:#?}");
        }
        assert_eq!(told.len(), fields().count(), "{told:#?}");
        assert!(told.contains(&format!("spec.volumes[3].nfs: {NO_DRIVER}")), "{told:#?}");
        assert!(told.contains(&format!("spec.containers[0].env[0].valueFrom.fileKeyRef: {NO_SOURCE}")), "{told:#?}");
    }

    #[test]
    fn a_warning_says_what_comes_of_the_field() {
        let spec = json!({
            "readinessGates": [{"conditionType": "a"}], "securityContext": {"seLinuxOptions": {}}, "containers": [],
        });
        let told = warned(spec);
        let outcomes: Vec<_> = told.iter().map(|warning| outcome(warning)).collect();
        assert_eq!(outcomes, [Some(Outcome::PassedOver), Some(Outcome::NotStarted)], "{told:?}");
        assert_eq!(outcome("spec.readinessGates: something else"), None);
    }

    #[test]
    fn what_is_honoured_is_not_told() {
        let plain = json!({
            "shareProcessNamespace": true, "hostUsers": false, "os": {"name": "linux"}, "resources": {},
            "securityContext": {"seccompProfile": {"type": "Localhost"}, "appArmorProfile": {"type": "RuntimeDefault"},
                                "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
            "volumes": [
                {"name": "v", "emptyDir": {"medium": "Memory"}}, {"name": "w", "emptyDir": {"medium": "HugePages-2Mi"}},
            ],
            "initContainers": [{"name": "i", "resources": {"limits": {"cpu": "1", "memory": "1Mi"}}}],
            "containers": [{"name": "c", "volumeMounts": [{"mountPropagation": "Bidirectional"}],
                            "securityContext": {"privileged": true, "procMount": "Unmasked"}}],
        });
        assert_eq!(warned(plain), Vec::<String>::new());
    }
}
