//! The table of kinds. A new kind is one row here and a [`Strategy`] beside it.
//!
//! There are rows of two sorts. [`row`]: objects are stored, every verb works. [`readable`]: nothing here reconciles such
//! objects, so that there are none and none can be made; but clients list and watch the kind, and find it empty.
//!
//! Invariant: a kind's key prefix (`batch/jobs/`) is not the beginning of another's, unless both are shapes of the same
//! stored objects (see [`Kind::shown`]).
//! Left out: more than one version of a group.

mod cron_job;
mod event;
mod job;
mod pod;
mod simple;
mod stored;

use bytes::Bytes;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, StorageClass, VolumeAttachment};

use crate::encoding::head_of;
use crate::status::qualified;
use crate::strategy::{Facts, Strategy};

/// Whether objects of a kind live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// They do.
    Namespaced,
    /// They don't.
    Cluster,
}

/// What can be behind an object's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `…/status`: the same object; writes change status and metadata only.
    Status,
    /// `…/binding`: assigns a pod to a node.
    Binding,
    /// `…/eviction`: deletes a pod and says in its status that it was evicted.
    Eviction,
    /// `…/ephemeralcontainers`: the same object; writes add containers to a pod that runs.
    EphemeralContainers,
    /// `…/finalize`: lets go of a namespace that is being deleted.
    Finalize,
    /// `…/log`: what a pod's container has written.
    Log,
    /// `…/exec`: runs a command in a pod's container.
    Exec,
    /// `…/attach`: joins the main process of a pod's container.
    Attach,
    /// `…/portforward`: connects to ports of a pod.
    PortForward,
}

impl Subresource {
    /// Whether it is served by the pod's node, as a stream.
    pub const fn is_streamed(self) -> bool {
        matches!(self, Self::Log | Self::Exec | Self::Attach | Self::PortForward)
    }

    /// Its path segment.
    pub const fn segment(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Finalize => "finalize",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }
}

/// Whether there can be objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Clients and controllers make them.
    Objects,
    /// Never: the kind can be read, and is empty.
    Nothing,
}

/// One kind.
pub struct Kind {
    /// The API group, empty for core.
    pub group: &'static str,
    /// The version within the group.
    pub version: &'static str,
    /// `batch/v1`, or `v1` in the core group.
    pub api_version: &'static str,
    /// `Job`.
    pub kind: &'static str,
    /// `jobs`, the path segment.
    pub plural: &'static str,
    /// `job`.
    pub singular: &'static str,
    /// What users type instead.
    pub short_names: &'static [&'static str],
    /// Groups of kinds that users type: `all`.
    pub categories: &'static [&'static str],
    /// Where its objects live.
    pub scope: Scope,
    /// What is behind an object's name.
    pub subresources: &'static [Subresource],
    /// Whether there are objects of it.
    pub holds: Holds,
    /// What its [`Strategy`] says.
    pub facts: Facts,
}

use Scope::{Cluster, Namespaced};
use Subresource::{Attach, Binding, EphemeralContainers, Eviction, Exec, Finalize, Log, PortForward, Status};

/// Every kind that is served, by group and plural.
pub static KINDS: &[Kind] = &[
    row::<ConfigMap>("configmap", Namespaced, &["cm"], &[], &[]),
    row::<Endpoints>("endpoints", Namespaced, &["ep"], &[], &[]),
    row::<Event>("event", Namespaced, &["ev"], &[], &[]),
    row::<LimitRange>("limitrange", Namespaced, &["limits"], &[], &[]),
    row::<Namespace>("namespace", Cluster, &["ns"], &[], &[Finalize, Status]),
    row::<Node>("node", Cluster, &["no"], &[], &[Status]),
    row::<PersistentVolumeClaim>("persistentvolumeclaim", Namespaced, &["pvc"], &[], &[Status]),
    row::<PersistentVolume>("persistentvolume", Cluster, &["pv"], &[], &[Status]),
    row::<Pod>(
        "pod",
        Namespaced,
        &["po"],
        &["all"],
        &[Attach, Binding, EphemeralContainers, Eviction, Exec, Log, PortForward, Status],
    ),
    row::<PodTemplate>("podtemplate", Namespaced, &[], &[], &[]),
    readable::<ReplicationController>("replicationcontroller", Namespaced, &["rc"], &["all"]),
    row::<ResourceQuota>("resourcequota", Namespaced, &["quota"], &[], &[Status]),
    row::<Secret>("secret", Namespaced, &[], &[], &[]),
    row::<ServiceAccount>("serviceaccount", Namespaced, &["sa"], &[], &[]),
    row::<Service>("service", Namespaced, &["svc"], &["all"], &[Status]),
    readable::<MutatingWebhookConfiguration>("mutatingwebhookconfiguration", Cluster, &[], &["api-extensions"]),
    readable::<ValidatingWebhookConfiguration>("validatingwebhookconfiguration", Cluster, &[], &["api-extensions"]),
    readable::<ControllerRevision>("controllerrevision", Namespaced, &[], &[]),
    readable::<DaemonSet>("daemonset", Namespaced, &["ds"], &["all"]),
    readable::<Deployment>("deployment", Namespaced, &["deploy"], &["all"]),
    readable::<ReplicaSet>("replicaset", Namespaced, &["rs"], &["all"]),
    readable::<StatefulSet>("statefulset", Namespaced, &["sts"], &["all"]),
    readable::<HorizontalPodAutoscaler>("horizontalpodautoscaler", Namespaced, &["hpa"], &["all"]),
    row::<CronJob>("cronjob", Namespaced, &["cj"], &["all"], &[Status]),
    row::<Job>("job", Namespaced, &[], &["all"], &[Status]),
    row::<Lease>("lease", Namespaced, &[], &[], &[]),
    readable::<EndpointSlice>("endpointslice", Namespaced, &[], &[]),
    row::<k8s_openapi::api::events::v1::Event>("event", Namespaced, &["ev"], &[], &[]),
    readable::<IngressClass>("ingressclass", Cluster, &[], &[]),
    readable::<Ingress>("ingress", Namespaced, &["ing"], &[]),
    readable::<NetworkPolicy>("networkpolicy", Namespaced, &["netpol"], &[]),
    readable::<PodDisruptionBudget>("poddisruptionbudget", Namespaced, &["pdb"], &[]),
    row::<ClusterRole>("clusterrole", Cluster, &[], &[], &[]),
    row::<ClusterRoleBinding>("clusterrolebinding", Cluster, &[], &[], &[]),
    row::<Role>("role", Namespaced, &[], &[], &[]),
    row::<RoleBinding>("rolebinding", Namespaced, &[], &[], &[]),
    row::<PriorityClass>("priorityclass", Cluster, &["pc"], &[], &[]),
    readable::<CSIDriver>("csidriver", Cluster, &[], &[]),
    readable::<CSINode>("csinode", Cluster, &[], &[]),
    row::<StorageClass>("storageclass", Cluster, &["sc"], &[], &[]),
    readable::<VolumeAttachment>("volumeattachment", Cluster, &[], &[]),
];

const fn row<T: Strategy>(
    singular: &'static str,
    scope: Scope,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    subresources: &'static [Subresource],
) -> Kind {
    let named = readable::<T>(singular, scope, short_names, categories);
    Kind { subresources, holds: Holds::Objects, facts: Facts::of::<T>(), ..named }
}

/// A kind that can be read and is always empty.
const fn readable<T: k8s_openapi::Resource>(
    singular: &'static str,
    scope: Scope,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
) -> Kind {
    Kind {
        group: T::GROUP,
        version: T::VERSION,
        api_version: T::API_VERSION,
        kind: T::KIND,
        plural: T::URL_PATH_SEGMENT,
        singular,
        short_names,
        categories,
        scope,
        subresources: &[],
        holds: Holds::Nothing,
        facts: Facts::of_nothing(T::GROUP),
    }
}

impl Kind {
    /// The kind at `…/{group}/{version}/…/{plural}`.
    pub fn at(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.plural == plural && kind.group == group && kind.version == version)
    }

    /// The kind of namespaces.
    pub(crate) fn namespaces() -> &'static Self {
        KINDS.iter().find(|kind| kind.kind == "Namespace").expect("it is in the table")
    }

    /// What can be done with its objects, in the words of discovery and RBAC, sorted.
    pub fn verbs(&self) -> &'static [&'static str] {
        match self.holds {
            Holds::Nothing => &["get", "list", "watch"],
            Holds::Objects if self.can_delete_collection() => {
                &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            }
            Holds::Objects => &["create", "delete", "get", "list", "patch", "update", "watch"],
        }
    }

    /// Whether all its objects (of a namespace) can be deleted by one request.
    pub fn can_delete_collection(&self) -> bool {
        self.holds == Holds::Objects && self.kind != "Namespace"
    }

    /// The bytes of an object in this kind's shape, from those that are stored. They are the stored ones themselves for
    /// all kinds but those whose objects are stored as another kind's.
    pub fn shown(&self, stored: Bytes) -> Bytes {
        match self.facts.show {
            None => stored,
            Some(show) => show(&stored),
        }
    }

    /// `jobs.batch`, or `pods` in the core group.
    pub fn qualified_plural(&self) -> String {
        qualified(self.plural, self.group)
    }

    /// What the keys of its objects start with: all of them, or those of one namespace.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        let group = match self.facts.storage_group {
            "" => "core",
            group => group,
        };
        match namespace {
            Some(namespace) => format!("{group}/{}/{namespace}/", self.plural),
            None => format!("{group}/{}/", self.plural),
        }
    }

    /// Where an object is stored.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        let mut key = self.prefix(namespace);
        key.push_str(name);
        key
    }

    /// How many bytes of a stored value come before the members of `metadata`.
    pub const fn head(&self) -> usize {
        head_of(self.api_version, self.kind)
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.api_version, self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_prefix_begins_another() {
        let own = || KINDS.iter().filter(|kind| kind.facts.storage_group == kind.group);
        for a in own() {
            for b in own() {
                assert!(std::ptr::eq(a, b) || !b.prefix(None).starts_with(&a.prefix(None)), "{a:?} {b:?}");
            }
        }
    }
}
