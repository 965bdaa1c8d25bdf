//! Which pod goes first when a node is short of something, and what is said of it.
//!
//! | short of | first | then | then |
//! |---|---|---|---|
//! | memory | who uses more than it requested | lower priority | uses more above its request |
//! | disk, inodes | who uses more than it requested (nothing can be requested of inodes) | lower priority | uses more above its request |
//! | process ids | | lower priority | has more processes |
//!
//! Invariant: pods that the system needs are never evicted. Of pods that are alike the youngest goes.
//! Upstream: `pkg/kubelet/eviction/helpers.go` (`rankMemoryPressure`, `rankPIDPressure`, `rankDiskPressureFunc`,
//! `evictionMessage`), `eviction_manager.go` (`Admit`), v1.36.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, Pod, Taint};

use super::monitor::Crossed;
use super::signal::{Condition, Signal};
use crate::bind::{Wish, tolerates};
use crate::quantity::{self, Quantity};

/// From which priority on the system needs a pod (`SystemCriticalPriority`).
const CRITICAL: i32 = 2_000_000_000;

/// What a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes on the filesystem that pods write to: root filesystems, logs, and volumes that are its own.
    pub disk: u64,
    /// Inodes on it.
    pub inodes: u64,
    /// Processes.
    pub processes: u64,
    /// Of each container that runs, by name.
    pub containers: BTreeMap<String, ContainerUsage>,
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of its root filesystem and logs.
    pub disk: u64,
}

/// Whether images are on the filesystem that pods write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageDisk {
    /// They are: who writes makes images short of room.
    Shared,
    /// They have one of their own, which no pod writes to: only priority decides.
    Own,
}

/// A pod that may go.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What it uses. `None`: that could not be measured, and it goes before others.
    pub usage: Option<&'a PodUsage>,
}

/// The pods that may go, by their places, the first to go first.
pub fn order(pods: &[Candidate<'_>], signal: Signal, images: ImageDisk) -> Vec<usize> {
    let mut places: Vec<usize> = (0..pods.len()).filter(|place| !is_critical(pods[*place].pod)).collect();
    places.sort_by(|a, b| compare(pods[*a], pods[*b], signal, images));
    places
}

/// Whether the system needs the pod.
pub fn is_critical(pod: &Pod) -> bool {
    priority(pod) >= CRITICAL
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

fn compare(a: Candidate<'_>, b: Candidate<'_>, signal: Signal, images: ImageDisk) -> Ordering {
    let above = |it: Candidate<'_>| it.usage.map(|usage| above_request(it.pod, usage, signal, images));
    let by_priority = priority(a.pod).cmp(&priority(b.pod));
    // Of whom nothing is known goes first.
    let greedy = |above: Option<i128>| above.is_none_or(|above| above > 0);
    let by_greed = match signal {
        Signal::PidAvailable => Ordering::Equal,
        _ => greedy(above(b)).cmp(&greedy(above(a))),
    };
    let by_use = match (above(a), above(b)) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => b.cmp(&a),
    };
    let age = |it: Candidate<'_>| {
        let meta = &it.pod.metadata;
        Reverse((meta.creation_timestamp.as_ref().map(|time| time.0), meta.uid.clone()))
    };
    by_greed.then(by_priority).then(by_use).then_with(|| age(a).cmp(&age(b)))
}

/// By how much the pod uses more than it requested.
fn above_request(pod: &Pod, usage: &PodUsage, signal: Signal, images: ImageDisk) -> i128 {
    let requested = |resource: &str| Wish::of(pod).requests.get(resource).copied().unwrap_or(0);
    match signal {
        Signal::MemoryAvailable => i128::from(usage.memory) - requested("memory"),
        Signal::PidAvailable => i128::from(usage.processes),
        Signal::ImagefsAvailable | Signal::ImagefsInodesFree if images == ImageDisk::Own => 0,
        Signal::NodefsAvailable | Signal::ImagefsAvailable => i128::from(usage.disk) - requested("ephemeral-storage"),
        Signal::NodefsInodesFree | Signal::ImagefsInodesFree => i128::from(usage.inodes),
    }
}

/// Why a pod is evicted, in the kubelet's words with their blank at the end.
pub fn message(crossed: &Crossed, pod: &Pod, usage: Option<&PodUsage>) -> String {
    let resource = crossed.signal.resource();
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        crossed.threshold, crossed.available
    );
    let used = |usage: &ContainerUsage| match crossed.signal {
        Signal::MemoryAvailable => Some(usage.memory),
        Signal::NodefsAvailable | Signal::ImagefsAvailable => Some(usage.disk),
        Signal::NodefsInodesFree | Signal::ImagefsInodesFree | Signal::PidAvailable => None,
    };
    let Some((spec, usage)) = pod.spec.as_ref().zip(usage) else { return text };
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let Some(used) = usage.containers.get(&container.name).and_then(used) else { continue };
        let (used, request) = (Quantity::binary(used), request(container, resource));
        if used > request {
            let name = &container.name;
            let _ = write!(
                text,
                "Container {name} was using {used}, request is {request}, has larger consumption of {resource}. "
            );
        }
    }
    text
}

fn request(container: &Container, resource: &str) -> Quantity {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let text = requests.and_then(|requests| requests.get(resource));
    text.and_then(|text| quantity::parse(&text.0).ok()).unwrap_or(Quantity::ZERO)
}

/// Why a node with these conditions does not take a pod that comes to it, in the kubelet's words. `None`: it takes it.
pub fn refusal(conditions: &BTreeSet<Condition>, pod: &Pod) -> Option<String> {
    if conditions.is_empty() || is_critical(pod) {
        return None;
    }
    if conditions.iter().eq([&Condition::MemoryPressure]) {
        let class = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()).unwrap_or("BestEffort");
        let taint = Taint {
            key: Condition::MemoryPressure.taint().to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
        if class != "BestEffort" || tolerations.into_iter().any(|toleration| tolerates(toleration, &taint)) {
            return None;
        }
    }
    let names: Vec<&str> = conditions.iter().map(|condition| condition.name()).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value)] // `json!` reads best by value
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MI: u64 = 1 << 20;

    fn pod(name: &str, priority: i32, requests: Value) -> Pod {
        let container = json!({"name": "c", "resources": {"requests": requests}});
        let created = format!("2026-01-01T00:00:{:02}Z", name.as_bytes()[0] - b'a');
        let meta = json!({"name": name, "uid": name, "creationTimestamp": created});
        serde_json::from_value(json!({"metadata": meta, "spec": {"priority": priority, "containers": [container]}}))
            .unwrap()
    }

    fn usage(memory: u64, disk: u64, processes: u64) -> PodUsage {
        let container = ContainerUsage { memory: memory * MI, disk: disk * MI };
        PodUsage {
            memory: memory * MI,
            disk: disk * MI,
            inodes: disk,
            processes,
            containers: [("c".to_owned(), container)].into(),
        }
    }

    /// The names of the pods in their order.
    fn ordered(pods: &[(Pod, Option<PodUsage>)], signal: Signal, images: ImageDisk) -> String {
        let all: Vec<_> = pods.iter().map(|(pod, usage)| Candidate { pod, usage: usage.as_ref() }).collect();
        order(&all, signal, images).into_iter().map(|place| pods[place].0.metadata.name.clone().unwrap()).collect()
    }

    #[test]
    fn pods_go_in_the_kubelets_order() {
        let asks = |memory: &str| json!({ "memory": memory, "ephemeral-storage": memory });
        let pods = vec![
            (pod("a", 0, asks("100Mi")), Some(usage(90, 90, 9))), // below its request
            (pod("b", 0, asks("100Mi")), Some(usage(150, 150, 1))), // 50 above
            (pod("c", 0, json!({})), Some(usage(80, 80, 5))),     // 80 above
            (pod("d", 10, json!({})), Some(usage(900, 900, 50))), // much above, but more important
            (pod("e", 0, json!({})), None),                       // nobody knows
            (pod("f", CRITICAL, json!({})), Some(usage(9999, 9999, 999))),
            (pod("g", 0, asks("200Mi")), Some(usage(120, 120, 1))), // 80 below
        ];
        for (signal, images, expected) in [
            (Signal::MemoryAvailable, ImageDisk::Shared, "ecbdag"),
            (Signal::NodefsAvailable, ImageDisk::Own, "ecbdag"),
            (Signal::ImagefsAvailable, ImageDisk::Shared, "ecbdag"),
            (Signal::NodefsInodesFree, ImageDisk::Shared, "ebgacd"),
            (Signal::PidAvailable, ImageDisk::Shared, "eacgbd"),
            (Signal::ImagefsAvailable, ImageDisk::Own, "egcbad"),
        ] {
            assert_eq!(ordered(&pods, signal, images), expected, "{signal:?} {images:?}");
        }
    }

    #[test]
    fn an_eviction_is_told_in_the_words_of_the_kubelet() {
        let crossed = |signal| Crossed {
            signal,
            threshold: Quantity::binary(100 * MI),
            available: Quantity::binary(99 * MI + 1),
            grace: 1,
        };
        let low = |resource: &str| {
            format!("The node was low on resource: {resource}. Threshold quantity: 100Mi, available: 103809025. ")
        };
        let used = usage(150, 20, 3);
        let asks = pod("a", 0, json!({ "memory": "64Mi" }));
        let larger = |used: &str, request: &str, resource: &str| {
            format!("Container c was using {used}, request is {request}, has larger consumption of {resource}. ")
        };
        for (signal, told) in [
            (Signal::MemoryAvailable, low("memory") + &larger("150Mi", "64Mi", "memory")),
            (Signal::NodefsAvailable, low("ephemeral-storage") + &larger("20Mi", "0", "ephemeral-storage")),
            (Signal::NodefsInodesFree, low("inodes")),
            (Signal::PidAvailable, low("pids")),
        ] {
            assert_eq!(message(&crossed(signal), &asks, Some(&used)), told);
        }
        assert_eq!(message(&crossed(Signal::MemoryAvailable), &asks, None), low("memory"));
    }

    #[test]
    fn a_node_that_is_short_refuses_pods_as_a_kubelet_does() {
        let memory = BTreeSet::from([Condition::MemoryPressure]);
        let both = BTreeSet::from([Condition::MemoryPressure, Condition::DiskPressure]);
        let with = |class: &str, toleration: &str| {
            let mut pod = pod("a", 0, json!({}));
            pod.status = serde_json::from_value(json!({ "qosClass": class })).unwrap();
            let tolerations = json!([{ "key": toleration, "operator": "Exists" }]);
            pod.spec.as_mut().unwrap().tolerations = serde_json::from_value(tolerations).unwrap();
            pod
        };
        let own = Condition::MemoryPressure.taint();
        for (conditions, pod, refused) in [
            (&BTreeSet::new(), with("BestEffort", "x"), None),
            (&memory, with("BestEffort", "x"), Some("[MemoryPressure]")),
            (&memory, with("BestEffort", own), None),
            (&memory, with("Burstable", "x"), None),
            (&both, with("Burstable", own), Some("[MemoryPressure DiskPressure]")),
            (&both, pod("f", CRITICAL, json!({})), None),
        ] {
            let told = refused.map(|names| format!("The node had condition: {names}. "));
            assert_eq!(refusal(conditions, &pod), told);
        }
    }
}
