//! What the controllers count, under the names, labels and texts of the real ones (section 5.14 of the API).
//!
//! Invariant: the number of series is bounded: labels are kinds of things, never names of objects. The one exception is
//! upstream's, too: the names of the controllers in `managedBy`.
//! Left out: durations and depths of what has no queue here; retries of requests, which the client makes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use stint_core::cronjob::SCHEDULED_TIMESTAMP;
use stint_core::job::index::IndexSet;
use stint_core::job::per_index::FAILURES;
use stint_core::job::view::{Class, class, is_tracked, uid_of};
use stint_core::job::{condition, finished, foreign_controller};
use stint_core::plan::{Action, Phase, Plan, Step, Uid};

mod text;
mod work;

pub use work::{Running, Work};

type Labels = Vec<(&'static str, Cow<'static, str>)>;
type Counters = Family<Labels, Counter>;

/// The metrics of the controllers of one process. Cheap to clone; a clone counts in the same place.
#[derive(Clone, Debug)]
pub struct Metrics {
    syncs: Counters,
    sync_durations: Family<Labels, Histogram, fn() -> Histogram>,
    jobs_finished: Counters,
    pods_finished: Counters,
    indexes_finished: Counters,
    pods_created: Counters,
    failures_handled: Counters,
    finalizers: Counters,
    external: Counters,
    expired: Histogram,
    /// From when a CronJob was to create a Job to when it did, in seconds.
    creation_skew: Histogram,
    /// Finished pods that carry the tracking finalizer.
    finished_tracked: Arc<Mutex<HashSet<Uid>>>,
    /// The queue of Jobs.
    pub(crate) jobs: Work,
    /// The queue of CronJobs.
    pub(crate) cron_jobs: Work,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            syncs: Family::default(),
            sync_durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.004, 2.0, 15))),
            jobs_finished: Family::default(),
            pods_finished: Family::default(),
            indexes_finished: Family::default(),
            pods_created: Family::default(),
            failures_handled: Family::default(),
            finalizers: Family::default(),
            external: Family::default(),
            expired: Histogram::new(exponential_buckets(0.1, 2.0, 14)),
            creation_skew: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            finished_tracked: Arc::default(),
            jobs: Work::new("job"),
            cron_jobs: Work::new("cronjob"),
        }
    }
}

impl Metrics {
    /// A CronJob has created this Job.
    pub(crate) fn created_by_schedule(&self, job: &Job) {
        let wanted = job.metadata.annotations.as_ref().and_then(|all| all.get(SCHEDULED_TIMESTAMP)?.parse().ok());
        let created = job.metadata.creation_timestamp.as_ref().map(|time| time.0);
        if let (Some(created), Some(wanted)) = (created, wanted) {
            self.creation_skew.observe(created.duration_since(wanted).as_secs_f64());
        }
    }

    /// A Job was reconciled, and what followed from it took so long.
    pub(crate) fn synced(&self, job: &Job, plan: &Plan, succeeded: bool, took: Duration) {
        let is_foreign = job.spec.as_ref().is_some_and(|spec| foreign_controller(spec).is_some());
        if is_foreign || job.status.as_ref().is_some_and(|status| finished(status).is_some()) {
            return;
        }
        let result = if succeeded { "success" } else { "error" };
        let labels = || labels([("action", action(plan)), ("completion_mode", mode(job)), ("result", result)]);
        self.syncs.get_or_create_owned(&labels()).inc();
        self.sync_durations.get_or_create_owned(&labels()).observe(took.as_secs_f64());
        if succeeded {
            for action in &plan.handled {
                self.failures_handled.get_or_create_owned(&self::labels([("action", action)])).inc();
            }
        }
    }

    /// The status of a Job was written.
    pub(crate) fn wrote(&self, job: &Job, new: &JobStatus) {
        let none = JobStatus::default();
        let old = job.status.as_ref().unwrap_or(&none);
        let more = |new: Option<i32>, old: Option<i32>| {
            u64::try_from(i64::from(new.unwrap_or(0)) - i64::from(old.unwrap_or(0))).unwrap_or(0)
        };
        for (result, more) in
            [("succeeded", more(new.succeeded, old.succeeded)), ("failed", more(new.failed, old.failed))]
        {
            count(&self.pods_finished, more, [("completion_mode", mode(job)), ("result", result)]);
        }
        if mode(job) == "Indexed" {
            let completions = job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(0);
            let end = u32::try_from(completions).unwrap_or(0);
            let size = |set: &Option<String>| Some(IndexSet::parse(set.as_deref().unwrap_or_default(), end).len());
            let is_per_index = job.spec.as_ref().is_some_and(|spec| spec.backoff_limit_per_index.is_some());
            let limit = if is_per_index { "perIndex" } else { "global" };
            for (status, new, old) in [
                ("succeeded", &new.completed_indexes, &old.completed_indexes),
                ("failed", &new.failed_indexes, &old.failed_indexes),
            ] {
                let more = more(size(new), size(old));
                count(&self.indexes_finished, more, [("backoffLimit", limit), ("status", status)]);
            }
        }
        if finished(old).is_none() {
            for (kind, result) in [("Complete", "succeeded"), ("Failed", "failed")] {
                let ended = condition(new, kind).filter(|condition| condition.status == "True");
                let Some(reason) = ended.and_then(|condition| condition.reason.clone()) else { continue };
                let mut labels = labels([("completion_mode", mode(job)), ("result", result)]);
                labels.insert(1, ("reason", Cow::Owned(reason)));
                self.jobs_finished.get_or_create_owned(&labels).inc();
            }
        }
    }

    /// A pod was created for a Job, or that was refused.
    pub(crate) fn created(&self, job: &Job, plan: &Plan, pod: &Pod, succeeded: bool) {
        let status = job.status.as_ref();
        let is_again = pod.metadata.annotations.iter().flatten().any(|(name, n)| name == FAILURES && n != "0");
        let has_failed = is_again || status.and_then(|status| status.failed).is_some_and(|failed| failed > 0);
        let terminating = |step: &Step| match &step.action {
            Action::WriteJobStatus(status) => status.terminating,
            _ => None,
        };
        let is_leaving = plan.steps.iter().filter_map(terminating).any(|count| count > 0);
        let policy = job.spec.as_ref().and_then(|spec| spec.pod_replacement_policy.as_deref());
        let reason = match policy {
            Some("Failed") if has_failed => "recreate_failed",
            _ if has_failed || is_leaving => "recreate_terminating_or_failed",
            _ => "new",
        };
        // Upstream counts a refused creation as one that succeeded, too.
        count(&self.pods_created, 1, [("reason", reason), ("status", "succeeded")]);
        if !succeeded {
            count(&self.pods_created, 1, [("reason", reason), ("status", "failed")]);
        }
    }

    /// A finished Job was deleted, this long after its time was over.
    pub(crate) fn expired(&self, late: Duration) {
        self.expired.observe(late.as_secs_f64());
    }

    /// A Job was seen for the first time that another controller manages.
    pub(crate) fn managed_by(&self, controller: &str) {
        let labels = vec![("controller_name", Cow::Owned(controller.to_owned()))];
        self.external.get_or_create_owned(&labels).inc();
    }

    /// The watch has shown a pod.
    pub(crate) fn saw(&self, event: &Event<Pod>) {
        let (pod, is_there) = match event {
            Event::Apply(pod) | Event::InitApply(pod) => (pod, true),
            Event::Delete(pod) => (pod, false),
            Event::Init | Event::InitDone => return,
        };
        let is_one = is_there && is_tracked(pod) && matches!(class(pod), Class::Succeeded | Class::Failed);
        let mut known = self.finished_tracked.lock().unwrap_or_else(PoisonError::into_inner);
        if is_one && known.insert(uid_of(pod)) {
            count(&self.finalizers, 1, [("event", "add")]);
        } else if !is_one && known.remove(&uid_of(pod)) {
            count(&self.finalizers, 1, [("event", "delete")]);
        }
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = [
            (text::INDEXES_FINISHED, &self.indexes_finished),
            (text::PODS_CREATED, &self.pods_created),
            (text::PODS_FINISHED, &self.pods_finished),
            (text::SYNCS, &self.syncs),
            (text::EXTERNAL, &self.external),
            (text::JOBS_FINISHED, &self.jobs_finished),
            (text::FAILURES_HANDLED, &self.failures_handled),
            (text::FINALIZERS, &self.finalizers),
        ];
        for ((name, help), counters) in counters {
            counters.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let (name, help) = text::SYNC_DURATIONS;
        self.sync_durations.encode(encoder.encode_descriptor(name, help, None, MetricType::Histogram)?)?;
        for ((name, help), histogram) in [(text::SKEW, &self.creation_skew), (text::EXPIRED, &self.expired)] {
            histogram.encode(encoder.encode_descriptor(name, help, None, MetricType::Histogram)?)?;
        }
        work::encode(&[&self.cron_jobs, &self.jobs], &mut encoder)
    }
}

fn count<const N: usize>(counters: &Counters, more: u64, of: [(&'static str, &'static str); N]) {
    if more > 0 {
        counters.get_or_create_owned(&labels(of)).inc_by(more);
    }
}

fn labels<const N: usize>(of: [(&'static str, &'static str); N]) -> Labels {
    of.into_iter().map(|(name, value)| (name, Cow::Borrowed(value))).collect()
}

fn mode(job: &Job) -> &'static str {
    match job.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) {
        Some("Indexed") => "Indexed",
        _ => "NonIndexed",
    }
}

/// What a plan does, in the words of upstream's label.
fn action(plan: &Plan) -> &'static str {
    let does = |wanted: fn(&Action) -> bool| plan.steps.iter().any(|step| wanted(&step.action));
    if does(|action| matches!(action, Action::CreatePod(_))) {
        "pods_created"
    } else if does(|action| matches!(action, Action::DeletePod(_))) {
        "pods_deleted"
    } else if plan.phase == Phase::Claim {
        "reconciling"
    } else {
        "tracking"
    }
}
