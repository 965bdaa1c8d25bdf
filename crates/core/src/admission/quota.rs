//! ResourceQuotas: what objects use, and whether one more fits.
//!
//! Invariant: what is used is counted from the objects themselves, never from what a quota's status said before.
//! Upstream: `staging/src/k8s.io/apiserver/pkg/admission/plugin/resourcequota/controller.go`,
//! `pkg/quota/v1/evaluator/core/{pods,persistent_volume_claims,services}.go`, v1.36. Difference: upstream admits against a
//! status that a controller keeps, so that a new quota forbids everything until it was seen; here `spec.hard` counts at
//! once. Left out: quotas by storage class, and of cross-namespace affinity.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::admit::qos_class;
use crate::pod::{is_sidecar, lasting};
use crate::quantity::{self, Quantity};

/// Amounts by the names that quotas give them.
pub type Amounts = BTreeMap<String, Quantity>;

/// An object, as far as it matters to quotas.
#[derive(Clone, Copy, Debug)]
pub enum Counted<'a> {
    /// A pod uses resources while it is not over.
    Pod(&'a Pod),
    /// A claim uses storage.
    Claim(&'a PersistentVolumeClaim),
    /// A service may use ports of nodes.
    Service(&'a Service),
    /// Anything else is only counted.
    Other,
}

/// Kinds of the core group that quotas also count under their plain names.
const PLAIN: [&str; 6] =
    ["configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "services"];
/// What every container must say when a quota limits it.
const COMPUTE: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// What an object of `resource` (`pods`, `jobs.batch`) uses.
pub fn usage(resource: &str, object: Counted<'_>) -> Amounts {
    let one = quantity::parse("1").unwrap_or(Quantity::ZERO);
    let mut used = Amounts::from([(format!("count/{resource}"), one)]);
    if PLAIN.contains(&resource) {
        used.insert(resource.to_owned(), one);
    }
    match object {
        Counted::Pod(pod) => {
            if !is_over(pod) {
                used.insert("pods".into(), one);
                pod_usage(pod, &mut used);
            }
        }
        Counted::Claim(claim) => {
            let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
            if let Some(storage) = requests.and_then(|requests| requests.get("storage")) {
                used.insert("requests.storage".into(), amount(storage));
            }
        }
        Counted::Service(service) => {
            let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
            match kind {
                Some("NodePort") => drop(used.insert("services.nodeports".into(), one)),
                Some("LoadBalancer") => drop(used.insert("services.loadbalancers".into(), one)),
                _ => {}
            }
        }
        Counted::Other => {}
    }
    used
}

/// Whether a quota of these names has to look at `resource`.
pub fn concerns<'a>(mut hard: impl Iterator<Item = &'a String>, resource: &str) -> bool {
    hard.any(|name| {
        name.strip_prefix("count/").is_some_and(|counted| counted == resource)
            || match resource {
                "pods" => !name.contains('/') && !PLAIN.contains(&name.as_str()) && !name.contains("storage"),
                "persistentvolumeclaims" => name == resource || name == "requests.storage",
                "services" => name == resource || name.starts_with("services."),
                _ => name == resource,
            }
    })
}

/// Whether the quota is about such an object. One with scopes is about pods only.
pub fn matches(quota: &ResourceQuota, object: Counted<'_>) -> bool {
    let Some(spec) = &quota.spec else { return false };
    let selectors = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    let plain = spec.scopes.iter().flatten();
    for (scope, operator, values) in plain
        .map(|scope| (scope.as_str(), "Exists", &[][..]))
        .chain(selectors.map(|it| (it.scope_name.as_str(), it.operator.as_str(), it.values.as_deref().unwrap_or(&[]))))
    {
        let Counted::Pod(pod) = object else { return false };
        if !in_scope(pod, scope, operator, values) {
            return false;
        }
    }
    true
}

fn in_scope(pod: &Pod, scope: &str, operator: &str, values: &[String]) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let class = spec.priority_class_name.as_deref().unwrap_or_default();
    match scope {
        "Terminating" => spec.active_deadline_seconds.is_some(),
        "NotTerminating" => spec.active_deadline_seconds.is_none(),
        "BestEffort" => qos_class(spec) == "BestEffort",
        "NotBestEffort" => qos_class(spec) != "BestEffort",
        "PriorityClass" => match operator {
            "Exists" => !class.is_empty(),
            "DoesNotExist" => class.is_empty(),
            "In" => values.iter().any(|value| value == class),
            "NotIn" => values.iter().all(|value| value != class),
            _ => false,
        },
        _ => false,
    }
}

/// Whether an object that uses `wanted` fits beside what is `used`; the sum, for the quota's status.
///
/// # Errors
///
/// Why not, in upstream's words.
pub fn check(quota: &ResourceQuota, object: Counted<'_>, wanted: &Amounts, used: &Amounts) -> Result<Amounts, String> {
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let hard = hard(quota);
    if let Counted::Pod(pod) = object
        && let Some(missing) = unsaid(pod, &hard)
    {
        return Err(format!("failed quota: {name}: must specify {missing}"));
    }
    let mut total = used.clone();
    let mut exceeded = BTreeSet::new();
    for (name, wanted) in wanted {
        let Some(most) = hard.get(name) else { continue };
        let sum = used.get(name).copied().unwrap_or(Quantity::ZERO).plus(*wanted);
        if sum > *most && *wanted > Quantity::ZERO {
            exceeded.insert(name.as_str());
        }
        total.insert(name.clone(), sum);
    }
    if exceeded.is_empty() {
        return Ok(total);
    }
    let show = |amounts: &Amounts| {
        let zero = Quantity::ZERO;
        let shown = exceeded.iter().map(|name| format!("{name}={}", amounts.get(*name).unwrap_or(&zero)));
        shown.collect::<Vec<_>>().join(",")
    };
    let (requested, used, limited) = (show(wanted), show(used), show(&hard));
    Err(format!("exceeded quota: {name}, requested: {requested}, used: {used}, limited: {limited}"))
}

/// Adds `usage` to `used`, as far as the quota limits it.
pub fn add(quota: &ResourceQuota, used: &mut Amounts, usage: &Amounts) {
    for name in hard(quota).keys() {
        let known = used.entry(name.clone()).or_insert(Quantity::ZERO);
        if let Some(amount) = usage.get(name) {
            *known = known.plus(*amount);
        }
    }
}

/// What the quota allows.
pub fn hard(quota: &ResourceQuota) -> Amounts {
    let hard = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
    hard.map(|(name, text)| (name.clone(), amount(text))).collect()
}

/// What a quota's status has to say when so much is used.
pub fn status(quota: &ResourceQuota, used: &Amounts) -> ResourceQuotaStatus {
    let text = |amounts: &Amounts| -> Option<BTreeMap<String, Text>> {
        let texts = amounts.iter().map(|(name, amount)| (name.clone(), Text(amount.to_string())));
        Some(texts.collect()).filter(|texts: &BTreeMap<_, _>| !texts.is_empty())
    };
    let hard = hard(quota);
    let used = used.iter().filter(|(name, _)| hard.contains_key(*name)).map(|(name, amount)| (name.clone(), *amount));
    ResourceQuotaStatus { used: text(&used.collect()), hard: text(&hard) }
}

/// The containers that don't say what the quota limits.
fn unsaid(pod: &Pod, hard: &Amounts) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let mut said = Amounts::new();
        container_usage(container, &mut said);
        for required in COMPUTE.iter().filter(|name| hard.contains_key(**name) && !said.contains_key(**name)) {
            missing.entry(required).or_default().insert(&container.name);
        }
    }
    let told = missing
        .iter()
        .map(|(name, containers)| format!("{name} for: {}", containers.iter().copied().collect::<Vec<_>>().join(",")));
    let told = told.collect::<Vec<_>>().join("; ");
    (!told.is_empty()).then_some(told)
}

fn pod_usage(pod: &Pod, used: &mut Amounts) {
    let Some(spec) = &pod.spec else { return };
    let mut total = Amounts::new();
    let mut raise = |amounts: Amounts, at_least: bool| {
        for (name, amount) in amounts {
            let known = total.get(&name).copied().unwrap_or(Quantity::ZERO);
            total.insert(name, if at_least { known.max(amount) } else { known.plus(amount) });
        }
    };
    let usage = |container: &Container| {
        let mut amounts = Amounts::new();
        container_usage(container, &mut amounts);
        amounts
    };
    lasting(spec).for_each(|container| raise(usage(container), false));
    let init = spec.init_containers.iter().flatten();
    init.filter(|container| !is_sidecar(container)).for_each(|container| raise(usage(container), true));
    used.extend(total);
}

fn container_usage(container: &Container, used: &mut Amounts) {
    let resources = container.resources.clone().unwrap_or_default();
    for (name, text) in resources.requests.iter().flatten() {
        used.insert(format!("requests.{name}"), amount(text));
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(name.clone(), amount(text));
        }
    }
    for (name, text) in resources.limits.iter().flatten() {
        used.insert(format!("limits.{name}"), amount(text));
    }
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn amount(text: &Text) -> Quantity {
    quantity::parse(&text.0).unwrap_or(Quantity::ZERO)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn quota(spec: &Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": spec})).unwrap()
    }

    fn pod(requests: &Value) -> Pod {
        let containers = json!([{"name": "c", "resources": {"requests": requests}}]);
        serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_is_used() {
        let quota = quota(&json!({"hard": {"pods": "2", "requests.cpu": "1", "count/jobs.batch": "1"}}));
        let pod = pod(&json!({"cpu": "600m"}));
        let object = Counted::Pod(&pod);
        let wanted = usage("pods", object);
        let mut used = Amounts::new();
        add(&quota, &mut used, &Amounts::new());
        let used = check(&quota, object, &wanted, &used).unwrap();
        assert_eq!(used["requests.cpu"].to_string(), "600m");
        assert_eq!(
            check(&quota, object, &wanted, &used).unwrap_err(),
            "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
        );
    }

    #[test]
    fn a_container_must_say_what_is_limited() {
        let quota = quota(&json!({"hard": {"requests.cpu": "1", "limits.memory": "1Gi"}}));
        let pod = pod(&json!({}));
        let refusal = check(&quota, Counted::Pod(&pod), &Amounts::new(), &Amounts::new()).unwrap_err();
        assert_eq!(refusal, "failed quota: q: must specify limits.memory for: c; requests.cpu for: c");
    }

    #[test]
    fn a_pod_that_is_over_uses_nothing_but_its_place() {
        let mut pod = pod(&json!({"cpu": "1"}));
        assert_eq!(usage("pods", Counted::Pod(&pod)).len(), 4);
        pod.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).unwrap());
        let used = usage("pods", Counted::Pod(&pod));
        assert_eq!(used.keys().collect::<Vec<_>>(), ["count/pods"]);
    }

    #[test]
    fn scopes_select_pods_and_nothing_else() {
        let (plain, mut timed) = (pod(&json!({})), pod(&json!({"cpu": "1"})));
        timed.spec.as_mut().unwrap().active_deadline_seconds = Some(1);
        for (scope, of_plain, of_timed) in [
            ("Terminating", false, true),
            ("NotTerminating", true, false),
            ("BestEffort", true, false),
            ("NotBestEffort", false, true),
        ] {
            let quota = quota(&json!({"scopes": [scope]}));
            assert_eq!(matches(&quota, Counted::Pod(&plain)), of_plain, "{scope}");
            assert_eq!(matches(&quota, Counted::Pod(&timed)), of_timed, "{scope}");
            assert!(!matches(&quota, Counted::Other), "{scope}");
        }
        assert!(matches(&quota(&json!({})), Counted::Other));
    }

    #[test]
    fn a_status_says_what_is_used_of_what_is_limited() {
        let quota = quota(&json!({"hard": {"pods": "2", "requests.cpu": "1000m"}}));
        let mut used = Amounts::new();
        add(&quota, &mut used, &usage("pods", Counted::Pod(&pod(&json!({"cpu": "600m", "memory": "1Gi"})))));
        let status = serde_json::to_value(status(&quota, &used)).unwrap();
        let expected =
            json!({"hard": {"pods": "2", "requests.cpu": "1"}, "used": {"pods": "1", "requests.cpu": "600m"}});
        assert_eq!(status, expected);
    }

    #[test]
    fn a_quota_looks_only_at_what_it_limits() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        for (hard, resource, wanted) in [
            (&["pods"][..], "pods", true),
            (&["requests.cpu"], "pods", true),
            (&["count/jobs.batch"], "jobs.batch", true),
            (&["count/jobs.batch"], "pods", false),
            (&["secrets"], "pods", false),
            (&["secrets"], "secrets", true),
            (&["requests.storage"], "persistentvolumeclaims", true),
            (&["services.nodeports"], "services", true),
        ] {
            assert_eq!(concerns(names(hard).iter(), resource), wanted, "{hard:?} {resource}");
        }
    }
}
