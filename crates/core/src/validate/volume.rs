//! Volumes: a unique name and exactly one source each.
//!
//! Left out: what storage drivers ask of their fields beyond the required ones.
//! Upstream: `pkg/apis/core/validation/validation.go` (`ValidateVolumes`, `validateVolumeSource`), v1.36.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EphemeralVolumeSource,
    HostPathVolumeSource, ImageVolumeSource, KeyToPath, NFSVolumeSource, PersistentVolumeClaimVolumeSource,
    ProjectedVolumeSource, SecretVolumeSource, ServiceAccountTokenProjection, Volume,
};

use super::{env, invalid_for, items, text};
use crate::field::{Fault, Path};
use crate::{names, quantity};

/// The faultless volumes of a pod, by name.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

const ONE_TYPE: &str = "may not specify more than 1 volume type";
const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

pub(super) fn validate<'a>(volumes: &'a [Volume], path: &Path<'_>, faults: &mut Vec<Fault>) -> Volumes<'a> {
    let mut known = Volumes::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let name_path = path.field("name");
        let before = faults.len();
        source(volume, &path, faults);
        if volume.name.is_empty() {
            faults.push(Fault::required(&name_path, ""));
        } else {
            invalid_for(names::dns_label(&volume.name), &name_path, &volume.name, faults);
        }
        if known.contains_key(volume.name.as_str()) {
            faults.push(Fault::duplicate(&name_path, &volume.name));
        }
        if faults.len() == before {
            known.insert(&volume.name, volume);
        }
    }
    known
}

/// The source of a volume, looked for in upstream's order; any second one is forbidden.
fn source(volume: &Volume, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut sources = 0;
    macro_rules! one {
        ($field:ident, $name:literal, $check:expr) => {
            one!(@ $field, $name, source, path, $check(source, &path, faults));
        };
        // Sources of which only some fields must be set.
        ($field:ident, $name:literal, required: $($member:ident as $json:literal),*) => {
            one!(@ $field, $name, source, path, {
                $(if source.$member.is_empty() {
                    faults.push(Fault::required(&path.field($json), ""));
                })*
            });
        };
        ($field:ident, $name:literal) => {
            one!(@ $field, $name, _source, path, {});
        };
        (@ $field:ident, $name:literal, $source:ident, $path:ident, $check:expr) => {
            if let Some($source) = &volume.$field {
                sources += 1;
                let $path = path.field($name);
                if sources > 1 {
                    faults.push(Fault::forbidden(&$path, ONE_TYPE));
                } else {
                    $check;
                }
            }
        };
    }
    if let Some(empty_dir) = &volume.empty_dir {
        sources += 1;
        let size = empty_dir.size_limit.as_ref().and_then(|q| quantity::parse(&q.0).ok());
        if size.is_some_and(|size| size < quantity::Quantity::ZERO) {
            let path = path.field("emptyDir");
            let detail = "SizeLimit field must be a valid resource quantity";
            faults.push(Fault::forbidden(&path.field("sizeLimit"), detail));
        }
    }
    one!(host_path, "hostPath", host_path);
    one!(git_repo, "gitRepo", required: repository as "repository");
    one!(gce_persistent_disk, "gcePersistentDisk", required: pd_name as "pdName");
    one!(aws_elastic_block_store, "awsElasticBlockStore", required: volume_id as "volumeID");
    one!(secret, "secret", secret);
    one!(nfs, "nfs", nfs);
    one!(iscsi, "iscsi", required: target_portal as "targetPortal", iqn as "iqn");
    one!(glusterfs, "glusterfs", required: endpoints as "endpoints", path as "path");
    one!(flocker, "flocker");
    one!(persistent_volume_claim, "persistentVolumeClaim", claim);
    one!(rbd, "rbd", required: monitors as "monitors", image as "image");
    one!(cinder, "cinder", required: volume_id as "volumeID");
    one!(cephfs, "cephFS", required: monitors as "monitors");
    one!(quobyte, "quobyte", required: registry as "registry", volume as "volume");
    one!(downward_api, "downwardAPI", downward_api);
    one!(fc, "fc");
    one!(flex_volume, "flexVolume", required: driver as "driver");
    one!(config_map, "configMap", config_map);
    one!(azure_file, "azureFile", required: secret_name as "secretName", share_name as "shareName");
    one!(vsphere_volume, "vsphereVolume", required: volume_path as "volumePath");
    one!(photon_persistent_disk, "photonPersistentDisk", required: pd_id as "pdID");
    one!(portworx_volume, "portworxVolume", required: volume_id as "volumeID");
    one!(azure_disk, "azureDisk", required: disk_name as "diskName", disk_uri as "diskURI");
    one!(storageos, "storageos");
    one!(projected, "projected", projected);
    one!(scale_io, "scaleIO", required: gateway as "gateway", system as "system");
    one!(csi, "csi", csi);
    one!(ephemeral, "ephemeral", ephemeral);
    one!(image, "image", image);
    if sources == 0 {
        faults.push(Fault::required(path, "must specify a volume type"));
    }
}

fn host_path(source: &HostPathVolumeSource, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if source.path.is_empty() {
        faults.push(Fault::required(&path.field("path"), ""));
        return;
    }
    path_without_backsteps(&source.path, &path.field("path"), faults);
    let supported =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if let Some(kind) = source.type_.as_deref().filter(|k| !supported.contains(k)) {
        faults.push(Fault::not_supported(&path.field("type"), kind, &supported));
    }
}

fn secret(source: &SecretVolumeSource, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if text(source.secret_name.as_ref()).is_empty() {
        faults.push(Fault::required(&path.field("secretName"), ""));
    }
    file_mode(source.default_mode, &path.field("defaultMode"), faults);
    keys_to_paths(items(source.items.as_ref()), &path.field("items"), faults);
}

fn config_map(source: &ConfigMapVolumeSource, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if source.name.is_empty() {
        faults.push(Fault::required(&path.field("name"), ""));
    }
    file_mode(source.default_mode, &path.field("defaultMode"), faults);
    keys_to_paths(items(source.items.as_ref()), &path.field("items"), faults);
}

fn nfs(source: &NFSVolumeSource, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if source.server.is_empty() {
        faults.push(Fault::required(&path.field("server"), ""));
    }
    if source.path.is_empty() {
        faults.push(Fault::required(&path.field("path"), ""));
    }
    if !source.path.starts_with('/') {
        faults.push(Fault::invalid(&path.field("path"), &source.path, "must be an absolute path"));
    }
}

fn claim(source: &PersistentVolumeClaimVolumeSource, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if source.claim_name.is_empty() {
        faults.push(Fault::required(&path.field("claimName"), ""));
    }
}

fn csi(source: &CSIVolumeSource, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if source.driver.is_empty() {
        faults.push(Fault::required(&path.field("driver"), ""));
    }
    if source.node_publish_secret_ref.as_ref().is_some_and(|r| r.name.is_empty()) {
        let path = path.field("nodePublishSecretRef");
        faults.push(Fault::required(&path.field("name"), ""));
    }
}

fn ephemeral(source: &EphemeralVolumeSource, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if source.volume_claim_template.is_none() {
        faults.push(Fault::required(&path.field("volumeClaimTemplate"), ""));
    }
}

fn image(source: &ImageVolumeSource, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if text(source.reference.as_ref()).is_empty() {
        faults.push(Fault::required(&path.field("reference"), ""));
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    super::pod::enumerated(source.pull_policy.as_ref(), &policies, &path.field("pullPolicy"), faults);
}

fn downward_api(source: &DownwardAPIVolumeSource, path: &Path<'_>, faults: &mut Vec<Fault>) {
    file_mode(source.default_mode, &path.field("defaultMode"), faults);
    for file in items(source.items.as_ref()) {
        // The volume's own path: upstream does not say which item.
        downward_api_file(file, path, faults);
    }
}

fn downward_api_file(file: &DownwardAPIVolumeFile, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let file_path = path.field("path");
    if file.path.is_empty() {
        faults.push(Fault::required(&file_path, ""));
    }
    local_non_reserved_path(&file.path, &file_path, faults);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::object_field(field, &env::VOLUME_FIELDS, &path.field("fieldRef"), faults);
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                faults.push(Fault::invalid(path, "resource", detail));
            }
        }
        (None, Some(resource)) => {
            let path = path.field("resourceFieldRef");
            env::resource_field(resource, env::ContainerName::Required, &path, faults);
        }
        (None, None) => {
            faults.push(Fault::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    file_mode(file.mode, &path.field("mode"), faults);
}

fn projected(source: &ProjectedVolumeSource, path: &Path<'_>, faults: &mut Vec<Fault>) {
    file_mode(source.default_mode, &path.field("defaultMode"), faults);
    let mut paths = BTreeSet::new();
    let sources = path.field("sources");
    for (i, projection) in items(source.sources.as_ref()).iter().enumerate() {
        let volume = path;
        let path = sources.index(i);
        let mut count = 0;
        let secret = projection.secret.as_ref().map(|s| ("secret", &s.name, items(s.items.as_ref())));
        let config_map = projection.config_map.as_ref().map(|c| ("configMap", &c.name, items(c.items.as_ref())));
        for (field, name, keys) in secret.into_iter().chain(config_map) {
            count += 1;
            let path = path.field(field);
            if name.is_empty() {
                faults.push(Fault::required(&path.field("name"), ""));
            }
            let items_path = path.field("items");
            for (j, key) in keys.iter().enumerate() {
                key_to_path(key, &items_path.index(j), faults);
                once(&mut paths, &key.path, name, volume, faults);
            }
        }
        if let Some(downward) = &projection.downward_api {
            count += 1;
            let path = path.field("downwardAPI");
            for file in items(downward.items.as_ref()) {
                downward_api_file(file, &path, faults);
                once(&mut paths, &file.path, &file.path, volume, faults);
            }
        }
        if let Some(token) = &projection.service_account_token {
            count += 1;
            service_account_token(token, volume, &path.field("serviceAccountToken"), faults);
        }
        if let Some(bundle) = &projection.cluster_trust_bundle {
            count += 1;
            let path = path.field("clusterTrustBundlePEM");
            if bundle.name.is_none() && bundle.signer_name.is_none() {
                faults.push(Fault::required(&path, "either name or signerName must be specified"));
            }
            if bundle.path.is_empty() {
                faults.push(Fault::required(&path.field("path"), ""));
            }
            local_non_reserved_path(&bundle.path, &path.field("path"), faults);
            once(&mut paths, &bundle.path, &bundle.path, volume, faults);
        }
        if count > 1 {
            faults.push(Fault::forbidden(&path, ONE_TYPE));
        }
    }
}

/// Faults a file that an earlier source already makes.
fn once<'a>(paths: &mut BTreeSet<&'a str>, file: &'a str, shown: &str, volume: &Path<'_>, faults: &mut Vec<Fault>) {
    if !file.is_empty() && !paths.insert(file) {
        faults.push(Fault::invalid(volume, shown, "conflicting duplicate paths"));
    }
}

fn service_account_token(
    token: &ServiceAccountTokenProjection,
    volume: &Path<'_>,
    path: &Path<'_>,
    faults: &mut Vec<Fault>,
) {
    let seconds_path = path.field("expirationSeconds");
    let seconds = token.expiration_seconds.unwrap_or_default();
    if seconds < 600 {
        faults.push(Fault::invalid(&seconds_path, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > 1 << 32 {
        let detail = "may not specify a duration larger than 2^32 seconds";
        faults.push(Fault::invalid(&seconds_path, seconds, detail));
    }
    if token.path.is_empty() {
        faults.push(Fault::required(&volume.field("path"), ""));
    } else {
        local_non_reserved_path(&token.path, &volume.field("path"), faults);
    }
}

fn keys_to_paths(keys: &[KeyToPath], path: &Path<'_>, faults: &mut Vec<Fault>) {
    for (i, key) in keys.iter().enumerate() {
        key_to_path(key, &path.index(i), faults);
    }
}

fn key_to_path(key: &KeyToPath, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let file_path = path.field("path");
    if key.key.is_empty() {
        faults.push(Fault::required(&path.field("key"), ""));
    }
    if key.path.is_empty() {
        faults.push(Fault::required(&file_path, ""));
    }
    local_non_reserved_path(&key.path, &file_path, faults);
    file_mode(key.mode, &path.field("mode"), faults);
}

fn file_mode(mode: Option<i32>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
        faults.push(Fault::invalid(path, mode, FILE_MODE));
    }
}

/// A relative path with no `..` element.
pub(super) fn local_descending_path(target: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if target.starts_with('/') {
        faults.push(Fault::invalid(path, target, "must be a relative path"));
    }
    path_without_backsteps(target, path, faults);
}

pub(super) fn path_without_backsteps(target: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if target.split('/').any(|part| part == "..") {
        faults.push(Fault::invalid(path, target, "must not contain '..'"));
    }
}

/// A relative path with no `..` element whose first element does not start with `..`: those names are the kubelet's.
pub(super) fn local_non_reserved_path(target: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    local_descending_path(target, path, faults);
    if target.starts_with("..") && !target.starts_with("../") {
        faults.push(Fault::invalid(path, target, "must not start with '..'"));
    }
}
