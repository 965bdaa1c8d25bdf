//! Jobs and pods as the watches have shown them so far, pods indexed by the Job that owns them.
//!
//! Invariant: only watch events change the cache, in their order, so that its revision says what it has seen. A fresh
//! list replaces everything at once. The cost of an event does not depend on how much there is.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use stint_core::job::view::{controller_of, uid_of};
use stint_core::plan::Uid;
use stint_core::validate::selects;

/// The label that generated selectors select by.
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// Names a Job: its namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl JobKey {
    /// The key of `job`.
    pub fn of(job: &Job) -> JobKey {
        let meta = &job.metadata;
        JobKey { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
    }
}

/// How far one watch has come.
#[derive(Debug, Default)]
struct Progress {
    revision: u64,
    lists_begun: u64,
    /// Which list was completed last, by its number.
    list_done: u64,
}

impl Progress {
    fn saw(&mut self, revision: Option<&String>) {
        self.revision = self.revision.max(parse_revision(revision));
    }
}

/// The cache.
#[derive(Debug, Default)]
pub struct Cache {
    jobs: HashMap<JobKey, Arc<Job>>,
    pods: HashMap<Uid, JobKey>,
    owned: HashMap<JobKey, Owned>,
    /// Pods that nobody controls, by namespace: a Job's selector may select them.
    loose: HashMap<String, HashMap<Uid, Pod>>,
    /// The names of Jobs by uid: a generated selector selects by it.
    names: HashMap<Uid, JobKey>,
    /// Jobs whose selector a user wrote, which may select anything in their namespace.
    selecting: BTreeSet<JobKey>,
    jobs_progress: Progress,
    pods_progress: Progress,
    listed_jobs: Vec<Job>,
    listed_pods: Vec<Pod>,
}

/// The pods of one Job, side by side, so that a reconcile borrows them as one slice.
#[derive(Debug, Default)]
struct Owned {
    pods: Vec<Pod>,
    place: HashMap<Uid, usize>,
}

impl Owned {
    fn put(&mut self, pod: Pod) {
        let uid = uid_of(&pod);
        if let Some(place) = self.place.get(&uid) {
            self.pods[*place] = pod;
        } else {
            self.place.insert(uid, self.pods.len());
            self.pods.push(pod);
        }
    }

    fn remove(&mut self, uid: &Uid) {
        let Some(place) = self.place.remove(uid) else { return };
        self.pods.swap_remove(place);
        if let Some(moved) = self.pods.get(place) {
            self.place.insert(uid_of(moved), place);
        }
    }
}

impl Cache {
    /// Takes in an event of the Job watch; returns the keys that it makes dirty.
    pub fn job_event(&mut self, event: Event<Job>) -> BTreeSet<JobKey> {
        match event {
            Event::Init => {
                self.jobs_progress.lists_begun += 1;
                self.listed_jobs.clear();
                BTreeSet::new()
            }
            Event::InitApply(job) => {
                self.listed_jobs.push(job);
                BTreeSet::new()
            }
            Event::InitDone => {
                self.jobs_progress.list_done = self.jobs_progress.lists_begun;
                let mut dirty: BTreeSet<JobKey> = self.jobs.drain().map(|(key, _)| key).collect();
                self.names.clear();
                self.selecting.clear();
                for job in std::mem::take(&mut self.listed_jobs) {
                    dirty.insert(self.put_job(job));
                }
                dirty
            }
            Event::Apply(job) => BTreeSet::from([self.put_job(job)]),
            Event::Delete(job) => {
                self.jobs_progress.saw(job.metadata.resource_version.as_ref());
                let key = JobKey::of(&job);
                self.jobs.remove(&key);
                self.selecting.remove(&key);
                self.names.remove(&Uid::of(&job.metadata));
                BTreeSet::from([key])
            }
        }
    }

    /// Takes in an event of the pod watch; returns the keys that it makes dirty.
    pub fn pod_event(&mut self, event: Event<Pod>) -> BTreeSet<JobKey> {
        match event {
            Event::Init => {
                self.pods_progress.lists_begun += 1;
                self.listed_pods.clear();
                BTreeSet::new()
            }
            Event::InitApply(pod) => {
                self.listed_pods.push(pod);
                BTreeSet::new()
            }
            Event::InitDone => {
                self.pods_progress.list_done = self.pods_progress.lists_begun;
                self.pods.clear();
                self.loose.clear();
                let mut dirty: BTreeSet<JobKey> = self.owned.drain().map(|(key, _)| key).collect();
                for pod in std::mem::take(&mut self.listed_pods) {
                    dirty.extend(self.put_pod(pod));
                }
                dirty
            }
            Event::Apply(pod) => self.put_pod(pod).into_iter().collect(),
            Event::Delete(pod) => {
                self.pods_progress.saw(pod.metadata.resource_version.as_ref());
                self.remove_loose(&pod);
                self.remove_pod(&uid_of(&pod)).into_iter().collect()
            }
        }
    }

    /// Whether both watches have shown everything at least once. Before that nothing may be decided.
    pub fn is_complete(&self) -> bool {
        self.jobs_progress.list_done > 0 && self.pods_progress.list_done > 0
    }

    /// The Job `key`.
    pub fn job(&self, key: &JobKey) -> Option<&Arc<Job>> {
        self.jobs.get(key)
    }

    /// The pods whose controller is a Job of this key, whatever its UID.
    pub fn pods_of(&self, key: &JobKey) -> &[Pod] {
        self.owned.get(key).map_or(&[], |owned| &owned.pods)
    }

    /// The pods without a controller that the selector of `job` selects.
    pub fn loose_pods_of<'a>(&'a self, key: &JobKey, job: &'a Job) -> impl Iterator<Item = &'a Pod> {
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let loose = self.loose.get(&key.namespace).into_iter().flat_map(HashMap::values);
        loose.filter(move |pod| selector.is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref())))
    }

    /// The pod with this UID.
    pub fn pod(&self, uid: &Uid) -> Option<&Pod> {
        let owned = self.owned.get(self.pods.get(uid)?)?;
        owned.pods.get(*owned.place.get(uid)?)
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

    fn put_job(&mut self, job: Job) -> JobKey {
        self.jobs_progress.saw(job.metadata.resource_version.as_ref());
        let key = JobKey::of(&job);
        self.names.insert(Uid::of(&job.metadata), key.clone());
        if job.spec.as_ref().is_some_and(|spec| spec.manual_selector == Some(true)) {
            self.selecting.insert(key.clone());
        }
        self.jobs.insert(key.clone(), Arc::new(job));
        key
    }

    fn put_pod(&mut self, pod: Pod) -> Vec<JobKey> {
        self.pods_progress.saw(pod.metadata.resource_version.as_ref());
        let uid = uid_of(&pod);
        let owner = owner_key(&pod);
        let mut dirty = Vec::new();
        if self.pods.get(&uid) != owner.as_ref() {
            dirty.extend(self.remove_pod(&uid)); // it changed hands
        }
        if controller_of(&pod).is_none() {
            dirty.extend(self.selectors_of(&pod));
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            self.loose.entry(namespace).or_default().insert(uid, pod);
            return dirty;
        }
        self.remove_loose(&pod);
        if let Some(key) = owner {
            self.pods.insert(uid, key.clone());
            self.owned.entry(key.clone()).or_default().put(pod);
            dirty.push(key);
        }
        dirty
    }

    /// The Jobs that may select this pod, which nobody controls.
    fn selectors_of(&self, pod: &Pod) -> Vec<JobKey> {
        let labels = pod.metadata.labels.as_ref();
        let by_uid = labels.and_then(|labels| self.names.get(&Uid::from(labels.get(CONTROLLER_UID)?.as_str())));
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let selects_it = |key: &&JobKey| {
            let selector = self.jobs.get(*key).and_then(|job| job.spec.as_ref()?.selector.as_ref());
            key.namespace == namespace && selector.is_some_and(|selector| selects(selector, labels))
        };
        by_uid.into_iter().chain(self.selecting.iter().filter(selects_it)).cloned().collect()
    }

    fn remove_loose(&mut self, pod: &Pod) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let Some(pods) = self.loose.get_mut(namespace) else { return };
        pods.remove(&uid_of(pod));
        if pods.is_empty() {
            self.loose.remove(namespace);
        }
    }

    fn remove_pod(&mut self, uid: &Uid) -> Option<JobKey> {
        let key = self.pods.remove(uid)?;
        if let Some(owned) = self.owned.get_mut(&key) {
            owned.remove(uid);
            if owned.pods.is_empty() {
                self.owned.remove(&key);
            }
        }
        Some(key)
    }
}

fn owner_key(pod: &Pod) -> Option<JobKey> {
    let owner = controller_of(pod).filter(|o| o.kind == "Job" && o.api_version.starts_with("batch/"))?;
    Some(JobKey { namespace: pod.metadata.namespace.clone().unwrap_or_default(), name: owner.name.clone() })
}

/// `metadata.resourceVersion` as a number (KEP-5504: comparable since 1.35); 0 when it is absent or no number.
pub fn parse_revision(revision: Option<&String>) -> u64 {
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
    use stint_core::plan::Uid;

    use super::*;
    use crate::barrier::{Barrier, Sighting};

    fn pod(uid: &str, job: &str, revision: u64) -> Pod {
        let owner = OwnerReference {
            api_version: "batch/v1".to_owned(),
            kind: "Job".to_owned(),
            name: job.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        Pod {
            metadata: ObjectMeta {
                uid: Some(uid.to_owned()),
                resource_version: Some(revision.to_string()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        }
    }

    fn key(name: &str) -> JobKey {
        JobKey { namespace: String::new(), name: name.to_owned() }
    }

    #[test]
    fn pods_are_found_by_owner_through_changes_and_removals() {
        let mut cache = Cache::default();
        for uid in ["a", "b", "c"] {
            assert_eq!(cache.pod_event(Event::Apply(pod(uid, "j", 1))), BTreeSet::from([key("j")]));
        }
        cache.pod_event(Event::Delete(pod("a", "j", 2)));
        cache.pod_event(Event::Apply(pod("c", "j", 3)));
        let uids: BTreeSet<_> = cache.pods_of(&key("j")).iter().map(uid_of).collect();
        assert_eq!(uids, BTreeSet::from([Uid::from("b"), Uid::from("c")]));
        assert_eq!(cache.pods_revision(), 3);
        assert_eq!(cache.pod(&Uid::from("c")).unwrap().metadata.resource_version.as_deref(), Some("3"));
        let both = BTreeSet::from([key("j"), key("k")]);
        assert_eq!(cache.pod_event(Event::Apply(pod("b", "k", 4))), both, "a pod that changed hands");
    }

    #[test]
    fn a_pod_that_nobody_controls_is_shown_to_the_jobs_that_select_it() {
        let mut cache = Cache::default();
        let job = |name: &str, manual: bool, label: (&str, &str)| -> Job {
            serde_json::from_value(serde_json::json!({
                "metadata": { "name": name, "namespace": "", "uid": format!("uid-{name}") },
                "spec": { "manualSelector": manual, "selector": { "matchLabels": { label.0: label.1 } }, "template": {} },
            }))
            .unwrap()
        };
        cache.job_event(Event::Apply(job("generated", false, (CONTROLLER_UID, "uid-generated"))));
        cache.job_event(Event::Apply(job("manual", true, ("app", "x"))));
        let mut loose = pod("a", "j", 1);
        loose.metadata.owner_references = None;
        loose.metadata.labels = Some([("app".to_owned(), "x".to_owned())].into());
        assert_eq!(cache.pod_event(Event::Apply(loose.clone())), BTreeSet::from([key("manual")]));
        loose.metadata.labels = Some([(CONTROLLER_UID.to_owned(), "uid-generated".to_owned())].into());
        assert_eq!(cache.pod_event(Event::Apply(loose.clone())), BTreeSet::from([key("generated")]));
        let generated = cache.job(&key("generated")).unwrap().clone();
        assert_eq!(cache.loose_pods_of(&key("generated"), &generated).count(), 1);
        cache.pod_event(Event::Apply(pod("a", "generated", 2)));
        assert_eq!(cache.loose_pods_of(&key("generated"), &generated).count(), 0, "it has a controller now");
    }

    #[test]
    fn a_fresh_list_replaces_everything_and_makes_it_all_dirty() {
        let mut cache = Cache::default();
        cache.pod_event(Event::Apply(pod("a", "j", 1)));
        cache.pod_event(Event::Init);
        cache.pod_event(Event::InitApply(pod("b", "k", 2)));
        assert_eq!(cache.pods_of(&key("j")).len(), 1, "the old state holds until the list is whole");
        assert_eq!(cache.pod_event(Event::InitDone), BTreeSet::from([key("j"), key("k")]));
        assert!(cache.pods_of(&key("j")).is_empty());
    }

    #[test]
    fn the_barrier_is_down_once_the_cache_has_seen_the_writes() {
        let mut cache = Cache::default();
        let mut barrier = Barrier::new(vec![Sighting::PodsAt(7)], &cache);
        assert!(!barrier.is_down(&cache));
        cache.pod_event(Event::Apply(pod("a", "j", 6)));
        assert!(!barrier.is_down(&cache));
        cache.pod_event(Event::Apply(pod("b", "k", 8)));
        assert!(barrier.is_down(&cache));
    }

    #[test]
    fn only_a_list_that_began_after_the_write_takes_the_barrier_down() {
        let mut cache = Cache::default();
        cache.pod_event(Event::Init);
        let mut barrier = Barrier::new(vec![Sighting::PodsAt(7)], &cache);
        cache.pod_event(Event::InitDone);
        assert!(!barrier.is_down(&cache), "that list may be older than the write");
        cache.pod_event(Event::Init);
        cache.pod_event(Event::InitDone);
        assert!(barrier.is_down(&cache));
    }
}
