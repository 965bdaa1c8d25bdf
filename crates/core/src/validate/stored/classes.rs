//! PriorityClasses and StorageClasses.
//!
//! Upstream: `pkg/apis/scheduling/validation/validation.go`, `pkg/apis/scheduling/v1/helpers.go`
//! (`IsKnownSystemPriorityClass`), `pkg/apis/storage/validation/validation.go`, v1.36. Left out: allowed topologies.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;

use crate::admission::priority::SYSTEM;
use crate::field::{Fault, Path};
use crate::names;
use crate::validate::{entries, invalid_for, text};

/// The highest priority that users may give.
const HIGHEST_PRIORITY: i32 = 1_000_000_000;
/// The most parameters that a StorageClass may have.
const MAX_PARAMETERS: usize = 512;
/// The most bytes that they may have, names and values.
const MAX_PARAMETER_BYTES: usize = 256 * 1024;

/// What is wrong with a PriorityClass.
pub fn priority_class(class: &PriorityClass) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Path::root();
    if text(class.metadata.name.as_ref()).starts_with("system-") {
        if let Err(why) = is_the_systems(class) {
            let detail =
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}");
            faults.push(Fault::forbidden(&root.field("metadata").field("name"), &detail));
        }
    } else if class.value.unwrap_or_default() > HIGHEST_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
        faults.push(Fault::forbidden(&root.field("value"), &detail));
    }
    let path = root.field("preemptionPolicy");
    let policies = ["PreemptLowerPriority", "Never"];
    match class.preemption_policy.as_deref() {
        Some("") => faults.push(Fault::required(&path, "")),
        Some(policy) if !policies.contains(&policy) => faults.push(Fault::not_supported(&path, policy, &policies)),
        _ => {}
    }
    faults
}

/// Whether the class is one of those that the server makes itself, or else why not.
fn is_the_systems(class: &PriorityClass) -> Result<(), String> {
    let name = text(class.metadata.name.as_ref());
    let known = SYSTEM.iter().find(|(known, ..)| *known == name);
    let (_, value, _) = known.ok_or_else(|| format!("{name} is not a known system priority class"))?;
    if class.value.unwrap_or_default() != *value {
        return Err(format!("value of {name} PriorityClass must be {value}"));
    }
    if class.global_default == Some(true) {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

/// What is wrong with changing a PriorityClass: value and policy stay.
pub fn priority_class_update(old: &PriorityClass, new: &PriorityClass) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Path::root();
    if old.value.unwrap_or_default() != new.value.unwrap_or_default() {
        faults.push(Fault::forbidden(&root.field("value"), "may not be changed in an update."));
    }
    if old.preemption_policy != new.preemption_policy {
        let value = text(new.preemption_policy.as_ref());
        faults.push(Fault::invalid(&root.field("preemptionPolicy"), value, "field is immutable"));
    }
    faults
}

/// What is wrong with a StorageClass.
pub fn storage_class(class: &StorageClass) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Path::root();
    let path = root.field("provisioner");
    if class.provisioner.is_empty() {
        faults.push(Fault::required(&path, ""));
    } else {
        let name = class.provisioner.to_lowercase();
        invalid_for(names::qualified_name(&name), &path, &class.provisioner, &mut faults);
    }
    let path = root.field("parameters");
    if class.parameters.as_ref().is_some_and(|parameters| parameters.len() > MAX_PARAMETERS) {
        faults.push(Fault::too_long(&path, MAX_PARAMETERS));
    } else {
        let mut bytes = 0;
        for (name, value) in entries(class.parameters.as_ref()) {
            if name.is_empty() {
                faults.push(Fault::invalid(&path, "", "field can not be empty."));
            }
            bytes += name.len() + value.len();
        }
        if bytes > MAX_PARAMETER_BYTES {
            faults.push(Fault::too_long(&path, MAX_PARAMETER_BYTES));
        }
    }
    let mut one_of = |field: &str, value: Option<&String>, supported: &[&str]| {
        if let Some(value) = value.filter(|value| !supported.contains(&value.as_str())) {
            faults.push(Fault::not_supported(&root.field(field), value.as_str(), supported));
        }
    };
    one_of("reclaimPolicy", class.reclaim_policy.as_ref(), &["Delete", "Retain"]);
    one_of("volumeBindingMode", class.volume_binding_mode.as_ref(), &["Immediate", "WaitForFirstConsumer"]);
    faults
}

/// What is wrong with changing a StorageClass: only whether volumes may grow, and how they are mounted, may change.
pub fn storage_class_update(old: &StorageClass, new: &StorageClass) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Path::root();
    let mut forbidden = |field: &str, same: bool| {
        if !same {
            faults.push(Fault::forbidden(&root.field(field), &format!("updates to {field} are forbidden.")));
        }
    };
    forbidden("parameters", entries(old.parameters.as_ref()).eq(entries(new.parameters.as_ref())));
    forbidden("provisioner", old.provisioner == new.provisioner);
    forbidden("reclaimPolicy", old.reclaim_policy == new.reclaim_policy);
    if old.volume_binding_mode != new.volume_binding_mode {
        let value = text(new.volume_binding_mode.as_ref());
        faults.push(Fault::invalid(&root.field("volumeBindingMode"), value, "field is immutable"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{of, told};
    use super::*;

    fn class(name: &str, value: i32) -> PriorityClass {
        of(json!({"metadata": {"name": name}, "value": value}))
    }

    #[test]
    fn users_priorities_stay_below_the_systems() {
        assert!(priority_class(&class("a", HIGHEST_PRIORITY)).is_empty());
        assert_eq!(
            told(&priority_class(&class("a", HIGHEST_PRIORITY + 1))),
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
        );
        let policy: PriorityClass = of(json!({"metadata": {"name": "a"}, "value": 1, "preemptionPolicy": "Maybe"}));
        assert_eq!(
            told(&priority_class(&policy)),
            ["preemptionPolicy: Unsupported value: \"Maybe\": supported values: \"PreemptLowerPriority\", \"Never\""]
        );
    }

    #[test]
    fn names_of_the_system_are_for_its_own_classes() {
        let (name, value, _) = SYSTEM[0];
        assert!(priority_class(&class(name, value)).is_empty());
        let prefix = "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: ";
        for (class, why) in [
            (class("system-x", 1), "system-x is not a known system priority class".to_owned()),
            (class(name, 1), format!("value of {name} PriorityClass must be {value}")),
        ] {
            assert_eq!(told(&priority_class(&class)), [format!("{prefix}{why}")]);
        }
    }

    #[test]
    fn a_priority_keeps_its_value() {
        assert!(priority_class_update(&class("a", 1), &class("a", 1)).is_empty());
        assert_eq!(
            told(&priority_class_update(&class("a", 1), &class("a", 2))),
            ["value: Forbidden: may not be changed in an update."]
        );
    }

    #[test]
    fn a_storage_class_names_its_provisioner_and_known_policies() {
        let bad: StorageClass = of(
            json!({"provisioner": "", "reclaimPolicy": "Recycle", "volumeBindingMode": "Later", "parameters": {"": "x"}}),
        );
        assert_eq!(
            told(&storage_class(&bad)),
            [
                "provisioner: Required value",
                "parameters: Invalid value: \"\": field can not be empty.",
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ]
        );
        let good: StorageClass = of(json!({"provisioner": "example.com/Disk", "volumeBindingMode": "Immediate"}));
        assert!(storage_class(&good).is_empty());
        assert!(storage_class_update(&good, &good).is_empty());
        let other: StorageClass = of(
            json!({"provisioner": "x", "reclaimPolicy": "Retain", "parameters": {"a": "b"}, "volumeBindingMode": "WaitForFirstConsumer"}),
        );
        assert_eq!(
            told(&storage_class_update(&good, &other)),
            [
                "parameters: Forbidden: updates to parameters are forbidden.",
                "provisioner: Forbidden: updates to provisioner are forbidden.",
                "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
                "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
            ]
        );
    }
}
