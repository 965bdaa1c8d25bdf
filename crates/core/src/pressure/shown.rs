//! What the Node shows of its shortages: conditions, and the taints that keep new pods away.
//!
//! Invariants: what others say of the node stays; a condition's time changes only with it.
//! Upstream: `pkg/kubelet/nodestatus/setters.go`, `pkg/controller/nodelifecycle/node_lifecycle_controller.go`
//! (`nodeConditionToTaintKeyStatusMap`), v1.36. No other controller looks after a node here, so it taints itself.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::signal::Condition;

/// The node's conditions, where it is short of what `pressed` says: `told` are those that the API has.
pub fn conditions(pressed: &BTreeSet<Condition>, told: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or_default());
    let ours = Condition::ALL.map(|condition| {
        let is_pressed = pressed.contains(&condition);
        let (reason, message) = words(condition, is_pressed);
        let status = if is_pressed { "True" } else { "False" };
        let since = told.iter().find(|it| it.type_ == condition.name() && it.status == status);
        NodeCondition {
            type_: condition.name().to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: since.and_then(|it| it.last_transition_time.clone()).or(Some(now.clone())),
        }
    });
    let of_others = told.iter().filter(|it| Condition::ALL.iter().all(|condition| condition.name() != it.type_));
    ours.iter().cloned().chain(of_others.cloned()).collect()
}

fn words(condition: Condition, is_pressed: bool) -> (&'static str, &'static str) {
    match (condition, is_pressed) {
        (Condition::MemoryPressure, true) => {
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
        }
        (Condition::MemoryPressure, false) => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        (Condition::DiskPressure, true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        (Condition::DiskPressure, false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        (Condition::PidPressure, true) => ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        (Condition::PidPressure, false) => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    }
}

impl Condition {
    /// The reason of the Event that tells of its beginning or end.
    pub fn event(self, is_pressed: bool) -> &'static str {
        match (self, is_pressed) {
            (Condition::MemoryPressure, true) => "NodeHasInsufficientMemory",
            (Condition::MemoryPressure, false) => "NodeHasSufficientMemory",
            (Condition::DiskPressure, true) => "NodeHasDiskPressure",
            (Condition::DiskPressure, false) => "NodeHasNoDiskPressure",
            (Condition::PidPressure, true) => "NodeHasInsufficientPID",
            (Condition::PidPressure, false) => "NodeHasSufficientPID",
        }
    }
}

/// The node's taints: `told` are those that the API has.
pub fn taints(pressed: &BTreeSet<Condition>, told: &[Taint], now: Timestamp) -> Vec<Taint> {
    let is_of = |taint: &Taint, condition: &Condition| taint.key == condition.taint() && taint.effect == "NoSchedule";
    let mut all: Vec<Taint> = told
        .iter()
        .filter(|taint| Condition::ALL.iter().all(|it| !is_of(taint, it) || pressed.contains(it)))
        .cloned()
        .collect();
    for condition in pressed {
        if !all.iter().any(|taint| is_of(taint, condition)) {
            let time_added = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or_default()));
            all.push(Taint {
                key: condition.taint().to_owned(),
                effect: "NoSchedule".to_owned(),
                value: None,
                time_added,
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes_and_those_of_others_stay() {
        let ready = NodeCondition { type_: "Ready".into(), status: "True".into(), ..NodeCondition::default() };
        let first = conditions(&BTreeSet::new(), std::slice::from_ref(&ready), at(1));
        let told = |all: &[NodeCondition]| -> Vec<(String, String, i64)> {
            let since = |it: &NodeCondition| it.last_transition_time.as_ref().map_or(0, |time| time.0.as_second());
            all.iter().map(|it| (it.type_.clone(), it.status.clone(), since(it))).collect()
        };
        let pressed = BTreeSet::from([Condition::DiskPressure]);
        let second = conditions(&pressed, &first, at(2));
        let third = conditions(&pressed, &second, at(3));
        let expect = |disk: &str, since| {
            let row = |kind: &str, status: &str, since: i64| (kind.to_owned(), status.to_owned(), since);
            [
                row("MemoryPressure", "False", 1),
                row("DiskPressure", disk, since),
                row("PIDPressure", "False", 1),
                row("Ready", "True", 0),
            ]
        };
        assert_eq!(told(&first), expect("False", 1));
        assert_eq!(told(&second), expect("True", 2));
        assert_eq!(told(&third), expect("True", 2));
        assert_eq!(third[1].reason.as_deref(), Some("KubeletHasDiskPressure"));
    }

    #[test]
    fn taints_come_and_go_with_conditions_and_those_of_others_stay() {
        let own = Taint { key: "own".into(), effect: "NoExecute".into(), ..Taint::default() };
        let pressed = BTreeSet::from([Condition::MemoryPressure]);
        let first = taints(&pressed, std::slice::from_ref(&own), at(1));
        assert_eq!(first.len(), 2);
        assert_eq!(
            (first[1].key.as_str(), first[1].effect.as_str()),
            ("node.kubernetes.io/memory-pressure", "NoSchedule")
        );
        assert_eq!(taints(&pressed, &first, at(2)), first, "again changes nothing");
        assert_eq!(taints(&BTreeSet::new(), &first, at(2)), [own]);
    }
}
