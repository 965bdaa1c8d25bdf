//! Containers whose image is changed while their pod is on its node (`kubectl set image`).

use super::*;

fn changed(world: &mut World, image: &str) -> String {
    world.send(Event::ImageChanged { container: "c".to_owned(), image: image.to_owned() })
}

#[test]
fn a_running_container_is_started_again_from_its_new_image_whatever_its_policy() {
    for policy in ["Never", "OnFailure", "Always"] {
        let mut world = World::running(policy);
        world.heard();
        assert_eq!(changed(&mut world, "perl:6"), "signal c");
        assert_eq!(world.heard(), ["spec.containers{c} Killing: Container c definition changed, will be restarted"]);
        assert_eq!(world.told.container_statuses.as_ref().unwrap()[0].image, "perl:5.34.0", "as long as it runs");
        assert_eq!(world.exits("c", 143), "remove c/0, pull c, *", "{policy}");
        assert_eq!(world.image("c"), "start c/1, *");
        world.started("c");
        assert_eq!(world.shows("c"), "running after Error 143 x1");
        assert_eq!(world.told.container_statuses.as_ref().unwrap()[0].image, "perl:6");
        assert_eq!(world.sleep(3600), "", "once");
    }
}

#[test]
fn an_image_that_could_not_be_had_gives_way_to_another_at_once() {
    let mut world = World::active(&pod("Never", &[], &["c"]));
    world.send(Event::ImageFailed {
        container: "c".to_owned(),
        reason: "InvalidImageName".to_owned(),
        message: "no".to_owned(),
        again: Again::Never,
    });
    assert!(changed(&mut world, "perl:6").contains("pull c"));
    assert_eq!(world.image("c"), "start c/0, *");
}

#[test]
fn an_image_that_was_being_pulled_is_not_started_once_another_is_wanted() {
    let mut world = World::active(&pod("Never", &[], &["c"]));
    assert_eq!(changed(&mut world, "perl:6"), "*");
    assert_eq!(world.image("c"), "pull c", "it was the old one");
    assert_eq!(world.image("c"), "start c/0, *");
}

#[test]
fn a_container_that_is_just_being_started_is_started_again_once_it_runs() {
    let mut world = World::active(&pod("Never", &[], &["c"]));
    world.image("c");
    assert_eq!(changed(&mut world, "perl:6"), "");
    assert_eq!(world.started("c"), "signal c, *");
}

#[test]
fn a_crash_of_the_old_image_does_not_delay_the_new_one() {
    let mut world = World::running("OnFailure");
    world.exits("c", 1);
    world.image("c");
    world.started("c");
    world.exits("c", 1);
    assert_eq!(world.shows("c"), "CrashLoopBackOff after Error 1 x1");
    assert!(changed(&mut world, "perl:6").starts_with("pull c"));
}

#[test]
fn a_container_that_has_ended_stays_ended() {
    let mut world = World::active(&pod("Never", &[], &["c", "d"]));
    for name in ["c", "d"] {
        world.image(name);
        world.started(name);
    }
    world.exits("c", 0);
    assert_eq!(changed(&mut world, "perl:6"), "");
    assert_eq!(world.state.life("c"), Some(&Life::Ended));
}
