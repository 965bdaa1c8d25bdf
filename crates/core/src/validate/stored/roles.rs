//! Roles and their bindings.
//!
//! Upstream: `pkg/apis/rbac/validation/validation.go`, v1.36.

use k8s_openapi::api::rbac::v1::{AggregationRule, PolicyRule, RoleRef, Subject};
use serde::Serialize;

use crate::field::{Fault, Path, Value};
use crate::names;
use crate::validate::{invalid_for, items, selector, text};

/// The group of roles.
const RBAC: &str = "rbac.authorization.k8s.io";

/// What is wrong with the rules of a Role (`namespaced`) or ClusterRole.
pub fn policy_rules(rules: Option<&Vec<PolicyRule>>, namespaced: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Path::root();
    let path = root.field("rules");
    for (at, rule) in items(rules).iter().enumerate() {
        policy_rule(rule, namespaced, &path.index(at), &mut faults);
    }
    faults
}

fn policy_rule(rule: &PolicyRule, namespaced: bool, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if rule.verbs.is_empty() {
        faults.push(Fault::required(&path.field("verbs"), "verbs must contain at least one value"));
    }
    let urls = items(rule.non_resource_urls.as_ref());
    if !urls.is_empty() {
        let field = path.field("nonResourceURLs");
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            faults.push(Fault::invalid(&field, Value::json(&urls), detail));
        }
        let lists = [&rule.api_groups, &rule.resources, &rule.resource_names];
        if lists.iter().any(|list| !items(list.as_ref()).is_empty()) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            faults.push(Fault::invalid(&field, Value::json(&urls), detail));
        }
        return;
    }
    if items(rule.api_groups.as_ref()).is_empty() {
        faults.push(Fault::required(&path.field("apiGroups"), "resource rules must supply at least one api group"));
    }
    if items(rule.resources.as_ref()).is_empty() {
        faults.push(Fault::required(&path.field("resources"), "resource rules must supply at least one resource"));
    }
}

/// What is wrong with how a ClusterRole is made of others.
pub fn aggregation(rule: Option<&AggregationRule>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Some(rule) = rule else { return faults };
    let root = Path::root();
    let path = root.field("aggregationRule");
    let path = path.field("clusterRoleSelectors");
    let selectors = items(rule.cluster_role_selectors.as_ref());
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        faults.push(Fault::required(&path, detail));
    }
    for (at, selector) in selectors.iter().enumerate() {
        selector::validate(selector, &path.index(at), &mut faults);
    }
    faults
}

/// What is wrong with a RoleBinding (`namespaced`) or ClusterRoleBinding.
pub fn role_binding(role: &RoleRef, subjects: Option<&Vec<Subject>>, namespaced: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Path::root();
    let path = root.field("roleRef");
    let group = text(role.api_group.as_ref());
    if group != RBAC {
        faults.push(Fault::not_supported(&path.field("apiGroup"), group, &[RBAC]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.kind.as_str()) {
        faults.push(Fault::not_supported(&path.field("kind"), role.kind.as_str(), kinds));
    }
    if role.name.is_empty() {
        faults.push(Fault::required(&path.field("name"), ""));
    } else {
        invalid_for(names::path_segment(&role.name), &path.field("name"), &role.name, &mut faults);
    }
    let path = root.field("subjects");
    for (at, subject) in items(subjects).iter().enumerate() {
        self::subject(subject, namespaced, &path.index(at), &mut faults);
    }
    faults
}

fn subject(subject: &Subject, namespaced: bool, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let name = path.field("name");
    if subject.name.is_empty() {
        faults.push(Fault::required(&name, ""));
    }
    let (supported, empty) = match subject.kind.as_str() {
        "ServiceAccount" => ("", None),
        "User" => (RBAC, Some("user name cannot be empty")),
        "Group" => (RBAC, Some("group name cannot be empty")),
        kind => {
            let kinds = ["ServiceAccount", "User", "Group"];
            faults.push(Fault::not_supported(&path.field("kind"), kind, &kinds));
            return;
        }
    };
    match empty {
        // Upstream tells it twice.
        Some(detail) if subject.name.is_empty() => faults.push(Fault::invalid(&name, "", detail)),
        None if !subject.name.is_empty() => {
            invalid_for(names::dns_subdomain(&subject.name), &name, &subject.name, faults);
        }
        _ => {}
    }
    let group = text(subject.api_group.as_ref());
    if group != supported {
        faults.push(Fault::not_supported(&path.field("apiGroup"), group, &[supported]));
    }
    if empty.is_none() && !namespaced && text(subject.namespace.as_ref()).is_empty() {
        faults.push(Fault::required(&path.field("namespace"), ""));
    }
}

/// What is wrong with changing the role of a binding: it stays.
pub fn role_ref_update(old: &RoleRef, new: &RoleRef) -> Vec<Fault> {
    /// The reference as messages print it: a Go struct without names for JSON.
    #[derive(Serialize)]
    struct Go<'a> {
        #[serde(rename = "APIGroup")]
        group: &'a str,
        #[serde(rename = "Kind")]
        kind: &'a str,
        #[serde(rename = "Name")]
        name: &'a str,
    }
    if old == new {
        return Vec::new();
    }
    let shown = Go { group: text(new.api_group.as_ref()), kind: &new.kind, name: &new.name };
    vec![Fault::invalid(&Path::root().field("roleRef"), Value::json(&shown), "cannot change roleRef")]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::super::tests::{of, told};
    use super::*;

    #[test]
    fn rules_name_verbs_and_what_they_are_about() {
        let faults = |value: Json, namespaced| told(&policy_rules(Some(&of::<Vec<PolicyRule>>(value)), namespaced));
        let nothing: [&str; 0] = [];
        assert_eq!(faults(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]), true), nothing);
        assert_eq!(faults(json!([{"verbs": ["get"], "nonResourceURLs": ["/x"]}]), false), nothing);
        assert_eq!(
            faults(json!([{"verbs": [], "apiGroups": [""]}, {"verbs": ["get"], "nonResourceURLs": ["/x"]}]), true),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
                "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
            ]
        );
        assert_eq!(
            faults(json!([{"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}]), false),
            [
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs"
            ]
        );
    }

    #[test]
    fn a_role_is_made_of_selected_roles_only() {
        assert!(aggregation(None).is_empty());
        assert_eq!(
            told(&aggregation(Some(&AggregationRule::default()))),
            [
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"
            ]
        );
        let rule = of(json!({"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "Near"}]}]}));
        assert_eq!(
            told(&aggregation(Some(&rule))),
            [
                "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator"
            ]
        );
    }

    #[test]
    fn a_binding_names_a_role_and_known_subjects() {
        let role: RoleRef = of(json!({"apiGroup": RBAC, "kind": "Role", "name": "r"}));
        assert_eq!(told(&role_binding(&role, None, true)), Vec::<String>::new());
        let subjects: Vec<Subject> = of(json!([
            {"kind": "Robot", "name": "x"},
            {"kind": "ServiceAccount", "name": "a", "apiGroup": "x"},
            {"kind": "User", "name": "", "apiGroup": RBAC},
        ]));
        assert_eq!(
            told(&role_binding(&role, Some(&subjects), false)),
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
                "subjects[1].apiGroup: Unsupported value: \"x\": supported values: \"\"",
                "subjects[1].namespace: Required value",
                "subjects[2].name: Required value",
                "subjects[2].name: Invalid value: \"\": user name cannot be empty",
            ]
        );
        let nowhere: RoleRef = of(json!({"kind": "", "name": "a/b"}));
        assert_eq!(
            told(&role_binding(&nowhere, None, true)),
            [
                "roleRef.apiGroup: Unsupported value: \"\": supported values: \"rbac.authorization.k8s.io\"",
                "roleRef.kind: Unsupported value: \"\": supported values: \"Role\", \"ClusterRole\"",
                "roleRef.name: Invalid value: \"a/b\": may not contain '/'",
            ]
        );
    }

    #[test]
    fn a_binding_keeps_its_role() {
        let role: RoleRef = of(json!({"apiGroup": RBAC, "kind": "Role", "name": "r"}));
        let other: RoleRef = of(json!({"apiGroup": RBAC, "kind": "Role", "name": "s"}));
        assert!(role_ref_update(&role, &role).is_empty());
        assert_eq!(
            told(&role_ref_update(&role, &other)),
            [
                "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"s\"}: cannot change roleRef"
            ]
        );
    }
}
