//! Updates of a Job's status: counters do not fall, terminal conditions stay, times agree with conditions.
//!
//! Invariant: a rule is checked only when a member it concerns changes, so that a status that is already wrong can still
//! be mended elsewhere.
//! Upstream: `pkg/registry/batch/job/strategy.go` (`getStatusValidationOptions`),
//! `pkg/apis/batch/validation/validation.go` (`validateJobStatus`, `ValidateJobStatusUpdate`), v1.36.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods};
use serde::Serialize;

use super::policy::parse_indexes;
use super::{items, job, meta, non_negative, object_meta_update};
use crate::field::{Fault, Path, Value};

pub(super) fn update(old: &Job, new: &Job, faults: &mut Vec<Fault>) {
    meta::before_update(&old.metadata, &new.metadata, faults);
    object_meta_update(&old.metadata, &new.metadata, faults);
    let (no_spec, no_status) = (JobSpec::default(), JobStatus::default());
    let check = Check {
        spec: new.spec.as_ref().unwrap_or(&no_spec),
        old: old.status.as_ref().unwrap_or(&no_status),
        new: new.status.as_ref().unwrap_or(&no_status),
    };
    let root = Path::root();
    let path = root.field("status");
    check.counts(&path, faults);
    check.conditions_and_times(&path, faults);
    check.finished(&path, faults);
    check.indexes(&path, faults);
    check.late_rules(&path, faults);
    check.transitions(&path, faults);
}

struct Check<'a> {
    spec: &'a JobSpec,
    old: &'a JobStatus,
    new: &'a JobStatus,
}

fn is(status: &JobStatus, condition: &str, value: &str) -> bool {
    items(status.conditions.as_ref()).iter().any(|c| c.type_ == condition && c.status == value)
}

fn is_true(status: &JobStatus, condition: &str) -> bool {
    is(status, condition, "True")
}

fn is_finished(status: &JobStatus) -> bool {
    is_true(status, "Complete") || is_true(status, "Failed")
}

fn is_empty(uncounted: &UncountedTerminatedPods) -> bool {
    items(uncounted.succeeded.as_ref()).is_empty() && items(uncounted.failed.as_ref()).is_empty()
}

impl Check<'_> {
    /// Whether a condition's truth changes with this write.
    fn changes(&self, condition: &str) -> bool {
        is_true(self.old, condition) != is_true(self.new, condition)
    }

    fn finish_changes(&self) -> bool {
        is_finished(self.old) != is_finished(self.new)
    }

    fn active(&self) -> i32 {
        self.new.active.unwrap_or_default()
    }

    fn active_changes(&self) -> bool {
        self.old.active.unwrap_or_default() != self.active()
    }

    fn counts(&self, path: &Path<'_>, faults: &mut Vec<Fault>) {
        let new = self.new;
        for (field, count) in [
            ("active", new.active),
            ("succeeded", new.succeeded),
            ("failed", new.failed),
            ("ready", new.ready),
            ("terminating", new.terminating),
        ] {
            non_negative(count.map(i64::from), &path.field(field), faults);
        }
        let Some(uncounted) = &new.uncounted_terminated_pods else {
            return;
        };
        let path = path.field("uncountedTerminatedPods");
        let mut seen = BTreeSet::new();
        for (field, uids) in [("succeeded", &uncounted.succeeded), ("failed", &uncounted.failed)] {
            let path = path.field(field);
            for (i, uid) in items(uids.as_ref()).iter().enumerate() {
                if uid.is_empty() {
                    faults.push(Fault::invalid(&path.index(i), uid, "must not be empty"));
                } else if !seen.insert(uid) {
                    faults.push(Fault::duplicate(&path.index(i), uid));
                }
            }
        }
    }

    fn conditions_and_times(&self, path: &Path<'_>, faults: &mut Vec<Fault>) {
        let new = self.new;
        let complete = is_true(new, "Complete");
        let complete_changes = self.changes("Complete");
        let conditions = path.field("conditions");
        let completion_path = path.field("completionTime");
        let completion_changes = self.old.completion_time != new.completion_time;
        let start_changes = self.old.start_time != new.start_time;
        let mut reject = |detail| faults.push(Fault::invalid_omitted(&conditions, detail));
        if complete && is_true(new, "Failed") && (complete_changes || self.changes("Failed")) {
            reject("cannot set Complete=True and Failed=true conditions");
        }
        if complete && is_true(new, "FailureTarget") && (complete_changes || self.changes("FailureTarget")) {
            reject("cannot set Complete=True and FailureTarget=true conditions");
        }
        if complete_changes || completion_changes {
            match (&new.completion_time, complete) {
                (Some(time), false) => {
                    let detail = "cannot set completionTime when there is no Complete=True condition";
                    faults.push(Fault::invalid(&completion_path, Value::json(time), detail));
                }
                (None, true) => {
                    let detail = "completionTime is required for Complete jobs";
                    faults.push(Fault::required(&completion_path, detail));
                }
                _ => {}
            }
        }
        if let (Some(start), Some(completion)) = (&new.start_time, &new.completion_time)
            && (start_changes || completion_changes)
            && completion.0 < start.0
        {
            let detail = "must be equal to or after `startTime`";
            faults.push(Fault::invalid(&completion_path, Value::json(completion), detail));
        }
        let mut reject = |detail| faults.push(Fault::invalid_omitted(&conditions, detail));
        let failed_changes = self.changes("Failed") || self.changes("FailureTarget");
        if failed_changes && is_true(new, "Failed") && !is_true(new, "FailureTarget") {
            reject("cannot set Failed=True condition without the FailureTarget=true condition");
        }
        let criteria_change = complete_changes || self.changes("SuccessCriteriaMet");
        if criteria_change && complete && !is_true(new, "SuccessCriteriaMet") {
            reject("cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
        }
    }

    fn finished(&self, path: &Path<'_>, faults: &mut Vec<Fault>) {
        let new = self.new;
        if !is_finished(new) {
            return;
        }
        let finish_changes = self.finish_changes();
        if (finish_changes || self.active_changes()) && self.active() > 0 {
            let detail = "active>0 is invalid for finished job";
            faults.push(Fault::invalid(&path.field("active"), self.active(), detail));
        }
        let never_started = self.spec.suspend == Some(true) && self.spec.completions == Some(0);
        let start_changes = self.old.start_time != new.start_time;
        if (finish_changes || start_changes) && new.start_time.is_none() && !never_started {
            let detail = "startTime is required for finished job";
            faults.push(Fault::required(&path.field("startTime"), detail));
        }
        let uncounted_change = self.old.uncounted_terminated_pods != new.uncounted_terminated_pods;
        if let Some(uncounted) = new.uncounted_terminated_pods.as_ref().filter(|u| !is_empty(u))
            && (finish_changes || uncounted_change)
        {
            #[derive(Serialize)]
            #[serde(rename_all = "PascalCase")]
            struct Go<'a> {
                succeeded: Option<&'a Vec<String>>,
                failed: Option<&'a Vec<String>>,
            }
            let value = Value::json(&Go { succeeded: uncounted.succeeded.as_ref(), failed: uncounted.failed.as_ref() });
            let path = path.field("uncountedTerminatedPods");
            faults.push(Fault::invalid(&path, value, "must be empty for finished job"));
        }
    }

    fn indexes(&self, path: &Path<'_>, faults: &mut Vec<Fault>) {
        let (old, new, spec) = (self.old, self.new, self.spec);
        let completed = new.completed_indexes.as_deref().unwrap_or_default();
        let completed_change = old.completed_indexes.as_deref().unwrap_or_default() != completed;
        let failed_change = old.failed_indexes != new.failed_indexes;
        let completed_path = path.field("completedIndexes");
        let failed_path = path.field("failedIndexes");
        if let Some(completions) = spec.completions.filter(|_| completed_change)
            && let Err(why) = parse_indexes(completed, completions)
        {
            let detail = format!("error parsing completedIndexes: {why}");
            faults.push(Fault::invalid(&completed_path, completed, detail));
        }
        if let (Some(completions), Some(_), Some(failed)) =
            (spec.completions, spec.backoff_limit_per_index, &new.failed_indexes)
            && failed_change
            && let Err(why) = parse_indexes(failed, completions)
        {
            let detail = format!("error parsing failedIndexes: {why}");
            faults.push(Fault::invalid(&failed_path, failed, detail));
        }
        if completed_change && !completed.is_empty() && !job::is_indexed(spec) {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            faults.push(Fault::invalid(&completed_path, completed, detail));
        }
        let Some(failed) = &new.failed_indexes else {
            return;
        };
        if failed_change && spec.backoff_limit_per_index.is_none() {
            let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            faults.push(Fault::invalid(&failed_path, failed, detail));
        }
        if let Some(completions) = spec.completions.filter(|_| failed_change || completed_change)
            && let Some(index) = overlap(completed, failed, completions)
        {
            let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
            faults.push(Fault::invalid(&failed_path, failed, detail));
        }
    }

    fn late_rules(&self, path: &Path<'_>, faults: &mut Vec<Fault>) {
        let new = self.new;
        let terminating_change = self.old.terminating != new.terminating;
        if let Some(terminating) = new.terminating.filter(|t| *t > 0)
            && is_finished(new)
            && (self.finish_changes() || terminating_change)
        {
            let detail = "terminating>0 is invalid for finished job";
            faults.push(Fault::invalid(&path.field("terminating"), terminating, detail));
        }
        let ready_change = self.old.ready != new.ready;
        if let Some(ready) = new.ready.filter(|r| *r > self.active())
            && (ready_change || self.active_changes())
        {
            let detail = "cannot set more ready pods than active";
            faults.push(Fault::invalid(&path.field("ready"), ready, detail));
        }
        let conditions = path.field("conditions");
        if is_true(new, "SuccessCriteriaMet") {
            for (other, detail) in [
                ("Failed", "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
                ("FailureTarget", "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
            ] {
                if is_true(new, other) {
                    faults.push(Fault::invalid_omitted(&conditions, detail));
                }
            }
        } else if self.spec.success_policy.is_some() && is_true(new, "Complete") {
            let detail = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
            faults.push(Fault::invalid_omitted(&conditions, detail));
        }
    }

    fn transitions(&self, path: &Path<'_>, faults: &mut Vec<Fault>) {
        let (old, new, spec) = (self.old, self.new, self.spec);
        let conditions = path.field("conditions");
        for condition in ["Failed", "Complete", "FailureTarget"] {
            if is_true(old, condition) && !is_true(new, condition) {
                let detail = format!("cannot disable the terminal {condition}=True condition");
                faults.push(Fault::invalid_omitted(&conditions, &detail));
            }
        }
        let failed = new.failed.unwrap_or_default();
        if failed < old.failed.unwrap_or_default() {
            faults.push(Fault::invalid(&path.field("failed"), failed, "cannot decrease the failed counter"));
        }
        // A Job that can be scaled down may lose successes with its indexes.
        let elastic = job::is_indexed(spec) && spec.completions == spec.parallelism;
        let succeeded = new.succeeded.unwrap_or_default();
        if !elastic && succeeded < old.succeeded.unwrap_or_default() {
            let detail = "cannot decrease the succeeded counter";
            faults.push(Fault::invalid(&path.field("succeeded"), succeeded, detail));
        }
        if let (Some(before), Some(after)) = (&old.completion_time, &new.completion_time)
            && before != after
        {
            let path = path.field("completionTime");
            faults.push(Fault::invalid(&path, Value::json(after), "field is immutable"));
        }
        let resuming = is_true(old, "Suspended") && is(new, "Suspended", "False");
        let moved = old.start_time.is_some() && old.start_time != new.start_time;
        if moved && !resuming && spec.suspend != Some(true) {
            let detail = "field is immutable for unsuspended job once set";
            faults.push(Fault::invalid(&path.field("startTime"), Value::json(&new.start_time), detail));
        }
        if is_true(old, "SuccessCriteriaMet") && !is_true(new, "SuccessCriteriaMet") {
            let detail = "cannot disable the SuccessCriteriaMet=True condition";
            faults.push(Fault::invalid_omitted(&conditions, detail));
        }
        let criteria_gained = !is_true(old, "SuccessCriteriaMet") && is_true(new, "SuccessCriteriaMet");
        if is_true(old, "Complete") && criteria_gained {
            let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
            faults.push(Fault::invalid_omitted(&conditions, detail));
        }
    }
}

/// The first index that is in both lists, as far as they can be read.
fn overlap(completed: &str, failed: &str, completions: i32) -> Option<i64> {
    let completed = parse_indexes(completed, completions).ok()?;
    let failed = parse_indexes(failed, completions).ok()?;
    let common = |&(a, b): &(i64, i64)| {
        let meets = |&&(c, d): &&(i64, i64)| a <= d && c <= b;
        failed.iter().find(meets).map(|&(c, _)| a.max(c))
    };
    completed.iter().find_map(common)
}
