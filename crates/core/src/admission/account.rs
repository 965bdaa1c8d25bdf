//! The ServiceAccount of a pod: its name, its pull secrets, and its token in every container.
//!
//! Upstream: `plugin/pkg/admission/serviceaccount/admission.go`, v1.36.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, Pod,
    ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};

/// The account of a pod that names none.
pub const DEFAULT: &str = "default";
/// What the volume's name begins with.
const VOLUME: &str = "kube-api-access-";
/// Where containers find it.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a token is good: an hour, and time to replace it.
const TOKEN_SECONDS: i64 = 3607;
/// The mode of its files.
const MODE: i32 = 0o644;

/// Which account the pod is to have; fills it in.
pub fn name(pod: &mut Pod) -> String {
    let spec = pod.spec.get_or_insert_default();
    let given = spec.service_account_name.clone().filter(|name| !name.is_empty());
    let name = given.unwrap_or_else(|| DEFAULT.to_owned());
    spec.service_account_name = Some(name.clone());
    spec.service_account = Some(name.clone());
    name
}

/// Gives the pod what its `account` has. `suffix` ends the name of the volume.
pub fn admit(pod: &mut Pod, account: &ServiceAccount, suffix: &str) {
    let spec = pod.spec.get_or_insert_default();
    let wanted = spec.automount_service_account_token.or(account.automount_service_account_token);
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets.clone_from(&account.image_pull_secrets);
    }
    if wanted == Some(false) {
        return;
    }
    let known = spec.volumes.iter().flatten().map(|volume| &volume.name).find(|name| name.starts_with(VOLUME));
    let name = known.cloned().unwrap_or_else(|| format!("{VOLUME}{suffix}"));
    let mut needed = false;
    let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    for container in containers {
        needed |= mount(container, &name);
    }
    if needed && known_volume(spec.volumes.as_deref(), &name).is_none() {
        spec.volumes.get_or_insert_default().push(volume(name));
    }
}

fn known_volume<'a>(volumes: Option<&'a [Volume]>, name: &str) -> Option<&'a Volume> {
    volumes?.iter().find(|volume| volume.name == name)
}

/// Mounts the volume unless something is there. Whether it did.
fn mount(container: &mut Container, name: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|mount| mount.mount_path == MOUNT) {
        return false;
    }
    mounts.push(VolumeMount {
        name: name.to_owned(),
        mount_path: MOUNT.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    true
}

fn volume(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        path: "token".into(),
        expiration_seconds: Some(TOKEN_SECONDS),
        ..ServiceAccountTokenProjection::default()
    };
    let certificate = ConfigMapProjection {
        name: "kube-root-ca.crt".into(),
        items: Some(vec![KeyToPath { key: "ca.crt".into(), path: "ca.crt".into(), mode: None }]),
        ..ConfigMapProjection::default()
    };
    let field = ObjectFieldSelector { api_version: Some("v1".into()), field_path: "metadata.namespace".into() };
    let namespace =
        DownwardAPIVolumeFile { path: "namespace".into(), field_ref: Some(field), ..DownwardAPIVolumeFile::default() };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(certificate), ..VolumeProjection::default() },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
            ..VolumeProjection::default()
        },
    ];
    let projected = ProjectedVolumeSource { default_mode: Some(MODE), sources: Some(sources) };
    Volume { name, projected: Some(projected), ..Volume::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn every_container_gets_the_token_unless_it_has_something_there() {
        let taken = json!([{"name": "v", "mountPath": MOUNT}]);
        let mut pod = pod(&json!({
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": taken}],
        }));
        assert_eq!(name(&mut pod), "default");
        admit(&mut pod, &ServiceAccount::default(), "abcde");
        let once = pod.clone();
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.volumes.as_ref().unwrap()[0].name, "kube-api-access-abcde");
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            assert_eq!(container.volume_mounts.as_ref().unwrap().len(), 1, "{}", container.name);
        }
        admit(&mut pod, &ServiceAccount::default(), "fghij");
        assert_eq!(pod, once, "twice changes nothing");
    }

    #[test]
    fn the_pod_decides_about_the_token_before_its_account() {
        for (of_pod, of_account, mounted) in [
            (None, None, true),
            (None, Some(false), false),
            (Some(true), Some(false), true),
            (Some(false), Some(true), false),
        ] {
            let mut pod = pod(&json!({"containers": [{"name": "a"}], "automountServiceAccountToken": of_pod}));
            let account = ServiceAccount { automount_service_account_token: of_account, ..ServiceAccount::default() };
            admit(&mut pod, &account, "x");
            assert_eq!(pod.spec.unwrap().volumes.is_some(), mounted, "{of_pod:?} {of_account:?}");
        }
    }
}
