//! ConfigMaps and Secrets: names, keys and size.
//!
//! Upstream: `pkg/apis/core/validation/validation.go` (`ValidateConfigMap`, `ValidateSecret`), v1.36.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::{NameRule, entries, invalid_for, object_meta, text};
use crate::field::{Fault, Path};
use crate::names;

/// The most that the values of one ConfigMap or Secret may add up to.
const MAX_BYTES: usize = 1024 * 1024;

pub(super) fn config_map(config_map: &ConfigMap, faults: &mut Vec<Fault>) {
    object_meta(&config_map.metadata, NameRule::DnsSubdomain, faults);
    let root = Path::root();
    let mut bytes = 0;
    let path = root.field("data");
    for (key, value) in entries(config_map.data.as_ref()) {
        invalid_for(names::config_map_key(key), &path.key(key), key, faults);
        if config_map.binary_data.as_ref().is_some_and(|data| data.contains_key(key)) {
            let detail = "duplicate of key present in binaryData";
            faults.push(Fault::invalid(&path.key(key), key, detail));
        }
        bytes += value.len();
    }
    let path = root.field("binaryData");
    for (key, value) in entries(config_map.binary_data.as_ref()) {
        invalid_for(names::config_map_key(key), &path.key(key), key, faults);
        bytes += value.0.len();
    }
    if bytes > MAX_BYTES {
        faults.push(Fault::too_long(&root, MAX_BYTES));
    }
}

pub(super) fn secret(secret: &Secret, faults: &mut Vec<Fault>) {
    object_meta(&secret.metadata, NameRule::DnsSubdomain, faults);
    let root = Path::root();
    let path = root.field("data");
    let mut bytes = 0;
    for (key, value) in entries(secret.data.as_ref()) {
        invalid_for(names::config_map_key(key), &path.key(key), key, faults);
        bytes += value.0.len();
    }
    if bytes > MAX_BYTES {
        faults.push(Fault::too_long(&path, MAX_BYTES));
    }
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let mut require = |key: &str| faults.push(Fault::required(&path.key(key), ""));
    match text(secret.type_.as_ref()) {
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            let name = secret.metadata.annotations.as_ref().and_then(|a| a.get(annotation));
            if text(name).is_empty() {
                let path = root.field("metadata").field("annotations").to_string();
                faults.push(Fault::required(&root.field(&path).key(annotation), ""));
            }
        }
        "kubernetes.io/dockercfg" => json_entry(secret, ".dockercfg", faults),
        "kubernetes.io/dockerconfigjson" => json_entry(secret, ".dockerconfigjson", faults),
        "kubernetes.io/basic-auth" if data("username").is_none() && data("password").is_none() => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" if data("ssh-privatekey").is_none_or(|k| k.0.is_empty()) => {
            require("ssh-privatekey");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if data(key).is_none() {
                    require(key);
                }
            }
        }
        _ => {}
    }
}

/// An entry that must be there and be JSON.
fn json_entry(secret: &Secret, key: &str, faults: &mut Vec<Fault>) {
    let root = Path::root();
    let path = root.field("data");
    match secret.data.as_ref().and_then(|data| data.get(key)) {
        None => faults.push(Fault::required(&path.key(key), "")),
        Some(bytes) => {
            if let Err(why) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes.0) {
                faults.push(Fault::invalid(&path.key(key), "<secret contents redacted>", why));
            }
        }
    }
}
