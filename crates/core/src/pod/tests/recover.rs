//! Pods as a new agent finds them.

use super::*;

/// The state that an agent makes of what the API was told and of `found`.
fn recovered(world: &World, found: Vec<Found>, remains: Remains) -> State {
    State::recovered(&world.state.facts, &world.told, found, remains, world.now)
}

/// A run that goes on.
fn running(world: &World, container: &str, attempt: u32) -> Found {
    let life = FoundAttempt::Running { since: world.now };
    Found { container: container.to_owned(), attempt: Attempt(attempt), id: format!("{container}-{attempt}"), life }
}

/// A run of no time that failed.
fn failed(now: Timestamp) -> Exit {
    Exit { code: 1, signal: None, oom_killed: false, lost: false, started_at: now, finished_at: now, message: None }
}

/// A pod whose init container `i` has ended well and whose `c` runs.
fn past_init(policy: &str) -> World {
    let mut world = World::active(&pod(policy, &["i"], &["c", "d"]));
    world.image("i");
    world.started("i");
    world.exits("i", 0);
    for name in ["c", "d"] {
        world.image(name);
        world.started(name);
    }
    world
}

#[test]
fn what_had_ended_is_not_run_again_though_its_record_is_gone() {
    for policy in ["Never", "OnFailure"] {
        let mut world = past_init(policy);
        world.exits("d", 0);
        let state = recovered(&world, vec![running(&world, "c", 0)], Remains::Containers);
        let shown = status(&state, &world.told, &Place::default(), world.now);
        assert_eq!(shown.init_container_statuses, world.told.init_container_statuses);
        assert_eq!(shown.container_statuses, world.told.container_statuses);
        assert_eq!(step(state.clone(), Event::Tick, world.now).effects, [], "{policy}");
        // With its last container it ends, and ends well.
        world.state = state;
        world.exits("c", 0);
        assert_eq!(world.phase(), "Succeeded");
    }
}

#[test]
fn an_end_that_is_on_record_and_in_the_api_is_one_end() {
    let mut world = World::running("OnFailure");
    world.exits("c", 1);
    let exit = failed(world.now);
    let life = FoundAttempt::Exited(exit);
    let found = Found { container: "c".to_owned(), attempt: Attempt(0), id: "c-0".to_owned(), life };
    let state = recovered(&world, vec![found], Remains::Files);
    assert_eq!(state.attempt("c"), Some(Attempt(1)));
    assert_eq!(state.containers[0].previous, None);
}

#[test]
fn restarts_are_counted_and_waited_for_across_agents() {
    let mut world = World::running("OnFailure");
    for _ in 0..3 {
        world.exits("c", 1);
        while world.state.life("c") != Some(&Life::Pulling) {
            world.doze();
        }
        world.image("c");
        world.started("c");
    }
    world.exits("c", 1);
    assert_eq!(world.shows("c"), "CrashLoopBackOff after Error 1 x3");
    let state = recovered(&world, vec![], Remains::Files);
    let transition = step(step(state, Event::Tick, world.now).state, Event::VolumesReady, world.now);
    assert_eq!(transition.state.attempt("c"), Some(Attempt(4)));
    assert_eq!(transition.state.containers[0].life, world.state.containers[0].life, "waits until the same time");
    assert_eq!(status(&transition.state, &world.told, &Place::default(), world.now), world.told);
}

#[test]
fn a_reboot_runs_init_containers_anew_where_others_are_started_again() {
    for (policy, again) in [("Never", false), ("OnFailure", true), ("Always", true)] {
        let world = past_init(policy);
        let state = recovered(&world, vec![], Remains::Nothing);
        assert_eq!(state.life("i"), Some(&if again { Life::Idle } else { Life::Ended }), "{policy}");
        assert_eq!(state.attempt("i"), Some(Attempt(u32::from(again))), "its logs do not mix");
        assert_eq!(state.life("c") == Some(&Life::Ended), !again, "{policy}");
    }
    let mut world = past_init("OnFailure");
    world.exits("c", 0);
    world.exits("d", 0);
    world.told.phase = Some("Running".to_owned()); // the agent was killed before it told the end
    let state = recovered(&world, vec![], Remains::Nothing);
    assert_eq!(state.life("i"), Some(&Life::Ended), "nothing comes after it");
}

#[test]
fn a_container_whose_image_changed_meanwhile_is_started_again() {
    let world = World::running("Never");
    let mut facts = (*world.state.facts).clone();
    facts.containers[0].image = "perl:6".to_owned();
    let found = vec![running(&world, "c", 0)];
    let state = State::recovered(&Arc::new(facts), &world.told, found, Remains::Containers, world.now);
    let effects = step(state, Event::Tick, world.now).effects;
    assert!(effects.contains(&Effect::Signal { container: "c".to_owned(), attempt: Attempt(0) }), "{effects:?}");
}

#[test]
fn a_recovered_pod_goes_on() {
    let mut world = World::running("OnFailure");
    world.exits("c", 1);
    world.image("c");
    world.started("c");
    let told = world.told.clone();
    let exit = failed(world.now);
    let found =
        |attempt, life| Found { container: "c".to_owned(), attempt: Attempt(attempt), id: "x".to_owned(), life };
    let running = found(1, FoundAttempt::Running { since: world.now });
    let recover =
        |found: Vec<Found>| State::recovered(&world.state.facts, &told, found, Remains::Containers, world.now);

    let state = recover(vec![running, found(0, FoundAttempt::Exited(exit.clone()))]);
    let shown = status(&state, &told, &Place::default(), world.now);
    assert_eq!(shown.container_statuses.unwrap()[0].restart_count, 1);
    assert_eq!(step(state, Event::Tick, world.now).effects, []);

    let ended = (0..2).map(|n| found(n, FoundAttempt::Exited(exit.clone()))).collect();
    let transition = step(recover(ended), Event::Tick, world.now);
    assert_eq!(transition.effects, [], "its second crash is waited for");
    assert_eq!(transition.wake, Some(world.now + SignedDuration::from_secs(10)));

    let lost = step(recover(vec![]), Event::Tick, world.now).state;
    let shown = status(&lost, &told, &Place::default(), world.now).container_statuses.unwrap().remove(0);
    assert_eq!(shown.last_state.unwrap().terminated.unwrap().reason.as_deref(), Some("ContainerStatusUnknown"));
}

#[test]
fn a_recovered_pod_that_the_api_knows_as_ended_is_only_cleaned_up() {
    let mut world = World::running("Never");
    world.exits("c", 0);
    let state = State::recovered(&world.state.facts, &world.told, vec![], Remains::Files, world.now);
    assert!(state.is_ended());
    assert_eq!(step(state, Event::TornDown, world.now).effects, []);
}
