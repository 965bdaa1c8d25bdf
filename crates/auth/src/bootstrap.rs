//! The roles and bindings that every API server has from its first start, as far as they are about what is served here.
//!
//! Invariant: reconciling adds what is missing and takes nothing away; with the annotation
//! `rbac.authorization.kubernetes.io/autoupdate: "false"` it leaves an object alone. Reconciling twice changes nothing.
//! Upstream: `plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go`,
//! `component-helpers/auth/rbac/reconciliation`, v1.36.
//! Left out: roles of components that do not exist here (scheduler, proxy, kubelets that ask for certificates, the
//! controllers' own).

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::identity::{AUTHENTICATED, MASTERS, SERVICE_ACCOUNTS, UNAUTHENTICATED};
use crate::rules::{self, path_rule, rule};

const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const READ_WRITE: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The ClusterRoles.
pub fn cluster_roles() -> Vec<ClusterRole> {
    vec![
        role("cluster-admin", &[], vec![rule(&["*"], &["*"], &["*"]), path_rule(&["*"], &["*"])]),
        role(
            "system:discovery",
            &[],
            vec![path_rule(
                &["get"],
                &[
                    "/api",
                    "/api/*",
                    "/apis",
                    "/apis/*",
                    "/healthz",
                    "/livez",
                    "/openapi",
                    "/openapi/*",
                    "/readyz",
                    "/version",
                    "/version/",
                ],
            )],
        ),
        role(
            "system:public-info-viewer",
            &[],
            vec![path_rule(&["get"], &["/healthz", "/livez", "/readyz", "/version", "/version/"])],
        ),
        role(
            "system:monitoring",
            &[],
            vec![path_rule(
                &["get"],
                &["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*"],
            )],
        ),
        role(
            "system:basic-user",
            &[],
            vec![
                rule(&["create"], &["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
                rule(&["create"], &["authentication.k8s.io"], &["selfsubjectreviews"]),
            ],
        ),
        role(
            "system:auth-delegator",
            &[],
            vec![
                rule(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
                rule(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
            ],
        ),
        role(
            "system:service-account-issuer-discovery",
            &[],
            vec![path_rule(
                &["get"],
                &[
                    "/.well-known/openid-configuration",
                    "/.well-known/openid-configuration/",
                    "/openid/v1/jwks",
                    "/openid/v1/jwks/",
                ],
            )],
        ),
        aggregated("admin", &[], &["admin"]),
        aggregated("edit", &["admin"], &["edit"]),
        aggregated("view", &["edit"], &["view"]),
        role("system:aggregate-to-admin", &["admin"], admin_rules()),
        role("system:aggregate-to-edit", &["edit"], edit_rules()),
        role("system:aggregate-to-view", &["view"], view_rules()),
        role("system:node", &[], node_rules()),
    ]
}

/// What an admin of a namespace may do beyond editing.
fn admin_rules() -> Vec<PolicyRule> {
    vec![
        rule(&["create"], &["authorization.k8s.io"], &["localsubjectaccessreviews"]),
        rule(READ_WRITE, &[GROUP], &["rolebindings", "roles"]),
    ]
}

/// What an editor of a namespace may do beyond viewing.
fn edit_rules() -> Vec<PolicyRule> {
    vec![
        rule(READ, &[""], &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"]),
        rule(&["impersonate"], &[""], &["serviceaccounts"]),
        rule(WRITE, &[""], &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"]),
        rule(&["create"], &[""], &["pods/eviction"]),
        rule(
            WRITE,
            &[""],
            &[
                "configmaps",
                "events",
                "persistentvolumeclaims",
                "replicationcontrollers",
                "replicationcontrollers/scale",
                "secrets",
                "serviceaccounts",
                "services",
                "services/proxy",
            ],
        ),
        rule(&["create"], &[""], &["serviceaccounts/token"]),
        rule(
            WRITE,
            &["apps"],
            &[
                "daemonsets",
                "deployments",
                "deployments/rollback",
                "deployments/scale",
                "replicasets",
                "replicasets/scale",
                "statefulsets",
                "statefulsets/scale",
            ],
        ),
        rule(WRITE, &["autoscaling"], &["horizontalpodautoscalers"]),
        rule(WRITE, &["batch"], &["cronjobs", "jobs"]),
        rule(WRITE, &["policy"], &["poddisruptionbudgets"]),
        rule(WRITE, &["networking.k8s.io"], &["ingresses", "networkpolicies"]),
        rule(READ_WRITE, &["coordination.k8s.io"], &["leases"]),
    ]
}

/// What a viewer of a namespace may see. No Secrets: they hold the tokens of accounts that may do more.
fn view_rules() -> Vec<PolicyRule> {
    vec![
        rule(
            READ,
            &[""],
            &[
                "configmaps",
                "endpoints",
                "persistentvolumeclaims",
                "persistentvolumeclaims/status",
                "pods",
                "replicationcontrollers",
                "replicationcontrollers/scale",
                "serviceaccounts",
                "services",
                "services/status",
            ],
        ),
        rule(
            READ,
            &[""],
            &[
                "bindings",
                "events",
                "limitranges",
                "namespaces/status",
                "pods/log",
                "pods/status",
                "replicationcontrollers/status",
                "resourcequotas",
                "resourcequotas/status",
            ],
        ),
        rule(READ, &[""], &["namespaces"]),
        rule(READ, &["discovery.k8s.io"], &["endpointslices"]),
        rule(READ, &["events.k8s.io"], &["events"]),
        rule(
            READ,
            &["apps"],
            &[
                "controllerrevisions",
                "daemonsets",
                "daemonsets/status",
                "deployments",
                "deployments/scale",
                "deployments/status",
                "replicasets",
                "replicasets/scale",
                "replicasets/status",
                "statefulsets",
                "statefulsets/scale",
                "statefulsets/status",
            ],
        ),
        rule(READ, &["autoscaling"], &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]),
        rule(READ, &["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
        rule(READ, &["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
        rule(READ, &["networking.k8s.io"], &["ingresses", "ingresses/status", "networkpolicies"]),
    ]
}

/// What the agent of a node needs. Nobody is bound to it: the own agent is part of the process.
fn node_rules() -> Vec<PolicyRule> {
    vec![
        rule(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
        rule(&["create"], &["authorization.k8s.io"], &["localsubjectaccessreviews", "subjectaccessreviews"]),
        rule(READ, &[""], &["services"]),
        rule(&["create", "get", "list", "watch"], &[""], &["nodes"]),
        rule(&["patch", "update"], &[""], &["nodes/status"]),
        rule(&["patch", "update"], &[""], &["nodes"]),
        rule(&["create", "patch", "update"], &["", "events.k8s.io"], &["events"]),
        rule(READ, &[""], &["pods"]),
        rule(&["create", "delete"], &[""], &["pods"]),
        rule(&["patch", "update"], &[""], &["pods/status"]),
        rule(&["create"], &[""], &["pods/eviction"]),
        rule(READ, &[""], &["configmaps", "secrets"]),
        rule(&["get"], &[""], &["persistentvolumeclaims", "persistentvolumes"]),
        rule(&["create"], &[""], &["serviceaccounts/token"]),
        rule(&["get"], &[""], &["serviceaccounts"]),
        rule(&["create", "delete", "get", "patch", "update"], &["coordination.k8s.io"], &["leases"]),
    ]
}

/// The ClusterRoleBindings.
pub fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    vec![
        binding("cluster-admin", "cluster-admin", &[MASTERS]),
        binding("system:discovery", "system:discovery", &[AUTHENTICATED]),
        binding("system:basic-user", "system:basic-user", &[AUTHENTICATED]),
        binding("system:public-info-viewer", "system:public-info-viewer", &[AUTHENTICATED, UNAUTHENTICATED]),
        binding("system:monitoring", "system:monitoring", &["system:monitoring"]),
        binding(
            "system:service-account-issuer-discovery",
            "system:service-account-issuer-discovery",
            &[SERVICE_ACCOUNTS],
        ),
        binding("system:node", "system:node", &[]),
    ]
}

/// A ClusterRole that is a part of others.
fn role(name: &str, part_of: &[&str], rules: Vec<PolicyRule>) -> ClusterRole {
    ClusterRole { metadata: metadata(name, part_of), rules: Some(rules), aggregation_rule: None }
}

/// A ClusterRole made of others.
fn aggregated(name: &str, part_of: &[&str], parts: &[&str]) -> ClusterRole {
    let selector = |part: &&str| LabelSelector {
        match_labels: Some(BTreeMap::from([(aggregate_to(part), "true".to_owned())])),
        ..LabelSelector::default()
    };
    let cluster_role_selectors = Some(parts.iter().map(selector).collect());
    ClusterRole {
        metadata: metadata(name, part_of),
        rules: None,
        aggregation_rule: Some(AggregationRule { cluster_role_selectors }),
    }
}

fn aggregate_to(role: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{role}")
}

fn metadata(name: &str, part_of: &[&str]) -> ObjectMeta {
    let mut labels = BTreeMap::from([("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".to_owned())]);
    labels.extend(part_of.iter().map(|whole| (aggregate_to(whole), "true".to_owned())));
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels),
        annotations: Some(BTreeMap::from([(AUTOUPDATE.to_owned(), "true".to_owned())])),
        ..ObjectMeta::default()
    }
}

fn binding(name: &str, role: &str, groups: &[&str]) -> ClusterRoleBinding {
    let subject = |group: &&str| Subject {
        api_group: Some(GROUP.to_owned()),
        kind: "Group".to_owned(),
        name: (*group).to_owned(),
        namespace: None,
    };
    ClusterRoleBinding {
        metadata: metadata(name, &[]),
        role_ref: RoleRef { api_group: Some(GROUP.to_owned()), kind: "ClusterRole".to_owned(), name: role.to_owned() },
        subjects: Some(groups.iter().map(subject).collect()).filter(|subjects: &Vec<Subject>| !subjects.is_empty()),
    }
}

/// The stored ClusterRole with what it lacks of the wanted one. None: nothing, or it is not to be touched.
pub fn reconcile_role(stored: &ClusterRole, wanted: &ClusterRole) -> Option<ClusterRole> {
    let mut new = stored.clone();
    reconcile_metadata(&mut new.metadata, &wanted.metadata)?;
    match (&mut new.aggregation_rule, &wanted.aggregation_rule) {
        (_, None) => {
            let held: Vec<&PolicyRule> = stored.rules.iter().flatten().collect();
            let missing = rules::missing(&held, wanted.rules.as_deref().unwrap_or_default());
            new.rules.get_or_insert_default().extend(rules::compact(missing));
        }
        (own @ None, wanted) => own.clone_from(wanted),
        (Some(own), Some(wanted)) => {
            let own = own.cluster_role_selectors.get_or_insert_default();
            for selector in wanted.cluster_role_selectors.iter().flatten() {
                if !own.contains(selector) {
                    own.push(selector.clone());
                }
            }
        }
    }
    (new != *stored).then_some(new)
}

/// The stored binding with what it lacks of the wanted one. None: nothing, or it is not to be touched.
pub fn reconcile_binding(stored: &ClusterRoleBinding, wanted: &ClusterRoleBinding) -> Option<ClusterRoleBinding> {
    let mut new = stored.clone();
    reconcile_metadata(&mut new.metadata, &wanted.metadata)?;
    new.role_ref.clone_from(&wanted.role_ref);
    for subject in wanted.subjects.iter().flatten() {
        if !new.subjects.iter().flatten().any(|own| own == subject) {
            new.subjects.get_or_insert_default().push(subject.clone());
        }
    }
    (new != *stored).then_some(new)
}

/// Adds labels and annotations that are missing. None: the object is not to be touched.
fn reconcile_metadata(own: &mut ObjectMeta, wanted: &ObjectMeta) -> Option<()> {
    let annotations = own.annotations.get_or_insert_default();
    if annotations.get(AUTOUPDATE).is_some_and(|value| value == "false") {
        return None;
    }
    for (key, value) in wanted.annotations.iter().flatten() {
        annotations.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let labels = own.labels.get_or_insert_default();
    for (key, value) in wanted.labels.iter().flatten() {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconciling_what_is_as_it_should_be_changes_nothing() {
        for role in cluster_roles() {
            assert_eq!(reconcile_role(&role, &role), None, "{:?}", role.metadata.name);
        }
        for binding in cluster_role_bindings() {
            assert_eq!(reconcile_binding(&binding, &binding), None, "{:?}", binding.metadata.name);
        }
    }

    #[test]
    fn a_lost_rule_comes_back_and_a_new_one_stays() {
        let wanted = role("r", &[], vec![rule(&["get", "list"], &[""], &["pods"]), rule(&["get"], &[""], &["nodes"])]);
        let stored = role("r", &[], vec![rule(&["get", "delete"], &[""], &["pods"])]);
        let new = reconcile_role(&stored, &wanted).expect("something is missing");
        assert_eq!(
            new.rules.clone().unwrap(),
            [
                rule(&["get", "delete"], &[""], &["pods"]),
                rule(&["get"], &[""], &["nodes"]),
                rule(&["list"], &[""], &["pods"]),
            ]
        );
        assert_eq!(reconcile_role(&new, &wanted), None);
    }

    #[test]
    fn an_object_with_autoupdate_false_is_left_alone() {
        let wanted = role("r", &[], vec![rule(&["get"], &[""], &["pods"])]);
        let mut stored = role("r", &[], Vec::new());
        stored.metadata.annotations = Some(BTreeMap::from([(AUTOUPDATE.to_owned(), "false".to_owned())]));
        assert_eq!(reconcile_role(&stored, &wanted), None);
    }

    #[test]
    fn a_lost_subject_comes_back() {
        let wanted = binding("b", "r", &["g"]);
        let stored = binding("b", "r", &["other"]);
        let groups: Vec<String> = reconcile_binding(&stored, &wanted)
            .expect("a subject is missing")
            .subjects
            .into_iter()
            .flatten()
            .map(|subject| subject.name)
            .collect();
        assert_eq!(groups, ["other", "g"]);
    }
}
