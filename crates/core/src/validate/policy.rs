//! The policies of a Job: which failures end it, when it may succeed early, when a pod is replaced.
//!
//! Upstream: `pkg/apis/batch/validation/validation.go` (`validatePodFailurePolicy`, `validateSuccessPolicy`,
//! `validateIndexesFormat`), v1.36.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
    SuccessPolicy, SuccessPolicyRule,
};

use super::{invalid_for, items, job, non_negative};
use crate::field::{Fault, Path, Value, quote};
use crate::names;

const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_POD_CONDITIONS: usize = 20;
const MAX_INDEXES_BYTES: usize = 64 * 1024;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

pub(super) fn pod_failure(spec: &JobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let Some(policy) = &spec.pod_failure_policy else {
        return;
    };
    let path = path.field("rules");
    if policy.rules.len() > MAX_RULES {
        faults.push(Fault::too_many(&path, policy.rules.len(), MAX_RULES));
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        pod_failure_rule(spec, rule, &path.index(i), faults);
    }
}

fn pod_failure_rule(spec: &JobSpec, rule: &PodFailurePolicyRule, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let action_path = path.field("action");
    match rule.action.as_str() {
        "FailIndex" if spec.backoff_limit_per_index.is_none() => {
            let detail = "requires the backoffLimitPerIndex to be set";
            faults.push(Fault::invalid(&action_path, "FailIndex", detail));
        }
        action => one_of(action, &ACTIONS, &action_path, faults),
    }
    let conditions = items(rule.on_pod_conditions.as_ref());
    if let Some(codes) = &rule.on_exit_codes {
        exit_codes(spec, codes, &path.field("onExitCodes"), faults);
    }
    if !conditions.is_empty() {
        pod_conditions(conditions, &path.field("onPodConditions"), faults);
    }
    match (rule.on_exit_codes.is_some(), conditions.is_empty()) {
        (true, false) => faults
            .push(Fault::invalid_omitted(path, "specifying both OnExitCodes and OnPodConditions is not supported")),
        (false, true) => {
            faults.push(Fault::invalid_omitted(path, "specifying one of OnExitCodes and OnPodConditions is required"));
        }
        _ => {}
    }
}

fn exit_codes(
    spec: &JobSpec,
    codes: &PodFailurePolicyOnExitCodesRequirement,
    path: &Path<'_>,
    faults: &mut Vec<Fault>,
) {
    one_of(&codes.operator, &OPERATORS, &path.field("operator"), faults);
    if let Some(name) = &codes.container_name
        && !job::container_names(spec).any(|n| n == name)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        faults.push(Fault::invalid(&path.field("containerName"), name, detail));
    }
    let path = path.field("values");
    if codes.values.is_empty() {
        faults.push(Fault::invalid(&path, Value::bare("[]"), "at least one value is required"));
    } else if codes.values.len() > MAX_EXIT_CODES {
        faults.push(Fault::too_many(&path, codes.values.len(), MAX_EXIT_CODES));
    }
    let mut seen = BTreeSet::new();
    for (i, &code) in codes.values.iter().enumerate() {
        if codes.operator == "In" && code == 0 {
            faults.push(Fault::invalid(&path.index(i), code, "must not be 0 for the In operator"));
        }
        if !seen.insert(code) {
            faults.push(Fault::duplicate(&path.index(i), code));
        }
    }
    if !codes.values.is_sorted() {
        faults.push(Fault::invalid(&path, Value::json(&codes.values), "must be ordered"));
    }
}

fn pod_conditions(patterns: &[PodFailurePolicyOnPodConditionsPattern], path: &Path<'_>, faults: &mut Vec<Fault>) {
    if patterns.len() > MAX_POD_CONDITIONS {
        faults.push(Fault::too_many(path, patterns.len(), MAX_POD_CONDITIONS));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let path = path.index(i);
        invalid_for(names::qualified_name(&pattern.type_), &path.field("type"), &pattern.type_, faults);
        let status = pattern.status.as_deref().unwrap_or_default();
        one_of(status, &STATUSES, &path.field("status"), faults);
    }
}

/// Required when empty, not supported when unknown; `supported` is sorted, as Go prints a set.
fn one_of(value: &str, supported: &[&str], path: &Path<'_>, faults: &mut Vec<Fault>) {
    if value.is_empty() {
        let list = supported.iter().map(|s| quote(s)).collect::<Vec<_>>().join(" ");
        faults.push(Fault::required(path, &format!("valid values: [{list}]")));
    } else if !supported.contains(&value) {
        faults.push(Fault::not_supported(path, value, supported));
    }
}

pub(super) fn pod_replacement(spec: &JobSpec, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let supported: &[&str] =
        if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if let Some(policy) = spec.pod_replacement_policy.as_deref().filter(|p| !supported.contains(p)) {
        faults.push(Fault::not_supported(path, policy, supported));
    }
}

/// The success policy of an Indexed Job.
pub(super) fn success(policy: &SuccessPolicy, completions: Option<i32>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let path = path.field("rules");
    if policy.rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        faults.push(Fault::required(&path, detail));
    }
    if policy.rules.len() > MAX_RULES {
        faults.push(Fault::too_many(&path, policy.rules.len(), MAX_RULES));
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        success_rule(rule, completions.unwrap_or_default(), &path.index(i), faults);
    }
}

fn success_rule(rule: &SuccessPolicyRule, completions: i32, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        faults.push(Fault::required(path, detail));
    }
    let mut total = 0;
    if let Some(indexes) = &rule.succeeded_indexes {
        let path = path.field("succeededIndexes");
        if indexes.len() > MAX_INDEXES_BYTES {
            faults.push(Fault::too_long(&path, MAX_INDEXES_BYTES));
        }
        match parse_indexes(indexes, completions) {
            Ok(intervals) => total = intervals.iter().map(|(a, b)| b - a + 1).sum(),
            Err(why) => {
                faults.push(Fault::invalid(&path, indexes, format!("error parsing succeededIndexes: {why}")));
            }
        }
    }
    if let Some(count) = rule.succeeded_count {
        let path = path.field("succeededCount");
        non_negative(Some(i64::from(count)), &path, faults);
        if count > completions {
            let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
            faults.push(Fault::invalid(&path, count, detail));
        }
        if rule.succeeded_indexes.is_some() && i64::from(count) > total {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            faults.push(Fault::invalid(&path, count, detail));
        }
    }
}

/// Parses `1,3-5` into inclusive intervals, each below `completions` and strictly increasing.
pub(super) fn parse_indexes(text: &str, completions: i32) -> Result<Vec<(i64, i64)>, String> {
    let mut intervals = Vec::new();
    let mut last: Option<i64> = None;
    if text.is_empty() {
        return Ok(intervals);
    }
    for fragment in text.split(',') {
        let parts: Vec<_> = fragment.split('-').collect();
        if parts.len() > 2 {
            return Err(format!(
                "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
                quote(fragment)
            ));
        }
        let mut bounds = Vec::with_capacity(2);
        for part in parts {
            let index = parse_index(part)
                .ok_or_else(|| format!("cannot convert string to integer for index: {}", quote(part)))?;
            if index >= i64::from(completions) {
                return Err(format!("too large index: {}", quote(part)));
            }
            if let Some(previous) = last.filter(|previous| *previous >= index) {
                return Err(format!("non-increasing order, previous: {previous}, current: {index}"));
            }
            last = Some(index);
            bounds.push(index);
        }
        intervals.push((bounds[0], *bounds.last().unwrap_or(&bounds[0])));
    }
    Ok(intervals)
}

/// As Go's `strconv.Atoi`: an optional sign and digits.
fn parse_index(text: &str) -> Option<i64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse_indexes;

    #[test]
    fn index_lists_increase_strictly() {
        assert_eq!(parse_indexes("", 5), Ok(vec![]));
        assert_eq!(parse_indexes("0,2-4", 5), Ok(vec![(0, 0), (2, 4)]));
        for (bad, why) in [
            ("1-1", "non-increasing order, previous: 1, current: 1"),
            ("2,1", "non-increasing order, previous: 2, current: 1"),
            ("5", "too large index: \"5\""),
            ("-1", "cannot convert string to integer for index: \"\""),
            ("0,", "cannot convert string to integer for index: \"\""),
        ] {
            assert_eq!(parse_indexes(bad, 5), Err(why.to_owned()), "{bad}");
        }
    }
}
