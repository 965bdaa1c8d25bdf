//! What must always be true of Jobs and their pods, as sentences that a machine checks.
//!
//! A [`Ledger`] is shown every state of every object in the order in which the API committed them, and remembers only
//! what it needs. The simulator feeds it from its disk, tests from their models; `stint doctor` will from the store.
//!
//! Left out: what only shows after a while (that a Job ends at all). [`Ledger::settled`] asks for that.

mod tenants;

pub mod cronjob;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::job::index::{self, Index, IndexSet};
use crate::job::policy::{Judgement, judge};
use crate::job::view::{Class, class, controller_of, is_tracked, uid_of};
use crate::job::{condition, finished};
use crate::plan::Uid;
use tenants::Tenants;

/// A broken invariant. Each variant is one sentence that must never be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// More pods of a Job are active than its parallelism allows.
    TooManyActive {
        /// The Job.
        job: String,
        /// How many are active.
        active: usize,
        /// How many may be.
        parallelism: i32,
    },
    /// A pod was created although its Job's end had been decided.
    CreatedAfterTheEnd {
        /// The Job.
        job: String,
        /// The pod.
        pod: String,
    },
    /// A counter fell.
    CounterFell {
        /// The Job.
        job: String,
        /// Which counter, with both values.
        what: String,
    },
    /// A terminal or interim condition changed or went away.
    EndChanged {
        /// The Job.
        job: String,
        /// What it was, and what it is.
        what: String,
    },
    /// Counters and recorded UIDs together name more pods than ever finished.
    CountedTooMany {
        /// The Job.
        job: String,
        /// The numbers.
        what: String,
    },
    /// A pod lost its finalizer before the Job had recorded it, so that it can never be counted.
    ReleasedUncounted {
        /// The Job.
        job: String,
        /// The pod.
        pod: String,
    },
    /// The Job is finished, or nothing moves any more, and a pod that finished is in no counter.
    NotCounted {
        /// The Job.
        job: String,
        /// The numbers.
        what: String,
    },
    /// Two pods of one index are active.
    IndexDoubled {
        /// The Job.
        job: String,
        /// The pod that is one too many.
        pod: String,
    },
    /// An index is called completed though no pod of it has succeeded, or is no longer called completed or failed.
    IndexWrong {
        /// The Job.
        job: String,
        /// What it was, and what it is.
        what: String,
    },
    /// A pod of a suspended Job was created.
    CreatedWhileSuspended {
        /// The Job.
        job: String,
        /// The pod.
        pod: String,
    },
    /// The Job says that it is finished while a pod of it still runs.
    FinishedTooEarly {
        /// The Job.
        job: String,
        /// The pod.
        pod: String,
    },
    /// A pod was bound to a node that has no room for it.
    Overcommitted {
        /// The pod.
        pod: String,
        /// Of what more is requested than the node has.
        what: String,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::TooManyActive { job, active, parallelism } => {
                write!(f, "job {job}: {active} pods are active with parallelism {parallelism}")
            }
            Broken::CreatedAfterTheEnd { job, pod } => {
                write!(f, "job {job}: pod {pod} was created after the Job's end was decided")
            }
            Broken::CounterFell { job, what } => write!(f, "job {job}: a counter fell: {what}"),
            Broken::EndChanged { job, what } => write!(f, "job {job}: a decided end changed: {what}"),
            Broken::CountedTooMany { job, what } => write!(f, "job {job}: more pods are counted than finished: {what}"),
            Broken::ReleasedUncounted { job, pod } => {
                write!(f, "job {job}: pod {pod} lost its finalizer before it was recorded")
            }
            Broken::NotCounted { job, what } => write!(f, "job {job}: a finished pod is in no counter: {what}"),
            Broken::IndexDoubled { job, pod } => {
                write!(f, "job {job}: pod {pod} is the second active one of its index")
            }
            Broken::IndexWrong { job, what } => write!(f, "job {job}: an index is wrong: {what}"),
            Broken::CreatedWhileSuspended { job, pod } => {
                write!(f, "job {job}: pod {pod} was created although the Job is suspended")
            }
            Broken::FinishedTooEarly { job, pod } => write!(f, "job {job} is finished while pod {pod} still runs"),
            Broken::Overcommitted { pod, what } => {
                write!(f, "pod {pod} was bound, and more {what} is requested than the node has")
            }
        }
    }
}

/// What the ledger remembers of a pod.
#[derive(Debug)]
struct PodEntry {
    name: String,
    job: Uid,
    class: Class,
    tracked: bool,
    index: Option<Index>,
}

/// What the ledger remembers of a Job.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "these are facts about one Job, and any of them may hold with any other"
)]
struct JobEntry {
    name: String,
    parallelism: i32,
    /// Whether parallelism was ever lowered, or a pod adopted: then more pods may still be active.
    shrunk: bool,
    /// Whether completions were ever changed: then the counter of successes may be one that could not fall.
    resized: bool,
    /// The fewest that its completions ever were: a pod of an index beyond may have been released for that.
    least_completions: Option<i32>,
    status: JobStatus,
    spec: JobSpec,
    /// The indexes of which a pod was seen to succeed.
    succeeded_indexes: BTreeSet<Index>,
    /// UIDs ever seen in `uncountedTerminatedPods`: each of them is counted once, and only these are.
    recorded: BTreeMap<Uid, Recorded>,
    leaving: bool,
    /// Whether the controller has called it suspended since it is: the condition may tell of a suspension before this one.
    called_suspended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recorded {
    Succeeded,
    Failed,
}

/// Every state so far, as far as the invariants need it.
#[derive(Debug, Default)]
pub struct Ledger {
    jobs: BTreeMap<Uid, JobEntry>,
    pods: BTreeMap<Uid, PodEntry>,
    /// Pods that had no controller when they were seen: a Job that adopts one did not create it.
    found: BTreeSet<Uid>,
    tenants: Tenants,
}

impl Ledger {
    /// A ledger that has seen nothing.
    pub fn new() -> Ledger {
        Ledger::default()
    }

    /// Notes that the only node was committed in this state.
    pub fn node(&mut self, node: &Node) {
        self.tenants.node(node);
    }

    /// Notes that `job` was committed in this state.
    pub fn job(&mut self, job: &Job) -> Result<(), Broken> {
        let uid = Uid::of(&job.metadata);
        let name = job.metadata.name.clone().unwrap_or_default();
        let parallelism = job.spec.as_ref().and_then(|s| s.parallelism).unwrap_or(1);
        let known = self.jobs.entry(uid.clone()).or_default();
        let is_known = !known.name.is_empty();
        known.shrunk |= is_known && parallelism < known.parallelism;
        known.leaving |= job.metadata.deletion_timestamp.is_some();
        (known.name, known.parallelism) = (name.clone(), parallelism);
        let before = std::mem::replace(&mut known.status, job.status.clone().unwrap_or_default());
        let completions_before = known.spec.completions;
        if job.spec.as_ref() != Some(&known.spec) {
            known.spec = job.spec.clone().unwrap_or_default();
        }
        known.resized |= is_known && completions_before != known.spec.completions;
        known.least_completions = known.least_completions.into_iter().chain(known.spec.completions).min();
        let calls = |status| condition(status, "Suspended").is_some_and(|c| c.status == "True");
        let is_called = calls(&known.status) && (known.called_suspended || !calls(&before));
        known.called_suspended = known.is_suspended() && is_called;
        if known.is_indexed() {
            indexes_stay(known, &before, completions_before)?;
        } else {
            counters_rise(&name, &before, &known.status)?;
        }
        end_stays(&name, &before, &known.status)?;
        let uncounted = known.status.uncounted_terminated_pods.as_ref();
        let lists = [
            (Recorded::Succeeded, uncounted.and_then(|u| u.succeeded.as_ref())),
            (Recorded::Failed, uncounted.and_then(|u| u.failed.as_ref())),
        ];
        for (kind, list) in lists {
            for pod in list.into_iter().flatten() {
                known.recorded.insert(Uid::from(pod.as_str()), kind);
            }
        }
        counts_match_records(known)?;
        if finished(&known.status).is_some() {
            let running = self
                .pods
                .values()
                .find(|pod| pod.job == uid && pod.tracked && matches!(pod.class, Class::Active | Class::Leaving));
            if let Some(pod) = running {
                return Err(Broken::FinishedTooEarly { job: name, pod: pod.name.clone() });
            }
        }
        Ok(())
    }

    /// Notes that `pod` was committed in this state.
    pub fn pod(&mut self, pod: &Pod) -> Result<(), Broken> {
        self.tenants.pod(pod)?;
        let uid = uid_of(pod);
        let Some(owner) = controller_of(pod) else {
            self.pods.remove(&uid);
            self.found.insert(uid);
            return Ok(());
        };
        let job = Uid::from(owner.uid.as_str());
        let name = pod.metadata.name.clone().unwrap_or_default();
        let index = index::of_pod(pod);
        let new = PodEntry { name: name.clone(), job: job.clone(), class: class(pod), tracked: is_tracked(pod), index };
        let (now_class, now_tracked) = (new.class, new.tracked);
        let before = self.pods.insert(uid.clone(), new);
        let Some(owner) = self.jobs.get_mut(&job) else { return Ok(()) };
        let is_created = before.is_none() && !self.found.contains(&uid);
        // What it adopts may be too much, until it has sent some away.
        owner.shrunk |= before.is_none() && !is_created;
        if is_created && end_is_decided(&owner.status) {
            return Err(Broken::CreatedAfterTheEnd { job: owner.name.clone(), pod: name });
        }
        if is_created && owner.called_suspended {
            return Err(Broken::CreatedWhileSuspended { job: owner.name.clone(), pod: name });
        }
        if let (Class::Succeeded, Some(index)) = (now_class, index) {
            owner.succeeded_indexes.insert(index);
        }
        let owner = &self.jobs[&job];
        let twin = |(other, pod): (&Uid, &PodEntry)| {
            *other != uid && pod.job == job && pod.class == Class::Active && pod.index == index
        };
        if owner.is_indexed() && is_created && index.is_some() && self.pods.iter().any(twin) {
            return Err(Broken::IndexDoubled { job: owner.name.clone(), pod: name });
        }
        let has_ended = matches!(now_class, Class::Succeeded | Class::Failed);
        let lost_it = before.is_some_and(|b| b.tracked) && !now_tracked;
        let excused = owner.leaving || finished(&owner.status).is_some() || owner.never_counts(pod, now_class, index);
        if lost_it && has_ended && !excused && !owner.recorded.contains_key(&uid) {
            return Err(Broken::ReleasedUncounted { job: owner.name.clone(), pod: name });
        }
        let active = self.pods.values().filter(|p| p.job == job && p.class == Class::Active).count();
        if !owner.shrunk && i32::try_from(active).unwrap_or(i32::MAX) > owner.parallelism {
            let (job, parallelism) = (owner.name.clone(), owner.parallelism);
            return Err(Broken::TooManyActive { job, active, parallelism });
        }
        Ok(())
    }

    /// Notes that `pod` is gone.
    pub fn pod_gone(&mut self, uid: &Uid) {
        self.pods.remove(uid);
        self.found.remove(uid);
        self.tenants.gone(uid);
    }

    /// Notes that the Job is gone.
    pub fn job_gone(&mut self, uid: &Uid) {
        self.jobs.remove(uid);
    }

    /// Checks what must hold once nothing moves any more: whatever finished is counted, and nothing is left to count.
    pub fn settled(&self) -> Result<(), Broken> {
        for (uid, job) in &self.jobs {
            // With retries per index a failed pod is held until its index has another one, which may take as long as the
            // Job is suspended.
            let holds_failed = job.spec.backoff_limit_per_index.is_some() && finished(&job.status).is_none();
            let has_ended = |class| class == Class::Succeeded || class == Class::Failed && !holds_failed;
            let waiting: BTreeSet<&Uid> = self
                .pods
                .iter()
                .filter(|(_, p)| &p.job == uid && p.tracked && has_ended(p.class))
                .map(|(uid, _)| uid)
                .collect();
            let uncounted = job.status.uncounted_terminated_pods.as_ref();
            let still = uncounted
                .map_or(0, |u| u.succeeded.as_ref().map_or(0, Vec::len) + u.failed.as_ref().map_or(0, Vec::len));
            if still > 0 || !waiting.is_empty() {
                let what = format!("{still} recorded, {} finished pods not recorded", waiting.len());
                return Err(Broken::NotCounted { job: job.name.clone(), what });
            }
            let may_fall = job.is_indexed() && job.spec.completions == job.spec.parallelism;
            let completed = set(job.status.completed_indexes.as_ref(), Index::MAX).len();
            if may_fall
                && !job.leaving
                && finished(&job.status).is_none()
                && job.status.succeeded.unwrap_or(0) != completed
            {
                let what = format!("{completed} indexes are completed, and succeeded is {:?}", job.status.succeeded);
                return Err(Broken::IndexWrong { job: job.name.clone(), what });
            }
        }
        Ok(())
    }
}

impl JobEntry {
    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// Whether a pod that has ended may go without being recorded by its UID.
    fn never_counts(&self, pod: &Pod, class: Class, index: Option<Index>) -> bool {
        let policy = self.spec.pod_failure_policy.as_ref();
        if class == Class::Failed && policy.is_some_and(|policy| judge(policy, pod) == Judgement::Ignore) {
            return true;
        }
        if !self.is_indexed() {
            return false;
        }
        // Who released it may not have seen yet that there are more completions again.
        let end = Index::try_from(self.least_completions.unwrap_or(0)).unwrap_or(0);
        let Some(index) = index.filter(|index| *index < end) else { return true };
        let decided = [&self.status.completed_indexes, &self.status.failed_indexes];
        class == Class::Succeeded && decided.into_iter().any(|indexes| set(indexes.as_ref(), end).contains(index))
    }
}

fn set(text: Option<&String>, end: Index) -> IndexSet {
    IndexSet::parse(text.map_or("", String::as_str), end)
}

/// Completed indexes have succeeded, and what is completed or failed stays so, unless `completions` changes.
fn indexes_stay(job: &JobEntry, before: &JobStatus, completions_before: Option<i32>) -> Result<(), Broken> {
    let wrong = |what: String| Err(Broken::IndexWrong { job: job.name.clone(), what });
    let completed = set(job.status.completed_indexes.as_ref(), Index::MAX);
    let seen: IndexSet = job.succeeded_indexes.iter().copied().collect();
    if completed.overlap(&seen) != completed.len() {
        return wrong(format!("completed are {completed}, but only of {seen} a pod has succeeded"));
    }
    let succeeded = job.status.succeeded.unwrap_or(0);
    let could_not_fall = job.resized && succeeded > completed.len() && before.succeeded == job.status.succeeded;
    if succeeded != completed.len() && !could_not_fall {
        return wrong(format!("completed are {completed}, and succeeded is {:?}", job.status.succeeded));
    }
    if completions_before != job.spec.completions {
        return Ok(());
    }
    for (what, old, new) in [
        ("completed", &before.completed_indexes, &job.status.completed_indexes),
        ("failed", &before.failed_indexes, &job.status.failed_indexes),
    ] {
        let (old, new) = (set(old.as_ref(), Index::MAX), set(new.as_ref(), Index::MAX));
        let end = Index::try_from(job.spec.completions.unwrap_or(0)).unwrap_or(0);
        let old = set(Some(&old.to_string()), end);
        if old.overlap(&new) != old.len() {
            return wrong(format!("{what} were {old} and are {new}"));
        }
    }
    if before.failed.unwrap_or(0) > job.status.failed.unwrap_or(0) {
        return Err(Broken::CounterFell { job: job.name.clone(), what: "failed".to_owned() });
    }
    Ok(())
}

/// The conditions that say that a Job's end is decided, interim and terminal.
const ENDS: [&str; 4] = ["SuccessCriteriaMet", "FailureTarget", "Complete", "Failed"];

fn end_is_decided(status: &JobStatus) -> bool {
    ENDS.into_iter().any(|kind| condition(status, kind).is_some_and(|c| c.status == "True"))
}

fn counters_rise(job: &str, before: &JobStatus, after: &JobStatus) -> Result<(), Broken> {
    for (counter, old, new) in
        [("succeeded", before.succeeded, after.succeeded), ("failed", before.failed, after.failed)]
    {
        let (old, new) = (old.unwrap_or(0), new.unwrap_or(0));
        if new < old {
            return Err(Broken::CounterFell { job: job.to_owned(), what: format!("{counter} {old} to {new}") });
        }
    }
    Ok(())
}

fn end_stays(job: &str, before: &JobStatus, after: &JobStatus) -> Result<(), Broken> {
    for kind in ENDS {
        let Some(old) = condition(before, kind) else { continue };
        let new = condition(after, kind);
        if new != Some(old) {
            return Err(Broken::EndChanged { job: job.to_owned(), what: format!("{kind} was {old:?} and is {new:?}") });
        }
    }
    if finished(before).is_some() && before != after {
        return Err(Broken::EndChanged {
            job: job.to_owned(),
            what: "the status of a finished Job changed".to_owned(),
        });
    }
    Ok(())
}

/// Counted + still recorded = ever recorded, for each of the two counters.
fn counts_match_records(job: &JobEntry) -> Result<(), Broken> {
    let uncounted = job.status.uncounted_terminated_pods.as_ref();
    for (kind, counter, list) in [
        (Recorded::Succeeded, job.status.succeeded, uncounted.and_then(|u| u.succeeded.as_ref())),
        (Recorded::Failed, job.status.failed, uncounted.and_then(|u| u.failed.as_ref())),
    ] {
        if kind == Recorded::Succeeded && job.is_indexed() {
            continue; // their indexes count
        }
        let ever = job.recorded.values().filter(|r| **r == kind).count();
        let counted = usize::try_from(counter.unwrap_or(0)).unwrap_or(0);
        let waiting = list.map_or(0, Vec::len);
        if counted + waiting != ever {
            let what = format!("{kind:?}: {counted} counted and {waiting} recorded, of {ever} ever recorded");
            return Err(if counted + waiting > ever {
                Broken::CountedTooMany { job: job.name.clone(), what }
            } else {
                Broken::NotCounted { job: job.name.clone(), what }
            });
        }
    }
    Ok(())
}
