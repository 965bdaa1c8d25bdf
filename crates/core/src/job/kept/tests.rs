//! Any Jobs and pods, decided about whole and as they are remembered.

use jiff::{SignedDuration, Timestamp};
use proptest::bool::weighted;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::job::{Tuning, reconcile, reconcile_kept};
use crate::plan::Plan;
use crate::ttl;

/// Asserts that `plan`, made of the whole objects, is made of what is remembered of them too.
pub(in crate::job) fn is_remembered(plan: &Plan, job: &Job, pods: &[Pod], now: Timestamp) {
    let Some(ended) = Ended::of(job) else {
        let pods: Vec<Pod> = pods.iter().cloned().map(slim).collect();
        assert_eq!(reconcile(job, &pods, now), *plan);
        let settled = |pod: &Pod| Settled::of(pod, job);
        let latest = pods.iter().filter_map(settled).filter_map(|settled| settled.finished_at).max();
        let others: Vec<Pod> = pods.into_iter().filter(|pod| settled(pod).is_none()).collect();
        assert_eq!(reconcile_kept(job, &others, latest, now, Tuning::default()), *plan);
        return;
    };
    let meta = &job.metadata;
    let kept = ended.job(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let of_another = |pod: &&Pod| Leftover::of(pod).is_none_or(|leftover| leftover.job != *ended.uid());
    let leftovers = pods.iter().filter(|pod| !of_another(pod)).filter_map(Leftover::of);
    let tracked = leftovers.filter(|leftover| leftover.tracked).map(|leftover| leftover.pod("n"));
    let pods: Vec<Pod> = pods.iter().filter(of_another).cloned().map(slim).chain(tracked).collect();
    assert_eq!(reconcile(&kept, &pods, now), *plan);
    assert_eq!(ttl::reconcile(&kept, now), ttl::reconcile(job, now));
}

const T0: Timestamp = Timestamp::UNIX_EPOCH;

fn time(seconds: i64) -> Value {
    json!((T0 + SignedDuration::from_secs(seconds)).to_string())
}

fn container() -> impl Strategy<Value = Value> {
    (select(vec!["main", "side"]), option::of((0..4, 0_i64..60)), 0..4).prop_map(|(name, ended, restarts)| {
        let state = match ended {
            Some((code, at)) => {
                json!({"terminated": {"exitCode": code, "finishedAt": time(at), "reason": "Error", "containerID": "x"}})
            }
            None => json!({"running": {"startedAt": time(0)}}),
        };
        json!({"name": name, "image": "i", "imageID": "id", "ready": true, "started": true, "restartCount": restarts,
            "state": state, "lastState": state})
    })
}

fn condition() -> impl Strategy<Value = Value> {
    let kinds = select(vec!["Ready", "DisruptionTarget", "PodScheduled"]);
    (kinds, select(vec!["True", "False"]), 0_i64..60).prop_map(|(kind, status, at)| {
        json!({"type": kind, "status": status, "lastTransitionTime": time(at), "reason": "R", "message": "m"})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let meta = (
        select(vec!["job-uid", "job-uid", "job-uid", "another", ""]),
        // What most pods have, so that a plan is not mostly about what is odd.
        (weighted(0.4), weighted(0.2), weighted(0.95), any::<bool>()),
        option::weighted(0.9, 0..4),
        option::of(0..3),
        option::of(0..3),
        0_i64..60,
    );
    let status = (
        select(vec!["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
        vec(condition(), 0..3),
        vec(container(), 0..3),
        vec(container(), 0..2),
    );
    (meta, status).prop_map(|((owner, flags, index, failures, ignored, created), (phase, conditions, main, init))| {
        let (tracked, deleting, selected, bound) = flags;
        let mut owners = vec![json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "node"})];
        if !owner.is_empty() {
            owners.push(json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": owner, "controller": true}));
        }
        let annotations: serde_json::Map<String, Value> =
            [("other", Some(1)), (INDEX, index), (FAILURES, failures), (IGNORED, ignored)]
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), json!(value?.to_string()))))
                .collect();
        let mut pod = json!({
            "metadata": {
                "namespace": "n", "resourceVersion": "7", "creationTimestamp": time(created), "annotations": annotations,
                "labels": {"app": if selected { "x" } else { "y" }}, "ownerReferences": owners,
                "finalizers": if tracked { vec!["other", TRACKING_FINALIZER] } else { vec!["other"] },
                "managedFields": [{"manager": "m", "operation": "Update"}],
            },
            "spec": {"containers": [{"name": "main", "image": "i"}], "schedulerName": "s",
                "initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always"}]},
            "status": {"phase": phase, "conditions": conditions, "containerStatuses": main,
                "initContainerStatuses": init, "podIP": "10.0.0.1", "startTime": time(0), "message": "m"},
        });
        if deleting {
            pod["metadata"]["deletionTimestamp"] = time(created + 30);
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        }
        if bound {
            pod["spec"]["nodeName"] = json!("node");
        }
        pod
    })
}

fn job() -> impl Strategy<Value = Value> {
    let policy = json!({"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "side", "operator": "In", "values": [3]}},
        {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [2]}},
    ]});
    let spec = (
        (0..5, option::of(0..5), any::<bool>(), 0..4, option::of(0..3), option::of(select(vec![policy]))),
        (
            (any::<bool>(), any::<bool>(), weighted(0.1), weighted(0.1)),
            option::weighted(0.2, 0..90),
            option::of(0..90),
            option::of(select(vec!["x", "kubernetes.io/job-controller"])),
        ),
    );
    let conditions = ["Suspended", "FailureTarget", "SuccessCriteriaMet", "Complete", "Failed"];
    let status = (
        option::weighted(0.4, vec(select(conditions.to_vec()), 0..3)),
        option::of(0..60_i64),
        option::of(0..3),
        option::of(0..2),
        (
            select(vec!["", "", "0"]),
            select(vec!["", "", "1,3"]),
            option::weighted(0.2, (vec(0..6, 0..2), vec(0..6, 0..2))),
        ),
        weighted(0.2),
    );
    (spec, status).prop_map(|((how, (flags, deadline, ttl, managed)), (conditions, started, succeeded, failed, sets, leaving))| {
        let (parallelism, completions, indexed, limit, per_index, policy) = how;
        let (on_failure, replace_failed, suspend, alone) = flags;
        let uids = |all: Vec<i32>| all.into_iter().map(|n| format!("uid-{n}")).collect::<Vec<_>>();
        let conditions: Vec<Value> = conditions
            .into_iter()
            .flatten()
            .map(|kind| json!({"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": time(50)}))
            .collect();
        let mut job = json!({
            "metadata": {"name": "j", "namespace": "n", "uid": "job-uid", "resourceVersion": "9"},
            "spec": {
                "parallelism": parallelism, "completions": completions, "backoffLimit": limit, "suspend": suspend,
                "completionMode": if indexed { "Indexed" } else { "NonIndexed" }, "podFailurePolicy": policy,
                "backoffLimitPerIndex": per_index.filter(|_| indexed), "activeDeadlineSeconds": deadline,
                "ttlSecondsAfterFinished": ttl, "managedBy": managed.filter(|_| alone),
                "podReplacementPolicy": if replace_failed { "Failed" } else { "TerminatingOrFailed" },
                "selector": {"matchLabels": {"app": "x"}},
                "template": {"spec": {"restartPolicy": if on_failure { "OnFailure" } else { "Never" },
                    "containers": [{"name": "main", "image": "i"}]}},
            },
            "status": {
                "conditions": conditions, "startTime": started.map(time), "succeeded": succeeded, "failed": failed,
                "completedIndexes": sets.0, "failedIndexes": sets.1,
                "uncountedTerminatedPods": sets.2.map(|(succeeded, failed)| json!({"succeeded": uids(succeeded), "failed": uids(failed)})),
            },
        });
        if leaving {
            job["metadata"]["deletionTimestamp"] = time(60);
        }
        job
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_plan_about_what_is_remembered_is_the_plan_about_the_whole(
        job in job(),
        pods in vec(pod(), 0..6),
        now in 0_i64..120,
    ) {
        let job: Job = serde_json::from_value(job).unwrap();
        let pods: Vec<Pod> = pods
            .into_iter()
            .enumerate()
            .map(|(number, mut pod)| {
                pod["metadata"]["name"] = json!(format!("j-{number}"));
                pod["metadata"]["uid"] = json!(format!("uid-{number}"));
                serde_json::from_value(pod).unwrap()
            })
            .collect();
        let now = T0 + SignedDuration::from_secs(now);
        is_remembered(&reconcile(&job, &pods, now), &job, &pods, now);
    }
}

proptest! {
    #[test]
    fn a_pod_that_is_read_in_part_is_the_whole_one_made_slim(pod in pod()) {
        let part: SlimPod = serde_json::from_value(pod.clone()).unwrap();
        prop_assert_eq!(part.0, slim(serde_json::from_value(pod).unwrap()));
    }

    #[test]
    fn a_job_that_is_read_in_outline_is_the_whole_one_without_its_spec(job in job()) {
        let outline: JobOutline = serde_json::from_value(job.clone()).unwrap();
        let whole: Job = serde_json::from_value(job).unwrap();
        prop_assert_eq!(outline.0, Job { spec: None, ..whole });
    }
}
