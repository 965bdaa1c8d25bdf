//! What the cache shows, and how little it holds for that.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use stint_core::job::TRACKING_FINALIZER;

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
    JobKey { namespace: "".into(), name: name.into() }
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
    let revisions: BTreeSet<_> =
        cache.pods_of(&key("j")).iter().filter_map(|pod| pod.metadata.resource_version.clone()).collect();
    assert_eq!(revisions, BTreeSet::from(["1".to_owned(), "3".to_owned()]));
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
    cache.job_event(Event::Apply(job("generated", false, ("batch.kubernetes.io/controller-uid", "uid-generated"))));
    cache.job_event(Event::Apply(job("manual", true, ("app", "x"))));
    let mut loose = pod("a", "j", 1);
    loose.metadata.owner_references = None;
    loose.metadata.labels = Some([("app".to_owned(), "x".to_owned())].into());
    assert_eq!(cache.pod_event(Event::Apply(loose.clone())), BTreeSet::from([key("manual")]));
    loose.metadata.labels =
        Some([("batch.kubernetes.io/controller-uid".to_owned(), "uid-generated".to_owned())].into());
    assert_eq!(cache.pod_event(Event::Apply(loose.clone())), BTreeSet::from([key("generated")]));
    let generated = cache.job(&key("generated")).unwrap();
    assert_eq!(cache.candidates_of(&key("generated"), &generated).len(), 1);
    cache.pod_event(Event::Apply(pod("a", "generated", 2)));
    assert_eq!(cache.candidates_of(&key("generated"), &generated).len(), 1, "it has a controller now and is one still");
    assert!(cache.loose.selected_by(&generated).next().is_none());
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

/// A Job claimed a pod over and over that nobody controls and that was gone, until the watch said so.
#[test]
fn what_a_claim_did_not_find_is_waited_for_until_it_is_seen_to_be_gone() {
    for owner in [None, Some("j")] {
        let mut cache = Cache::default();
        let mut gone = pod("a", owner.unwrap_or_default(), 1);
        gone.metadata.owner_references = gone.metadata.owner_references.filter(|_| owner.is_some());
        cache.pod_event(Event::Apply(gone.clone()));
        let mut barrier = Barrier::new(vec![Sighting::PodGone(Uid::from("a"))], &cache);
        assert!(!barrier.is_down(&cache), "{owner:?}");
        cache.pod_event(Event::Delete(gone));
        assert!(barrier.is_down(&cache), "{owner:?}");
    }
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

fn job(name: &str, uid: &str, ended: bool) -> Job {
    let end = serde_json::json!({ "type": "Complete", "status": "True" });
    let conditions = ended.then(|| vec![end]);
    serde_json::from_value(serde_json::json!({
        "metadata": { "name": name, "namespace": "", "uid": uid },
        "spec": { "template": {} },
        "status": { "conditions": conditions },
    }))
    .unwrap()
}

fn pod_of(uid: &str, name: &str, job: &str, tracked: bool) -> Pod {
    let mut pod = pod(uid, name, 1);
    pod.metadata.owner_references.as_mut().unwrap()[0].uid = job.to_owned();
    pod.metadata.finalizers = tracked.then(|| vec![TRACKING_FINALIZER.to_owned()]);
    pod
}

fn list_pods(cache: &mut Cache, pods: &[Pod]) -> BTreeSet<JobKey> {
    cache.pod_event(Event::Init);
    for pod in pods {
        cache.pod_event(Event::InitApply(pod.clone()));
    }
    cache.pod_event(Event::InitDone)
}

fn list_jobs(cache: &mut Cache, jobs: &[Job]) -> BTreeSet<JobKey> {
    cache.job_event(Event::Init);
    for job in jobs {
        cache.job_event(Event::InitApply(job.clone()));
    }
    cache.job_event(Event::InitDone)
}

#[test]
fn of_a_job_that_has_ended_only_the_pods_that_wait_for_it_are_shown() {
    let pods = [pod_of("a", "j", "u", true), pod_of("b", "j", "u", false), pod_of("c", "j", "another", false)];
    let shown = |cache: &Cache| -> BTreeSet<Uid> { cache.pods_of(&key("j")).iter().map(uid_of).collect() };
    // Whether the end comes before the pods or after them.
    let mut late = Cache::default();
    list_jobs(&mut late, &[job("j", "u", false)]);
    list_pods(&mut late, &pods);
    assert_eq!(shown(&late).len(), 3);
    late.job_event(Event::Apply(job("j", "u", true)));
    let mut early = Cache::default();
    list_jobs(&mut early, &[job("j", "u", true)]);
    assert_eq!(list_pods(&mut early, &pods), BTreeSet::from([key("j")]));
    for mut cache in [late, early] {
        assert_eq!(shown(&cache), BTreeSet::from(["a", "c"].map(Uid::from)));
        assert_eq!(cache.pod(&Uid::from("a")), Some(Standing { tracked: true, deleting: false }));
        assert_eq!(cache.pod_event(Event::Apply(pod_of("a", "j", "u", false))), BTreeSet::from([key("j")]));
        assert_eq!(cache.pod(&Uid::from("a")), Some(Standing { tracked: false, deleting: false }));
        assert_eq!(shown(&cache), BTreeSet::from([Uid::from("c")]));
        cache.job_event(Event::Delete(job("j", "u", true)));
        for pod in &pods {
            assert_eq!(cache.pod_event(Event::Delete(pod.clone())), BTreeSet::from([key("j")]));
        }
        assert!(cache.keys().is_empty() && cache.is_complete());
    }
}

#[test]
fn pods_are_listed_afresh_should_a_job_go_on_that_had_ended() {
    let mut cache = Cache::default();
    let pods = [pod_of("a", "j", "u", false)];
    list_jobs(&mut cache, &[job("j", "u", true)]);
    list_pods(&mut cache, &pods);
    assert!(cache.is_complete() && !cache.wants_pods());
    cache.job_event(Event::Apply(job("j", "new", false)));
    assert!(cache.is_complete(), "of a Job of the same name its pods are not");
    cache.job_event(Event::Apply(job("j", "u", false)));
    assert!(!cache.is_complete() && cache.wants_pods());
    cache.pod_event(Event::Init);
    assert!(!cache.is_complete() && !cache.wants_pods(), "a list has begun");
    list_pods(&mut cache, &pods);
    assert!(cache.is_complete());
    assert_eq!(cache.pods_of(&key("j")).len(), 1);
}

#[test]
fn a_list_of_pods_that_began_before_its_job_went_on_is_not_enough() {
    let mut cache = Cache::default();
    list_jobs(&mut cache, &[job("j", "u", true)]);
    cache.pod_event(Event::Init);
    cache.pod_event(Event::InitApply(pod_of("a", "j", "u", false)));
    cache.job_event(Event::Apply(job("j", "u", false)));
    cache.pod_event(Event::InitDone);
    assert!(!cache.is_complete() && cache.wants_pods());
}

/// Whole, these would take 8 kB, and those of a real API more. The memory is that of the process, so that the bound leaves
/// room for what other tests hold meanwhile.
#[test]
fn a_job_that_has_ended_and_its_pod_take_less_than_two_kilobytes() {
    const PAIRS: usize = 20_000;
    let resident = || -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let numbered = |meta: &mut ObjectMeta, kind: u8, number: usize| {
        meta.name = Some(format!("report-{number:06}"));
        meta.namespace = Some(format!("team-{:03}", number / 500));
        meta.uid = Some(format!("{kind:08x}-0000-4000-8000-{number:012x}"));
        meta.annotations = Some([("note".to_owned(), "x".repeat(1000))].into());
    };
    let mut cache = Cache::default();
    let before = resident();
    cache.job_event(Event::Init);
    for number in 0..PAIRS {
        let mut job = job("", "", true);
        numbered(&mut job.metadata, 1, number);
        cache.job_event(Event::InitApply(job));
    }
    cache.job_event(Event::InitDone);
    cache.pod_event(Event::Init);
    for number in 0..PAIRS {
        let job = format!("00000001-0000-4000-8000-{number:012x}");
        let mut pod = pod_of("", &format!("report-{number:06}"), &job, false);
        numbered(&mut pod.metadata, 2, number);
        cache.pod_event(Event::InitApply(pod));
    }
    cache.pod_event(Event::InitDone);
    let each = resident().saturating_sub(before) / PAIRS;
    assert_eq!(cache.keys().len(), PAIRS);
    assert!(each < 2000, "{each} bytes for a Job and its pod");
}

#[test]
fn of_a_strangers_job_nothing_is_kept_but_that_it_is_there() {
    let job = |manager: Option<&str>| -> Job {
        serde_json::from_value(serde_json::json!({
            "metadata": { "name": "j", "namespace": "", "uid": "u", "resourceVersion": "5" },
            "spec": { "managedBy": manager, "template": {} },
        }))
        .unwrap()
    };
    let owned = || {
        let mut pod = pod("p", "j", 6);
        pod.metadata.owner_references.as_mut().unwrap()[0].uid = "u".to_owned();
        pod
    };
    let mut cache = Cache::new(Mandate::Beside);
    cache.pod_event(Event::Apply(owned())); // before its Job is known
    cache.job_event(Event::Apply(job(None)));
    assert!(cache.is_strangers(&key("j")) && cache.job(&key("j")).is_none());
    assert_eq!(cache.looks_at(&key("j")), 0, "it is forgotten");
    assert!(cache.pod_event(Event::Apply(owned())).is_empty(), "nothing has to be looked at");
    assert_eq!((cache.looks_at(&key("j")), cache.pods_revision()), (0, 6));
    cache.job_event(Event::Delete(job(None)));
    cache.job_event(Event::Apply(job(Some("stint.dev/job-controller"))));
    let seen = cache.job(&key("j")).unwrap();
    assert_eq!(seen.spec.as_ref().unwrap().managed_by, None, "it is seen as if it had always been ours");
    cache.pod_event(Event::Apply(owned()));
    assert_eq!(cache.looks_at(&key("j")), 1);
}
