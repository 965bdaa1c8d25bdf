//! Limits and weights: requests and limits as cgroup settings, and the OOM score.
//!
//! Upstream: `pkg/kubelet/cm/helpers_linux.go` (`MilliCPUToShares`, `MilliCPUToQuota`), `pkg/kubelet/qos/policy.go`.
//!
//! Invariant: a control that the pod does not ask for is not set, so that its cgroup controller need not be joined.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use stint_core::quantity;

use crate::downward::{Limits, Machine};
use crate::error::Error;

const PERIOD_MICROS: u64 = 100_000;

/// The limits of all containers of the pod together, as far as they are enforced here: `spec.resources`, and how many processes
/// it may have.
pub(crate) fn together(pod: &Pod, max_pids: Option<u32>, limits: Limits) -> Result<Option<LinuxResources>, Error> {
    let wanted = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let max_pids = max_pids.filter(|_| limits.processes);
    if wanted.is_none() && max_pids.is_none() {
        return Ok(None);
    }
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    apply(&mut resources, wanted, limits)?;
    if let Some(limit) = max_pids {
        let mut pids = LinuxPids::default();
        pids.set_limit(i64::from(limit));
        resources.set_pids(Some(pids));
    }
    Ok(Some(resources))
}

/// Sets what is asked for and enforced here.
pub(super) fn apply(
    resources: &mut LinuxResources,
    wanted: Option<&ResourceRequirements>,
    limits: Limits,
) -> Result<(), Error> {
    let Some(wanted) = wanted else { return Ok(()) };
    let limit = |name| amount(wanted.limits.as_ref(), name);
    let cpu_limit = limit("cpu")?.map(|q| q.milli());
    let cpu_request = amount(wanted.requests.as_ref(), "cpu")?.map(|q| q.milli()).or(cpu_limit);
    let some_cpu = cpu_limit.is_some_and(|milli| milli > 0) || cpu_request.is_some_and(|milli| milli > 0);
    if some_cpu && limits.cpu {
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(cpu_request.map(shares));
        if let Some(milli) = cpu_limit.filter(|milli| *milli > 0) {
            cpu.set_quota(Some(quota(milli))).set_period(Some(PERIOD_MICROS));
        }
        resources.set_cpu(Some(cpu));
    }
    let bytes = limit("memory")?.map(|q| q.value()).filter(|bytes| *bytes > 0);
    if let Some(bytes) = bytes.filter(|_| limits.memory) {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(i64::try_from(bytes).unwrap_or(i64::MAX)));
        resources.set_memory(Some(memory));
    }
    Ok(())
}

fn amount(from: Option<&BTreeMap<String, Quantity>>, name: &str) -> Result<Option<quantity::Quantity>, Error> {
    let Some(text) = from.and_then(|map| map.get(name)) else { return Ok(None) };
    let parsed = quantity::parse(&text.0);
    parsed.map(Some).map_err(|fault| Error::config(format!("resources: {name} {:?}: {fault}", text.0)))
}

/// 1024 per CPU, within what the kernel takes.
fn shares(milli: i128) -> u64 {
    u64::try_from((milli * 1024 / 1000).clamp(2, 262_144)).expect("between 2 and 262144")
}

/// Microseconds per period, at least the kernel's millisecond.
fn quota(milli: i128) -> i64 {
    i64::try_from((milli * i128::from(PERIOD_MICROS) / 1000).max(1000)).unwrap_or(i64::MAX)
}

/// How gladly the kernel kills the container when memory is short: by QoS class, and by how much memory it asked for;
/// never lower than this process may go.
pub(super) fn oom_score(pod: &Pod, container: &Container, node: &Machine) -> i32 {
    let class = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()).unwrap_or("BestEffort");
    let wanted = match class {
        "Guaranteed" => -997,
        "Burstable" => {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let request = amount(requests, "memory").ok().flatten().map_or(0, |q| q.value());
            let score = 1000 - 1000 * request / node.memory.max(1);
            i32::try_from(score.clamp(3, 999)).expect("between 3 and 999")
        }
        _ => 1000,
    };
    wanted.max(node.lowest_oom_score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_enforced_here_is_left_out() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [], "resources":
            {"limits": {"cpu": "500m", "memory": "64Mi"}}}}))
        .unwrap();
        let none = Limits { cpu: false, memory: false, processes: false };
        let set = |limits| {
            let all = together(&pod, Some(7), limits).unwrap().unwrap();
            (all.cpu().is_some(), all.memory().is_some(), all.pids().is_some())
        };
        assert_eq!(set(Limits::ALL), (true, true, true));
        assert_eq!(set(Limits { memory: true, processes: true, ..none }), (false, true, true));
        assert_eq!(set(none), (false, false, false));
        assert_eq!(together(&Pod::default(), Some(7), none).unwrap(), None);
    }

    #[test]
    fn shares_and_quota_are_the_kubelets() {
        assert_eq!([0, 1, 2, 1000, 2500, 1_000_000].map(shares), [2, 2, 2, 1024, 2560, 262_144]);
        assert_eq!([1, 10, 500, 2000].map(quota), [1000, 1000, 50_000, 200_000]);
    }
}
