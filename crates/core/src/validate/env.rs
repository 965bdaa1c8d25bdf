//! A container's environment: its variables, and where their values come from.
//!
//! Upstream: `pkg/apis/core/validation/validation.go` (`ValidateEnv`, `validateEnvVarValueFrom`, `ValidateEnvFrom`),
//! v1.36.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector};

use super::volume::{Volumes, local_non_reserved_path};
use super::{invalid_for, text};
use crate::field::{Fault, Path};
use crate::{names, quantity};

/// The fields of a pod that an environment variable may read.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields of a pod that a downward API volume may read.
pub(super) const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// The fields that have a downward API name at all.
const DOWNWARD_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTE_DIVISORS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub(super) fn vars(vars: &[EnvVar], volumes: &Volumes<'_>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    for (i, var) in vars.iter().enumerate() {
        let path = path.index(i);
        if var.name.is_empty() {
            faults.push(Fault::required(&path.field("name"), ""));
        } else {
            invalid_for(names::env_var_name(&var.name), &path.field("name"), &var.name, faults);
        }
        value_from(var, volumes, &path.field("valueFrom"), faults);
    }
}

fn value_from(var: &EnvVar, volumes: &Volumes<'_>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let Some(source) = &var.value_from else {
        return;
    };
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        object_field(field, &ENV_FIELDS, &path.field("fieldRef"), faults);
    }
    if let Some(resource) = &source.resource_field_ref {
        sources += 1;
        resource_field(resource, ContainerName::Optional, &path.field("resourceFieldRef"), faults);
    }
    if let Some(key) = &source.config_map_key_ref {
        sources += 1;
        key_selector(&key.name, &key.key, &path.field("configMapKeyRef"), faults);
    }
    if let Some(key) = &source.secret_key_ref {
        sources += 1;
        key_selector(&key.name, &key.key, &path.field("secretKeyRef"), faults);
    }
    if let Some(key) = &source.file_key_ref {
        sources += 1;
        file_key(key, volumes, &path.field("fileKeyRef"), faults);
    }
    let detail = if sources == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
    } else if !text(var.value.as_ref()).is_empty() {
        "may not be specified when `value` is not empty"
    } else if sources > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    faults.push(Fault::invalid(path, "", detail));
}

/// The name and key of a ConfigMap's or Secret's entry.
fn key_selector(name: &str, key: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    invalid_for(names::dns_subdomain(name), &path.field("name"), name, faults);
    if key.is_empty() {
        faults.push(Fault::required(&path.field("key"), ""));
    } else {
        invalid_for(names::config_map_key(key), &path.field("key"), key, faults);
    }
}

fn file_key(selector: &FileKeySelector, volumes: &Volumes<'_>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if selector.key.is_empty() {
        faults.push(Fault::required(&path.field("key"), ""));
    } else {
        invalid_for(names::env_var_name(&selector.key), &path.field("key"), &selector.key, faults);
    }
    let name_path = path.field("volumeName");
    match volumes.get(selector.volume_name.as_str()) {
        _ if selector.volume_name.is_empty() => faults.push(Fault::required(&name_path, "")),
        None => faults.push(Fault::not_found(&name_path, &selector.volume_name)),
        Some(volume) if volume.empty_dir.is_none() => {
            let detail = "referenced volume must be of type emptyDir";
            faults.push(Fault::invalid(&name_path, &selector.volume_name, detail));
        }
        Some(_) => {}
    }
    if selector.path.is_empty() {
        faults.push(Fault::required(&path.field("path"), ""));
    } else {
        local_non_reserved_path(&selector.path, &path.field("path"), faults);
    }
}

/// A downward API field such as `metadata.labels['app']`.
pub(super) fn object_field(
    selector: &ObjectFieldSelector,
    supported: &[&str],
    path: &Path<'_>,
    faults: &mut Vec<Fault>,
) {
    let version = text(selector.api_version.as_ref());
    let field = selector.field_path.as_str();
    if version.is_empty() {
        faults.push(Fault::required(&path.field("apiVersion"), ""));
        return;
    }
    if field.is_empty() {
        faults.push(Fault::required(&path.field("fieldPath"), ""));
        return;
    }
    let subscripted = subscript(field);
    let unknown = match subscripted {
        _ if version != "v1" => Some(format!("unsupported pod version: {version}")),
        Some(("metadata.annotations" | "metadata.labels", _)) => None,
        Some(_) => Some(format!("field label does not support subscript: {field}")),
        None if field == "spec.host" || DOWNWARD_FIELDS.contains(&field) => None,
        None => Some(format!("field label not supported: {field}")),
    };
    if let Some(why) = unknown {
        let detail = format!("error converting fieldPath: {why}");
        faults.push(Fault::invalid(&path.field("fieldPath"), field, detail));
        return;
    }
    match subscripted {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            invalid_for(names::qualified_name(&key), path, &key, faults);
        }
        Some((_, key)) => invalid_for(names::qualified_name(key), path, key, faults),
        None => {
            let field = if field == "spec.host" { "spec.nodeName" } else { field };
            if !supported.contains(&field) {
                faults.push(Fault::not_supported(&path.field("fieldPath"), field, supported));
            }
        }
    }
}

/// Splits `path['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(path, _)| !path.is_empty())
}

/// Whether a resource field must name its container.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ContainerName {
    Optional,
    Required,
}

pub(super) fn resource_field(
    selector: &ResourceFieldSelector,
    container: ContainerName,
    path: &Path<'_>,
    faults: &mut Vec<Fault>,
) {
    let resource = selector.resource.as_str();
    let huge_pages = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if container == ContainerName::Required && text(selector.container_name.as_ref()).is_empty() {
        faults.push(Fault::required(&path.field("containerName"), ""));
    } else if resource.is_empty() {
        faults.push(Fault::required(&path.field("resource"), ""));
    } else if !RESOURCE_FIELDS.contains(&resource) && !huge_pages {
        faults.push(Fault::not_supported(&path.field("resource"), resource, &RESOURCE_FIELDS));
    }
    let Some(divisor) = selector.divisor.as_ref().and_then(|d| quantity::parse(&d.0).ok()) else {
        return;
    };
    if divisor == quantity::Quantity::ZERO {
        return;
    }
    let divisor = divisor.to_string();
    let (allowed, detail): (&[&str], _) = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") => (&["1m", "1"], "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()),
        Some("memory") => (&BYTE_DIVISORS, byte_divisors("memory")),
        Some("ephemeral-storage") => (&BYTE_DIVISORS, byte_divisors("local ephemeral storage")),
        _ if huge_pages => (&BYTE_DIVISORS, byte_divisors("hugepages")),
        _ => return,
    };
    if !allowed.contains(&divisor.as_str()) {
        faults.push(Fault::invalid(&path.field("divisor"), resource, detail));
    }
}

fn byte_divisors(resource: &str) -> String {
    let list = BYTE_DIVISORS.join(", ");
    format!("only divisor's values {list} are supported with the {resource} resource")
}

pub(super) fn sources(sources: &[EnvFromSource], path: &Path<'_>, faults: &mut Vec<Fault>) {
    for (i, source) in sources.iter().enumerate() {
        let list = path;
        let path = path.index(i);
        let prefix = text(source.prefix.as_ref());
        if !prefix.is_empty() {
            invalid_for(names::env_var_name(prefix), &path.field("prefix"), prefix, faults);
        }
        let config_map = source.config_map_ref.as_ref().map(|r| ("configMapRef", r.name.as_str()));
        let secret = source.secret_ref.as_ref().map(|r| ("secretRef", r.name.as_str()));
        for (field, name) in config_map.into_iter().chain(secret) {
            let path = path.field(field);
            if name.is_empty() {
                faults.push(Fault::required(&path.field("name"), ""));
            } else {
                let reasons = names::dns_subdomain(&names::mask_trailing_dash(name));
                invalid_for(reasons, &path.field("name"), name, faults);
            }
        }
        // Upstream names the list here, not the item.
        match (config_map, secret) {
            (None, None) => {
                faults.push(Fault::invalid(list, "", "must specify one of: `configMapRef` or `secretRef`"));
            }
            (Some(_), Some(_)) => {
                faults.push(Fault::invalid(list, "", "may not have more than one field specified at a time"));
            }
            _ => {}
        }
    }
}
