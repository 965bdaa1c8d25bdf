//! The API of a model world: typed objects in memory, with the rules of the server that decisions depend on.
//!
//! Kept: revisions, `metadata.uid`, generated names and selectors, defaults, conflicts by revision and UID, what a status
//! write may say, graceful deletion, finalizers, owner references. Invariant: every committed state passes the history's
//! ledger, in order, and is told to the watches.
//!
//! Left out: requests and their bytes, everything of other kinds, who may do what. The simulator's other level has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use stint_core::job::view::phase;
use stint_core::owners::{FOREGROUND, ORPHAN, Propagation};
use stint_core::plan::Uid;
use stint_core::{admit, defaults, validate};
use stint_store::Revision;

use crate::history::{History, job_line, pod_line};
use crate::rng::Rng;

/// The namespace of everything.
pub const NAMESPACE: &str = "default";
/// How long a pod may take to end that does not say.
const GRACE: i64 = 30;

/// Why the API does not do what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody else was faster, or it is another object.
    Conflict,
    /// There is no such object.
    NotFound,
    /// It is not valid.
    Invalid(String),
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The Job is so now.
    Job(Arc<Job>),
    /// The Job is gone.
    JobGone(Arc<Job>),
    /// The pod is so now.
    Pod(Arc<Pod>),
    /// The pod is gone.
    PodGone(Arc<Pod>),
}

/// The API.
pub struct Api {
    /// By name.
    pub jobs: BTreeMap<String, Arc<Job>>,
    /// By name.
    pub pods: BTreeMap<String, Arc<Pod>>,
    /// What was committed.
    pub history: History,
    /// What no watch was told yet.
    pub notices: Vec<Notice>,
    /// What was committed since the story was told last, if it is told.
    pub lines: Option<Vec<String>>,
    /// The newest revision.
    pub revision: u64,
    /// A running hash of all that was committed.
    pub digest: u64,
    /// The wall clock.
    pub now: Timestamp,
    /// The first broken invariant.
    pub broken: Option<String>,
    uids: u64,
    names: Rng,
}

impl Api {
    /// An API without objects, which notes lines of the story if `told`.
    pub fn new(names: Rng, now: Timestamp, told: bool) -> Api {
        Api {
            jobs: BTreeMap::new(),
            pods: BTreeMap::new(),
            history: History::default(),
            notices: Vec::new(),
            lines: told.then(Vec::new),
            revision: 0,
            digest: 0xcbf2_9ce4_8422_2325,
            now,
            broken: None,
            uids: 0,
            names,
        }
    }

    /// Creates a Job as a user wrote it.
    pub fn create_job(&mut self, mut job: Job) -> Result<(), Refusal> {
        let name = job.metadata.name.clone().unwrap_or_default();
        if self.jobs.contains_key(&name) {
            return Err(Refusal::Conflict);
        }
        defaults::job(&mut job);
        admit::prepare_job(&mut job, &self.uid());
        defaults::job(&mut job);
        job.metadata.namespace = Some(NAMESPACE.to_owned());
        job.metadata.creation_timestamp = Some(seconds(self.now));
        valid(&validate::job_create(&job))?;
        self.put_job(name, job);
        Ok(())
    }

    /// Changes a Job's spec or metadata; one that was held and is no more goes.
    pub fn change_job(&mut self, name: &str, change: impl FnOnce(&mut Job)) -> Result<(), Refusal> {
        let old = self.jobs.get(name).cloned().ok_or(Refusal::NotFound)?;
        let mut new = (*old).clone();
        change(&mut new);
        admit::prepare_job_update(&old, &mut new);
        omit_empty(&mut new.metadata);
        if new == *old {
            return Ok(());
        }
        if old.metadata.deletion_timestamp.is_some() && new.metadata.finalizers.is_none() {
            self.remove_job(name);
            return Ok(());
        }
        valid(&validate::job_update(&old, &new))?;
        self.put_job(name.to_owned(), new);
        Ok(())
    }

    /// Replaces the status of the Job as it was when it was `seen`; returns the revision.
    pub fn write_status(&mut self, name: &str, seen: &Job, status: &JobStatus) -> Result<u64, Refusal> {
        let old = self.jobs.get(name).cloned().ok_or(Refusal::Conflict)?;
        let (at, uid) = (&old.metadata.resource_version, &old.metadata.uid);
        if *uid != seen.metadata.uid || *at != seen.metadata.resource_version {
            return Err(Refusal::Conflict);
        }
        if old.status.as_ref() == Some(status) {
            return Ok(revision(&old.metadata));
        }
        let new = Job { status: Some(status.clone()), ..(*old).clone() };
        valid(&validate::job_status_update(&old, &new))?;
        self.put_job(name.to_owned(), new);
        Ok(self.revision)
    }

    /// Deletes a Job; if they are given, only one of this UID and revision.
    pub fn delete_job(
        &mut self,
        name: &str,
        only: Option<(&Uid, Option<&String>)>,
        propagation: Propagation,
    ) -> Result<(), Refusal> {
        let old = self.jobs.get(name).cloned().ok_or(Refusal::NotFound)?;
        if let Some((uid, at)) = only
            && (Uid::of(&old.metadata) != *uid || at.is_some() && old.metadata.resource_version.as_ref() != at)
        {
            return Err(Refusal::Conflict);
        }
        let mut new = (*old).clone();
        let finalizers = new.metadata.finalizers.get_or_insert_default();
        finalizers.retain(|finalizer| finalizer != FOREGROUND && finalizer != ORPHAN);
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
            Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
        }
        if finalizers.is_empty() {
            self.remove_job(name);
            return Ok(());
        }
        new.metadata.deletion_timestamp.get_or_insert(seconds(self.now));
        new.metadata.deletion_grace_period_seconds = Some(0);
        if new != *old {
            self.put_job(name.to_owned(), new);
        }
        Ok(())
    }

    /// Creates a pod; returns its name and revision.
    pub fn create_pod(&mut self, mut pod: Pod) -> Result<(String, u64), Refusal> {
        let suffix = self.suffix();
        admit::generate_name(&mut pod.metadata, &suffix);
        let name = pod.metadata.name.clone().unwrap_or_default();
        if self.pods.contains_key(&name) {
            return Err(Refusal::Conflict);
        }
        admit::prepare_pod(&mut pod, &self.uid());
        pod.metadata.namespace = Some(NAMESPACE.to_owned());
        pod.metadata.creation_timestamp = Some(seconds(self.now));
        self.put_pod(name.clone(), pod);
        Ok((name, self.revision))
    }

    /// Changes a pod; if they are given, only one of this UID and at this revision. Returns its revision. One that was held
    /// and is no more goes.
    pub fn change_pod(
        &mut self,
        name: &str,
        uid: Option<&Uid>,
        at: Option<&String>,
        change: impl FnOnce(&mut Pod),
    ) -> Result<u64, Refusal> {
        let old = self.pods.get(name).cloned().ok_or(Refusal::NotFound)?;
        if uid.is_some_and(|uid| Uid::of(&old.metadata) != *uid)
            || at.is_some_and(|at| old.metadata.resource_version.as_ref() != Some(at))
        {
            return Err(Refusal::Conflict);
        }
        let mut new = (*old).clone();
        change(&mut new);
        omit_empty(&mut new.metadata);
        if new == *old {
            return Ok(revision(&old.metadata));
        }
        let owners = new.metadata.owner_references.iter().flatten();
        if owners.filter(|owner| owner.controller == Some(true)).count() > 1 {
            return Err(Refusal::Invalid(format!("pod {name} would have two controllers")));
        }
        let meta = &old.metadata;
        let waits = meta.deletion_timestamp.is_some() && meta.deletion_grace_period_seconds.unwrap_or(0) == 0;
        if waits && new.metadata.finalizers.is_none() {
            self.remove_pod(name);
            return Ok(self.revision);
        }
        self.put_pod(name.to_owned(), new);
        Ok(self.revision)
    }

    /// Deletes a pod, with a grace period or its own; if it is given, only one of this UID.
    ///
    /// Upstream: `apiserver/pkg/registry/rest/delete.go` (`BeforeDelete`), `pkg/registry/core/pod/strategy.go`
    /// (`CheckGracefulDelete`), v1.36.
    pub fn delete_pod(&mut self, name: &str, uid: Option<&Uid>, period: Option<i64>) -> Result<(), Refusal> {
        let old = self.pods.get(name).cloned().ok_or(Refusal::NotFound)?;
        if uid.is_some_and(|uid| Uid::of(&old.metadata) != *uid) {
            return Err(Refusal::Conflict);
        }
        let is_held = old.metadata.finalizers.is_some();
        let given = old.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let (period, began) = match &old.metadata.deletion_timestamp {
            Some(_) if given == 0 && !is_held => {
                self.remove_pod(name);
                return Ok(());
            }
            // It can only end earlier.
            Some(ends) => match period.filter(|period| *period < given) {
                Some(period) => (period, ends.0.as_second() - given),
                None => return Ok(()),
            },
            None => (if usual_grace(&old) == 0 { 0 } else { period.unwrap_or(GRACE) }, self.now.as_second()),
        };
        let mut new = (*old).clone();
        let ends = Timestamp::from_second(began + period).expect("the model's times are near the epoch");
        new.metadata.deletion_timestamp = Some(Time(ends));
        new.metadata.deletion_grace_period_seconds = Some(period);
        self.put_pod(name.to_owned(), new);
        if period == 0 && !is_held {
            self.remove_pod(name);
        }
        Ok(())
    }

    fn put_job(&mut self, name: String, mut job: Job) {
        job.metadata.resource_version = Some(self.commit());
        self.tell(|| format!("job {name} {}", job_line(&job)));
        let job = Arc::new(job);
        let kept = self.history.put_job(&name, &job, Revision(self.revision));
        self.note(kept);
        self.notices.push(Notice::Job(job.clone()));
        self.jobs.insert(name, job);
    }

    fn put_pod(&mut self, name: String, mut pod: Pod) {
        pod.metadata.resource_version = Some(self.commit());
        self.tell(|| format!("pod {name} {}", pod_line(&pod)));
        let kept = self.history.put_pod(&name, &pod, Revision(self.revision));
        self.note(kept);
        let pod = Arc::new(pod);
        self.notices.push(Notice::Pod(pod.clone()));
        self.pods.insert(name, pod);
    }

    fn remove_job(&mut self, name: &str) {
        let Some(job) = self.jobs.remove(name) else { return };
        let job = Job { metadata: at(&job.metadata, self.commit()), ..(*job).clone() };
        self.tell(|| format!("job {name} gone"));
        self.history.gone(name, Revision(self.revision));
        self.notices.push(Notice::JobGone(Arc::new(job)));
    }

    fn remove_pod(&mut self, name: &str) {
        let Some(pod) = self.pods.remove(name) else { return };
        let pod = Pod { metadata: at(&pod.metadata, self.commit()), ..(*pod).clone() };
        self.tell(|| format!("pod {name} gone"));
        self.history.gone(name, Revision(self.revision));
        self.notices.push(Notice::PodGone(Arc::new(pod)));
    }

    fn commit(&mut self) -> String {
        self.revision += 1;
        self.digest = (self.digest ^ self.now.as_second().cast_unsigned()).wrapping_mul(0x0100_0000_01b3);
        self.revision.to_string()
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("commit {} {}", self.revision, line()));
        }
    }

    fn note(&mut self, kept: Result<(), String>) {
        if let Err(broken) = kept {
            self.broken.get_or_insert(broken);
        }
    }

    fn uid(&mut self) -> String {
        self.uids += 1;
        format!("00000000-0000-4000-8000-{:012x}", self.uids)
    }

    fn suffix(&mut self) -> String {
        const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..5).map(|_| char::from(*self.names.pick(LETTERS))).collect()
    }
}

fn usual_grace(pod: &Pod) -> i64 {
    let is_bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    if is_bound && !matches!(phase(pod), "Succeeded" | "Failed") { GRACE } else { 0 }
}

fn valid(faults: &[stint_core::field::Fault]) -> Result<(), Refusal> {
    if faults.is_empty() { Ok(()) } else { Err(Refusal::Invalid(format!("{faults:?}"))) }
}

fn omit_empty(meta: &mut ObjectMeta) {
    meta.finalizers = meta.finalizers.take().filter(|finalizers| !finalizers.is_empty());
    meta.owner_references = meta.owner_references.take().filter(|owners| !owners.is_empty());
}

fn at(meta: &ObjectMeta, revision: String) -> ObjectMeta {
    ObjectMeta { resource_version: Some(revision), ..meta.clone() }
}

/// `metadata.resourceVersion` as a number.
pub fn revision(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_ref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).expect("a timestamp's whole seconds are in range"))
}
