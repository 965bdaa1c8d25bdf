//! Which Jobs and CronJobs are a controller's to work on, where it is not the only one.
//!
//! ```text
//!                                   Sole     Beside      Instead
//!   Job that names nobody           ours     left alone  ours         managedBy: absent, or the built-in controller
//!   Job that names Stint            as ever  ours        ours         managedBy: stint.dev/job-controller
//!   Job that names somebody else    as ever  left alone  left alone
//!   CronJob                         ours     left alone  ours
//!   CronJob lent to Stint           as ever  ours        ours         suspended, with the annotation
//! ```
//!
//! Invariant: no object is two controllers' at once. A Job says in an immutable field whose it is (KEP-4368). A CronJob has no
//! such field; but a cluster's own controller starts nothing for one that is suspended, so one that is lent is suspended, and
//! the moment that it is not any more it is the cluster's again.
//! What is ours is seen as if it had always been: without `managedBy`, and not suspended. So nothing else has to know of this.

use k8s_openapi::api::batch::v1::{CronJob, Job};

/// What `spec.managedBy` of a Job says that is Stint's beside a cluster's own controller.
pub const JOB_CONTROLLER: &str = "stint.dev/job-controller";

/// What it says, if anything, of a Job that is the cluster's own controller's.
pub const BUILT_IN: &str = "kubernetes.io/job-controller";

/// The annotation, `true`, by which a suspended CronJob is lent.
pub const LENT: &str = "stint.dev/cronjob-controller";

/// Whose objects a controller works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mandate {
    /// It is the API's own controller, and looks at everything: also at Jobs of others, whose time to live is its business.
    #[default]
    Sole,
    /// There is an API's own controller; only what asks for Stint is ours.
    Beside,
    /// The API's own controller is switched off, and we take its place.
    Instead,
}

impl Mandate {
    /// The Job as the controller is to see it. None: it is somebody else's.
    pub fn job(self, mut job: Job) -> Option<Job> {
        let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        match (self, manager) {
            (Mandate::Sole, _) | (Mandate::Instead, None | Some(BUILT_IN)) => {}
            (Mandate::Beside | Mandate::Instead, Some(JOB_CONTROLLER)) => {
                job.spec.iter_mut().for_each(|spec| spec.managed_by = None);
            }
            (Mandate::Beside | Mandate::Instead, _) => return None,
        }
        Some(job)
    }

    /// The CronJob as the controller is to see it. None: it is somebody else's.
    pub fn cron_job(self, mut cron_job: CronJob) -> Option<CronJob> {
        match self {
            Mandate::Beside | Mandate::Instead if is_lent(&cron_job) => cron_job.spec.suspend = Some(false),
            Mandate::Beside => return None,
            Mandate::Sole | Mandate::Instead => {}
        }
        Some(cron_job)
    }
}

fn is_lent(cron_job: &CronJob) -> bool {
    let said = cron_job.metadata.annotations.as_ref().and_then(|all| all.get(LENT));
    cron_job.spec.suspend == Some(true) && said.is_some_and(|said| said == "true")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Mandate::{Beside, Instead, Sole};
    use super::*;

    #[test]
    fn a_job_is_whose_it_says() {
        let seen = |mandate: Mandate, manager: Option<&str>| {
            let job = json!({ "spec": { "managedBy": manager, "template": {} } });
            let job: Job = serde_json::from_value(job).unwrap();
            mandate.job(job).map(|job| job.spec.unwrap().managed_by)
        };
        let theirs = Some("a.example/b");
        for (manager, sole, beside, instead) in [
            (None, Some(None), None, Some(None)),
            (Some(BUILT_IN), Some(Some(BUILT_IN)), None, Some(Some(BUILT_IN))),
            (Some(JOB_CONTROLLER), Some(Some(JOB_CONTROLLER)), Some(None), Some(None)),
            (theirs, Some(theirs), None, None),
        ] {
            for (mandate, expected) in [(Sole, sole), (Beside, beside), (Instead, instead)] {
                let expected = expected.map(|manager| manager.map(str::to_owned));
                assert_eq!(seen(mandate, manager), expected, "{mandate:?} {manager:?}");
            }
        }
    }

    #[test]
    fn a_cron_job_is_lent_by_its_annotation_as_long_as_it_is_suspended() {
        let seen = |mandate: Mandate, suspend: bool, annotation: &str| {
            let cron_job = json!({
                "metadata": { "annotations": { LENT: annotation } },
                "spec": { "schedule": "@daily", "suspend": suspend, "jobTemplate": {} },
            });
            mandate.cron_job(serde_json::from_value(cron_job).unwrap()).map(|seen| seen.spec.suspend.unwrap())
        };
        for (suspend, annotation, sole, beside, instead) in [
            (true, "true", Some(true), Some(false), Some(false)),
            (true, "false", Some(true), None, Some(true)),
            (false, "true", Some(false), None, Some(false)),
            (false, "", Some(false), None, Some(false)),
        ] {
            for (mandate, expected) in [(Sole, sole), (Beside, beside), (Instead, instead)] {
                assert_eq!(seen(mandate, suspend, annotation), expected, "{mandate:?} {suspend} {annotation}");
            }
        }
    }
}
