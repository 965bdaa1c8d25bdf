//! Pods that nobody controls: a Job whose selector selects one may adopt it.
//!
//! Invariant: a pod is found by the Job that its labels name without looking at any other pod; only for a Job whose selector
//! a user wrote the pods of its namespace are looked through.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use stint_core::job::view::uid_of;
use stint_core::plan::Uid;
use stint_core::validate::selects;

/// The labels that generated selectors select by: today's, and that of Kubernetes before 1.27.
const CONTROLLER_UID: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];

/// The pods.
#[derive(Debug, Default)]
pub struct Loose {
    pods: HashMap<Uid, Pod>,
    by_namespace: HashMap<String, BTreeSet<Uid>>,
    /// By the UID of the Job that their labels name.
    by_label: HashMap<Uid, BTreeSet<Uid>>,
}

impl Loose {
    /// Takes in a pod, or its new state.
    pub fn put(&mut self, pod: Pod) {
        let uid = uid_of(&pod);
        self.remove(&uid);
        self.by_namespace.entry(namespace(&pod).to_owned()).or_default().insert(uid.clone());
        for job in named_jobs(&pod) {
            self.by_label.entry(job).or_default().insert(uid.clone());
        }
        self.pods.insert(uid, pod);
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &Uid) {
        let Some(pod) = self.pods.remove(uid) else { return };
        remove(&mut self.by_namespace, namespace(&pod), uid);
        for job in named_jobs(&pod) {
            remove(&mut self.by_label, &job, uid);
        }
    }

    /// A pod.
    pub fn get(&self, uid: &Uid) -> Option<&Pod> {
        self.pods.get(uid)
    }

    /// The pods that the selector of `job` selects.
    pub fn selected_by<'a>(&'a self, job: &'a Job) -> impl Iterator<Item = &'a Pod> {
        let meta = &job.metadata;
        let uids = if is_handwritten(job) {
            self.by_namespace.get(meta.namespace.as_deref().unwrap_or_default())
        } else {
            self.by_label.get(&Uid::of(meta))
        };
        let pods = uids.into_iter().flatten().filter_map(|uid| self.pods.get(uid));
        pods.filter(move |pod| is_selected(job, pod))
    }
}

/// Whether a user wrote the selector of `job`: it may select anything in its namespace.
pub fn is_handwritten(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| spec.manual_selector == Some(true))
}

/// Whether `job`, of the same namespace, selects `pod`.
pub fn is_selected(job: &Job, pod: &Pod) -> bool {
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    job.metadata.namespace.as_deref().unwrap_or_default() == namespace(pod)
        && selector.is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref()))
}

/// The UIDs of the Jobs that the labels of `pod` name.
pub fn named_jobs(pod: &Pod) -> impl Iterator<Item = Uid> + '_ {
    let labels = pod.metadata.labels.as_ref();
    CONTROLLER_UID.iter().filter_map(move |label| labels?.get(*label)).map(|uid| Uid::from(uid.as_str()))
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

fn remove<K, Q>(index: &mut HashMap<K, BTreeSet<Uid>>, key: &Q, uid: &Uid)
where
    K: std::borrow::Borrow<Q> + Eq + std::hash::Hash,
    Q: Eq + std::hash::Hash + ?Sized,
{
    if let Some(uids) = index.get_mut(key) {
        uids.remove(uid);
        if uids.is_empty() {
            index.remove(key);
        }
    }
}
