//! What a reconciler decided: actions in order, each with its reason, and when to look again.
//!
//! Invariant: a plan needs no further decision. Whoever executes it carries out the steps in order, stops at the first
//! one that fails, and reconciles again; it never asks what a Job is. An empty plan means that nothing is to be done
//! until something changes or `wake` comes.
//!
//! Left out: how a step reaches the API, retries, and concurrency. Those are the executor's.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::JobStatus;
use k8s_openapi::api::core::v1::Pod;

pub use crate::uid::Uid;

/// Names one pod of the reconciled object's namespace. The UID guards every write, so that a pod that was deleted and
/// made again under the same name is never touched by a plan about the first one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRef {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: Uid,
}

impl PodRef {
    /// The reference to `pod`. A pod that was never stored has neither name nor UID and yields empty ones.
    pub fn of(pod: &Pod) -> PodRef {
        PodRef { name: pod.metadata.name.clone().unwrap_or_default(), uid: Uid::of(&pod.metadata) }
    }
}

/// One write to the API.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create this pod (`metadata.generateName` is set; the server makes the name).
    CreatePod(Box<Pod>),
    /// Delete this pod with its own grace period.
    DeletePod(PodRef),
    /// Remove the finalizer `batch.kubernetes.io/job-tracking` from this pod; a pod without it, or gone, is a success.
    ReleasePod(PodRef),
    /// Remove that finalizer, if the pod has not changed since it was looked at. Released so, it is in no counter: if it
    /// has ended in the meantime, it has to be.
    ReleaseUncounted {
        /// The pod.
        pod: PodRef,
        /// Its `metadata.resourceVersion` when it was looked at.
        resource_version: String,
    },
    /// Make this pod, which has no controller, the Job's: owner reference and tracking finalizer. Only while the API says
    /// that the Job is not being deleted.
    Adopt(PodRef),
    /// Take owner reference and tracking finalizer from this pod.
    LetGo(PodRef),
    /// Delete the Job itself, with its pods before it (Foreground).
    DeleteJob(Uid),
    /// Write nothing: what is to be told is in the step's Events.
    Announce,
    /// Replace the Job's status, guarded by the `resourceVersion` of the Job that was reconciled.
    WriteJobStatus(Box<JobStatus>),
}

/// An action and why it is taken. What can be done depends on the reconciler; a Job's actions are [`Action`].
#[derive(Clone, Debug, PartialEq)]
pub struct Step<A = Action> {
    /// What to write.
    pub action: A,
    /// Why, in a sentence for logs and `explain`.
    pub why: String,
    /// Kubernetes Events on the reconciled object, recorded in this order once the action succeeded.
    pub events: Vec<Event>,
}

/// A Kubernetes Event about the reconciled object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `type`.
    pub severity: Severity,
    /// `reason`, in CamelCase.
    pub reason: String,
    /// `message`.
    pub note: Note,
}

/// `type` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// `Normal`.
    Normal,
    /// `Warning`.
    Warning,
}

impl Severity {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

/// The message of an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// This text.
    Text(String),
    /// This text, a blank, and the name of the pod that the action was about (known only after a create).
    Pod(&'static str),
}

/// When to reconcile again although nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wake {
    /// Not before this moment.
    pub at: Timestamp,
    /// What is waited for.
    pub why: String,
}

/// Which of a reconciler's phases made the plan. One plan holds one phase; the state that it leaves is what the next
/// one starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing to do.
    Rest,
    /// Pods are adopted, or let go.
    Claim,
    /// Pods that finished are written down by UID, with the interim condition where the Job's end is decided.
    Record,
    /// The finalizers of recorded pods are removed.
    Release,
    /// Recorded pods without a finalizer are folded into the counters, and the Job concludes where it can.
    Fold,
    /// Pods that an ended Job no longer needs are deleted.
    Stop,
    /// Pods are created, or surplus ones deleted.
    Manage,
    /// The status is brought up to date with what the pods show.
    Refresh,
    /// A finished Job is deleted since its time is over.
    Expire,
}

/// What to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan<A = Action> {
    /// Which phase this is.
    pub phase: Phase,
    /// The steps, to be taken in order until one fails.
    pub steps: Vec<Step<A>>,
    /// The steps to be taken if the API refuses one of them: what the status says where the plan can't be carried out.
    pub otherwise: Vec<Step<A>>,
    /// The actions of `podFailurePolicy` that decided about failed pods which this plan records or lets go, one for each.
    pub handled: Vec<&'static str>,
    /// When to look again, if nothing happens before.
    pub wake: Option<Wake>,
    /// Why the object is in the state it is in, for `explain` and logs, whether or not there are steps.
    pub because: Vec<String>,
}

impl<A> Plan<A> {
    /// The plan that does nothing, because of `why`.
    pub fn rest(why: impl Into<String>) -> Self {
        let because = vec![why.into()];
        Plan { because, ..Plan::of(Phase::Rest, Vec::new()) }
    }

    /// A plan of one phase.
    pub fn of(phase: Phase, steps: Vec<Step<A>>) -> Self {
        Plan { phase, steps, otherwise: Vec::new(), handled: Vec::new(), wake: None, because: Vec::new() }
    }

    /// The same plan, which wakes at `wake` if it would not before.
    #[must_use]
    pub fn waking(mut self, wake: Option<Wake>) -> Self {
        self.wake = match (self.wake.take(), wake) {
            (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
            (a, b) => a.or(b),
        };
        self
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl<A> Step<A> {
    /// A step without an Event.
    pub fn new(action: A, why: impl Into<String>) -> Self {
        Step { action, why: why.into(), events: Vec::new() }
    }

    /// The same step, with one more Event for when it succeeded.
    #[must_use]
    pub fn announce(mut self, severity: Severity, reason: &str, note: Note) -> Self {
        self.events.push(Event { severity, reason: reason.to_owned(), note });
        self
    }
}
