//! What hooks make of a pod.

use k8s_openapi::api::core::v1::{Lifecycle, LifecycleHandler};

use super::HookKind::{PostStart, PreStop};
use super::HookResult::{Done, Failed};
use super::*;

/// A pod whose containers that are named have both hooks, where its containers are to be started.
fn hooked(mut pod: Pod, names: &[&str]) -> World {
    let spec = pod.spec.as_mut().unwrap();
    let all = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    for container in all.filter(|c| names.contains(&c.name.as_str())) {
        let hook = || Some(LifecycleHandler::default());
        container.lifecycle = Some(Lifecycle { post_start: hook(), pre_stop: hook(), stop_signal: None });
    }
    let mut world = World::new(&pod);
    world.send(Event::Accepted);
    world.send(Event::VolumesReady);
    world
}

#[test]
fn a_container_is_told_to_run_when_its_hook_has_ended_and_others_wait_for_it() {
    let mut world = hooked(pod("Never", &[], &["c", "d"]), &["c"]);
    world.heard();
    assert_eq!(world.image("c"), "start c/0, *");
    assert_eq!(world.started("c"), "PostStart c");
    assert_eq!((world.phase(), world.shows("c").as_str()), ("Pending", "ContainerCreating"));
    assert!(world.heard().contains(&"spec.containers{c} Started: Container started".to_owned()));
    assert_eq!(world.hook_ended("c", PostStart, Done), "pull d, *");
    assert_eq!(world.shows("c"), "running");
    world.image("d");
    world.started("d");
    assert_eq!(world.phase(), "Running");
}

#[test]
fn a_container_whose_hook_failed_is_ended_and_started_again() {
    let mut world = hooked(pod("Always", &[], &["c"]), &["c"]);
    world.image("c");
    world.started("c");
    world.heard();
    assert_eq!(world.hook_ended("c", PostStart, Failed), "PreStop c");
    let told = ["!FailedPostStartHook: PostStartHook failed", "Killing: FailedPostStartHook"];
    assert_eq!(world.heard(), told.map(|text| format!("spec.containers{{c}} {text}")));
    assert_eq!(world.hook_ended("c", PreStop, Done), "signal c");
    assert_eq!(world.exits("c", 0), "remove c/0, pull c, *");
    assert_eq!(world.shows("c"), "Completed 0");
    world.image("c");
    assert_eq!(world.started("c"), "PostStart c");
    assert_eq!(world.exits("c", 3), "remove c/1, *", "it may end before its hook does");
    assert_eq!(world.hook_ended("c", PostStart, Failed), "", "that hook is of a run that is over");
}

#[test]
fn the_hook_before_the_end_is_within_the_grace() {
    let running = || {
        let mut world = hooked(pod("Never", &[], &["c"]), &["c"]);
        world.image("c");
        world.started("c");
        world.hook_ended("c", PostStart, Done);
        world.heard();
        assert_eq!(world.send(Event::DeleteAsked { grace: 30 }), "PreStop c");
        assert_eq!(world.heard(), ["spec.containers{c} Killing: Stopping container c"]);
        world
    };
    let mut quick = running();
    quick.sleep(10);
    assert_eq!(quick.hook_ended("c", PreStop, Done), "signal c");
    assert_eq!(quick.doze(), (20, "kill c".to_owned()));

    let mut broken = running();
    assert_eq!(broken.hook_ended("c", PreStop, Failed), "signal c");
    assert_eq!(broken.heard(), ["spec.containers{c} !FailedPreStopHook: PreStopHook failed"]);

    let mut slow = running();
    assert_eq!(slow.doze(), (30, "signal c".to_owned()));
    assert_eq!(slow.hook_ended("c", PreStop, Done), "");
    assert_eq!(slow.doze(), (2, "kill c".to_owned()));

    let mut hasty = running();
    assert_eq!(hasty.send(Event::DeleteAsked { grace: 0 }), "kill c", "there is no time left");
}

#[test]
fn sidecars_run_their_hooks_at_once_and_end_in_their_turn() {
    let mut world = hooked(pod("Never", &["side1", "side2"], &["c"]), &["side1", "side2"]);
    for side in ["side1", "side2"] {
        world.image(side);
        world.started(side);
        world.hook_ended(side, PostStart, Done);
    }
    world.image("c");
    world.started("c");
    assert_eq!(world.send(Event::DeleteAsked { grace: 30 }), "PreStop side1, PreStop side2, signal c");
    assert_eq!(world.hook_ended("side1", PreStop, Done), "");
    assert_eq!(world.hook_ended("side2", PreStop, Done), "", "c is still there");
    assert_eq!(world.exits("c", 0), "remove c/0, signal side2, *");
    assert_eq!(world.exits("side2", 0), "remove side2/0, signal side1, *");
}

#[test]
fn a_pod_that_is_deleted_during_a_hook_is_ended() {
    let mut world = hooked(pod("Never", &[], &["c"]), &["c"]);
    world.image("c");
    world.started("c");
    assert_eq!(world.send(Event::DeleteAsked { grace: 30 }), "PreStop c");
    assert_eq!(world.hook_ended("c", PostStart, Failed), "");
    assert_eq!(world.hook_ended("c", PreStop, Done), "signal c");
    assert_eq!(world.exits("c", 0), "remove c/0, teardown, *");
}
