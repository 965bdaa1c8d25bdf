//! The rules: which there are at which level, since which version, and which of them stand in for others.
//!
//! Invariant: at a version a check has one function; at `restricted` a check that another replaces is not asked. Checks are
//! asked in order of their names, those of `baseline` first.
//! Upstream: `staging/src/k8s.io/pod-security-admission/policy/registry.go`, v1.36.

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::subject::Subject;
use super::{Level, Rules, Version, baseline, restricted};

/// A rule that is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which, in a few words.
    pub reason: String,
    /// By whom, and what they may do.
    pub detail: String,
}

impl Violation {
    pub(super) fn new(reason: &str, detail: String) -> Violation {
        Violation { reason: reason.to_owned(), detail }
    }
}

type Rule = fn(&Subject<'_>) -> Option<Violation>;

struct Check {
    name: &'static str,
    level: Level,
    /// What is asked, and since which 1.x; the newest that is not too new counts.
    since: &'static [(u32, Rule)],
    /// The check of `baseline` that this one makes needless.
    replaces: Option<&'static str>,
}

/// The newest version that changed a rule, which is what `latest` means.
const NEWEST: u32 = 35;

const fn baseline(name: &'static str, since: &'static [(u32, Rule)]) -> Check {
    Check { name, level: Level::Baseline, since, replaces: None }
}

const fn restricted(name: &'static str, since: &'static [(u32, Rule)], replaces: Option<&'static str>) -> Check {
    Check { name, level: Level::Restricted, since, replaces }
}

static CHECKS: &[Check] = &[
    baseline("appArmorProfile", &[(0, baseline::app_armor)]),
    baseline("capabilities_baseline", &[(0, baseline::capabilities)]),
    baseline("hostNamespaces", &[(0, baseline::host_namespaces)]),
    baseline("hostPathVolumes", &[(0, baseline::host_paths)]),
    baseline("hostPorts", &[(0, baseline::host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, baseline::hosts_of_handlers)]),
    baseline("privileged", &[(0, baseline::privileged)]),
    baseline("procMount", &[(0, baseline::proc_mount), (35, baseline::proc_mount_of_the_nodes_users)]),
    baseline("seLinuxOptions", &[(0, baseline::se_linux), (31, baseline::se_linux_1_31)]),
    baseline("seccompProfile_baseline", &[(0, baseline::seccomp_annotations), (19, baseline::seccomp)]),
    baseline(
        "sysctls",
        &[
            (0, baseline::sysctls),
            (27, baseline::sysctls_1_27),
            (29, baseline::sysctls_1_29),
            (32, baseline::sysctls_1_32),
        ],
    ),
    baseline("windowsHostProcess", &[(0, baseline::windows_host_process)]),
    restricted("allowPrivilegeEscalation", &[(8, restricted::escalation), (25, restricted::escalation_on_linux)], None),
    restricted(
        "capabilities_restricted",
        &[(22, restricted::capabilities), (25, restricted::capabilities_on_linux)],
        Some("capabilities_baseline"),
    ),
    restricted("procMount_restricted", &[(35, baseline::proc_mount)], Some("procMount")),
    restricted("restrictedVolumes", &[(0, restricted::volumes)], Some("hostPathVolumes")),
    restricted("runAsNonRoot", &[(0, restricted::non_root), (35, restricted::non_root_of_the_nodes_users)], None),
    restricted("runAsUser", &[(23, restricted::user), (35, restricted::user_of_the_nodes_users)], None),
    restricted(
        "seccompProfile_restricted",
        &[(19, restricted::seccomp), (25, restricted::seccomp_on_linux)],
        Some("seccompProfile_baseline"),
    ),
];

impl Check {
    /// What it asks at a version.
    fn at(&self, version: u32) -> Option<Rule> {
        self.since.iter().rev().find(|(since, _)| *since <= version).map(|(_, rule)| *rule)
    }
}

/// The rules that a pod does not keep.
pub fn violations(rules: Rules, meta: &ObjectMeta, spec: &PodSpec) -> Vec<Violation> {
    if rules.level == Level::Privileged {
        return Vec::new();
    }
    let version = match rules.version {
        Version::Latest => NEWEST,
        Version::Minor(minor) => minor.min(NEWEST),
    };
    let asked: Vec<(&Check, Rule)> = CHECKS
        .iter()
        .filter(|check| check.level <= rules.level)
        .filter_map(|check| Some((check, check.at(version)?)))
        .collect();
    let is_replaced = |name: &str| asked.iter().any(|(check, _)| check.replaces == Some(name));
    let subject = Subject::new(meta, spec);
    let asked = asked.iter().filter(|(check, _)| !is_replaced(check.name));
    asked.filter_map(|(_, rule)| rule(&subject)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_in_which_violations_are_told() {
        let order: Vec<(Level, &str)> = CHECKS.iter().map(|check| (check.level, check.name)).collect();
        assert!(order.is_sorted() && CHECKS.iter().all(|check| check.since.is_sorted_by_key(|(since, _)| *since)));
        let newest = CHECKS.iter().flat_map(|check| check.since).map(|(since, _)| *since).max();
        assert_eq!(newest, Some(NEWEST));
        for replaced in CHECKS.iter().filter_map(|check| check.replaces) {
            assert!(CHECKS.iter().any(|check| check.name == replaced && check.level == Level::Baseline), "{replaced}");
        }
    }
}
