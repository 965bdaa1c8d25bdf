//! `spec.podFailurePolicy`: what a failed pod means for its Job (KEP-3329).
//!
//! Rules are tried in order, and the first that matches decides. Upstream: `pkg/controller/job/pod_failure_policy.go`
//! (`matchPodFailurePolicy`), v1.36.

use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// What a failed pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It counts as a failure. No rule says otherwise.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The Job has failed; with the message that says why.
    FailJob(String),
}

/// Judges `pod`, which has failed.
pub fn judge(policy: &PodFailurePolicy, pod: &Pod) -> Judgement {
    let Some((number, rule, what)) = first_match(policy, pod) else { return Judgement::Count };
    match rule.action.as_str() {
        "Ignore" => Judgement::Ignore,
        "FailIndex" => Judgement::FailIndex,
        "FailJob" => Judgement::FailJob(format!("{what} matching FailJob rule at index {number}")),
        // "Count", and an action of a newer API.
        _ => Judgement::Count,
    }
}

/// The action of the rule that decides about `pod`, which has failed; `None` if no rule does.
pub fn deciding_action(policy: &PodFailurePolicy, pod: &Pod) -> Option<&'static str> {
    let (_, rule, _) = first_match(policy, pod)?;
    ["Ignore", "FailIndex", "FailJob", "Count"].into_iter().find(|action| *action == rule.action)
}

/// The first rule that matches, with its number and what of the pod it matches.
fn first_match<'p>(policy: &'p PodFailurePolicy, pod: &Pod) -> Option<(usize, &'p PodFailurePolicyRule, String)> {
    let mut rules = policy.rules.iter().enumerate();
    rules.find_map(|(number, rule)| Some((number, rule, matches(rule, pod)?)))
}

/// What of `pod` matches `rule`, in upstream's words.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let name = format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    );
    let status = pod.status.as_ref()?;
    if let Some(wanted) = &rule.on_exit_codes {
        let mut containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let (container, code) = containers.find_map(|container| ended(wanted, container))?;
        return Some(format!("Container {container} for pod {name} failed with exit code {code}"));
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let condition = status.conditions.iter().flatten().find(|condition| {
        patterns.iter().any(|pattern| {
            pattern.type_ == condition.type_ && pattern.status.as_deref().unwrap_or("True") == condition.status
        })
    })?;
    Some(format!("Pod {name} has condition {}", condition.type_))
}

/// The name and exit code of a container that failed as `wanted` says.
fn ended<'a>(
    wanted: &PodFailurePolicyOnExitCodesRequirement,
    container: &'a ContainerStatus,
) -> Option<(&'a str, i32)> {
    if wanted.container_name.as_ref().is_some_and(|name| *name != container.name) {
        return None;
    }
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    let listed = wanted.values.contains(&code);
    let matches = match wanted.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (code != 0 && matches).then_some((container.name.as_str(), code))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(rules: &serde_json::Value, status: &serde_json::Value) -> Judgement {
        let policy: PodFailurePolicy = serde_json::from_value(json!({ "rules": rules })).unwrap();
        let pod = json!({ "metadata": { "name": "p", "namespace": "n" }, "status": status });
        judge(&policy, &serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let ended = |name: &str, code: i32| {
            json!({ "name": name, "ready": false, "restartCount": 0, "image": "", "imageID": "",
                    "state": { "terminated": { "exitCode": code } } })
        };
        let codes = |operator: &str, values: &[i32]| json!({ "operator": operator, "values": values });
        let disrupted = json!([{ "type": "DisruptionTarget" }]);
        let rules = json!([
            { "action": "Ignore", "onPodConditions": disrupted },
            { "action": "FailJob", "onExitCodes": { "containerName": "main", "operator": "In", "values": [3, 42] } },
            { "action": "FailIndex", "onExitCodes": codes("NotIn", &[1, 2]) },
        ]);
        let condition = |status: &str| json!([{ "type": "DisruptionTarget", "status": status }]);
        let cases = [
            (json!({ "containerStatuses": [ended("main", 42)], "conditions": condition("True") }), Judgement::Ignore),
            (
                json!({ "containerStatuses": [ended("main", 42)], "conditions": condition("False") }),
                Judgement::FailJob(
                    "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1".into(),
                ),
            ),
            (json!({ "containerStatuses": [ended("side", 42)] }), Judgement::FailIndex),
            (json!({ "initContainerStatuses": [ended("init", 7)] }), Judgement::FailIndex),
            (json!({ "containerStatuses": [ended("main", 1)] }), Judgement::Count),
            (json!({ "containerStatuses": [ended("main", 0)] }), Judgement::Count),
            (json!({}), Judgement::Count),
        ];
        for (status, expected) in cases {
            assert_eq!(judged(&rules, &status), expected, "{status}");
        }
        let by_condition = json!([{ "action": "FailJob", "onPodConditions": disrupted }]);
        assert_eq!(
            judged(&by_condition, &json!({ "conditions": condition("True") })),
            Judgement::FailJob("Pod n/p has condition DisruptionTarget matching FailJob rule at index 0".into())
        );
    }
}
