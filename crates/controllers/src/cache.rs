//! Jobs and pods as the watches have shown them so far, pods by the Job that owns them: no more of each than decisions read.
//!
//! ```text
//!   Job that goes on ─► whole       its pods ─► slim        reconciled often, as they are
//!                                            ─► Settled     those that are counted: when the latest one ended
//!   Job that ended   ─► Ended       its pods ─► Leftover    looked at rarely, made up again then
//!   somebody else's  ─► Stranger    its pods ─► nothing
//! ```
//!
//! Invariants: only watch events change the cache, in their order, so that its revision says what it has seen. A fresh list
//! replaces everything at once. The cost of an event does not depend on how much there is. A pod is a leftover only while
//! its Job has ended or is gone: should a Job go on again, which no API server allows, the cache is not complete until pods
//! were listed afresh.

mod loose;
mod owned;
pub mod progress;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use stint_core::job::kept::{Ended, Leftover, Settled, slim};
use stint_core::job::view::{controller_of, is_tracked, uid_of};
use stint_core::mandate::Mandate;
use stint_core::plan::Uid;

use loose::{Loose, is_handwritten, is_selected, named_jobs};
use owned::{Owned, Standing};
use progress::Progress;
pub use progress::parse_revision;

use crate::texts::Texts;

/// Names a Job: its namespace and name. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl JobKey {
    /// The key of `job`.
    pub fn of(job: &Job) -> JobKey {
        let text = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
        JobKey { namespace: text(&job.metadata.namespace), name: text(&job.metadata.name) }
    }
}

/// The cache.
#[derive(Debug, Default)]
pub struct Cache {
    /// Which Jobs are ours.
    mandate: Mandate,
    jobs: HashMap<JobKey, Held>,
    owned: Owned,
    /// Pods that nobody controls: a Job's selector may select them.
    loose: Loose,
    /// The names of Jobs that go on, by uid: a generated selector selects by it.
    names: HashMap<Uid, JobKey>,
    /// Jobs that go on and whose selector a user wrote, which may select anything in their namespace.
    selecting: BTreeSet<JobKey>,
    namespaces: Texts,
    jobs_progress: Progress,
    pods_progress: Progress,
    listed_jobs: Vec<(JobKey, Held)>,
    listed_pods: Vec<Pod>,
    listed_leftovers: Vec<(JobKey, Leftover)>,
    /// How many lists of pods had begun when more was asked for than leftovers hold.
    missed: Option<u64>,
}

/// A Job.
#[derive(Debug)]
enum Held {
    Whole(Arc<Job>),
    Ended(Box<Ended>),
    Stranger(Uid),
}

impl Held {
    fn of(job: Job, mandate: Mandate) -> Held {
        let uid = Uid::of(&job.metadata);
        let Some(job) = mandate.job(job) else { return Held::Stranger(uid) };
        match Ended::of(&job) {
            Some(ended) => Held::Ended(Box::new(ended)),
            None => Held::Whole(Arc::new(job)),
        }
    }

    fn uid(&self) -> Uid {
        match self {
            Held::Whole(job) => Uid::of(&job.metadata),
            Held::Ended(ended) => ended.uid().clone(),
            Held::Stranger(uid) => uid.clone(),
        }
    }
}

impl Cache {
    /// An empty one, of the Jobs that `mandate` makes ours.
    pub fn new(mandate: Mandate) -> Cache {
        Cache { mandate, ..Cache::default() }
    }

    /// Takes in an event of the Job watch; returns the keys that it makes dirty.
    pub fn job_event(&mut self, event: Event<Job>) -> BTreeSet<JobKey> {
        match event {
            Event::Init => {
                self.jobs_progress.begin();
                self.listed_jobs = Vec::new();
                BTreeSet::new()
            }
            Event::InitApply(job) => {
                self.jobs_progress.lists(&job.metadata);
                let key = self.shared(JobKey::of(&job));
                self.listed_jobs.push((key, Held::of(job, self.mandate)));
                BTreeSet::new()
            }
            Event::InitDone => {
                self.jobs_progress.end();
                let mut dirty: BTreeSet<JobKey> = self.jobs.drain().map(|(key, _)| key).collect();
                self.names.clear();
                self.selecting.clear();
                for (key, job) in std::mem::take(&mut self.listed_jobs) {
                    dirty.insert(key.clone());
                    self.put_job(key, job);
                }
                dirty
            }
            Event::Apply(job) => {
                self.jobs_progress.saw(&job.metadata);
                let key = self.shared(JobKey::of(&job));
                self.put_job(key.clone(), Held::of(job, self.mandate));
                BTreeSet::from([key])
            }
            Event::Delete(job) => {
                self.jobs_progress.saw(&job.metadata);
                let key = self.shared(JobKey::of(&job));
                self.remove_job(&key);
                BTreeSet::from([key])
            }
        }
    }

    /// Takes in an event of the pod watch; returns the keys that it makes dirty.
    pub fn pod_event(&mut self, event: Event<Pod>) -> BTreeSet<JobKey> {
        match event {
            Event::Init => {
                self.pods_progress.begin();
                (self.listed_pods, self.listed_leftovers) = Default::default();
                BTreeSet::new()
            }
            Event::InitApply(pod) => {
                self.pods_progress.lists(&pod.metadata);
                match self.leftover(&pod) {
                    Some(leftover) => self.listed_leftovers.push(leftover),
                    None => self.listed_pods.push(slim(pod)),
                }
                BTreeSet::new()
            }
            Event::InitDone => {
                self.pods_progress.end();
                self.missed = self.missed.filter(|lists| self.pods_progress.list_done <= *lists);
                let mut dirty: BTreeSet<JobKey> = self.owned.keys().cloned().collect();
                (self.owned, self.loose) = Default::default();
                for pod in std::mem::take(&mut self.listed_pods) {
                    dirty.extend(self.put_pod(pod));
                }
                for (key, leftover) in std::mem::take(&mut self.listed_leftovers) {
                    self.put_leftover(&key, leftover);
                    dirty.insert(key);
                }
                dirty
            }
            Event::Apply(pod) => {
                self.pods_progress.saw(&pod.metadata);
                self.put_pod(slim(pod))
            }
            Event::Delete(pod) => {
                self.pods_progress.saw(&pod.metadata);
                let uid = uid_of(&pod);
                self.loose.remove(&uid);
                self.owned.remove(&uid).into_iter().collect()
            }
        }
    }

    /// Whether Jobs were listed at least once: pods that come later need not be remembered whole where their Job has ended.
    pub fn has_jobs(&self) -> bool {
        self.jobs_progress.list_done > 0
    }

    /// Whether both watches have shown everything that is needed. Before that nothing may be decided.
    pub fn is_complete(&self) -> bool {
        self.has_jobs() && self.pods_progress.list_done > 0 && self.missed.is_none()
    }

    /// Whether pods have to be listed afresh, and no list has begun that would do.
    pub fn wants_pods(&self) -> bool {
        self.missed.is_some_and(|lists| self.pods_progress.lists_begun <= lists)
    }

    /// Whether there is a Job `key`, and it is somebody else's.
    pub fn is_strangers(&self, key: &JobKey) -> bool {
        matches!(self.jobs.get(key), Some(Held::Stranger(_)))
    }

    /// The Job `key`, or one of which the decisions are the same, if it is ours.
    pub fn job(&self, key: &JobKey) -> Option<Arc<Job>> {
        Some(match self.jobs.get(key)? {
            Held::Stranger(_) => return None,
            Held::Whole(job) => job.clone(),
            Held::Ended(ended) => Arc::new(ended.job(&key.namespace, &key.name)),
        })
    }

    /// About how many pods a decision about `key` looks at.
    pub fn looks_at(&self, key: &JobKey) -> usize {
        self.owned.pods(key).len()
    }

    /// When the latest pod ended of those that decisions about `job`, which is the Job `key`, need no more than that of.
    pub fn latest_success(&self, key: &JobKey, job: &Job) -> Option<Timestamp> {
        self.owned.latest_success(key, &Uid::of(&job.metadata))
    }

    /// The other pods that decisions about `key` need: those whose controller is a Job of this name, whatever its UID.
    pub fn pods_of(&self, key: &JobKey) -> Cow<'_, [Pod]> {
        let pods = self.owned.pods(key);
        let mut tracked = self.owned.leftovers(key).iter().filter(|leftover| leftover.tracked).peekable();
        if tracked.peek().is_none() {
            return Cow::Borrowed(pods);
        }
        Cow::Owned(pods.iter().cloned().chain(tracked.map(|leftover| leftover.pod(&key.namespace))).collect())
    }

    /// Those, and the pods without a controller that the selector of `job` selects, which is the Job `key`.
    pub fn candidates_of(&self, key: &JobKey, job: &Job) -> Cow<'_, [Pod]> {
        let pods = self.pods_of(key);
        if matches!(self.jobs.get(key), Some(Held::Ended(_))) {
            return pods; // it adopts nothing any more
        }
        let mut loose = self.loose.selected_by(job).peekable();
        if loose.peek().is_none() { pods } else { Cow::Owned(pods.iter().chain(loose).cloned().collect()) }
    }

    /// How it stands with the pod of this UID, whether or not somebody controls it.
    pub fn pod(&self, uid: &Uid) -> Option<Standing> {
        let of = |pod: &Pod| Standing { tracked: is_tracked(pod), deleting: pod.metadata.deletion_timestamp.is_some() };
        self.owned.get(uid).or_else(|| self.loose.get(uid).map(of))
    }

    /// Every key that has a Job or pods.
    pub fn keys(&self) -> BTreeSet<JobKey> {
        self.jobs.keys().chain(self.owned.keys()).cloned().collect()
    }

    /// The newest revision that the Job watch has shown.
    pub fn jobs_revision(&self) -> u64 {
        self.jobs_progress.revision
    }

    /// The newest revision that the pod watch has shown.
    pub fn pods_revision(&self) -> u64 {
        self.pods_progress.revision
    }

    /// How many fresh lists of Jobs and pods were begun.
    pub fn lists_begun(&self) -> (u64, u64) {
        (self.jobs_progress.lists_begun, self.pods_progress.lists_begun)
    }

    /// Whether Jobs, and pods, were listed in full by a list that began after `lists` had begun.
    pub fn listed_since(&self, lists: (u64, u64)) -> (bool, bool) {
        (self.jobs_progress.list_done > lists.0, self.pods_progress.list_done > lists.1)
    }

    fn put_job(&mut self, key: JobKey, job: Held) {
        self.remove_job(&key);
        let uid = job.uid();
        match &job {
            Held::Ended(_) => self.owned.shrink(&key, &uid),
            Held::Stranger(_) => self.owned.forget(&key, &uid),
            Held::Whole(job) => {
                if self.owned.leftovers(&key).iter().any(|leftover| leftover.job == uid) {
                    self.missed = Some(self.pods_progress.lists_begun);
                }
                self.names.insert(uid, key.clone());
                if is_handwritten(job) {
                    self.selecting.insert(key.clone());
                }
            }
        }
        self.jobs.insert(key, job);
    }

    fn remove_job(&mut self, key: &JobKey) {
        if let Some(Held::Whole(job)) = self.jobs.remove(key) {
            self.names.remove(&Uid::of(&job.metadata));
            self.selecting.remove(key);
        }
    }

    /// Takes in a slim pod; returns the keys that it makes dirty.
    fn put_pod(&mut self, pod: Pod) -> BTreeSet<JobKey> {
        let uid = uid_of(&pod);
        if controller_of(&pod).is_none() {
            let mut dirty: BTreeSet<JobKey> = self.owned.remove(&uid).into_iter().collect();
            dirty.extend(self.selectors_of(&pod));
            self.loose.put(pod);
            return dirty;
        }
        self.loose.remove(&uid);
        let own = owner_key(&pod).filter(|key| !self.is_strangers_pod(key, &pod));
        let Some(key) = own else { return self.owned.remove(&uid).into_iter().collect() };
        let (key, before) = if let Some((key, leftover)) = self.leftover(&pod) {
            let before = self.owned.put_leftover(&key, leftover);
            (key, before)
        } else if let Some((key, settled)) = self.settled(&key, &pod) {
            let before = self.owned.put_settled(&key, settled);
            (key, before)
        } else {
            let key = self.shared(key);
            let before = self.owned.put(&key, pod);
            (key, before)
        };
        before.into_iter().chain([key]).collect() // two where it changed hands
    }

    /// Whether the Job `key` is somebody else's and controls `pod`.
    fn is_strangers_pod(&self, key: &JobKey, pod: &Pod) -> bool {
        let owner = controller_of(pod).map(|owner| owner.uid.as_str());
        matches!(self.jobs.get(key), Some(Held::Stranger(uid)) if owner.is_some_and(|owner| *uid == Uid::from(owner)))
    }

    /// What is to be remembered of `pod`, and under which key, if its Job has ended.
    fn leftover(&self, pod: &Pod) -> Option<(JobKey, Leftover)> {
        let (key, job) = self.jobs.get_key_value(&owner_key(pod)?)?;
        let Held::Ended(ended) = job else { return None };
        let leftover = Leftover::of(pod).filter(|leftover| leftover.job == *ended.uid())?;
        Some((key.clone(), leftover))
    }

    /// What is to be remembered of `pod` of the Job `key`, and the known key, if it is settled.
    fn settled(&self, key: &JobKey, pod: &Pod) -> Option<(JobKey, Settled)> {
        let (key, job) = self.jobs.get_key_value(key)?;
        let Held::Whole(job) = job else { return None };
        Some((key.clone(), Settled::of(pod, job)?))
    }

    /// Takes in a leftover of a list, whose Job may have changed since the list began.
    fn put_leftover(&mut self, key: &JobKey, leftover: Leftover) {
        if matches!(self.jobs.get(key), Some(Held::Whole(job)) if Uid::of(&job.metadata) == leftover.job) {
            self.missed = Some(self.pods_progress.lists_begun);
        }
        self.owned.put_leftover(key, leftover);
    }

    /// The Jobs that go on and may select this pod, which nobody controls.
    fn selectors_of(&self, pod: &Pod) -> Vec<JobKey> {
        let selects_it = |key: &&JobKey| matches!(self.jobs.get(*key), Some(Held::Whole(job)) if is_selected(job, pod));
        let named = named_jobs(pod).filter_map(|uid| self.names.get(&uid));
        named.chain(self.selecting.iter().filter(selects_it)).cloned().collect()
    }

    /// The same key, sharing its texts with what is known already.
    fn shared(&mut self, key: JobKey) -> JobKey {
        let known = self.jobs.get_key_value(&key).map(|(known, _)| known).or_else(|| self.owned.known(&key));
        if let Some(known) = known {
            return known.clone();
        }
        JobKey { namespace: self.namespaces.share(&key.namespace), name: key.name }
    }
}

fn owner_key(pod: &Pod) -> Option<JobKey> {
    let owner = controller_of(pod).filter(|o| o.kind == "Job" && o.api_version.starts_with("batch/"))?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(JobKey { namespace: namespace.into(), name: owner.name.as_str().into() })
}

#[cfg(test)]
mod tests;
