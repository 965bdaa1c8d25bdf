//! CronJobs, and the Jobs that they control, as the watches have shown them so far.
//!
//! Invariant: only watch events change the cache, in their order; a fresh list replaces everything at once. What an event
//! costs does not depend on how much there is. Objects are kept as JSON, of Jobs only what decisions read: most of them
//! are never looked at, and read they would be many times as large.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use k8s_openapi::api::batch::v1::{CronJob, Job, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::Event;
use serde::Serialize;
use stint_core::cronjob::SCHEDULED_TIMESTAMP;
use stint_core::json;
use stint_core::mandate::Mandate;
use stint_core::plan::Uid;

use crate::cache::progress::Progress;

/// Names a CronJob: its namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Cache {
    /// Which CronJobs are ours; of others there is nothing here.
    mandate: Mandate,
    cron_jobs: BTreeMap<Key, KeptCronJob>,
    /// Jobs by their UID, under the CronJob that controls them.
    jobs: HashMap<Key, BTreeMap<Uid, KeptJob>>,
    owners: HashMap<Uid, Key>,
    cron_job_watch: Progress,
    job_watch: Progress,
    listed_cron_jobs: Vec<(Key, KeptCronJob)>,
    listed_jobs: Vec<Job>,
}

/// A CronJob.
#[derive(Debug)]
struct KeptCronJob {
    json: Box<[u8]>,
    uid: Uid,
    /// Schedule and zone: a change of them matters.
    timing: (Box<str>, Option<Box<str>>),
}

/// A Job.
#[derive(Debug)]
struct KeptJob {
    json: Box<[u8]>,
    is_leaving: bool,
}

/// What an event makes dirty.
#[derive(Debug, Default)]
pub struct Dirty {
    /// These CronJobs.
    pub keys: BTreeSet<Key>,
    /// Those of them whose schedule or zone has changed.
    pub changed: Vec<Key>,
}

impl Cache {
    /// An empty one, of the CronJobs that `mandate` makes ours.
    pub fn new(mandate: Mandate) -> Cache {
        Cache { mandate, ..Cache::default() }
    }

    /// Takes in an event of the CronJob watch.
    pub fn cron_job_event(&mut self, event: Event<CronJob>) -> Dirty {
        match event {
            Event::Init => {
                self.cron_job_watch.begin();
                self.listed_cron_jobs.clear();
                Dirty::default()
            }
            Event::InitApply(cron_job) => {
                self.cron_job_watch.lists(&cron_job.metadata);
                self.listed_cron_jobs.extend(self.mandate.cron_job(cron_job).map(keep_cron_job));
                Dirty::default()
            }
            Event::InitDone => {
                self.cron_job_watch.end();
                let before = std::mem::take(&mut self.cron_jobs);
                let mut dirty = Dirty::default();
                for (key, kept) in std::mem::take(&mut self.listed_cron_jobs) {
                    if before.get(&key).is_some_and(|before| before.is_retimed_by(&kept)) {
                        dirty.changed.push(key.clone());
                    }
                    dirty.keys.insert(key.clone());
                    self.cron_jobs.insert(key, kept);
                }
                dirty.keys.extend(before.into_keys());
                dirty
            }
            Event::Apply(cron_job) => {
                self.cron_job_watch.saw(&cron_job.metadata);
                let key = key_of(&cron_job.metadata);
                let Some((_, kept)) = self.mandate.cron_job(cron_job).map(keep_cron_job) else {
                    let was_ours = self.cron_jobs.remove(&key).is_some();
                    return Dirty { keys: was_ours.then_some(key).into_iter().collect(), changed: Vec::new() };
                };
                let changed = self.cron_jobs.get(&key).is_some_and(|before| before.is_retimed_by(&kept));
                self.cron_jobs.insert(key.clone(), kept);
                let changed = changed.then(|| key.clone()).into_iter().collect();
                Dirty { keys: BTreeSet::from([key]), changed }
            }
            Event::Delete(cron_job) => {
                self.cron_job_watch.saw(&cron_job.metadata);
                let key = key_of(&cron_job.metadata);
                self.cron_jobs.remove(&key);
                Dirty { keys: BTreeSet::from([key]), changed: Vec::new() }
            }
        }
    }

    /// Takes in an event of the Job watch; returns the keys that it makes dirty.
    pub fn job_event(&mut self, event: Event<Job>) -> BTreeSet<Key> {
        match event {
            Event::Init => {
                self.job_watch.begin();
                self.listed_jobs.clear();
                BTreeSet::new()
            }
            Event::InitApply(job) => {
                self.job_watch.lists(&job.metadata);
                if owner(&job).is_some() {
                    self.listed_jobs.push(lean(job));
                }
                BTreeSet::new()
            }
            Event::InitDone => {
                self.job_watch.end();
                self.owners.clear();
                let mut dirty: BTreeSet<Key> = self.jobs.drain().map(|(key, _)| key).collect();
                for job in std::mem::take(&mut self.listed_jobs) {
                    dirty.extend(self.put(&job));
                }
                dirty
            }
            Event::Apply(job) => {
                self.job_watch.saw(&job.metadata);
                self.put(&lean(job))
            }
            Event::Delete(job) => {
                self.job_watch.saw(&job.metadata);
                self.remove(&Uid::of(&job.metadata)).into_iter().collect()
            }
        }
    }

    /// Whether both watches have shown everything at least once. Before that nothing may be decided.
    pub fn is_complete(&self) -> bool {
        self.cron_job_watch.list_done > 0 && self.job_watch.list_done > 0
    }

    /// The CronJob `key`.
    pub fn cron_job(&self, key: &Key) -> Option<CronJob> {
        let kept = self.cron_jobs.get(key)?;
        Some(json::read(&kept.json).expect("it was written from a CronJob"))
    }

    /// The Jobs that a CronJob of this name controls.
    pub fn jobs_of(&self, key: &Key) -> Vec<Job> {
        let jobs = self.jobs.get(key).into_iter().flat_map(BTreeMap::values);
        jobs.map(|kept| json::read(&kept.json).expect("it was written from a Job")).collect()
    }

    /// How many CronJobs there are.
    pub fn len(&self) -> usize {
        self.cron_jobs.len()
    }

    /// The first CronJobs after `key`, or of all, in order; at most so many.
    pub fn after(&self, key: Option<&Key>, most: usize) -> Vec<Key> {
        let start = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.cron_jobs.range((start, Bound::Unbounded)).map(|(key, _)| key.clone()).take(most).collect()
    }

    fn put(&mut self, job: &Job) -> BTreeSet<Key> {
        let uid = Uid::of(&job.metadata);
        let key = owner(job);
        let mut dirty = BTreeSet::new();
        if self.owners.get(&uid) != key.as_ref() {
            dirty.extend(self.remove(&uid)); // it changed hands
        }
        if let Some(key) = key {
            let kept = KeptJob { json: written(job), is_leaving: job.metadata.deletion_timestamp.is_some() };
            self.owners.insert(uid.clone(), key.clone());
            self.jobs.entry(key.clone()).or_default().insert(uid, kept);
            dirty.insert(key);
        }
        dirty
    }

    fn remove(&mut self, uid: &Uid) -> Option<Key> {
        let key = self.owners.remove(uid)?;
        if let Some(jobs) = self.jobs.get_mut(&key) {
            jobs.remove(uid);
            if jobs.is_empty() {
                self.jobs.remove(&key);
            }
        }
        Some(key)
    }

    fn is_gone_or_leaving(&self, uid: &Uid) -> bool {
        let job = self.owners.get(uid).and_then(|key| self.jobs.get(key)?.get(uid));
        job.is_none_or(|job| job.is_leaving)
    }
}

/// What the cache must have shown before a CronJob is decided about again: nothing is decided on a state older than its
/// own last writes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Awaited {
    /// CronJobs up to this revision.
    pub cron_jobs_at: Option<u64>,
    /// Jobs up to this revision.
    pub jobs_at: Option<u64>,
    /// The Jobs of these UIDs being deleted, or gone.
    pub leaving: Vec<Uid>,
}

impl Awaited {
    /// Whether nothing is waited for.
    pub fn is_empty(&self) -> bool {
        *self == Awaited::default()
    }
}

/// What one CronJob waits for.
#[derive(Debug)]
pub struct Barrier {
    awaited: Awaited,
    /// How often each watch had begun to list afresh when the barrier went up: a list that began later shows everything.
    lists: (u64, u64),
}

impl Barrier {
    /// A barrier that waits for `awaited`, put up after the writes were answered.
    pub fn new(awaited: Awaited, cache: &Cache) -> Barrier {
        Barrier { awaited, lists: (cache.cron_job_watch.lists_begun, cache.job_watch.lists_begun) }
    }

    /// Whether everything was seen.
    pub fn is_down(&mut self, cache: &Cache) -> bool {
        if cache.cron_job_watch.list_done > self.lists.0 {
            self.awaited.cron_jobs_at = None;
        }
        if cache.job_watch.list_done > self.lists.1 {
            (self.awaited.jobs_at, self.awaited.leaving) = (None, Vec::new());
        }
        self.awaited.cron_jobs_at.take_if(|at| *at <= cache.cron_job_watch.revision);
        self.awaited.jobs_at.take_if(|at| *at <= cache.job_watch.revision);
        self.awaited.leaving.retain(|uid| !cache.is_gone_or_leaving(uid));
        self.awaited.is_empty()
    }
}

impl KeptCronJob {
    fn is_retimed_by(&self, new: &KeptCronJob) -> bool {
        self.uid == new.uid && self.timing != new.timing
    }
}

fn keep_cron_job(mut cron_job: CronJob) -> (Key, KeptCronJob) {
    cron_job.metadata.managed_fields = None;
    let key = key_of(&cron_job.metadata);
    let timing = (cron_job.spec.schedule.as_str().into(), cron_job.spec.time_zone.as_deref().map(Into::into));
    let uid = Uid::of(&cron_job.metadata);
    (key, KeptCronJob { json: written(&cron_job), uid, timing })
}

/// Of a Job what decisions about its CronJob read.
pub fn lean(job: Job) -> Job {
    let Job { metadata: meta, status, .. } = job;
    let annotations = meta.annotations.and_then(|mut all| all.remove_entry(SCHEDULED_TIMESTAMP));
    let status = status.map(|status| JobStatus {
        conditions: status.conditions,
        start_time: status.start_time,
        completion_time: status.completion_time,
        ..JobStatus::default()
    });
    let metadata = ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        deletion_timestamp: meta.deletion_timestamp,
        owner_references: meta.owner_references,
        annotations: annotations.map(|entry| [entry].into()),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: None, status }
}

fn written(object: &impl Serialize) -> Box<[u8]> {
    serde_json::to_vec(object).expect("an object of the API is JSON").into()
}

fn key_of(meta: &ObjectMeta) -> Key {
    Key { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}

/// The CronJob that controls `job`, by name.
fn owner(job: &Job) -> Option<Key> {
    let owners = job.metadata.owner_references.iter().flatten();
    let owner =
        owners.into_iter().find(|owner| owner.controller == Some(true)).filter(|owner| owner.kind == "CronJob")?;
    Some(Key { namespace: job.metadata.namespace.clone().unwrap_or_default(), name: owner.name.clone() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cron_job(schedule: &str, revision: u64) -> CronJob {
        serde_json::from_value(json!({
            "metadata": { "namespace": "n", "name": "c", "uid": "u", "resourceVersion": revision.to_string() },
            "spec": { "schedule": schedule, "jobTemplate": {} },
        }))
        .unwrap()
    }

    fn job(uid: &str, cron_job: &str, revision: u64) -> Job {
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "n", "name": uid, "uid": uid, "resourceVersion": revision.to_string(),
                "labels": { "a": "b" }, "annotations": { "a": "b", SCHEDULED_TIMESTAMP: "2026-01-01T00:00:00Z" },
                "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "CronJob", "name": cron_job, "uid": "u",
                    "controller": true }],
            },
            "spec": { "template": {} },
            "status": { "startTime": "2026-01-01T00:00:00Z", "active": 1 },
        }))
        .unwrap()
    }

    fn key(name: &str) -> Key {
        Key { namespace: "n".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_change_of_the_schedule_is_told_from_other_changes() {
        let mut cache = Cache::default();
        assert!(cache.cron_job_event(Event::Apply(cron_job("@daily", 1))).changed.is_empty(), "it is new");
        assert!(cache.cron_job_event(Event::Apply(cron_job("@daily", 2))).changed.is_empty());
        assert_eq!(cache.cron_job_event(Event::Apply(cron_job("@hourly", 3))).changed, [key("c")]);
        cache.cron_job_event(Event::Init);
        cache.cron_job_event(Event::InitApply(cron_job("@weekly", 4)));
        assert_eq!(cache.cron_job_event(Event::InitDone).changed, [key("c")]);
        assert_eq!(cache.cron_job(&key("c")), Some(cron_job("@weekly", 4)));
    }

    #[test]
    fn jobs_are_found_by_their_cron_job_through_changes_and_lists() {
        let mut cache = Cache::default();
        assert_eq!(cache.job_event(Event::Apply(job("a", "c", 1))), BTreeSet::from([key("c")]));
        assert_eq!(cache.job_event(Event::Apply(job("a", "d", 2))), BTreeSet::from([key("c"), key("d")]));
        let kept = cache.jobs_of(&key("d"));
        assert_eq!((kept[0].spec.clone(), kept[0].metadata.labels.clone()), (None, None));
        assert_eq!(kept[0].metadata.annotations.as_ref().unwrap().len(), 1);
        cache.job_event(Event::Init);
        cache.job_event(Event::InitApply(job("b", "c", 3)));
        assert_eq!(cache.job_event(Event::InitDone), BTreeSet::from([key("c"), key("d")]));
        assert_eq!((cache.jobs_of(&key("c")).len(), cache.jobs_of(&key("d")).len()), (1, 0));
        assert_eq!(cache.job_event(Event::Delete(job("b", "c", 4))), BTreeSet::from([key("c")]));
        assert!(cache.jobs.is_empty() && cache.owners.is_empty());
    }

    #[test]
    fn the_barrier_is_down_once_the_cache_has_seen_the_writes() {
        let mut cache = Cache::default();
        cache.job_event(Event::Apply(job("a", "c", 5)));
        let awaited = Awaited { cron_jobs_at: Some(7), jobs_at: Some(6), leaving: vec![Uid::from("a")] };
        let mut barrier = Barrier::new(awaited, &cache);
        cache.cron_job_event(Event::Apply(cron_job("@daily", 8)));
        cache.job_event(Event::Apply(job("b", "c", 6)));
        assert!(!barrier.is_down(&cache));
        cache.job_event(Event::Delete(job("a", "c", 9)));
        assert!(barrier.is_down(&cache));
    }
}
