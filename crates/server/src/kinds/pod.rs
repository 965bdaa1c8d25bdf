//! Pods: graceful deletion, binding, and which of their fields may change.
//!
//! Upstream: `pkg/registry/core/pod/strategy.go`, `pkg/registry/core/pod/storage/storage.go` (binding),
//! `pkg/apis/core/validation/validation.go` (`ValidatePodUpdate`), v1.36.
//! Left out: the admission of a cluster (service account, token volume, tolerations, priority), resize; after gates are lifted, narrowing node selectors.

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use stint_core::field::{Fault, Path};
use stint_core::{admit, defaults, validate};

use crate::strategy::{Deletion, SelectableField, Strategy, UnknownField, differing, outline_of};

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

impl Strategy for Pod {
    const GENERATION: bool = true;
    const DELETION_RETURNS_OBJECT: bool = true;
    const STATUS_RESETS: &'static [&'static str] = &["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"];
    const FIELDS: &'static [SelectableField] = &[
        ("spec.nodeName", &["spec", "nodeName"], ""),
        ("spec.restartPolicy", &["spec", "restartPolicy"], ""),
        ("spec.schedulerName", &["spec", "schedulerName"], ""),
        ("spec.serviceAccountName", &["spec", "serviceAccountName"], ""),
        ("spec.hostNetwork", &["spec", "hostNetwork"], "false"),
        ("status.phase", &["status", "phase"], ""),
        ("status.podIP", &["status", "podIP"], ""),
        ("status.nominatedNodeName", &["status", "nominatedNodeName"], ""),
    ];
    const UNKNOWN_FIELD: UnknownField = UnknownField::Plain;

    fn default_fields(&mut self) {
        defaults::pod(self);
    }

    fn prepare_create(&mut self, uid: &str) {
        self.status = Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() });
        admit::prepare_pod(self, uid);
    }

    fn create_faults(&self) -> Vec<Fault> {
        validate::pod_create(self)
    }

    fn create_warnings(&self) -> Vec<String> {
        validate::pod_warnings(self)
    }

    fn prepare_update(&mut self, old: &Self) {
        admit::drop_disabled(self.spec.as_mut());
        self.status.clone_from(&old.status);
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        let mut faults = Vec::new();
        validate::object_meta_update(&old.metadata, &self.metadata, &mut faults);
        if let (Some(new), Some(old)) = (&self.spec, &old.spec)
            && new != old
            && !allowed(new, old)
        {
            faults.push(Fault::forbidden(&Path::root().field("spec"), MAY_CHANGE));
        }
        faults
    }

    fn outline(&self, other: &Self) -> Option<Self> {
        let metadata = outline_of(&self.metadata, &other.metadata);
        Some(Pod { metadata, spec: None, status: differing(self.status.as_ref(), other.status.as_ref()) })
    }

    fn take_status(&mut self, other: &mut Self) -> bool {
        self.status = other.status.take();
        true
    }

    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.metadata.owner_references.clone_from(&old.metadata.owner_references);
        self.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
        let status = self.status.get_or_insert_default();
        status.qos_class = old.status.as_ref().and_then(|status| status.qos_class.clone());
    }

    fn prepare_ephemeral_update(&mut self, old: &Self) -> bool {
        let ephemeral = self.spec.take().and_then(|spec| spec.ephemeral_containers);
        self.spec.clone_from(&old.spec);
        self.spec.get_or_insert_default().ephemeral_containers = ephemeral.filter(|list| !list.is_empty());
        self.status.clone_from(&old.status);
        true
    }

    fn ephemeral_update_faults(&self, old: &Self) -> Vec<Fault> {
        validate::pod_ephemeral_update(old, self)
    }

    fn desired(&self) -> Value {
        let mut spec = self.spec.clone().unwrap_or_default();
        spec.node_name = None; // binding is no new generation
        serde_json::to_value(spec).unwrap_or_default()
    }

    fn has_same_spec(&self, old: &Self) -> bool {
        self.spec == old.spec
    }

    fn deletion(&self) -> Deletion {
        let spec = self.spec.as_ref();
        let finished = matches!(phase(self), "Succeeded" | "Failed");
        if finished || spec.and_then(|spec| spec.node_name.as_deref()).is_none_or(str::is_empty) {
            return Deletion::Graceful(0);
        }
        Deletion::Graceful(spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30))
    }

    fn evict(&mut self, now: jiff::Timestamp) -> bool {
        let conditions = self.status.get_or_insert_default().conditions.get_or_insert_default();
        set_condition(
            conditions,
            PodCondition {
                type_: "DisruptionTarget".into(),
                status: "True".into(),
                reason: Some("EvictionByEvictionAPI".into()),
                message: Some("Eviction API: evicting".into()),
                last_transition_time: Some(Time(now)),
                ..PodCondition::default()
            },
        );
        true
    }

    fn bind(&mut self, node: &str, now: jiff::Timestamp) -> Option<Result<(), String>> {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if self.metadata.deletion_timestamp.is_some() {
            return Some(Err(format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        let spec = self.spec.get_or_insert_default();
        if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
            return Some(Err(format!("pod {name} is already assigned to node \"{node}\"")));
        }
        if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
            return Some(Err(format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        spec.node_name = Some(node.to_owned());
        let conditions = self.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != "PodScheduled");
        conditions.push(PodCondition {
            type_: "PodScheduled".into(),
            status: "True".into(),
            last_transition_time: Some(Time(now)),
            ..PodCondition::default()
        });
        Some(Ok(()))
    }
}

/// Puts `condition` in the place of the one of its type. The time stays when the status does.
fn set_condition(conditions: &mut Vec<PodCondition>, mut condition: PodCondition) {
    match conditions.iter_mut().find(|known| known.type_ == condition.type_) {
        None => conditions.push(condition),
        Some(known) => {
            if known.status == condition.status {
                condition.last_transition_time.clone_from(&known.last_transition_time);
            }
            *known = condition;
        }
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether `new` differs from `old` in nothing but what may change.
fn allowed(new: &PodSpec, old: &PodSpec) -> bool {
    let mut undone = new.clone();
    take_images(&mut undone.containers, &old.containers);
    take_images(
        undone.init_containers.as_deref_mut().unwrap_or_default(),
        old.init_containers.as_deref().unwrap_or_default(),
    );
    let deadline_ok = match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), Some(old)) => new <= old,
        (Some(_), None) => true,
        (None, old) => old.is_none(),
    };
    if deadline_ok {
        undone.active_deadline_seconds = old.active_deadline_seconds;
    }
    let tolerations = new.tolerations.as_deref().unwrap_or_default();
    if old.tolerations.iter().flatten().all(|toleration| tolerations.contains(toleration)) {
        undone.tolerations.clone_from(&old.tolerations);
    }
    if old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
        && new.termination_grace_period_seconds == Some(1)
    {
        undone.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    let gates = old.scheduling_gates.as_deref().unwrap_or_default();
    if new.scheduling_gates.iter().flatten().all(|gate| gates.contains(gate)) {
        undone.scheduling_gates.clone_from(&old.scheduling_gates);
    }
    undone == *old
}

fn take_images(new: &mut [Container], old: &[Container]) {
    for (new, old) in new.iter_mut().zip(old) {
        // An image may change, not vanish.
        if new.image.as_deref().is_some_and(|image| !image.is_empty()) {
            new.image.clone_from(&old.image);
        }
    }
}
