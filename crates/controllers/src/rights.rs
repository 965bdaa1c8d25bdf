//! What the controllers must be allowed to do, and whether they are.
//!
//! Invariant: the table is what they ask for, no more: a test runs them with exactly these rights, which are those of
//! `deploy/`.

use std::fmt;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::Config;
use crate::election::Election;

/// One verb on one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// `""` for the core group.
    pub group: &'static str,
    /// The resource, in the plural.
    pub resource: &'static str,
    /// `""` for the object itself.
    pub subresource: &'static str,
    /// The verb.
    pub verb: &'static str,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if self.subresource.is_empty() { Ok(()) } else { write!(f, "/{}", self.subresource) }
    }
}

type Rows = &'static [(&'static str, &'static str, &'static str, &'static [&'static str])];

/// Of the Job controller.
const JOBS: Rows = &[
    ("batch", "jobs", "", &["get", "list", "watch", "delete"]),
    ("batch", "jobs", "status", &["patch"]),
    // Where an API wants this right of whoever makes owners that block deletion (OwnerReferencesPermissionEnforcement).
    ("batch", "jobs", "finalizers", &["update"]),
    ("", "pods", "", &["list", "watch", "create", "delete", "patch"]),
    ("", "events", "", &["create", "patch"]),
];

/// Of the CronJob controller.
const CRON_JOBS: Rows = &[
    ("batch", "cronjobs", "", &["get", "list", "watch"]),
    ("batch", "cronjobs", "status", &["patch"]),
    ("batch", "cronjobs", "finalizers", &["update"]),
    ("batch", "jobs", "", &["get", "list", "watch", "create", "delete"]),
    ("", "events", "", &["create", "patch"]),
];

/// Of a candidate, in the namespace of its Lease.
const LEASES: Rows = &[("coordination.k8s.io", "leases", "", &["get", "create", "patch"])];

fn rights(rows: Rows) -> impl Iterator<Item = Right> {
    rows.iter().flat_map(|(group, resource, subresource, verbs)| {
        verbs.iter().map(move |verb| Right { group, resource, subresource, verb })
    })
}

/// What the controllers need in the namespaces that they work in.
pub fn of_work(config: &Config) -> Vec<Right> {
    let jobs = config.jobs.then_some(JOBS).into_iter();
    let mut all: Vec<Right> = jobs.chain(config.cron_jobs.then_some(CRON_JOBS)).flat_map(rights).collect();
    all.sort();
    all.dedup();
    all
}

/// What a candidate needs in the namespace of the Lease; what is there already by its name.
pub fn of_candidate() -> Vec<Right> {
    rights(LEASES).collect()
}

/// Asks the API which rights are missing, each with the namespace that it is missing in: none means in all of them.
///
/// # Errors
///
/// When the API does not answer that.
pub async fn missing(client: &Client, config: &Config, election: Option<&Election>) -> kube::Result<Vec<String>> {
    let mut missing = Vec::new();
    for right in of_work(config) {
        let namespace = config.namespace.as_deref();
        if !is_allowed(client, right, namespace, None).await? {
            let place = namespace.map_or_else(|| "in all namespaces".to_owned(), |name| format!("in {name}"));
            missing.push(format!("{right} {place}"));
        }
    }
    if let Some(Election { namespace, name, .. }) = election {
        for right in of_candidate() {
            let name = (right.verb != "create").then_some(name.as_str());
            if !is_allowed(client, right, Some(namespace), name).await? {
                missing.push(format!("{right} in {namespace}"));
            }
        }
    }
    Ok(missing)
}

async fn is_allowed(client: &Client, right: Right, namespace: Option<&str>, name: Option<&str>) -> kube::Result<bool> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let attributes = ResourceAttributes {
        group: text(right.group),
        resource: text(right.resource),
        subresource: text(right.subresource),
        verb: text(right.verb),
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let answer = Api::<SelfSubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_is_named_by_its_verb_and_resource() {
        let shown: Vec<String> = rights(CRON_JOBS).map(|right| right.to_string()).collect();
        assert_eq!(shown[2..4], ["watch cronjobs.batch", "patch cronjobs.batch/status"]);
        assert_eq!(shown.last().map(String::as_str), Some("patch events"));
    }

    #[test]
    fn less_work_needs_fewer_rights() {
        let count = |jobs, cron_jobs| of_work(&Config { jobs, cron_jobs, ..Config::default() }).len();
        assert!(count(true, true) < count(true, false) + count(false, true), "none is there twice");
        assert_eq!(count(false, false), 0);
    }
}
