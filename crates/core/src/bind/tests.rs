//! Stories of waiting pods, and a small model that the scheduler is compared with.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::plan::Uid;

const T0: Timestamp = Timestamp::UNIX_EPOCH;

fn node(change: &Value) -> Node {
    let mut node = json!({
        "metadata": { "name": "n", "labels": { "kubernetes.io/hostname": "n" } },
        "status": { "allocatable": { "cpu": "1", "memory": "1Gi", "pods": "3" } },
    });
    node.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    serde_json::from_value(node).unwrap()
}

fn pod(name: &str, cpu: &str, change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "default", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] },
    });
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}

fn with(pods: &[Pod]) -> Scheduler {
    let mut scheduler = Scheduler::new("n");
    scheduler.node(Some(&node(&json!({}))));
    for pod in pods {
        scheduler.see(pod, T0);
    }
    scheduler
}

fn bound(scheduler: &mut Scheduler) -> Vec<String> {
    std::iter::from_fn(|| scheduler.next(T0)).map(|seat| seat.name.to_string()).collect()
}

/// What is told once it has been waited long enough, each with the pod's name.
fn told(scheduler: &mut Scheduler) -> Vec<(String, String)> {
    let later = T0 + 1.seconds();
    std::iter::from_fn(|| scheduler.tell(later)).map(|(seat, why)| (seat.name.to_string(), why.to_string())).collect()
}

fn assigned(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    pod.spec.as_mut().unwrap().node_name = Some("n".to_owned());
    pod
}

#[test]
fn only_a_waiting_pod_of_the_default_scheduler_without_gates_waits() {
    assert_eq!(standing(&pod("a", "0", |_| {})), Standing::Waits);
    assert_eq!(standing(&pod("a", "0", |pod| pod["spec"]["nodeName"] = json!("m"))), Standing::Assigned("m"));
    let over = pod("a", "0", |pod| {
        pod["spec"]["nodeName"] = json!("m");
        pod["status"] = json!({ "phase": "Failed" });
    });
    let deleted = pod("a", "0", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    let gated = pod("a", "0", |pod| pod["spec"]["schedulingGates"] = json!([{ "name": "g" }]));
    let other = pod("a", "0", |pod| pod["spec"]["schedulerName"] = json!("x"));
    assert_eq!(standing(&deleted), Standing::Leaves);
    for pod in [over, gated, other, Pod::default()] {
        assert!(matches!(standing(&pod), Standing::Leave(_)), "{pod:?}");
    }
}

#[test]
fn priority_comes_before_age_and_a_small_pod_passes_a_big_one() {
    let mut scheduler = with(&[
        pod("young", "100m", |pod| pod["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:01Z")),
        pod("old", "100m", |_| {}),
        pod("big", "5", |pod| pod["spec"]["priority"] = json!(10)),
        pod("high", "500m", |pod| pod["spec"]["priority"] = json!(5)),
    ]);
    assert_eq!(bound(&mut scheduler), ["high", "old", "young"]);
    let nothing =
        "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let why = format!("0/1 nodes are available: 1 Insufficient cpu. {nothing}");
    assert_eq!(told(&mut scheduler), [("big".to_owned(), why)]);
    assert_eq!(told(&mut scheduler), [], "it is told once");
}

#[test]
fn a_pod_that_does_not_fit_is_told_all_reasons_and_bound_when_room_is_free() {
    let pods: Vec<Pod> = ["a", "b", "c", "d"].into_iter().map(|name| pod(name, "300m", |_| {})).collect();
    let mut scheduler = with(&pods);
    assert_eq!(bound(&mut scheduler), ["a", "b", "c"]);
    assert_eq!(scheduler.tell(T0), None, "it may find room at once");
    assert_eq!(scheduler.wake(), Some(T0 + 500.milliseconds()));
    let victims = "no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    let why = format!("0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods. {victims}");
    assert_eq!(told(&mut scheduler), [("d".to_owned(), why)]);
    scheduler.see(&assigned(&pods[0]), T0);
    assert_eq!(bound(&mut scheduler), [""; 0]);
    let mut over = assigned(&pods[0]);
    over.status = Some(serde_json::from_value(json!({ "phase": "Succeeded" })).unwrap());
    scheduler.see(&over, T0);
    let seat = scheduler.next(T0).unwrap();
    assert_eq!((&*seat.name, seat.had_waited), ("d", true));
}

#[test]
fn what_a_pod_was_told_before_a_restart_is_not_told_again() {
    let first = pod("a", "2", |_| {});
    let why = told(&mut {
        let mut scheduler = with(std::slice::from_ref(&first));
        assert_eq!(scheduler.next(T0), None);
        scheduler
    });
    let shown = pod("a", "2", |pod| {
        let condition =
            json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why[0].1 });
        pod["status"] = json!({ "conditions": [condition] });
    });
    let mut scheduler = with(&[shown]);
    assert_eq!(scheduler.next(T0), None);
    assert_eq!(told(&mut scheduler), []);
}

/// A binding whose outcome is unknown may have been performed: its room given to another would be taken twice.
#[test]
fn a_reserved_pod_keeps_its_room_until_it_is_refused_or_gone() {
    let (first, second) = (pod("a", "1", |_| {}), pod("b", "1", |_| {}));
    let mut scheduler = with(&[first.clone(), second]);
    assert_eq!(bound(&mut scheduler), ["a"]);
    scheduler.see(&first, T0);
    let deleted = pod("a", "1", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    scheduler.see(&deleted, T0);
    assert_eq!(bound(&mut scheduler), [""; 0], "what is seen may be older than the binding");
    scheduler.refused(&Uid::from("a"));
    assert_eq!(bound(&mut scheduler), ["b"]);
    scheduler.gone(&Uid::from("b"));
    assert_eq!(bound(&mut scheduler), [""; 0], "a refused pod waits to be seen again");
    scheduler.see(&first, T0);
    assert_eq!(bound(&mut scheduler), ["a"]);
}

#[test]
fn a_change_of_the_node_is_looked_at_again() {
    let mut scheduler = Scheduler::new("n");
    scheduler.see(&pod("a", "1", |_| {}), T0);
    assert_eq!(scheduler.next(T0), None);
    assert_eq!(told(&mut scheduler), [("a".to_owned(), "no nodes available to schedule pods".to_owned())]);
    scheduler.node(Some(&node(&json!({ "spec": { "unschedulable": true } }))));
    assert_eq!(scheduler.next(T0), None);
    assert!(told(&mut scheduler)[0].1.starts_with("0/1 nodes are available: 1 node(s) were unschedulable. "));
    scheduler.node(Some(&node(&json!({ "spec": { "taints": [{ "key": "k", "effect": "NoSchedule" }] } }))));
    assert_eq!(scheduler.next(T0), None);
    assert!(told(&mut scheduler)[0].1.starts_with("0/1 nodes are available: 1 node(s) had untolerated taint(s). "));
    scheduler.node(Some(&node(&json!({}))));
    assert_eq!(bound(&mut scheduler), ["a"]);
}

#[test]
fn a_pod_that_another_keeps_away_does_not_hold_up_those_that_wish_for_the_same() {
    let apart = json!({ "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
        { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "app": "web" } } },
    ]}});
    let web = |name| pod(name, "0", |pod| pod["metadata"]["labels"] = json!({ "app": "web" }));
    let hermit = pod("hermit", "0", |pod| {
        pod["spec"]["affinity"] = apart;
        pod["spec"]["priority"] = json!(1);
    });
    let mut scheduler = with(&[hermit, web("w1"), pod("x", "0", |_| {}), web("w2")]);
    assert_eq!(bound(&mut scheduler), ["hermit", "x"]);
    let told = told(&mut scheduler);
    assert_eq!(told.len(), 2);
    assert!(told[0].1.contains(": 1 node(s) didn't satisfy existing pods anti-affinity rules. "), "{told:?}");
    scheduler.gone(&Uid::from("hermit"));
    assert_eq!(bound(&mut scheduler), ["w1", "w2"]);
}

#[test]
fn pods_that_are_no_longer_listed_are_gone() {
    let mut scheduler = with(&[pod("a", "1", |_| {}), pod("b", "1", |_| {})]);
    assert_eq!(bound(&mut scheduler), ["a"]);
    scheduler.retain(&[Uid::from("b")].into());
    assert_eq!(bound(&mut scheduler), ["b"]);
}

#[derive(Clone, Debug)]
enum Deed {
    /// A pod appears: tenths of the CPU, priority.
    Come(u8, u8),
    /// One of those that are there goes.
    Go(usize),
    /// Binding one that is bound is refused, and it is seen again.
    Refuse(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0_u8..12, 0_u8..3).prop_map(|(cpu, priority)| Deed::Come(cpu, priority)),
        2 => (0_usize..20).prop_map(Deed::Go),
        1 => (0_usize..20).prop_map(Deed::Refuse),
    ]
}

/// What is there, by name: tenths of the CPU, priority, number, whether it is bound.
type Model = BTreeMap<String, (u8, u8, usize, bool)>;

/// Binds as the scheduler should: looks at all that wait, again and again.
fn bind_by_hand(model: &mut Model) -> Vec<String> {
    let mut order = Vec::new();
    loop {
        let taken = || model.values().filter(|pod| pod.3);
        let (cpu, pods) = (taken().map(|pod| u32::from(pod.0)).sum::<u32>(), taken().count());
        let fits = |pod: &(u8, u8, usize, bool)| !pod.3 && pods < 3 && (pod.0 == 0 || u32::from(pod.0) + cpu <= 10);
        let next = model.iter().filter(|(_, pod)| fits(pod)).min_by_key(|(_, pod)| (std::cmp::Reverse(pod.1), pod.2));
        let Some(name) = next.map(|(name, _)| name.clone()) else { return order };
        model.get_mut(&name).unwrap().3 = true;
        order.push(name);
    }
}

proptest! {
    #[test]
    fn it_binds_what_looking_at_every_pod_would(deeds in prop::collection::vec(deed(), 1..60)) {
        let mut scheduler = with(&[]);
        let mut model = Model::new();
        let mut manifests: BTreeMap<String, Pod> = BTreeMap::new();
        for (number, deed) in deeds.into_iter().enumerate() {
            match deed {
                Deed::Come(cpu, priority) => {
                    let name = format!("p{number:02}");
                    let manifest = pod(&name, &format!("{}m", u32::from(cpu) * 100), |pod| pod["spec"]["priority"] = json!(priority));
                    scheduler.see(&manifest, T0);
                    manifests.insert(name.clone(), manifest);
                    model.insert(name, (cpu, priority, number, false));
                }
                Deed::Go(which) => {
                    let Some(name) = model.keys().nth(which).cloned() else { continue };
                    scheduler.gone(&Uid::from(name.as_str()));
                    model.remove(&name);
                }
                Deed::Refuse(which) => {
                    let Some(name) = model.iter().filter(|(_, pod)| pod.3).nth(which).map(|(name, _)| name.clone()) else { continue };
                    scheduler.refused(&Uid::from(name.as_str()));
                    scheduler.see(&manifests[&name], T0);
                    let pod = model.get_mut(&name).unwrap();
                    (pod.2, pod.3) = (number, false);
                }
            }
            prop_assert_eq!(bound(&mut scheduler), bind_by_hand(&mut model));
            prop_assert_eq!(scheduler.next(T0), None);
        }
    }
}

fn claim(name: &str, phase: &str, mode: &str) -> PersistentVolumeClaim {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" }, "spec": { "accessModes": [mode] }, "status": { "phase": phase },
    }))
    .unwrap()
}

fn naming(name: &str, claim: &str) -> Pod {
    pod(name, "0", |pod| {
        pod["spec"]["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }]);
    })
}

#[test]
fn a_pod_waits_until_its_claim_is_bound() {
    let mut scheduler = with(&[naming("a", "c")]);
    let preemption =
        "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let expect = |scheduler: &mut Scheduler, why: &str| {
        assert!(bound(scheduler).is_empty());
        assert_eq!(told(scheduler), [("a".to_owned(), format!("0/1 nodes are available: {why}. {preemption}"))]);
    };
    expect(&mut scheduler, "persistentvolumeclaim \"c\" not found");
    scheduler.claim(&claim("c", "Pending", "ReadWriteOnce"));
    expect(&mut scheduler, "pod has unbound immediate PersistentVolumeClaims");
    let mut leaving = claim("c", "Bound", "ReadWriteOnce");
    leaving.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(T0));
    scheduler.claim(&leaving);
    expect(&mut scheduler, "persistentvolumeclaim \"c\" is being deleted");
    scheduler.claim(&claim("other", "Bound", "ReadWriteOnce"));
    assert!(bound(&mut scheduler).is_empty());
    scheduler.claim(&claim("c", "Bound", "ReadWriteOnce"));
    assert_eq!(bound(&mut scheduler), ["a"]);
}

#[test]
fn one_pod_at_a_time_has_a_claim_that_is_for_one() {
    let mut scheduler = with(&[naming("a", "one"), naming("b", "one"), naming("c", "many"), naming("d", "many")]);
    scheduler.claim(&claim("one", "Bound", "ReadWriteOncePod"));
    scheduler.claim(&claim("many", "Bound", "ReadWriteOnce"));
    assert_eq!(bound(&mut scheduler), ["a", "c", "d"]);
    let why = "1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
    assert!(told(&mut scheduler)[0].1.starts_with(&format!("0/1 nodes are available: {why}. ")));
    scheduler.see(&assigned(&naming("a", "one")), T0);
    assert!(bound(&mut scheduler).is_empty());
    scheduler.gone(&Uid::from("a"));
    assert_eq!(bound(&mut scheduler), ["b"]);
}
