//! Namespaces.
//!
//! Upstream: `pkg/apis/core/validation/validation.go` (`ValidateNamespace`, `ValidateNamespaceStatusUpdate`,
//! `validateFinalizerName`), v1.36.

use k8s_openapi::api::core::v1::Namespace;

use crate::field::{Fault, Path};
use crate::names;
use crate::validate::{invalid_for, items, text};

/// What is wrong with a new Namespace: whoever holds one says so by a full name.
pub fn namespace(namespace: &Namespace) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Path::root();
    let path = root.field("spec");
    let path = path.field("finalizers");
    for name in namespace.spec.iter().flat_map(|spec| items(spec.finalizers.as_ref())) {
        let reasons = names::qualified_name(name);
        let well_formed = reasons.is_empty();
        invalid_for(reasons, &path, name, &mut faults);
        let standard = ["kubernetes", "orphan", "foregroundDeletion"];
        if well_formed && !name.contains('/') && !standard.contains(&name.as_str()) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            faults.push(Fault::invalid(&path, name, detail));
        }
    }
    faults
}

/// What is wrong with a Namespace's new status: its phase says whether it is being deleted.
pub fn namespace_status_update(new: &Namespace) -> Vec<Fault> {
    let phase = text(new.status.as_ref().and_then(|status| status.phase.as_ref()));
    let (right, detail) = match new.metadata.deletion_timestamp {
        None => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
        Some(_) => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
    };
    if phase == right {
        return Vec::new();
    }
    // Upstream writes this one field with a capital letter.
    vec![Fault::invalid(&Path::root().field("status").field("Phase"), phase, detail)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{of, told};
    use super::*;

    #[test]
    fn who_holds_a_namespace_has_a_full_name() {
        let good: Namespace = of(json!({"spec": {"finalizers": ["kubernetes", "example.com/mine"]}}));
        assert!(namespace(&good).is_empty());
        let bad: Namespace = of(json!({"spec": {"finalizers": ["mine", "-"]}}));
        let told = told(&namespace(&bad));
        assert_eq!(
            told[0],
            "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"
        );
        assert!(told[1].starts_with("spec.finalizers: Invalid value: \"-\": name part must consist of"), "{told:?}");
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn a_phase_says_whether_a_namespace_is_being_deleted() {
        let there = |phase: &str| of::<Namespace>(json!({"status": {"phase": phase}}));
        let going = |phase: &str| {
            of::<Namespace>(
                json!({"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}, "status": {"phase": phase}}),
            )
        };
        assert!(namespace_status_update(&there("Active")).is_empty());
        assert!(namespace_status_update(&going("Terminating")).is_empty());
        assert_eq!(
            told(&namespace_status_update(&there("Terminating"))),
            ["status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"]
        );
        assert_eq!(
            told(&namespace_status_update(&going("Active"))),
            ["status.Phase: Invalid value: \"Active\": may only be 'Terminating' if `deletionTimestamp` is not empty"]
        );
    }
}
