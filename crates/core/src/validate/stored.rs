//! Objects that are kept and looked up, and that nothing runs: roles, classes, limits, quotas, claims, services, namespaces.
//!
//! Invariant: these functions tell what is wrong beside the metadata, in upstream's order; the caller checks metadata first.
//! Left out: the rules about what no one here acts on (volume drivers, node ports, load balancers, topologies).

mod classes;
mod limits;
mod namespace;
mod roles;
mod service;
mod volumes;

pub use classes::{priority_class, priority_class_update, storage_class, storage_class_update};
pub use limits::{limit_range, resource_quota, resource_quota_update};
pub use namespace::{namespace, namespace_status_update};
pub use roles::{aggregation, policy_rules, role_binding, role_ref_update};
pub use service::{service, service_update};
pub use volumes::{claim, claim_update, volume};

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use crate::field::Fault;

    /// The object that `value` says.
    pub(super) fn of<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// The faults as a client reads them.
    pub(super) fn told(faults: &[Fault]) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }
}
