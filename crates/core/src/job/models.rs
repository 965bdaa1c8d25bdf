//! Small models that take nothing for granted, beside which the decisions are held: what they say is found by trying.
//!
//! Each model is written from upstream's words and not from ours, slow and plain: sets of numbers, one pod after the other.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, PodFailurePolicy, SuccessPolicy};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::index::{INDEX, IndexSet};
use super::manage::{removal_rank, surplus};
use super::per_index::FAILURES;
use super::policy::{Judgement, judge};
use super::view::{self, Class, View};
use super::{Backoff, TRACKING_FINALIZER, success};

const EPOCH: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(EPOCH + seconds).unwrap()
}

/// A pod of the Job `j`.
#[derive(Clone, Debug)]
struct Facts {
    index: Option<u32>,
    phase: &'static str,
    ended: i64,
    code: i32,
    failures: i32,
    deleting: bool,
    tracked: bool,
    bound: bool,
    ready_since: Option<i64>,
    restarts: i32,
    created: i64,
}

fn facts() -> impl Strategy<Value = Facts> {
    let phase = prop_oneof![Just("Pending"), Just("Unknown"), Just("Running"), Just("Succeeded"), Just("Failed")];
    let index = proptest::option::weighted(0.9, 0_u32..5);
    let counts = (0_i64..40, 0_i32..3, 0_i32..3);
    let flags = (proptest::bool::weighted(0.2), proptest::bool::weighted(0.8), any::<bool>());
    let order = (proptest::option::of(0_i64..4), 0_i32..3, 0_i64..4);
    (index, phase, counts, flags, order).prop_map(|(index, phase, counts, flags, order)| Facts {
        index,
        phase,
        ended: counts.0,
        code: counts.1,
        failures: counts.2,
        deleting: flags.0,
        tracked: flags.1,
        bound: flags.2,
        ready_since: order.0,
        restarts: order.1,
        created: order.2,
    })
}

impl Facts {
    fn pod(&self, number: usize) -> Pod {
        let mut annotations = json!({ FAILURES: self.failures.to_string() });
        if let Some(index) = self.index {
            annotations[INDEX] = json!(index.to_string());
        }
        let state = match self.phase {
            "Succeeded" => json!({ "terminated": { "exitCode": 0, "finishedAt": at(self.ended).to_string() } }),
            "Failed" => json!({ "terminated": { "exitCode": self.code, "finishedAt": at(self.ended).to_string() } }),
            _ => json!({}),
        };
        let ready = self
            .ready_since
            .map(|since| json!({ "type": "Ready", "status": "True", "lastTransitionTime": at(since).to_string() }));
        let mut pod = json!({
            "metadata": {
                "name": format!("p{number}"), "uid": format!("u{number}"), "namespace": "n",
                "creationTimestamp": at(self.created).to_string(),
                "annotations": annotations,
                "finalizers": if self.tracked { json!([TRACKING_FINALIZER]) } else { json!([]) },
                "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j", "controller": true }],
            },
            "spec": { "containers": [] },
            "status": { "phase": self.phase, "conditions": ready.into_iter().collect::<Vec<Value>>(), "containerStatuses": [
                { "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": self.restarts, "state": state },
            ] },
        });
        if self.deleting {
            // As if its deletion had been asked for when it ended.
            pod["metadata"]["deletionTimestamp"] = json!(at(self.ended).to_string());
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        }
        if self.bound {
            pod["spec"]["nodeName"] = json!("node");
        }
        serde_json::from_value(pod).unwrap()
    }

    fn is_active(&self) -> bool {
        !self.deleting && !matches!(self.phase, "Succeeded" | "Failed")
    }

    /// As upstream counts failures while pods that leave are replaced at once.
    fn has_failed(&self) -> bool {
        self.phase == "Failed" || (self.deleting && self.phase != "Succeeded")
    }
}

fn job(spec: &Value) -> Job {
    serde_json::from_value(json!({ "metadata": { "name": "j", "uid": "j", "namespace": "n" }, "spec": spec })).unwrap()
}

fn pods(facts: &[Facts]) -> Vec<Pod> {
    facts.iter().enumerate().map(|(number, facts)| facts.pod(number)).collect()
}

/// `ActivePods.Less`, as a chain of questions; `None`: none of them tells the two apart.
fn goes_first(a: &Facts, b: &Facts) -> Option<bool> {
    if a.bound != b.bound {
        return Some(!a.bound);
    }
    let progress = |facts: &Facts| ["Pending", "Unknown", "Running"].iter().position(|phase| *phase == facts.phase);
    if progress(a) != progress(b) {
        return Some(progress(a) < progress(b));
    }
    if a.ready_since.is_some() != b.ready_since.is_some() {
        return Some(a.ready_since.is_none());
    }
    if a.ready_since != b.ready_since {
        return Some(a.ready_since > b.ready_since);
    }
    if a.restarts != b.restarts {
        return Some(a.restarts > b.restarts);
    }
    (a.created != b.created).then_some(a.created > b.created)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// One pod after the other, in the order in which they ended: a success forgets the failures before it. Pods that were sent
    /// away are not in the record: they had lost their finalizer before they left.
    #[test]
    fn the_delay_is_that_of_a_record_kept_pod_by_pod(
        facts in proptest::collection::vec(facts(), 0..8),
        were_sent_away in any::<bool>(),
        now in 0_i64..900,
    ) {
        let has_failed = |f: &Facts| f.has_failed() && !(were_sent_away && f.deleting && !f.tracked);
        let mut record: Option<(u32, i64)> = None;
        let mut ended: Vec<&Facts> = facts.iter().filter(|f| has_failed(f) || f.phase == "Succeeded").collect();
        // At the same moment the success comes last: only what failed after it counts.
        ended.sort_by_key(|f| (f.ended, f.phase == "Succeeded"));
        for one in ended {
            record = match (has_failed(one), record) {
                (false, _) => None,
                (true, before) => Some((before.map_or(0, |(count, _)| count) + 1, one.ended)),
            };
        }
        let expected = record.and_then(|(count, latest)| {
            let delay = (1..count).fold(10, |delay: i64, _| (delay * 2).min(600));
            (latest + delay > now).then(|| (at(latest + delay), count))
        });
        let (mut job, pods) = (job(&json!({ "template": {} })), pods(&facts));
        let counted = facts.iter().filter(|f| has_failed(f) && !f.tracked).count();
        job.status = serde_json::from_value(json!({ "failed": counted })).unwrap();
        prop_assert_eq!(Backoff::default().until(&View::of(&job, &pods), at(now)), expected);
    }

    #[test]
    fn a_delay_is_doubled_until_the_cap(base in 0_i64..100, max in 0_i64..1000, failures in 0_u32..70) {
        let backoff = Backoff { base: SignedDuration::from_secs(base), max: SignedDuration::from_secs(max) };
        let expected = if failures == 0 { 0 } else { (1..failures).fold(base, |delay, _| (delay * 2).min(max)).min(max) };
        prop_assert_eq!(backoff.delay(failures).as_secs(), expected);
    }

    #[test]
    fn surplus_pods_go_in_upstreams_order(a in facts(), b in facts()) {
        let (one, two) = (a.pod(0), b.pod(1));
        if let Some(first) = goes_first(&a, &b).filter(|_| a.is_active() && b.is_active()) {
            let expected = if first { Ordering::Less } else { Ordering::Greater };
            prop_assert_eq!(removal_rank(&one).cmp(&removal_rank(&two)), expected);
        }
    }

    /// Of every set of pods that may go, the one that goes is right: nothing else is too many, and nothing less is enough.
    #[test]
    fn what_goes_is_all_that_has_no_index_and_as_few_others_as_will_do(
        facts in proptest::collection::vec(facts(), 0..8),
        completions in 0_i32..5,
        want in 0_i32..5,
        is_indexed in any::<bool>(),
    ) {
        let mode = if is_indexed { "Indexed" } else { "NonIndexed" };
        let spec = json!({ "template": {}, "completionMode": mode, "completions": completions });
        let (job, pods) = (job(&spec), pods(&facts));
        let view = View::of(&job, &pods);
        let active: Vec<usize> = (0..facts.len()).filter(|n| facts[*n].is_active()).collect();
        let count = i32::try_from(active.len()).unwrap();
        let gone: BTreeSet<String> =
            surplus(&view, count, want, 500).iter().map(|seen| seen.pod.metadata.name.clone().unwrap()).collect();
        let goes = |n: &usize| gone.contains(&format!("p{n}"));
        let kept: Vec<usize> = active.iter().copied().filter(|n| !goes(n)).collect();
        // One that has lost its finalizer was sent away before.
        let counted: Vec<usize> = active.iter().copied().filter(|n| facts[*n].tracked).collect();
        let valid = |n: usize| facts[n].index.filter(|index| i64::from(*index) < i64::from(completions));
        let distinct: BTreeSet<u32> = counted.iter().filter_map(|n| valid(*n)).collect();
        let most = if is_indexed { distinct.len() } else { counted.len() };
        prop_assert_eq!(kept.len(), most.min(usize::try_from(want).unwrap()));
        prop_assert!(kept.iter().all(|n| facts[*n].tracked));
        if is_indexed {
            let indexes: Vec<u32> = kept.iter().filter_map(|n| valid(*n)).collect();
            prop_assert_eq!(indexes.len(), kept.len(), "what stays has an index");
            prop_assert_eq!(indexes.iter().collect::<BTreeSet<_>>().len(), kept.len(), "and none twice");
        }
        for (stays, goes) in kept.iter().flat_map(|stays| counted.iter().filter(|n| goes(n)).map(move |goes| (*stays, *goes))) {
            let same_index = valid(stays) == valid(goes) && valid(goes).is_some();
            if !is_indexed || same_index {
                prop_assert_ne!(goes_first(&facts[stays], &facts[goes]), Some(true), "{} goes before {}", stays, goes);
            }
        }
    }

    #[test]
    fn a_rule_of_success_is_fulfilled_as_the_sets_say(
        succeeded in proptest::collection::btree_set(0_u32..8, 0..8),
        rules in proptest::collection::vec(
            (proptest::option::of(proptest::collection::btree_set(0_u32..8, 0..8)), proptest::option::of(1_i32..8)), 1..4),
    ) {
        let text = |set: &BTreeSet<u32>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let expected = rules.iter().position(|(indexes, count)| {
            let hits = |set: &BTreeSet<u32>| set.intersection(&succeeded).count();
            !succeeded.is_empty() && match (indexes, count) {
                (Some(set), Some(count)) => !set.is_empty() && hits(set) >= usize::try_from(*count).unwrap(),
                (Some(set), None) => !set.is_empty() && hits(set) == set.len(),
                (None, Some(count)) => succeeded.len() >= usize::try_from(*count).unwrap(),
                (None, None) => false,
            }
        });
        let rules: Vec<Value> = rules
            .iter()
            .map(|(set, count)| json!({ "succeededIndexes": set.as_ref().map(text), "succeededCount": count }))
            .collect();
        let policy: SuccessPolicy = serde_json::from_value(json!({ "rules": rules })).unwrap();
        let set: IndexSet = succeeded.into_iter().collect();
        prop_assert_eq!(success::fulfilled(&policy, 8, &set), expected);
    }

    /// Every rule is tried on every container; the first rule that matches one says what to do.
    #[test]
    fn a_failed_pod_is_judged_as_by_trying_every_rule(
        codes in proptest::collection::vec(0_i32..4, 0..3),
        rules in proptest::collection::vec(
            (0_usize..4, proptest::option::of(0_usize..3), any::<bool>(), proptest::collection::vec(0_i32..4, 1..3)), 0..4),
    ) {
        const ACTIONS: [&str; 4] = ["FailJob", "Ignore", "Count", "FailIndex"];
        let mut expected = "Count";
        for (action, name, is_in, values) in rules.iter().rev() {
            let matches = codes.iter().enumerate().any(|(number, code)| {
                name.is_none_or(|name| name == number) && *code != 0 && values.contains(code) == *is_in
            });
            if matches {
                expected = ACTIONS[*action];
            }
        }
        let rules: Vec<Value> = rules
            .iter()
            .map(|(action, name, is_in, values)| json!({ "action": ACTIONS[*action], "onExitCodes": {
                "containerName": name.map(|name| format!("c{name}")),
                "operator": if *is_in { "In" } else { "NotIn" },
                "values": values,
            }}))
            .collect();
        let policy: PodFailurePolicy = serde_json::from_value(json!({ "rules": rules })).unwrap();
        let ended = |(number, code): (usize, &i32)| json!({ "name": format!("c{number}"), "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": { "terminated": { "exitCode": code } } });
        let statuses: Vec<Value> = codes.iter().enumerate().map(ended).collect();
        let pod = serde_json::from_value(json!({ "status": { "containerStatuses": statuses } })).unwrap();
        let got = match judge(&policy, &pod) {
            Judgement::Count => "Count",
            Judgement::Ignore => "Ignore",
            Judgement::FailIndex => "FailIndex",
            Judgement::FailJob(_) => "FailJob",
        };
        prop_assert_eq!(got, expected);
    }

    /// Index by index, pod by pod: which indexes have failed, and with which count those go on that have not.
    #[test]
    fn indexes_fail_and_wait_as_counting_their_pods_says(
        facts in proptest::collection::vec(facts(), 0..10),
        limit in 0_i32..3,
        failed_before in proptest::collection::btree_set(0_u32..4, 0..3),
    ) {
        let completions = 4;
        let failed_text: IndexSet = failed_before.iter().copied().collect();
        let mut job = job(&json!({ "template": {}, "completionMode": "Indexed", "completions": completions,
            "backoffLimitPerIndex": limit }));
        job.status = serde_json::from_value(json!({ "failedIndexes": failed_text.to_string() })).unwrap();
        let pods = pods(&facts);
        let view = View::of(&job, &pods);
        let mut failed = failed_before.clone();
        let mut waiting: BTreeMap<u32, (i32, i64)> = BTreeMap::new();
        for index in 0..completions {
            let here = || facts.iter().filter(|f| f.index == Some(index));
            let completed = here().any(|f| f.tracked && f.phase == "Succeeded") && !failed_before.contains(&index);
            let failures: Vec<&Facts> = here().filter(|f| f.tracked && f.has_failed()).collect();
            if !completed && failures.iter().any(|f| f.failures >= limit) {
                failed.insert(index);
            }
            if completed || failed.contains(&index) || here().any(Facts::is_active) {
                continue;
            }
            if let Some(newest) = failures.iter().max_by_key(|f| (f.failures, f.ended)) {
                waiting.insert(index, (newest.failures + 1, newest.ended));
            }
        }
        let indexed = view.indexed.as_ref().unwrap();
        let per_index = indexed.per_index.as_ref().unwrap();
        prop_assert_eq!(per_index.failed.to_string(), failed.into_iter().collect::<IndexSet>().to_string());
        let got: BTreeMap<u32, i32> = per_index
            .awaiting.iter()
            .map(|(index, awaiting)| (*index, awaiting.counts.failures))
            .collect();
        let expected: BTreeMap<u32, i32> = waiting.into_iter().map(|(index, (count, _))| (index, count)).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn every_pod_is_in_the_class_that_its_phase_and_deletion_say(facts in facts()) {
        let expected = match (facts.phase, facts.deleting) {
            ("Succeeded", _) => Class::Succeeded,
            ("Failed", _) => Class::Failed,
            (_, true) => Class::Leaving,
            (_, false) => Class::Active,
        };
        prop_assert_eq!(view::class(&facts.pod(0)), expected);
    }
}
