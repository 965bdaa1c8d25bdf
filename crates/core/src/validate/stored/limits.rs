//! LimitRanges and ResourceQuotas.
//!
//! Upstream: `pkg/apis/core/validation/validation.go` (`ValidateLimitRange`, `ValidateResourceQuota`), v1.36. Left out:
//! which resources a quota's scope goes with, and scope selectors.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem, ResourceQuota};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;

use crate::field::{Fault, Path, Value};
use crate::names;
use crate::quantity::{self, Quantity};
use crate::validate::{entries, invalid_for, items, resources};

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// What is wrong with a LimitRange: defaults lie within the bounds.
pub fn limit_range(range: &LimitRange) -> Vec<Fault> {
    let mut faults = Vec::new();
    let root = Path::root();
    let spec = root.field("spec");
    let limits = spec.field("limits");
    let mut seen = BTreeSet::new();
    for (at, item) in range.spec.iter().flat_map(|spec| &spec.limits).enumerate() {
        let path = limits.index(at);
        limit_type(&item.type_, &path.field("type"), &mut faults);
        if !seen.insert(&item.type_) {
            faults.push(Fault::duplicate(&path.field("type"), item.type_.as_str()));
        }
        limit_range_item(item, &path, &mut faults);
    }
    faults
}

fn limit_type(name: &str, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let reasons = names::qualified_name(name);
    if reasons.is_empty() && !name.contains('/') && !matches!(name, "Pod" | "Container" | "PersistentVolumeClaim") {
        faults.push(Fault::invalid(path, name, "must be a standard limit type or fully qualified"));
    }
    invalid_for(reasons, path, name, faults);
}

fn limit_range_item(item: &LimitRangeItem, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let of_pods = item.type_ == "Pod";
    let names = |list: &Option<BTreeMap<String, Raw>>, field: &str, faults: &mut Vec<Fault>| {
        for (name, _) in entries(list.as_ref()) {
            let path = path.field(field);
            let path = path.key(name);
            if of_pods || item.type_ == "Container" {
                resources::resource_name(name, &path, faults);
            } else {
                resources::any_resource_name(name, &path, faults);
            }
        }
    };
    names(&item.max, "max", faults);
    names(&item.min, "min", faults);
    for (list, field) in [(&item.default, "default"), (&item.default_request, "defaultRequest")] {
        if !of_pods {
            names(list, field, faults);
        } else if list.as_ref().is_some_and(|list| !list.is_empty()) {
            faults.push(Fault::forbidden(&path.field(field), "may not be specified when `type` is 'Pod'"));
        }
    }
    let bounds_storage =
        [&item.min, &item.max].iter().any(|list| list.as_ref().is_some_and(|list| list.contains_key("storage")));
    if item.type_ == "PersistentVolumeClaim" && !bounds_storage {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        faults.push(Fault::required(&path.field("limits"), detail));
    }
    names(&item.max_limit_request_ratio, "maxLimitRequestRatio", faults);

    // Of pods, upstream does not look at defaults any further.
    let defaults = if of_pods { [None, None] } else { [item.default.as_ref(), item.default_request.as_ref()] };
    let lists = [item.min.as_ref(), item.max.as_ref(), defaults[0], defaults[1], item.max_limit_request_ratio.as_ref()];
    let all: BTreeSet<&String> = lists.into_iter().flatten().flat_map(BTreeMap::keys).collect();
    for name in all {
        let amounts = lists.map(|list| quantity::parse(&list?.get(name)?.0).ok());
        let [min, max, default, request, ratio] = amounts;
        bounds(name, Bounds { min, max, default, request, ratio }, path, faults);
    }
}

/// The amounts of one resource.
#[derive(Clone, Copy)]
struct Bounds {
    min: Option<Quantity>,
    max: Option<Quantity>,
    default: Option<Quantity>,
    request: Option<Quantity>,
    ratio: Option<Quantity>,
}

fn bounds(name: &str, bounds: Bounds, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let Bounds { min, max, default, request, ratio } = bounds;
    let mut invalid = |field: &str, value: Quantity, detail: String| {
        let path = path.field(field);
        faults.push(Fault::invalid(&path.key(name), &value.to_string(), detail));
    };
    // Two amounts in the order that they should have, in words; where it is told, and which of the two is shown.
    let rules = [
        (("min", min), ("max", max), "min", min),
        (("min", min), ("default request", request), "defaultRequest", request),
        (("default request", request), ("max", max), "defaultRequest", request),
        (("default request", request), ("default limit", default), "defaultRequest", request),
        (("min", min), ("default", default), "default", min),
        (("default", default), ("max", max), "default", max),
    ];
    for ((low_word, low), (high_word, high), field, shown) in rules {
        if let (Some(low), Some(high), Some(shown)) = (low, high, shown)
            && low > high
        {
            invalid(field, shown, format!("{low_word} value {low} is greater than {high_word} value {high}"));
        }
    }
    let Some(ratio) = ratio else { return };
    if ratio.milli() < 1000 {
        invalid("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (min, max) {
        // Both in thousandths, so that nothing is divided before it is compared.
        if ratio.milli() * min.milli() > max.milli() * 1000 {
            let limit = approximate(max.milli()) / approximate(min.milli());
            invalid("maxLimitRequestRatio", ratio, format!("ratio {ratio} is greater than max/min = {limit:.6}"));
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "it is shown with six digits")]
const fn approximate(amount: i128) -> f64 {
    amount as f64
}

/// What is wrong with a ResourceQuota: nothing can be less than none, and what is counted is whole.
pub fn resource_quota(quota: &ResourceQuota) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Some(spec) = &quota.spec else { return faults };
    let root = Path::root();
    let path = root.field("spec");
    let hard = path.field("hard");
    for (name, raw) in entries(spec.hard.as_ref()) {
        let path = hard.key(name);
        resources::quota_resource_name(name, &path, &mut faults);
        let Ok(amount) = quantity::parse(&raw.0) else { continue };
        if amount < Quantity::ZERO {
            faults.push(Fault::invalid(&path, &amount.to_string(), "must be greater than or equal to 0"));
        }
        if resources::is_counted(name) && !amount.is_integer() {
            faults.push(Fault::invalid(&path, &amount.to_string(), "must be an integer"));
        }
    }
    let scopes = items(spec.scopes.as_ref());
    let path = path.field("scopes");
    for _ in scopes.iter().filter(|scope| !SCOPES.contains(&scope.as_str())) {
        faults.push(Fault::invalid(&path, Value::json(&scopes), "unsupported scope"));
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        let has = |wanted: &str| scopes.iter().any(|scope| scope == wanted);
        if has(one) && has(other) {
            faults.push(Fault::invalid(&path, Value::json(&scopes), "conflicting scopes"));
        }
    }
    faults
}

/// What is wrong with changing a ResourceQuota, besides what is wrong with the new one: its scopes stay.
pub fn resource_quota_update(old: &ResourceQuota, new: &ResourceQuota) -> Vec<Fault> {
    let scopes = |quota: &ResourceQuota| -> BTreeSet<String> {
        quota.spec.iter().flat_map(|spec| items(spec.scopes.as_ref())).cloned().collect()
    };
    if scopes(old) == scopes(new) {
        return Vec::new();
    }
    let shown = new.spec.as_ref().and_then(|spec| spec.scopes.as_ref());
    vec![Fault::invalid(&Path::root().field("spec").field("scopes"), Value::json(&shown), "field is immutable")]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::super::tests::{of, told};
    use super::*;

    fn limits(items: &Json) -> Vec<String> {
        told(&limit_range(&of(json!({"spec": {"limits": items}}))))
    }

    #[test]
    fn a_default_lies_within_the_bounds() {
        let nothing: [&str; 0] = [];
        let good = json!([{"type": "Container", "min": {"cpu": "1"}, "defaultRequest": {"cpu": "1500m"},
            "default": {"cpu": "2"}, "max": {"cpu": "3"}, "maxLimitRequestRatio": {"cpu": "2"}}]);
        assert_eq!(limits(&good), nothing);
        let bad = json!([{"type": "Container", "min": {"cpu": "4"}, "defaultRequest": {"cpu": "3"},
            "default": {"cpu": "2"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "500m"}}]);
        assert_eq!(
            limits(&bad),
            [
                "spec.limits[0].min[cpu]: Invalid value: \"4\": min value 4 is greater than max value 1",
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"3\": min value 4 is greater than default request value 3",
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than max value 1",
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than default limit value 2",
                "spec.limits[0].default[cpu]: Invalid value: \"4\": min value 4 is greater than default value 2",
                "spec.limits[0].default[cpu]: Invalid value: \"1\": default value 2 is greater than max value 1",
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is greater than max/min = 0.250000",
            ]
        );
    }

    #[test]
    fn limits_are_of_known_types_and_resources() {
        assert_eq!(
            limits(&json!([
                {"type": "Pod", "default": {"cpu": "1"}, "max": {"gold": "1"}},
                {"type": "Pod"},
                {"type": "Node"},
                {"type": "PersistentVolumeClaim"},
            ])),
            [
                "spec.limits[0].max[gold]: Invalid value: \"gold\": must be a standard resource type or fully qualified",
                "spec.limits[0].max[gold]: Invalid value: \"gold\": must be a standard resource for containers",
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
                "spec.limits[1].type: Duplicate value: \"Pod\"",
                "spec.limits[2].type: Invalid value: \"Node\": must be a standard limit type or fully qualified",
                "spec.limits[3].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ]
        );
    }

    #[test]
    fn a_quota_limits_what_there_is_by_whole_amounts() {
        let quota = |spec: Json| told(&resource_quota(&of(json!({"spec": spec}))));
        let nothing: [&str; 0] = [];
        let good =
            json!({"hard": {"pods": "1", "count/jobs.batch": "5", "requests.cpu": "1500m", "limits.memory": "1Gi"}});
        assert_eq!(quota(good), nothing);
        assert_eq!(
            quota(json!({
                "hard": {"pods": "-1", "secrets": "1500m", "storage": "1"}, "scopes": ["BestEffort", "NotBestEffort", "Some"],
            })),
            [
                "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.hard[secrets]: Invalid value: \"1500m\": must be an integer",
                "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quotas",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Some\"]: unsupported scope",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Some\"]: conflicting scopes",
            ]
        );
    }

    #[test]
    fn a_quota_keeps_its_scopes() {
        let quota = |scopes: Json| of::<ResourceQuota>(json!({"spec": {"scopes": scopes}}));
        let both = json!(["Terminating", "BestEffort"]);
        assert!(resource_quota_update(&quota(both.clone()), &quota(json!(["BestEffort", "Terminating"]))).is_empty());
        assert_eq!(
            told(&resource_quota_update(&quota(both), &quota(json!(["BestEffort"])))),
            ["spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"]
        );
    }
}
