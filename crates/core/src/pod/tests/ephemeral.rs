//! Containers that are added to a pod that runs, to look at it.

use k8s_openapi::api::core::v1::EphemeralContainer;

use super::*;

fn debugger(name: &str) -> Event {
    let spec = EphemeralContainer { name: name.to_owned(), image: Some("busybox:1".to_owned()), ..Default::default() };
    Event::Joined { ephemeral: vec![ContainerFacts::of_ephemeral(&spec)] }
}

#[test]
fn a_container_that_joins_runs_once_beside_the_others_and_counts_for_nothing() {
    let mut world = World::active(&pod("Always", &[], &["c"]));
    world.image("c");
    world.started("c");
    assert_eq!(world.send(debugger("d")), "pull d, *");
    assert_eq!(world.send(debugger("d")), "", "it is there already");
    assert_eq!(world.image("d"), "start d/0, *");
    assert_eq!(world.started("d"), "*");
    assert!(world.heard().contains(&"spec.ephemeralContainers{d} Started: Container started".to_owned()));
    let status = world.told.ephemeral_container_statuses.as_ref().unwrap()[0].clone();
    assert_eq!((status.ready, status.started, world.shows("d").as_str()), (false, None, "running"));
    let ready = world.told.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!((world.phase(), ready.status.as_str()), ("Running", "True"));
    assert_eq!(world.exits("d", 7), "remove d/0, *", "the pod's policy is not for it");
    assert_eq!((world.phase(), world.shows("d").as_str()), ("Running", "Error 7"));
}

#[test]
fn a_container_joins_also_where_an_init_container_is_stuck() {
    let mut world = World::active(&pod("Never", &["i"], &["c"]));
    world.image("i");
    world.started("i");
    assert_eq!(world.send(debugger("d")), "pull d, *");
    assert_eq!((world.image("d").as_str(), world.phase()), ("start d/0, *", "Pending"));
    world.started("d");
    assert_eq!(world.exits("i", 0), "remove i/0, pull c, *");
}

#[test]
fn a_pod_does_not_wait_for_those_that_joined_it() {
    let mut world = World::active(&pod("Never", &[], &["c"]));
    world.image("c");
    world.started("c");
    world.send(debugger("d"));
    world.image("d");
    world.started("d");
    assert_eq!(world.exits("c", 0), "remove c/0, signal d, *");
    assert_eq!(world.exits("d", 1), "remove d/0, teardown, *");
    assert_eq!(world.phase(), "Succeeded", "how it ended is nobody's business");
    assert_eq!(world.send(debugger("e")), "", "nobody joins a pod that has ended");
}

#[test]
fn who_joined_is_found_again() {
    let mut pod = pod("Never", &[], &["c"]);
    let spec = EphemeralContainer { name: "d".to_owned(), ..Default::default() };
    pod.spec.as_mut().unwrap().ephemeral_containers = Some(vec![spec]);
    let mut world = World::active(&pod);
    world.image("c");
    world.started("c");
    world.image("d");
    world.started("d");
    let found = |name: &str| Found {
        container: name.to_owned(),
        attempt: Attempt(0),
        id: format!("{name}-0"),
        life: FoundAttempt::Running { since: world.now },
    };
    let facts = Arc::new(Facts::of(&pod));
    let state = State::recovered(&facts, &world.told, vec![found("c"), found("d")], Remains::Containers, world.now);
    assert!(matches!(state.life("d"), Some(Life::Running { .. })));
    let lost = State::recovered(&facts, &world.told, vec![found("c")], Remains::Containers, world.now);
    assert_eq!(lost.life("d"), Some(&Life::Ended), "it is not started again");
}
