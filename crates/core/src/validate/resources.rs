//! Resource limits and requests.
//!
//! Upstream: `pkg/apis/core/validation/validation.go` (`ValidateResourceRequirements`), `pkg/apis/core/helper`, v1.36.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ResourceClaim, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;

use super::{entries, invalid_for, items};
use crate::field::{Fault, FaultKind, Path};
use crate::names;
use crate::quantity::{self, Quantity};

const CONTAINER_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Sums over containers and claims, which quotas limit.
const QUOTA_RESOURCES: [&str; 7] = [
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "requests.storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// Objects, whose number quotas limit.
const COUNTED_RESOURCES: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

pub(super) fn requirements(
    requirements: &ResourceRequirements,
    claim_names: &BTreeSet<&str>,
    path: &Path<'_>,
    faults: &mut Vec<Fault>,
) {
    let limits_path = path.field("limits");
    let requests_path = path.field("requests");
    if let Some(limits) = &requirements.limits {
        self::limits(limits, &limits_path, faults);
    }
    for (name, raw) in entries(requirements.requests.as_ref()) {
        let path = requests_path.key(name);
        let Some(request) = resource(name, raw, &path, faults) else {
            continue;
        };
        let limit = requirements.limits.as_ref().and_then(|limits| limits.get(name));
        let overcommit = is_native(name) && !is_huge_page(name);
        match limit.and_then(|raw| quantity::parse(&raw.0).ok()) {
            Some(limit) if request != limit && !overcommit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                faults.push(Fault::invalid(&requests_path, &request.to_string(), detail));
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                faults.push(Fault::invalid(&requests_path, &request.to_string(), detail));
            }
            None if !overcommit => {
                let detail = "Limit must be set for non overcommitable resources";
                faults.push(Fault::required(&limits_path, detail));
            }
            _ => {}
        }
        huge_pages(name, request, &path, faults);
    }
    let names = || {
        let limits = requirements.limits.iter().flat_map(BTreeMap::keys);
        limits.chain(requirements.requests.iter().flat_map(BTreeMap::keys))
    };
    if names().any(|n| is_huge_page(n)) && !names().any(|n| n == "cpu" || n == "memory") {
        faults.push(Fault::forbidden(path, "HugePages require cpu or memory"));
    }
    claims(items(requirements.claims.as_ref()), claim_names, &path.field("claims"), faults);
}

/// A list of limits, each on its own.
pub(super) fn limits(limits: &BTreeMap<String, Raw>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    for (name, raw) in limits {
        let path = path.key(name);
        if let Some(limit) = resource(name, raw, &path, faults) {
            huge_pages(name, limit, &path, faults);
        }
    }
}

/// One entry's name and amount; the amount if it is one (decoding has seen to that).
fn resource(name: &str, raw: &Raw, path: &Path<'_>, faults: &mut Vec<Fault>) -> Option<Quantity> {
    resource_name(name, path, faults);
    let amount = quantity::parse(&raw.0).ok()?;
    if amount < Quantity::ZERO {
        faults.push(Fault::invalid(path, &amount.to_string(), "must be greater than or equal to 0"));
    }
    if is_extended(name) && !amount.is_integer() {
        faults.push(Fault::invalid(path, &amount.to_string(), "must be an integer"));
    }
    Some(amount)
}

/// The name of what a container can ask for.
pub(super) fn resource_name(name: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    any_resource_name(name, path, faults);
    if !name.contains('/') {
        if !is_container_resource(name) {
            faults.push(Fault::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        faults.push(Fault::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// The name of anything that there can be an amount of.
pub(super) fn any_resource_name(name: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let reasons = names::qualified_name(name);
    if reasons.is_empty() && !name.contains('/') && name != "storage" && !is_quota_resource(name) {
        faults.push(Fault::invalid(path, name, "must be a standard resource type or fully qualified"));
    }
    invalid_for(reasons, path, name, faults);
}

/// The name of what a quota can limit.
pub(super) fn quota_resource_name(name: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    any_resource_name(name, path, faults);
    if !name.contains('/') && !is_quota_resource(name) {
        faults.push(Fault::invalid(path, name, "must be a standard resource for quotas"));
    }
}

/// Whether amounts of it are whole: objects, and what is not Kubernetes' own.
pub(super) fn is_counted(name: &str) -> bool {
    COUNTED_RESOURCES.contains(&name) || is_extended(name)
}

fn is_container_resource(name: &str) -> bool {
    CONTAINER_RESOURCES.contains(&name) || is_huge_page(name)
}

fn is_quota_resource(name: &str) -> bool {
    is_container_resource(name)
        || QUOTA_RESOURCES.contains(&name)
        || COUNTED_RESOURCES.contains(&name)
        || name.starts_with("requests.hugepages-")
}

fn huge_pages(name: &str, amount: Quantity, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let Some(size) = name.strip_prefix("hugepages-") else {
        return;
    };
    let divisible = quantity::parse(size)
        .is_ok_and(|size| size > Quantity::ZERO && size.is_integer() && amount.value() % size.value() == 0);
    if !divisible {
        let detail = format!("{amount} is not positive integer multiple of {name}");
        faults.push(Fault::invalid(path, &amount.to_string(), detail));
    }
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn claims(claims: &[ResourceClaim], known: &BTreeSet<&str>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = path.index(i);
        let name = claim.name.as_str();
        if name.is_empty() {
            faults.push(Fault::required(&path, ""));
            continue;
        }
        if !seen.insert((name, claim.request.as_deref().unwrap_or_default())) {
            faults.push(Fault::duplicate(&path, name));
        }
        if !known.contains(name) {
            let mut fault = Fault::not_found(&path, name);
            debug_assert_eq!(fault.kind, FaultKind::NotFound);
            fault.message.push_str(": must be one of the names in pod.spec.resourceClaims");
            if known.is_empty() {
                fault.message.push_str(" which is empty");
            } else {
                let list = known.iter().copied().collect::<Vec<_>>().join(", ");
                fault.message.push_str(": ");
                fault.message.push_str(&list);
            }
            faults.push(fault);
        }
    }
}
