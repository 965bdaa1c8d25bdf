//! The priority of a pod, by the name of its PriorityClass.
//!
//! Upstream: `plugin/pkg/admission/priority/admission.go`, v1.36.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1::PriorityClass;

/// The classes that are always there, with their values and what they are for.
pub const SYSTEM: [(&str, i32, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

/// The class that the pod names.
pub fn class_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.priority_class_name.as_deref().filter(|name| !name.is_empty())
}

/// Among all classes, the one of pods that name none: the lowest that claims to be it.
pub fn usual(classes: &[PriorityClass]) -> Option<&PriorityClass> {
    classes.iter().filter(|class| class.global_default == Some(true)).min_by_key(|class| class.value.unwrap_or(0))
}

/// Gives the pod the priority of `class`: the one that it names, or else the [`usual`] one.
///
/// # Errors
///
/// When the pod names another priority itself.
pub fn admit(pod: &mut Pod, class: Option<&PriorityClass>) -> Result<(), String> {
    let spec = pod.spec.get_or_insert_default();
    let value = class.and_then(|class| class.value).unwrap_or(0);
    let preemption = class.and_then(|class| class.preemption_policy.clone());
    let preemption = preemption.unwrap_or_else(|| "PreemptLowerPriority".to_owned());
    if let Some(given) = spec.priority.filter(|given| *given != value) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        ));
    }
    if let Some(given) = spec.preemption_policy.as_ref().filter(|given| **given != preemption) {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {preemption} from the given PriorityClass name"
        ));
    }
    if let Some(class) = class {
        spec.priority_class_name.clone_from(&class.metadata.name);
    }
    spec.priority = Some(value);
    spec.preemption_policy = Some(preemption);
    Ok(())
}

/// What is said about a class that is not there.
pub fn missing(name: &str) -> String {
    format!("no PriorityClass with name {name} was found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, value: i32, usual: bool) -> PriorityClass {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name}, "value": value, "globalDefault": usual,
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_has_the_priority_of_its_class_or_none() {
        let mut pod = Pod::default();
        admit(&mut pod, None).unwrap();
        assert_eq!(pod.spec.as_ref().unwrap().priority, Some(0));
        let classes = [class("b", 20, true), class("a", 10, true), class("c", 1, false)];
        let mut pod = Pod::default();
        admit(&mut pod, usual(&classes)).unwrap();
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!((spec.priority, spec.priority_class_name.as_deref()), (Some(10), Some("a")));
        assert_eq!(spec.preemption_policy.as_deref(), Some("PreemptLowerPriority"));
        let refusal = admit(&mut pod, Some(&classes[0])).unwrap_err();
        assert!(
            refusal.starts_with("the integer value of priority (10) must not be provided in pod spec"),
            "{refusal}"
        );
    }
}
