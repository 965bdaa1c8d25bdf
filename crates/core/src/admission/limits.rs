//! LimitRanges: defaults for containers that say nothing, and bounds for all.
//!
//! Upstream: `plugin/pkg/admission/limitranger/admission.go`, v1.36. Where upstream walks a map in random order, we walk
//! it sorted.

use std::collections::BTreeMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::joined;
use crate::quantity::{self, Quantity};

type Resources = BTreeMap<String, Text>;

/// Where the defaults that were filled in are told.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Fills in what `ranges` say that containers get by default.
pub fn default_pod(pod: &mut Pod, ranges: &[LimitRange]) {
    let mut told = Vec::new();
    for range in ranges {
        let (mut limits, mut requests) = (Resources::new(), Resources::new());
        for item in items(range).filter(|item| item.type_ == "Container") {
            limits.extend(item.default.clone().unwrap_or_default());
            requests.extend(item.default_request.clone().unwrap_or_default());
        }
        let Some(spec) = &mut pod.spec else { continue };
        let named =
            [(&mut spec.containers, "container"), (spec.init_containers.get_or_insert_default(), "init container")];
        for (containers, what) in named {
            for container in containers {
                told.extend(fill(container, what, &limits, &requests));
            }
        }
        spec.init_containers.take_if(|containers| containers.is_empty());
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.into(), text);
    }
}

/// Fills one container; what to tell about it.
fn fill(container: &mut Container, what: &str, limits: &Resources, requests: &Resources) -> Vec<String> {
    let resources = container.resources.get_or_insert_default();
    let mut told = Vec::new();
    for (set, defaults, part) in
        [(&mut resources.requests, requests, "request"), (&mut resources.limits, limits, "limit")]
    {
        let mut new = Vec::new();
        for (name, amount) in defaults {
            if !set.as_ref().is_some_and(|set| set.contains_key(name)) {
                set.get_or_insert_default().insert(name.clone(), amount.clone());
                new.push(name.as_str());
            }
        }
        if !new.is_empty() {
            told.push(format!("{} {part} for {what} {}", new.join(", "), container.name));
        }
    }
    told
}

/// Why `ranges` do not allow the pod, if they don't.
pub fn check_pod(pod: &Pod, ranges: &[LimitRange]) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let own = |container: &Container| {
        let resources = container.resources.clone().unwrap_or_default();
        (resources.requests.unwrap_or_default(), resources.limits.unwrap_or_default())
    };
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut refusals = Vec::new();
    for item in ranges.iter().flat_map(items) {
        match item.type_.as_str() {
            "Container" => {
                for container in all() {
                    let (requests, limits) = own(container);
                    check(item, &requests, &limits, &mut refusals);
                }
            }
            "Pod" => {
                let running: Vec<_> = spec.containers.iter().map(own).collect();
                let starting: Vec<_> = spec.init_containers.iter().flatten().map(own).collect();
                let total = |part: fn(&(Resources, Resources)) -> &Resources| {
                    let mut total = sum(&running.iter().map(part).collect::<Vec<_>>());
                    for starting in starting.iter().map(part) {
                        for (name, amount) in starting {
                            let lower = total.get(name).is_none_or(|known| amount_of(known) < amount_of(amount));
                            if lower {
                                total.insert(name.clone(), amount.clone());
                            }
                        }
                    }
                    total
                };
                check(item, &total(|(requests, _)| requests), &total(|(_, limits)| limits), &mut refusals);
            }
            _ => {}
        }
    }
    joined(&refusals)
}

/// Why `ranges` do not allow the claim, if they don't.
pub fn check_claim(claim: &PersistentVolumeClaim, ranges: &[LimitRange]) -> Option<String> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.clone().unwrap_or_default();
    let mut refusals = Vec::new();
    for item in ranges.iter().flat_map(items).filter(|item| item.type_ == "PersistentVolumeClaim") {
        for (name, bound) in item.min.iter().flatten() {
            refusals.extend(below(item, name, bound, &requests, &Resources::new()));
        }
        for (name, bound) in item.max.iter().flatten() {
            // A claim has requests only, which count as limits here.
            let told = match requests.get(name) {
                Some(amount) if amount_of(amount) > amount_of(bound) => Some(format!("but request is {}", amount.0)),
                _ => None,
            };
            refusals.extend(told.map(|told| format!("maximum {name} usage per {} is {}, {told}", item.type_, bound.0)));
        }
    }
    joined(&refusals)
}

fn items(range: &LimitRange) -> impl Iterator<Item = &LimitRangeItem> {
    range.spec.iter().flat_map(|spec| &spec.limits)
}

fn amount_of(text: &Text) -> Quantity {
    quantity::parse(&text.0).unwrap_or(Quantity::ZERO)
}

fn check(item: &LimitRangeItem, requests: &Resources, limits: &Resources, refusals: &mut Vec<String>) {
    for (name, bound) in item.min.iter().flatten() {
        refusals.extend(below(item, name, bound, requests, limits));
    }
    for (name, bound) in item.max.iter().flatten() {
        refusals.extend(above(item, name, bound, requests, limits));
    }
    for (name, bound) in item.max_limit_request_ratio.iter().flatten() {
        refusals.extend(ratio(item, name, bound, requests, limits));
    }
}

fn below(item: &LimitRangeItem, name: &str, bound: &Text, requests: &Resources, limits: &Resources) -> Option<String> {
    let least = amount_of(bound);
    let mut told = format!("minimum {name} usage per {} is {}", item.type_, bound.0);
    let Some(request) = requests.get(name) else {
        told.push_str(".  No request is specified");
        return Some(told);
    };
    let limit = limits.get(name);
    if amount_of(request) < least {
        let _ = write!(told, ", but request is {}", request.0);
    } else if let Some(limit) = limit.filter(|limit| amount_of(limit) < least) {
        let _ = write!(told, ", but limit is {}", limit.0);
    } else {
        return None;
    }
    Some(told)
}

fn above(item: &LimitRangeItem, name: &str, bound: &Text, requests: &Resources, limits: &Resources) -> Option<String> {
    let most = amount_of(bound);
    let mut told = format!("maximum {name} usage per {} is {}", item.type_, bound.0);
    let Some(limit) = limits.get(name) else {
        told.push_str(".  No limit is specified");
        return Some(told);
    };
    let request = requests.get(name);
    if amount_of(limit) > most {
        let _ = write!(told, ", but limit is {}", limit.0);
    } else if let Some(request) = request.filter(|request| amount_of(request) > most) {
        let _ = write!(told, ", but request is {}", request.0);
    } else {
        return None;
    }
    Some(told)
}

fn ratio(item: &LimitRangeItem, name: &str, bound: &Text, requests: &Resources, limits: &Resources) -> Option<String> {
    let milli = |resources: &Resources| resources.get(name).map_or(0, |text| amount_of(text).milli());
    let (request, limit, most) = (milli(requests), milli(limits), amount_of(bound).milli());
    let told = format!("{name} max limit to request ratio per {} is {}", item.type_, bound.0);
    if request == 0 {
        return Some(format!("{told}, but no request is specified or request is 0"));
    }
    if limit == 0 {
        return Some(format!("{told}, but no limit is specified or limit is 0"));
    }
    #[allow(clippy::cast_precision_loss, reason = "it is shown with six digits")]
    let shown = limit as f64 / request as f64;
    (limit.saturating_mul(1000) > most.saturating_mul(request))
        .then(|| format!("{told}, but provided ratio is {shown:.6}"))
}

/// The totals of what all of `parts` name.
fn sum(parts: &[&Resources]) -> Resources {
    let mut total = Resources::new();
    for name in parts.iter().flat_map(|part| part.keys()) {
        if total.contains_key(name) || !parts.iter().all(|part| part.contains_key(name)) {
            continue;
        }
        let amount = parts.iter().filter_map(|part| part.get(name)).map(amount_of).reduce(Quantity::plus);
        total.insert(name.clone(), Text(amount.unwrap_or(Quantity::ZERO).to_string()));
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn range(limits: &Value) -> [LimitRange; 1] {
        [serde_json::from_value(json!({"spec": {"limits": [limits]}})).unwrap()]
    }

    fn pod(resources: &Value) -> Pod {
        let containers = json!([{"name": "a", "resources": resources}, {"name": "b", "resources": resources}]);
        serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn containers_get_defaults_and_an_annotation_says_so() {
        let ranges = range(&json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}}));
        let mut pod = pod(&json!({"limits": {"cpu": "2"}}));
        default_pod(&mut pod, &ranges);
        let resources = pod.spec.as_ref().unwrap().containers[0].resources.clone().unwrap();
        assert_eq!(resources.limits.unwrap()["cpu"].0, "2");
        assert_eq!(resources.requests.unwrap()["cpu"].0, "100m");
        assert_eq!(
            pod.metadata.annotations.as_ref().unwrap()[ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu request for container b"
        );
    }

    #[test]
    fn bounds_are_told_in_upstreams_words() {
        let rows = [
            (
                json!({"type": "Container", "min": {"cpu": "1"}}),
                json!({}),
                Some("minimum cpu usage per Container is 1.  No request is specified"),
            ),
            (
                json!({"type": "Container", "min": {"cpu": "1"}}),
                json!({"requests": {"cpu": "500m"}}),
                Some("minimum cpu usage per Container is 1, but request is 500m"),
            ),
            (
                json!({"type": "Container", "max": {"memory": "1Gi"}}),
                json!({"limits": {"memory": "2Gi"}}),
                Some("maximum memory usage per Container is 1Gi, but limit is 2Gi"),
            ),
            (json!({"type": "Container", "max": {"memory": "1Gi"}}), json!({"limits": {"memory": "1Gi"}}), None),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"limits": {"cpu": "3"}, "requests": {"cpu": "1"}}),
                Some("cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "3"}}),
                json!({"limits": {"cpu": "2"}}),
                Some("maximum cpu usage per Pod is 3, but limit is 4"),
            ),
            (json!({"type": "Pod", "max": {"cpu": "4"}}), json!({"limits": {"cpu": "2"}}), None),
        ];
        for (limits, resources, wanted) in rows {
            let refusal = check_pod(&pod(&resources), &range(&limits));
            match wanted {
                None => assert_eq!(refusal, None, "{limits}"),
                // Two containers break the rule alike.
                Some(wanted) => {
                    assert!(refusal.as_deref().is_some_and(|refusal| refusal.contains(wanted)), "{refusal:?}");
                }
            }
        }
    }

    #[test]
    fn a_claim_may_not_ask_for_more_than_the_range_allows() {
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}})).unwrap();
        let ranges = range(&json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}));
        let told = "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi";
        assert_eq!(check_claim(&claim, &ranges).as_deref(), Some(told));
        assert_eq!(check_claim(&claim, &[]), None);
    }
}
