//! What probes make of a pod.

use k8s_openapi::api::core::v1::Probe;

use super::*;

fn probe(grace: Option<i64>) -> Probe {
    Probe { termination_grace_period_seconds: grace, ..Probe::default() }
}

/// A pod whose container `c`, or sidecar `side` where there is one, has these probes.
fn probed(mut pod: Pod, set: impl FnOnce(&mut ContainerSpec)) -> World {
    let spec = pod.spec.as_mut().unwrap();
    let first = spec.init_containers.iter_mut().flatten().next();
    set(first.unwrap_or(&mut spec.containers[0]));
    let mut world = World::new(&pod);
    world.send(Event::Accepted);
    world.send(Event::VolumesReady);
    world
}

fn ready(world: &World) -> (bool, bool) {
    let all = world.told.init_container_statuses.iter().chain(&world.told.container_statuses).flatten();
    let first = all.into_iter().next().unwrap();
    (first.started.unwrap(), first.ready)
}

#[test]
fn a_container_is_ready_when_its_probes_say_so() {
    let mut world = probed(pod("Never", &[], &["c"]), |c| {
        c.startup_probe = Some(probe(None));
        c.readiness_probe = Some(probe(None));
    });
    world.image("c");
    assert_eq!(world.started("c"), "probe c/0, *");
    assert_eq!((world.phase(), ready(&world)), ("Running", (false, false)));
    assert_eq!(world.condition("Ready"), "False ContainersNotReady: containers with unready status: [c]");
    assert_eq!(world.probed("c", ProbeKind::Startup, Change::Started), "*");
    assert_eq!(ready(&world), (true, false));
    assert_eq!(world.probed("c", ProbeKind::Readiness, Change::Ready), "*");
    assert_eq!((ready(&world), world.condition("ContainersReady").as_str()), ((true, true), "True"));
    world.heard();
    assert_eq!(world.probed("c", ProbeKind::Readiness, Change::NotReady), "*");
    assert_eq!(ready(&world), (true, false));
    assert_eq!(world.heard(), ["spec.containers{c} !Unhealthy: Readiness probe failed: no"]);
    assert_eq!(world.exits("c", 0), "remove c/0, teardown, *");
    assert_eq!(ready(&world), (false, false));
}

#[test]
fn a_container_that_is_not_live_is_ended_and_started_again() {
    let mut world = probed(pod("OnFailure", &[], &["c"]), |c| c.liveness_probe = Some(probe(None)));
    world.image("c");
    world.started("c");
    assert_eq!(ready(&world), (true, true));
    world.heard();
    assert_eq!(world.probed("c", ProbeKind::Liveness, Change::Failed), "signal c");
    let told =
        ["Unhealthy: Liveness probe failed: no", "Killing: Container c failed liveness probe, will be restarted"];
    assert_eq!(
        world.heard(),
        [format!("spec.containers{{c}} !{}", told[0]), format!("spec.containers{{c}} {}", told[1])]
    );
    assert_eq!(world.probed("c", ProbeKind::Liveness, Change::Failed), "");
    assert_eq!(world.heard(), [""; 0], "it is on its way out already");
    assert_eq!(world.doze(), (30, "kill c".to_owned()));
    assert_eq!(world.exits("c", 0), "remove c/0, pull c, *", "whatever its code, it is started again at once");
    assert_eq!(world.phase(), "Running");
    world.image("c");
    assert_eq!(world.started("c"), "probe c/1, *");
    world.sleep(4);
    world.probed("c", ProbeKind::Liveness, Change::Failed);
    assert_eq!(world.exits("c", 143), "remove c/1, *");
    assert_eq!(world.doze(), (6, "pull c, *".to_owned()), "ten seconds after the end before");
}

#[test]
fn a_probe_may_have_a_grace_of_its_own() {
    let fails = [(ProbeKind::Liveness, 7), (ProbeKind::Startup, 9)];
    for (kind, grace) in fails {
        let mut world = probed(pod("Never", &[], &["c"]), |c| {
            c.liveness_probe = Some(probe(Some(7)));
            c.startup_probe = Some(probe(Some(9)));
        });
        world.image("c");
        world.started("c");
        world.heard();
        world.probed("c", kind, Change::Failed);
        let killing = format!("Container c failed {} probe", kind.as_str().to_lowercase());
        assert!(world.heard().last().unwrap().ends_with(&killing), "{killing}");
        assert_eq!(world.doze(), (grace, "kill c".to_owned()));
        assert_eq!(world.exits("c", 137), "remove c/0, teardown, *");
        assert_eq!(world.phase(), "Failed");
    }
}

#[test]
fn the_next_init_container_waits_until_a_sidecar_has_started() {
    let mut world = probed(pod("Never", &["side", "i"], &["c"]), |side| side.startup_probe = Some(probe(None)));
    world.image("side");
    assert_eq!(world.started("side"), "probe side/0, *");
    assert_eq!((world.phase(), ready(&world)), ("Pending", (false, false)));
    assert_eq!(
        world.condition("Initialized"),
        "False ContainersNotInitialized: containers with incomplete status: [side i]"
    );
    world.heard();
    world.probed("side", ProbeKind::Startup, Change::Failed);
    let killing = "spec.initContainers{side} Killing: Init container side failed startup probe";
    assert_eq!(world.heard().last().unwrap(), killing);
    assert_eq!(world.exits("side", 143), "remove side/0, pull side, *", "i waits for a sidecar that has ended, too");
    world.image("side");
    world.started("side");
    assert_eq!(world.probed("side", ProbeKind::Startup, Change::Started), "pull i, *");
    assert_eq!(ready(&world), (true, true));
    assert_eq!(world.exits("side", 1), "remove side/1, *");
    world.image("i");
    world.started("i");
    assert_eq!(world.exits("i", 0), "remove i/0, pull c, *", "it has been up once");
}

#[test]
fn nobody_is_killed_by_a_probe_while_the_pod_is_being_ended() {
    let mut world = probed(pod("Never", &[], &["c"]), |c| c.liveness_probe = Some(probe(Some(1))));
    world.image("c");
    world.started("c");
    world.send(Event::DeleteAsked { grace: 30 });
    world.heard();
    assert_eq!(world.probed("c", ProbeKind::Liveness, Change::Failed), "");
    assert_eq!(world.heard(), [""; 0]);
    assert_eq!(world.doze(), (30, "kill c".to_owned()));
}

#[test]
fn a_container_that_is_being_replaced_is_ended_with_its_pod() {
    let mut world = probed(pod("Always", &[], &["c"]), |c| c.liveness_probe = Some(probe(Some(100))));
    world.image("c");
    world.started("c");
    world.probed("c", ProbeKind::Liveness, Change::Failed);
    assert_eq!(world.send(Event::DeleteAsked { grace: 5 }), "");
    assert_eq!(world.doze(), (5, "kill c".to_owned()));
    assert_eq!(world.exits("c", 137), "remove c/0, teardown, *");
}

#[test]
fn who_is_asked_late_has_two_seconds_all_the_same() {
    let mut world = World::new(&pod("Never", &["side"], &["c"]));
    world.send(Event::Accepted);
    world.send(Event::VolumesReady);
    world.image("side");
    world.started("side");
    world.image("c");
    world.started("c");
    assert_eq!(world.send(Event::DeleteAsked { grace: 10 }), "signal c");
    assert_eq!(world.doze(), (10, "signal side, kill c".to_owned()));
    assert_eq!(world.doze(), (2, "kill side".to_owned()));
}

#[test]
fn how_a_container_stood_outlives_the_agent() {
    let set = |c: &mut ContainerSpec| {
        c.startup_probe = Some(probe(None));
        c.readiness_probe = Some(probe(None));
    };
    let mut world = probed(pod("Never", &[], &["c"]), set);
    world.image("c");
    world.started("c");
    let recover = |world: &World| {
        let life = FoundAttempt::Running { since: world.now };
        let found = Found { container: "c".to_owned(), attempt: Attempt(0), id: "c-0".to_owned(), life };
        let state = State::recovered(&world.state.facts, &world.told, vec![found], Remains::Containers, world.now);
        status(&state, &world.told, &Place::default(), world.now)
    };
    assert_eq!(recover(&world), world.told);
    world.probed("c", ProbeKind::Startup, Change::Started);
    assert_eq!(recover(&world), world.told);
    world.probed("c", ProbeKind::Readiness, Change::Ready);
    assert_eq!(recover(&world), world.told);
    assert!(world.told.container_statuses.as_ref().unwrap()[0].ready);
}
