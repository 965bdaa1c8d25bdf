//! The table of kinds. A new kind is one row here and a [`Strategy`] beside it.
//!
//! Invariant: a kind's key prefix (`batch/jobs/`) is not the beginning of another's.
//! Left out: more than one version of a group.

mod cron_job;
mod job;
mod pod;
mod simple;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret};

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
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }
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
    /// What its [`Strategy`] says.
    pub facts: Facts,
}

use Scope::{Cluster, Namespaced};
use Subresource::{Attach, Binding, Exec, Log, PortForward, Status};

/// Every kind that is served, by group and plural.
pub static KINDS: &[Kind] = &[
    row::<ConfigMap>("configmap", Namespaced, &["cm"], &[], &[]),
    row::<Event>("event", Namespaced, &["ev"], &[], &[]),
    row::<Namespace>("namespace", Cluster, &["ns"], &[], &[Status]),
    row::<Node>("node", Cluster, &["no"], &[], &[Status]),
    row::<Pod>("pod", Namespaced, &["po"], &["all"], &[Attach, Binding, Exec, Log, PortForward, Status]),
    row::<Secret>("secret", Namespaced, &[], &[], &[]),
    row::<CronJob>("cronjob", Namespaced, &["cj"], &["all"], &[Status]),
    row::<Job>("job", Namespaced, &[], &["all"], &[Status]),
    row::<Lease>("lease", Namespaced, &[], &[], &[]),
];

const fn row<T: Strategy>(
    singular: &'static str,
    scope: Scope,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    subresources: &'static [Subresource],
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
        subresources,
        facts: Facts::of::<T>(),
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

    /// `jobs.batch`, or `pods` in the core group.
    pub fn qualified_plural(&self) -> String {
        qualified(self.plural, self.group)
    }

    /// What the keys of its objects start with: all of them, or those of one namespace.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        let group = if self.group.is_empty() { "core" } else { self.group };
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
        for a in KINDS {
            for b in KINDS {
                assert!(std::ptr::eq(a, b) || !b.prefix(None).starts_with(&a.prefix(None)), "{a:?} {b:?}");
            }
        }
    }
}
