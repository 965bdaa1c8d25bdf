//! Which node a pod runs on: with one node, that one.
//!
//! Left out: whether its requests fit, and in which order pods wait. The shape is there: a verdict with a reason.

use k8s_openapi::api::core::v1::Pod;

/// What is to be done about a pod that may need a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Bind it to this node.
    Bind(String),
    /// Leave it alone, for this reason.
    Leave(&'static str),
}

/// Decides about `pod` on a machine whose only node is `node`.
pub fn decide(pod: &Pod, node: &str) -> Verdict {
    let Some(spec) = &pod.spec else { return Verdict::Leave("it has no spec") };
    if spec.node_name.is_some() {
        return Verdict::Leave("it has a node");
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Verdict::Leave("it is being deleted");
    }
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        return Verdict::Leave("it has scheduling gates");
    }
    if spec.scheduler_name.as_deref().is_some_and(|name| name != "default-scheduler") {
        return Verdict::Leave("another scheduler is to bind it");
    }
    Verdict::Bind(node.to_owned())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSchedulingGate, PodSpec};

    use super::*;

    fn pod(change: impl FnOnce(&mut Pod)) -> Pod {
        let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
        change(&mut pod);
        pod
    }

    #[test]
    fn only_a_waiting_pod_without_gates_is_bound() {
        assert_eq!(decide(&pod(|_| {}), "n"), Verdict::Bind("n".to_owned()));
        let spec = |p: &mut Pod| p.spec.clone().unwrap();
        let bound = pod(|p| p.spec = Some(PodSpec { node_name: Some("m".to_owned()), ..spec(p) }));
        let gate = PodSchedulingGate { name: "g".to_owned() };
        let gated = pod(|p| p.spec = Some(PodSpec { scheduling_gates: Some(vec![gate]), ..spec(p) }));
        let other = pod(|p| p.spec = Some(PodSpec { scheduler_name: Some("x".to_owned()), ..spec(p) }));
        for pod in [bound, gated, other, Pod::default()] {
            assert!(matches!(decide(&pod, "n"), Verdict::Leave(_)));
        }
    }
}
