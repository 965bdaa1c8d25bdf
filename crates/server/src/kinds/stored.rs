//! Kinds that are kept and looked up: roles, classes, limits, quotas, claims, volumes, services.
//!
//! Upstream: `pkg/registry/{rbac,scheduling,storage,core}/*/strategy.go`, `pkg/apis/*/v1/defaults.go`, v1.36.
//! Left out: what routes to a service and what binds a claim to a volume; there is nothing of the sort on one machine.

use k8s_openapi::api::core::v1::{
    LimitRange, LimitRangeItem, LoadBalancerStatus, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeClaimStatus, PersistentVolumeStatus, ResourceQuota, ResourceQuotaStatus, Service, ServiceStatus,
};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use stint_core::field::Fault;
use stint_core::validate::{self, NameRule, stored};

use crate::strategy::Strategy;

/// The group of roles, which references to them may leave out.
const RBAC: &str = "rbac.authorization.k8s.io";

/// Faults of new metadata, then `rest`.
fn new_faults<T: Strategy>(object: &T, rest: Vec<Fault>) -> Vec<Fault> {
    let mut faults = Vec::new();
    validate::object_meta(object.metadata(), T::NAMES, &mut faults);
    faults.extend(rest);
    faults
}

/// Faults of changed metadata, then `rest`.
fn changed_faults(old: &ObjectMeta, new: &ObjectMeta, rest: Vec<Fault>) -> Vec<Fault> {
    let mut faults = Vec::new();
    validate::object_meta_update(old, new, &mut faults);
    faults.extend(rest);
    faults
}

fn fill(text: &mut Option<String>, default: &str) {
    if text.as_ref().is_none_or(String::is_empty) {
        *text = Some(default.to_owned());
    }
}

impl Strategy for ClusterRole {
    const NAMES: NameRule = NameRule::PathSegment;

    fn create_faults(&self) -> Vec<Fault> {
        new_faults(self, cluster_role(self))
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        changed_faults(&old.metadata, &self.metadata, cluster_role(self))
    }
}

fn cluster_role(role: &ClusterRole) -> Vec<Fault> {
    let mut faults = stored::policy_rules(role.rules.as_ref(), false);
    faults.extend(stored::aggregation(role.aggregation_rule.as_ref()));
    faults
}

impl Strategy for Role {
    const NAMES: NameRule = NameRule::PathSegment;

    fn create_faults(&self) -> Vec<Fault> {
        new_faults(self, stored::policy_rules(self.rules.as_ref(), true))
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        changed_faults(&old.metadata, &self.metadata, stored::policy_rules(self.rules.as_ref(), true))
    }
}

/// The groups that a binding may leave out.
fn default_binding(role: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    fill(&mut role.api_group, RBAC);
    for subject in subjects.into_iter().flatten() {
        if matches!(subject.kind.as_str(), "User" | "Group") {
            fill(&mut subject.api_group, RBAC);
        }
    }
}

impl Strategy for ClusterRoleBinding {
    const NAMES: NameRule = NameRule::PathSegment;

    fn default_fields(&mut self) {
        default_binding(&mut self.role_ref, self.subjects.as_mut());
    }

    fn create_faults(&self) -> Vec<Fault> {
        new_faults(self, stored::role_binding(&self.role_ref, self.subjects.as_ref(), false))
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        let mut rest = stored::role_binding(&self.role_ref, self.subjects.as_ref(), false);
        rest.extend(stored::role_ref_update(&old.role_ref, &self.role_ref));
        changed_faults(&old.metadata, &self.metadata, rest)
    }
}

impl Strategy for RoleBinding {
    const NAMES: NameRule = NameRule::PathSegment;

    fn default_fields(&mut self) {
        default_binding(&mut self.role_ref, self.subjects.as_mut());
    }

    fn create_faults(&self) -> Vec<Fault> {
        new_faults(self, stored::role_binding(&self.role_ref, self.subjects.as_ref(), true))
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        let mut rest = stored::role_binding(&self.role_ref, self.subjects.as_ref(), true);
        rest.extend(stored::role_ref_update(&old.role_ref, &self.role_ref));
        changed_faults(&old.metadata, &self.metadata, rest)
    }
}

impl Strategy for PriorityClass {
    const GENERATION: bool = true;

    fn default_fields(&mut self) {
        fill(&mut self.preemption_policy, "PreemptLowerPriority");
    }

    fn create_faults(&self) -> Vec<Fault> {
        new_faults(self, stored::priority_class(self))
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        changed_faults(&old.metadata, &self.metadata, stored::priority_class_update(old, self))
    }
}

impl Strategy for StorageClass {
    fn default_fields(&mut self) {
        fill(&mut self.reclaim_policy, "Delete");
        fill(&mut self.volume_binding_mode, "Immediate");
    }

    fn create_faults(&self) -> Vec<Fault> {
        new_faults(self, stored::storage_class(self))
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        changed_faults(&old.metadata, &self.metadata, stored::storage_class_update(old, self))
    }
}

impl Strategy for LimitRange {
    fn default_fields(&mut self) {
        let items = self.spec.iter_mut().flat_map(|spec| &mut spec.limits);
        for item in items.filter(|item| item.type_ == "Container") {
            default_limits(item);
        }
    }

    fn create_faults(&self) -> Vec<Fault> {
        new_faults(self, stored::limit_range(self))
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        changed_faults(&old.metadata, &self.metadata, stored::limit_range(self))
    }
}

/// A limit that is left out is the most that there may be, and a request is what the limit is, or else the least.
fn default_limits(item: &mut LimitRangeItem) {
    let default = item.default.get_or_insert_default();
    for (name, amount) in item.max.iter().flatten() {
        default.entry(name.clone()).or_insert_with(|| amount.clone());
    }
    let request = item.default_request.get_or_insert_default();
    for (name, amount) in default.iter().chain(item.min.iter().flatten()) {
        request.entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

impl Strategy for ResourceQuota {
    fn prepare_create(&mut self, _uid: &str) {
        self.status = Some(ResourceQuotaStatus::default());
    }

    fn create_faults(&self) -> Vec<Fault> {
        new_faults(self, stored::resource_quota(self))
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        let mut rest = stored::resource_quota(self);
        rest.extend(stored::resource_quota_update(old, self));
        changed_faults(&old.metadata, &self.metadata, rest)
    }

    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }
}

impl Strategy for PersistentVolumeClaim {
    fn default_fields(&mut self) {
        fill(&mut self.spec.get_or_insert_default().volume_mode, "Filesystem");
    }

    fn prepare_create(&mut self, _uid: &str) {
        let status = PersistentVolumeClaimStatus { phase: Some("Pending".into()), ..Default::default() };
        self.status = Some(status);
    }

    fn create_faults(&self) -> Vec<Fault> {
        new_faults(self, stored::claim(self))
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        let mut rest = stored::claim(self);
        rest.extend(stored::claim_update(old, self));
        changed_faults(&old.metadata, &self.metadata, rest)
    }

    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }
}

impl Strategy for PersistentVolume {
    fn default_fields(&mut self) {
        let spec = self.spec.get_or_insert_default();
        fill(&mut spec.persistent_volume_reclaim_policy, "Retain");
        fill(&mut spec.volume_mode, "Filesystem");
    }

    fn prepare_create(&mut self, _uid: &str) {
        let status = PersistentVolumeStatus { phase: Some("Pending".into()), ..PersistentVolumeStatus::default() };
        self.status = Some(status);
    }

    fn create_faults(&self) -> Vec<Fault> {
        new_faults(self, stored::volume(self))
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        changed_faults(&old.metadata, &self.metadata, stored::volume(self))
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }

    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }
}

impl Strategy for Service {
    const NAMES: NameRule = NameRule::Dns1035Label;
    const DELETION_RETURNS_OBJECT: bool = true;

    fn default_fields(&mut self) {
        let spec = self.spec.get_or_insert_default();
        fill(&mut spec.type_, "ClusterIP");
        fill(&mut spec.session_affinity, "None");
        for port in spec.ports.iter_mut().flatten() {
            fill(&mut port.protocol, "TCP");
            if matches!(&port.target_port, None | Some(IntOrString::Int(0))) {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if spec.type_.as_deref() != Some("ExternalName") {
            fill(&mut spec.internal_traffic_policy, "Cluster");
        }
    }

    fn prepare_create(&mut self, uid: &str) {
        let load_balancer = Some(LoadBalancerStatus::default());
        self.status = Some(ServiceStatus { load_balancer, ..ServiceStatus::default() });
        let spec = self.spec.get_or_insert_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            return;
        }
        // Nothing listens there: clients want to see an address, and that it is their own.
        fill(&mut spec.cluster_ip, &address(uid));
        let addresses = spec.cluster_ips.get_or_insert_default();
        if addresses.is_empty() {
            addresses.extend(spec.cluster_ip.clone());
        }
        spec.ip_families.get_or_insert_with(|| vec!["IPv4".into()]);
        fill(&mut spec.ip_family_policy, "SingleStack");
    }

    fn create_faults(&self) -> Vec<Fault> {
        new_faults(self, stored::service(self))
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
        let (Some(spec), Some(old)) = (&mut self.spec, &old.spec) else { return };
        // Whoever leaves them out means those that were given.
        if spec.cluster_ip.as_ref().is_none_or(String::is_empty) && spec.type_.as_deref() != Some("ExternalName") {
            spec.cluster_ip.clone_from(&old.cluster_ip);
            spec.cluster_ips.clone_from(&old.cluster_ips);
            spec.ip_families = spec.ip_families.take().or_else(|| old.ip_families.clone());
            spec.ip_family_policy = spec.ip_family_policy.take().or_else(|| old.ip_family_policy.clone());
        }
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        let mut rest = stored::service(self);
        rest.extend(stored::service_update(old, self));
        changed_faults(&old.metadata, &self.metadata, rest)
    }

    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }
}

/// An address of 10.96.0.0/12, by the uid. Two services may have the same by chance: nothing listens there.
fn address(uid: &str) -> String {
    let hash = uid
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // Neither the network's own address nor the last one.
    let host = 1 + hash % ((1 << 20) - 2);
    format!("10.{}.{}.{}", 96 + (host >> 16), (host >> 8) & 255, host & 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_the_services_range() {
        for number in 0..1000 {
            let address: std::net::Ipv4Addr = address(&format!("uid-{number}")).parse().unwrap();
            let [a, b, ..] = address.octets();
            assert!(a == 10 && (96..112).contains(&b), "{address}");
        }
    }
}
