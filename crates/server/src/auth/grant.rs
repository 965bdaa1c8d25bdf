//! Writing roles and bindings: nobody may give away what they do not have.
//!
//! Upstream: `pkg/registry/rbac/*/policybased/storage.go`, `pkg/registry/rbac/escalation_check.go`, v1.36.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding, RoleRef};
use stint_auth::policy::Index;
use stint_auth::{Attributes, Resource, User, escalation};

use crate::Api;
use crate::auth::Auth;
use crate::path::Place;
use crate::status::{Error, Result};
use crate::strategy::Object;

const GROUP: &str = "rbac.authorization.k8s.io";
const AGGREGATION: &str = "must have cluster-admin privileges to use the aggregationRule";

/// Refuses a role or binding that gives rights which the requester lacks. Other kinds pass.
pub(crate) fn confirm_grant(api: &Api, place: &Place, old: Option<&dyn Object>, new: &dyn Object) -> Result<()> {
    let (Some(auth), Some(user)) = (&api.auth, &api.requester) else { return Ok(()) };
    if place.kind.group != GROUP || old.is_some_and(|old| differs_for_the_garbage_collector_only(old, new)) {
        return Ok(());
    }
    let namespace = place.namespace.as_deref().unwrap_or_default();
    let name = new.meta().name.as_deref().unwrap_or_default();
    let grant = Grant { auth, user, index: &auth.policy.index(), namespace };
    let checked = if let Some(role) = new.as_any().downcast_ref::<Role>() {
        let named = old.map_or("", |_| name);
        grant.role("roles", named, role.rules.as_deref().unwrap_or_default())
    } else if let Some(role) = new.as_any().downcast_ref::<ClusterRole>() {
        let aggregates = |role: &ClusterRole| role.aggregation_rule.is_some();
        let before = old.and_then(|old| old.as_any().downcast_ref::<ClusterRole>());
        let named = old.map_or("", |_| name);
        grant.role("clusterroles", named, role.rules.as_deref().unwrap_or_default()).and_then(|()| {
            if (aggregates(role) || before.is_some_and(aggregates)) && !grant.may("escalate", "clusterroles", named) {
                grant.holds(&escalation::everything()).map_err(|_| Refusal::Forbidden(AGGREGATION.to_owned()))?;
            }
            Ok(())
        })
    } else if let Some(binding) = new.as_any().downcast_ref::<RoleBinding>() {
        grant.binding(&binding.role_ref)
    } else if let Some(binding) = new.as_any().downcast_ref::<ClusterRoleBinding>() {
        grant.binding(&binding.role_ref)
    } else {
        return Ok(());
    };
    checked.map_err(|refusal| match refusal {
        Refusal::Forbidden(why) => Error::Forbidden {
            resource: place.kind.plural.to_owned(),
            group: place.kind.group.to_owned(),
            name: name.to_owned(),
            why,
        },
        Refusal::NoSuchRole(message) => Error::RoleNotFound(message),
    })
}

enum Refusal {
    Forbidden(String),
    NoSuchRole(String),
}

/// Somebody who wants to give rights away in a namespace, or everywhere.
struct Grant<'a> {
    auth: &'a Auth,
    user: &'a User,
    index: &'a Index,
    namespace: &'a str,
}

impl Grant<'_> {
    fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let resource = Resource {
            group: GROUP.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: self.namespace.to_owned(),
            name: name.to_owned(),
            ..Resource::default()
        };
        self.auth.policy.decide(self.user, &Attributes::resource(verb, resource)).allowed
    }

    fn holds(&self, rules: &[k8s_openapi::api::rbac::v1::PolicyRule]) -> std::result::Result<(), Refusal> {
        escalation::confirm(self.index, self.user, self.namespace, rules).map_err(Refusal::Forbidden)
    }

    fn role(
        &self,
        resource: &str,
        name: &str,
        rules: &[k8s_openapi::api::rbac::v1::PolicyRule],
    ) -> std::result::Result<(), Refusal> {
        if self.may("escalate", resource, name) { Ok(()) } else { self.holds(rules) }
    }

    fn binding(&self, role: &RoleRef) -> std::result::Result<(), Refusal> {
        let resource = if role.kind == "Role" { "roles" } else { "clusterroles" };
        if self.may("bind", resource, &role.name) {
            return Ok(());
        }
        self.holds(self.index.role(role, self.namespace).map_err(Refusal::NoSuchRole)?)
    }
}

/// The garbage collector needs no rights but to write: whether only owners and finalizers changed.
fn differs_for_the_garbage_collector_only(old: &dyn Object, new: &dyn Object) -> bool {
    let mut undone = new.duplicate();
    let meta = undone.meta_mut();
    meta.owner_references.clone_from(&old.meta().owner_references);
    meta.finalizers.clone_from(&old.meta().finalizers);
    meta.managed_fields.clone_from(&old.meta().managed_fields);
    meta.resource_version = None;
    let mut old = old.duplicate();
    old.meta_mut().resource_version = None;
    undone.encode().unversioned() == old.encode().unversioned()
}
