//! What a pod may write to the node's disk, and what is said when it has written more.
//!
//! Upstream: `pkg/kubelet/eviction/eviction_manager.go` (`localStorageEviction`), v1.36: a volume's limit is looked at first,
//! then the pod's, then each container's. Such an end is the pod's own fault, and so no disruption (`DisruptionTarget`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::facts::{is_sidecar, lasting};
use crate::quantity::{self, Quantity};

/// The resource's name.
const RESOURCE: &str = "ephemeral-storage";

/// The limits that a pod sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `emptyDir.sizeLimit` of volumes on disk, by name.
    volumes: BTreeMap<String, Quantity>,
    /// `resources.limits[ephemeral-storage]` of containers, by name.
    containers: BTreeMap<String, Quantity>,
    /// All of those together.
    pod: Option<Quantity>,
}

/// What a pod has written, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Each `emptyDir` on disk, by name.
    pub volumes: BTreeMap<String, u64>,
    /// Each container's root filesystem and logs, by name.
    pub containers: BTreeMap<String, u64>,
}

impl Limits {
    /// The limits of `pod`; `None` where it sets none, and nothing needs to be measured.
    pub fn of(pod: &Pod) -> Option<Limits> {
        let spec = pod.spec.as_ref()?;
        let positive = |text: &str| quantity::parse(text).ok().filter(|amount| *amount > Quantity::ZERO);
        let volumes = spec.volumes.iter().flatten().filter_map(|volume| {
            let on_disk = |medium: &Option<String>| medium.as_deref().is_none_or(str::is_empty);
            let empty = volume.empty_dir.as_ref().filter(|empty| on_disk(&empty.medium))?;
            Some((volume.name.clone(), positive(&empty.size_limit.as_ref()?.0)?))
        });
        let limit = |container: &Container| {
            let limits = container.resources.as_ref()?.limits.as_ref()?;
            positive(&limits.get(RESOURCE)?.0)
        };
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let together = lasting(spec).filter_map(limit).reduce(Quantity::plus);
        let alone = init.iter().filter(|container| !is_sidecar(container)).filter_map(limit).max();
        let all = spec.containers.iter().chain(init);
        let limits = Limits {
            volumes: volumes.collect(),
            containers: all.filter_map(|one| Some((one.name.clone(), limit(one)?))).collect(),
            pod: together.max(alone),
        };
        (!limits.volumes.is_empty() || limits.pod.is_some()).then_some(limits)
    }

    /// What is exceeded, in the kubelet's words with their blank at the end.
    pub fn exceeded(&self, used: &Used) -> Option<String> {
        let is_over = |used: u64, limit: &Quantity| i128::from(used) > limit.value();
        for (name, limit) in &self.volumes {
            if used.volumes.get(name).is_some_and(|used| is_over(*used, limit)) {
                return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit \"{limit}\". "));
            }
        }
        let all =
            used.volumes.values().chain(used.containers.values()).fold(0_u64, |sum, one| sum.saturating_add(*one));
        if let Some(limit) = self.pod.as_ref().filter(|limit| is_over(all, limit)) {
            return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
        }
        for (name, limit) in &self.containers {
            if used.containers.get(name).is_some_and(|used| is_over(*used, limit)) {
                return Some(format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". "));
            }
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value)] // `json!` reads best by value
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limits(spec: Value) -> Option<Limits> {
        Limits::of(&serde_json::from_value(json!({ "spec": spec })).unwrap())
    }

    fn container(name: &str, limit: Option<&str>) -> Value {
        json!({ "name": name, "resources": { "limits": limit.map(|limit| json!({ "ephemeral-storage": limit })) } })
    }

    fn used(volume: u64, a: u64, b: u64) -> Used {
        Used {
            volumes: [("v".to_owned(), volume)].into(),
            containers: [("a".to_owned(), a), ("b".to_owned(), b)].into(),
        }
    }

    #[test]
    fn a_pod_without_limits_is_not_measured() {
        assert_eq!(limits(json!({ "containers": [container("a", None)] })), None);
        let memory = json!({ "name": "v", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } });
        assert_eq!(limits(json!({ "containers": [], "volumes": [memory, { "name": "w", "emptyDir": {} }] })), None);
    }

    #[test]
    fn what_is_exceeded_is_told_in_the_words_of_the_kubelet() {
        const MI: u64 = 1 << 20;
        let volume = json!([{ "name": "v", "emptyDir": { "sizeLimit": "1Mi" } }]);
        let both =
            json!({ "containers": [container("a", Some("2Mi")), container("b", Some("3Mi"))], "volumes": volume });
        let limits = limits(both).unwrap();
        for (used, told) in [
            (used(MI, 2 * MI, 2 * MI), None),
            (used(MI + 1, 0, 0), Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ")),
            (
                used(MI, 2 * MI, 2 * MI + 1),
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. "),
            ),
            (used(0, 2 * MI + 1, 0), Some("Container a exceeded its local ephemeral storage limit \"2Mi\". ")),
        ] {
            assert_eq!(limits.exceeded(&used).as_deref(), told);
        }
    }

    #[test]
    fn init_containers_count_by_the_hungriest_and_sidecars_with_the_main_ones() {
        let mut sidecar = container("s", Some("1Mi"));
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({ "initContainers": [sidecar, container("i", Some("9Mi"))], "containers": [container("a", Some("2Mi"))] });
        assert_eq!(limits(spec).unwrap().pod.unwrap().to_string(), "9Mi");
    }
}
