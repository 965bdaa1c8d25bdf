//! Label selectors: their syntax, and whether they match.
//!
//! Upstream: `apimachinery/pkg/apis/meta/v1/validation` (`ValidateLabelSelector`), `meta/v1/helpers.go`
//! (`LabelSelectorAsSelector`), v1.36.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde::Serialize;

use super::{entries, invalid_for, items, meta};
use crate::field::{Fault, Path, Value};
use crate::names;

/// What is wrong with a selector.
pub(super) fn validate(selector: &LabelSelector, path: &Path<'_>, faults: &mut Vec<Fault>) {
    meta::labels(selector.match_labels.as_ref(), &path.field("matchLabels"), faults);
    let path = path.field("matchExpressions");
    for (i, requirement) in items(selector.match_expressions.as_ref()).iter().enumerate() {
        self::requirement(requirement, &path.index(i), faults);
    }
}

fn requirement(requirement: &LabelSelectorRequirement, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let values = items(requirement.values.as_ref());
    let values_path = path.field("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            faults.push(Fault::required(&values_path, detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            faults.push(Fault::forbidden(&values_path, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            faults.push(Fault::invalid(&path.field("operator"), other, "not a valid selector operator"));
        }
    }
    let key = &requirement.key;
    invalid_for(names::qualified_name(key), &path.field("key"), key, faults);
    for (i, value) in values.iter().enumerate() {
        invalid_for(names::label_value(value), &values_path.index(i), value, faults);
    }
}

/// Whether `selector` matches `labels`; `None` if it is no valid selector. An absent selector matches nothing, an empty
/// one everything.
pub(super) fn matches(selector: Option<&LabelSelector>, labels: Option<&BTreeMap<String, String>>) -> Option<bool> {
    let Some(selector) = selector else {
        return Some(false);
    };
    let mut faults = Vec::new();
    validate(selector, &Path::root(), &mut faults);
    faults.is_empty().then(|| selects(selector, labels))
}

/// Whether the valid `selector` selects something with these `labels`.
pub fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let label = |key: &String| labels.and_then(|labels| labels.get(key));
    entries(selector.match_labels.as_ref()).all(|(k, v)| label(k) == Some(v))
        && items(selector.match_expressions.as_ref()).iter().all(|r| {
            let value = label(&r.key);
            let listed = value.is_some_and(|v| items(r.values.as_ref()).contains(v));
            match r.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}

/// The selector as messages print it: JSON with its members in Go's order.
pub(super) fn shown(selector: Option<&LabelSelector>) -> Value {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Go<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        match_labels: Option<&'a BTreeMap<String, String>>,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        match_expressions: &'a [LabelSelectorRequirement],
    }
    Value::json(&selector.map(|selector| Go {
        match_labels: selector.match_labels.as_ref().filter(|m| !m.is_empty()),
        match_expressions: items(selector.match_expressions.as_ref()),
    }))
}
