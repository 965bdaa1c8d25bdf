//! What people are told of a pod's life.

use super::*;

#[test]
fn a_life_is_told_in_the_kubelets_words() {
    let mut world = World::new(&pod("Never", &["i"], &["c"]));
    world.send(Event::Accepted);
    assert_eq!(world.send(Event::VolumesReady), "pull i, *");
    assert_eq!(world.heard(), [""; 0]);
    assert_eq!(world.send(Event::Pulling { container: "i".to_owned() }), "");
    let origin = Origin::Pulled { since: world.now, bytes: 12 };
    world.now += SignedDuration::from_millis(1250);
    world.send(Event::ImageReady { container: "i".to_owned(), image_id: "sha256:1".to_owned(), origin });
    world.started("i");
    let of_init = "spec.initContainers{i}";
    assert_eq!(
        world.heard(),
        [
            format!("{of_init} Pulling: Pulling image \"perl:5.34.0\""),
            format!(
                "{of_init} Pulled: Successfully pulled image \"perl:5.34.0\" in 1.25s (1.25s including waiting). Image \
                 size: 12 bytes."
            ),
            format!("{of_init} Created: Container created"),
            format!("{of_init} Started: Container started"),
        ]
    );
    world.exits("i", 0);
    world.image("c");
    world.started("c");
    assert_eq!(
        world.heard(),
        [
            "spec.containers{c} Pulled: Container image \"perl:5.34.0\" already present on machine and can be accessed by \
             the pod",
            "spec.containers{c} Created: Container created",
            "spec.containers{c} Started: Container started",
        ]
    );
    world.send(Event::DeleteAsked { grace: 30 });
    assert_eq!(world.heard(), ["spec.containers{c} Killing: Stopping container c"]);
    world.doze();
    world.exits("c", 137);
    world.send(Event::TornDown);
    assert_eq!(world.heard(), [""; 0], "an end is told once, and nothing of what follows from it");
}

#[test]
fn failures_are_told_with_what_failed() {
    let c = |text: &str| format!("spec.containers{{c}} {text}");
    let fresh = || {
        let mut world = World::new(&pod("Never", &[], &["c"]));
        world.send(Event::Accepted);
        world
    };
    let mut world = fresh();
    world.send(Event::VolumesFailed { message: "no volume".to_owned() });
    assert_eq!(world.heard(), ["pod !FailedMount: no volume"]);

    let table = [
        ("ErrImagePull", "!Failed: Failed to pull image \"perl:5.34.0\": m"),
        ("InvalidImageName", "!InspectFailed: m"),
        ("ImageInspectError", "!InspectFailed: m"),
        ("ErrImageNeverPull", "!ErrImageNeverPull: m"),
    ];
    for (reason, told) in table {
        let mut world = fresh();
        world.send(Event::VolumesReady);
        let (container, message) = ("c".to_owned(), "m".to_owned());
        world.send(Event::ImageFailed { container, reason: reason.to_owned(), message, again: Again::Later });
        assert_eq!(world.heard(), [c(told), c(&format!("!Failed: Error: {reason}"))]);
        if reason == "ErrImagePull" {
            world.doze();
            let told = [c("BackOff: Back-off pulling image \"perl:5.34.0\""), c("!Failed: Error: ImagePullBackOff")];
            assert_eq!(world.heard(), told);
        }
    }

    let mut world = fresh();
    world.send(Event::VolumesReady);
    world.image("c");
    world.heard();
    let (container, attempt) = ("c".to_owned(), Attempt(0));
    let (reason, message) = ("CreateContainerConfigError".to_owned(), "m".to_owned());
    world.send(Event::ConfigFailed { container: container.clone(), attempt, reason, message });
    assert_eq!(world.heard(), [c("!Failed: Error: m")]);
    world.live.clear();
    world.doze();
    world.image("c");
    world.heard();
    world.send(Event::StartFailed { container, attempt, message: "m".to_owned() });
    assert_eq!(world.heard(), [c("Created: Container created"), c("!Failed: Error: m")]);
}

#[test]
fn a_back_off_a_deadline_and_an_eviction_are_told() {
    let mut world = World::running("OnFailure");
    world.exits("c", 1);
    world.image("c");
    world.started("c");
    world.heard();
    world.exits("c", 1);
    let told = "spec.containers{c} !BackOff: Back-off restarting failed container c in pod p_ns(uid)";
    assert_eq!(world.heard(), [told], "the first restart came at once, and was not told");

    let killing = "spec.containers{c} Killing: Stopping container c";
    let mut world = World::running("Never");
    world.heard();
    world.send(Event::Evicted { why: Eviction::OverLimit, message: "no room".to_owned() });
    assert_eq!(world.heard(), ["pod !Evicted: no room", killing]);

    let mut world = World::new(&pod("Never", &[], &["c"]));
    world.send(Event::Rejected { reason: "Evicted", message: "The node is full. ".to_owned() });
    assert_eq!(world.heard(), ["pod !Evicted: The node is full. "]);
    assert_eq!(world.told.message.as_deref(), Some("Pod was rejected: The node is full. "));

    let mut spec = pod("Never", &[], &["c"]);
    spec.spec.as_mut().unwrap().active_deadline_seconds = Some(60);
    let mut world = World::new(&spec);
    world.send(Event::Accepted);
    world.sleep(60);
    let told = "pod DeadlineExceeded: Pod was active on the node longer than the specified deadline";
    assert_eq!(world.heard(), [told], "nothing ran that could be stopped");
}

#[test]
fn a_back_off_that_lasts_is_told_again_and_again() {
    let mut world = World::running("Always");
    for _ in 0..3 {
        world.exits("c", 1);
        if matches!(world.state.life("c"), Some(Life::CrashLoop { .. })) {
            world.doze();
        }
        world.image("c");
        world.started("c");
    }
    world.heard();
    world.exits("c", 1);
    assert_eq!(world.doze(), (40, "pull c, *".to_owned()));
    let told = "spec.containers{c} !BackOff: Back-off restarting failed container c in pod p_ns(uid)";
    assert_eq!(world.heard(), [told; 4], "at once, and after 12, 24 and 36 seconds");
}
