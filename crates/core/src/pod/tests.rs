//! The lives of pods, told as stories, and properties that hold for every life.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerRestartRule, ContainerRestartRuleOnExitCodes, Pod, PodSpec, PodStatus,
};
use proptest::prelude::*;

use super::probe::{Change, ProbeKind};
use super::*;
use crate::plan::Severity;

mod ephemeral;
mod hooks;
mod images;
mod news;
mod probes;
mod recover;

/// A pod, a node that obeys, and a clock.
struct World {
    state: State,
    now: Timestamp,
    told: PodStatus,
    wake: Option<Timestamp>,
    /// Containers that run, with their attempts.
    live: Vec<(String, Attempt)>,
    signalled: Vec<String>,
    /// What was told since somebody last asked.
    news: Vec<News>,
}

fn pod(policy: &str, init: &[&str], main: &[&str]) -> Pod {
    let make = |name: &&str| {
        let sidecar = name.starts_with("side");
        ContainerSpec {
            name: (*name).to_owned(),
            image: Some("perl:5.34.0".to_owned()),
            restart_policy: sidecar.then(|| "Always".to_owned()),
            ..ContainerSpec::default()
        }
    };
    let mut pod = Pod::default();
    pod.metadata.name = Some("p".to_owned());
    pod.metadata.namespace = Some("ns".to_owned());
    pod.metadata.uid = Some("uid".to_owned());
    pod.spec = Some(PodSpec {
        restart_policy: Some(policy.to_owned()),
        init_containers: Some(init.iter().map(make).collect()),
        containers: main.iter().map(make).collect(),
        ..PodSpec::default()
    });
    pod
}

impl World {
    fn new(pod: &Pod) -> World {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let state = State::new(Arc::new(Facts::of(pod)), now);
        let told = PodStatus { qos_class: Some("BestEffort".to_owned()), ..PodStatus::default() };
        World { state, now, told, wake: None, live: vec![], signalled: vec![], news: vec![] }
    }

    /// Sends an event; returns the effects in short words, `*` for a status write.
    fn send(&mut self, event: Event) -> String {
        let transition = step(self.state.clone(), event, self.now);
        let mut words = Vec::new();
        for effect in &transition.effects {
            words.push(match effect {
                Effect::Tell(news) => {
                    self.news.push(news.clone());
                    continue;
                }
                Effect::PrepareVolumes => "volumes".to_owned(),
                Effect::PullImage { container } => format!("pull {container}"),
                Effect::StartContainer { container, attempt } => {
                    assert!(!self.live.iter().any(|(name, _)| name == container), "{container} is started twice");
                    self.live.push((container.clone(), *attempt));
                    format!("start {container}/{}", attempt.0)
                }
                Effect::Probe { container, attempt } => format!("probe {container}/{}", attempt.0),
                Effect::RunHook { container, hook, .. } => format!("{hook:?} {container}"),
                Effect::Signal { container, .. } => {
                    self.signalled.push(container.clone());
                    format!("signal {container}")
                }
                Effect::Kill { container, .. } => format!("kill {container}"),
                Effect::RemoveContainer { container, attempt } => format!("remove {container}/{}", attempt.0),
                Effect::WriteStatus => "*".to_owned(),
                Effect::TearDown => "teardown".to_owned(),
                Effect::Release => "release".to_owned(),
            });
        }
        self.state = transition.state;
        self.wake = transition.wake;
        self.told = status(&self.state, &self.told, &Place::default(), self.now);
        let again = step(self.state.clone(), Event::Tick, self.now);
        assert_eq!(again.effects, [], "a second step without news does something");
        assert_eq!(again.state, self.state);
        words.join(", ")
    }

    fn image(&mut self, container: &str) -> String {
        self.send(Event::ImageReady {
            container: container.to_owned(),
            image_id: "sha256:1".to_owned(),
            origin: Origin::Present,
        })
    }

    fn started(&mut self, container: &str) -> String {
        let attempt = self.state.attempt(container).unwrap();
        let id = format!("{container}-{}", attempt.0);
        self.send(Event::Started { container: container.to_owned(), attempt, id, at: self.now })
    }

    fn exits(&mut self, container: &str, code: i32) -> String {
        let attempt = self.state.attempt(container).unwrap();
        self.live.retain(|(name, _)| name != container);
        let since = match self.state.life(container) {
            Some(Life::Running { since, .. }) => *since,
            _ => self.now,
        };
        let exit = Exit {
            code,
            signal: None,
            oom_killed: false,
            lost: false,
            started_at: since,
            finished_at: self.now,
            message: None,
        };
        self.send(Event::Exited { container: container.to_owned(), attempt, exit })
    }

    /// A probe said what makes this change.
    fn probed(&mut self, container: &str, kind: ProbeKind, change: Change) -> String {
        let attempt = self.state.attempt(container).unwrap();
        let failed = matches!(change, Change::Failed | Change::NotReady);
        let told = failed.then(|| ("Unhealthy", format!("{} probe failed: no", kind.as_str())));
        let report = Report { kind, change: Some(change), told };
        self.send(Event::Probed { container: container.to_owned(), attempt, report })
    }

    fn hook_ended(&mut self, container: &str, hook: HookKind, result: HookResult) -> String {
        let attempt = self.state.attempt(container).unwrap();
        self.send(Event::HookEnded { container: container.to_owned(), attempt, hook, result })
    }

    fn sleep(&mut self, seconds: i64) -> String {
        self.now += SignedDuration::from_secs(seconds);
        self.send(Event::Tick)
    }

    /// Sleeps, as long as the state asks to be woken, until something is done other than to tell people; returns after how
    /// many seconds, and the effects.
    fn doze(&mut self) -> (i64, String) {
        let began = self.now;
        loop {
            self.now = self.wake.expect("the state waits for a time");
            let effects = self.send(Event::Tick);
            if !effects.is_empty() {
                return (self.now.duration_since(began).as_secs(), effects);
            }
        }
    }

    /// What was told since the last time, in short: what it is about, its reason and its message.
    fn heard(&mut self) -> Vec<String> {
        let one = |news: News| {
            let part = news.part.unwrap_or_else(|| "pod".to_owned());
            let sign = if news.severity == Severity::Warning { "!" } else { "" };
            format!("{part} {sign}{}: {}", news.reason, news.message)
        };
        self.news.drain(..).map(one).collect()
    }

    fn phase(&self) -> &str {
        self.told.phase.as_deref().unwrap()
    }

    /// State and last state of a container, in short.
    fn shows(&self, container: &str) -> String {
        let told = &self.told;
        let lists = [&told.init_container_statuses, &told.container_statuses, &told.ephemeral_container_statuses];
        let status = lists.into_iter().flatten().flatten().find(|s| s.name == container).unwrap();
        let one = |state: &k8s_openapi::api::core::v1::ContainerState| {
            let waiting = state.waiting.as_ref().map(|w| w.reason.clone().unwrap());
            let running = state.running.as_ref().map(|_| "running".to_owned());
            let ended = state.terminated.as_ref().map(|t| format!("{} {}", t.reason.as_ref().unwrap(), t.exit_code));
            waiting.or(running).or(ended).unwrap()
        };
        let last = status.last_state.as_ref().map(|s| format!(" after {}", one(s))).unwrap_or_default();
        let restarts = if status.restart_count > 0 { format!(" x{}", status.restart_count) } else { String::new() };
        format!("{}{last}{restarts}", one(status.state.as_ref().unwrap()))
    }

    fn condition(&self, kind: &str) -> String {
        let found = self.told.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
        let reason = found.reason.as_ref().map(|r| format!(" {r}")).unwrap_or_default();
        let message = found.message.as_ref().map(|m| format!(": {m}")).unwrap_or_default();
        format!("{}{reason}{message}", found.status)
    }

    /// Takes a pod to the point where its first containers are to start.
    fn active(pod: &Pod) -> World {
        let mut world = World::new(pod);
        world.send(Event::Accepted);
        world.send(Event::VolumesReady);
        world
    }

    /// Takes a pod of one container to the point where it runs.
    fn running(policy: &str) -> World {
        let mut world = World::active(&pod(policy, &[], &["c"]));
        world.image("c");
        world.started("c");
        world
    }
}

#[test]
fn a_pod_that_goes_for_others_was_disrupted_and_one_that_broke_its_own_limit_was_not() {
    for (why, disrupted) in [(Eviction::Pressure { grace: 0 }, true), (Eviction::OverLimit, false)] {
        let mut world = World::running("Never");
        world.send(Event::Evicted { why, message: "low. ".to_owned() });
        let condition = |world: &World| {
            let all = world.told.conditions.iter().flatten();
            all.filter(|it| it.type_ == "DisruptionTarget").cloned().collect::<Vec<_>>()
        };
        assert_eq!(condition(&world), [], "the pod has not ended");
        world.exits("c", 137);
        let told = (world.told.phase.as_deref(), world.told.reason.as_deref(), world.told.message.as_deref());
        assert_eq!(told, (Some("Failed"), Some("Evicted"), Some("low. ")));
        let found = condition(&world);
        assert_eq!(found.len(), usize::from(disrupted));
        for it in &found {
            assert_eq!((it.status.as_str(), it.reason.as_deref()), ("True", Some("TerminationByKubelet")));
            assert_eq!(it.message.as_deref(), Some("low. "));
        }
        // The next agent finds it so, and leaves it so.
        let facts = world.state.facts.clone();
        let state = State::recovered(&facts, &world.told, Vec::new(), Remains::Files, world.now);
        let again = status(&state, &world.told, &Place::default(), world.now);
        assert_eq!(again.conditions, world.told.conditions);
    }
}

#[test]
fn a_pod_runs_to_success() {
    let mut world = World::new(&pod("Never", &[], &["c"]));
    assert_eq!(world.send(Event::Accepted), "volumes");
    assert_eq!((world.phase(), world.shows("c").as_str()), ("Pending", "ContainerCreating"));
    assert_eq!(world.condition("Ready"), "False ContainersNotReady: containers with unready status: [c]");
    assert_eq!(world.send(Event::VolumesReady), "pull c, *");
    assert_eq!(world.image("c"), "start c/0, *");
    assert_eq!(world.started("c"), "*");
    assert_eq!((world.phase(), world.shows("c").as_str()), ("Running", "running"));
    assert_eq!(world.condition("Ready"), "True");
    assert_eq!(world.sleep(5), "");
    assert_eq!(world.exits("c", 0), "remove c/0, teardown, *");
    assert_eq!((world.phase(), world.shows("c").as_str()), ("Succeeded", "Completed 0"));
    assert_eq!(world.condition("Ready"), "False PodCompleted");
    assert_eq!(world.condition("Initialized"), "True PodCompleted");
    assert_eq!(world.send(Event::TornDown), "");
    assert!(world.state.is_clean());
    assert_eq!(world.send(Event::DeleteAsked { grace: 30 }), "release");
    assert_eq!(world.send(Event::DeleteAsked { grace: 0 }), "");
    assert_eq!(world.told.qos_class.as_deref(), Some("BestEffort"));
}

#[test]
fn a_container_tells_what_it_asks_for_and_was_given() {
    let mut pod = pod("Never", &[], &["c", "d"]);
    let asked = serde_json::json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}});
    let spec = pod.spec.as_mut().unwrap();
    spec.containers[0].resources = Some(serde_json::from_value(asked.clone()).unwrap());
    spec.containers[1].resources = Some(k8s_openapi::api::core::v1::ResourceRequirements::default());
    let mut world = World::new(&pod);
    world.send(Event::Accepted);
    let told = serde_json::to_value(world.told.container_statuses.unwrap()).unwrap();
    assert_eq!((&told[0]["resources"], &told[0]["allocatedResources"]), (&asked, &asked["requests"]));
    assert_eq!(told[1].get("resources"), None);
}

#[test]
fn a_failed_container_fails_a_pod_that_never_restarts() {
    let mut world = World::running("Never");
    world.exits("c", 3);
    assert_eq!((world.phase(), world.shows("c").as_str()), ("Failed", "Error 3"));
    assert_eq!(world.condition("ContainersReady"), "False PodFailed");
}

#[test]
fn on_failure_restarts_at_once_and_then_backs_off() {
    let mut world = World::running("OnFailure");
    assert_eq!(world.exits("c", 1), "remove c/0, pull c, *");
    assert_eq!((world.phase(), world.shows("c").as_str()), ("Running", "Error 1"), "it counts once it runs again");
    let mut delays = vec![];
    for attempt in 1..9 {
        assert!(world.image("c").starts_with(&format!("start c/{attempt}")));
        world.started("c");
        assert_eq!(world.shows("c"), format!("running after Error 1 x{attempt}"));
        world.exits("c", 1);
        assert_eq!(world.shows("c"), format!("CrashLoopBackOff after Error 1 x{attempt}"));
        let (seconds, effects) = world.doze();
        assert_eq!(effects, "pull c, *");
        delays.push(seconds);
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300, 300]);
    world.image("c");
    world.started("c");
    world.sleep(601);
    assert_eq!(world.exits("c", 1), "remove c/9, pull c, *", "a long run is forgiven");
    world.image("c");
    world.started("c");
    world.exits("c", 0);
    assert_eq!((world.phase(), world.shows("c").as_str()), ("Succeeded", "Completed 0 after Error 1 x10"));
}

#[test]
fn the_crash_loop_says_how_long() {
    let mut world = World::running("OnFailure");
    world.exits("c", 1);
    world.image("c");
    world.started("c");
    world.exits("c", 1);
    let state = world.told.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
    let message = state.waiting.unwrap().message.unwrap();
    assert_eq!(message, "back-off 10s restarting failed container=c pod=p_ns(uid)");
}

#[test]
fn a_rule_restarts_a_container_of_a_pod_that_never_restarts_any() {
    let mut pod = pod("Never", &["i"], &["c"]);
    let spec = pod.spec.as_mut().unwrap();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let codes = ContainerRestartRuleOnExitCodes { operator: "In".to_owned(), values: Some(vec![42]) };
        let rule = ContainerRestartRule { action: "Restart".to_owned(), exit_codes: Some(codes) };
        container.restart_policy = Some("Never".to_owned());
        container.restart_policy_rules = Some(vec![rule]);
    }
    let mut world = World::new(&pod);
    world.send(Event::Accepted);
    world.send(Event::VolumesReady);
    world.image("i");
    world.started("i");
    assert_eq!(world.exits("i", 42), "remove i/0, pull i, *");
    assert_eq!((world.phase(), world.shows("i").as_str()), ("Pending", "Error 42"));
    world.image("i");
    world.started("i");
    assert_eq!(world.exits("i", 0), "remove i/1, pull c, *");
    world.image("c");
    world.started("c");
    assert_eq!(world.exits("c", 42), "remove c/0, pull c, *");
    assert_eq!(world.phase(), "Running");
    world.image("c");
    world.started("c");
    assert_eq!(world.exits("c", 1), "remove c/1, teardown, *");
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn always_restarts_even_success() {
    let mut world = World::running("Always");
    assert_eq!(world.exits("c", 0), "remove c/0, pull c, *");
    assert_eq!(world.phase(), "Running");
}

#[test]
fn init_containers_run_one_after_the_other() {
    let mut world = World::new(&pod("Never", &["i", "j"], &["c", "d"]));
    world.send(Event::Accepted);
    assert_eq!(world.send(Event::VolumesReady), "pull i, *");
    assert_eq!((world.shows("j").as_str(), world.shows("c").as_str()), ("PodInitializing", "PodInitializing"));
    assert_eq!(
        world.condition("Initialized"),
        "False ContainersNotInitialized: containers with incomplete status: [i j]"
    );
    world.image("i");
    world.started("i");
    assert_eq!(world.phase(), "Pending");
    assert_eq!(world.exits("i", 0), "remove i/0, pull j, *");
    world.image("j");
    world.started("j");
    assert_eq!(world.exits("j", 0), "remove j/0, pull c, pull d, *");
    assert_eq!(world.condition("Initialized"), "True");
    world.image("d");
    world.started("d");
    assert_eq!(world.phase(), "Pending", "c was not started yet");
    world.image("c");
    world.started("c");
    assert_eq!(world.phase(), "Running");
    world.exits("d", 0);
    assert_eq!(world.phase(), "Running");
    world.exits("c", 1);
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn a_failed_init_container_fails_the_pod_or_is_run_again() {
    for (policy, effects, phase) in
        [("Never", "remove i/0, teardown, *", "Failed"), ("OnFailure", "remove i/0, pull i, *", "Pending")]
    {
        let mut world = World::new(&pod(policy, &["i"], &["c"]));
        world.send(Event::Accepted);
        world.send(Event::VolumesReady);
        world.image("i");
        world.started("i");
        assert_eq!(world.exits("i", 1), effects, "{policy}");
        assert_eq!(world.phase(), phase, "{policy}");
    }
}

#[test]
fn sidecars_outlive_the_main_containers_and_end_in_reverse_order() {
    let mut world = World::new(&pod("Never", &["side1", "i", "side2"], &["c"]));
    world.send(Event::Accepted);
    assert_eq!(world.send(Event::VolumesReady), "pull side1, *");
    world.image("side1");
    assert_eq!(world.started("side1"), "pull i, *");
    world.image("i");
    world.started("i");
    world.exits("i", 0);
    world.image("side2");
    assert_eq!(world.started("side2"), "pull c, *");
    world.image("c");
    world.started("c");
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.exits("side1", 0), "remove side1/0, pull side1, *", "a sidecar is restarted");
    world.image("side1");
    world.started("side1");
    assert_eq!(world.exits("c", 0), "remove c/0, signal side2, *");
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.exits("side2", 143), "remove side2/0, signal side1, *");
    assert_eq!(world.exits("side1", 143), "remove side1/1, teardown, *");
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn deletion_signals_waits_for_the_grace_and_kills() {
    let mut world = World::running("Never");
    assert_eq!(world.send(Event::DeleteAsked { grace: 30 }), "signal c");
    assert_eq!(world.sleep(29), "");
    assert_eq!(world.send(Event::DeleteAsked { grace: 40 }), "", "a grace is never made longer");
    assert_eq!(world.doze(), (1, "kill c".to_owned()));
    assert_eq!(world.wake, None);
    assert_eq!(world.exits("c", 137), "remove c/0, teardown, *");
    assert_eq!((world.phase(), world.shows("c").as_str()), ("Failed", "Error 137"));
    assert_eq!(world.send(Event::TornDown), "release");
}

#[test]
fn deletion_with_grace_zero_kills_at_once() {
    let mut world = World::running("Never");
    assert_eq!(world.send(Event::DeleteAsked { grace: 0 }), "kill c");
}

#[test]
fn a_pod_deleted_before_it_started_fails_without_starting() {
    let mut world = World::new(&pod("Never", &[], &["c"]));
    world.send(Event::Accepted);
    world.send(Event::VolumesReady);
    assert_eq!(world.send(Event::DeleteAsked { grace: 30 }), "teardown, *");
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.image("c"), "");
    assert_eq!(world.send(Event::TornDown), "release");
}

#[test]
fn a_container_that_was_being_started_when_the_pod_was_deleted_is_ended_once_it_runs() {
    let mut world = World::new(&pod("Never", &[], &["c", "d"]));
    world.send(Event::Accepted);
    world.send(Event::VolumesReady);
    world.image("c");
    assert_eq!(world.send(Event::DeleteAsked { grace: 30 }), "");
    assert_eq!(world.started("c"), "signal c, *");
    world.exits("c", 0);
    assert_eq!(world.phase(), "Failed", "d never ran");
    assert_eq!(world.shows("d"), "ContainerStatusUnknown 137");
}

#[test]
fn an_image_that_is_missing_backs_off() {
    let mut world = World::new(&pod("Never", &[], &["c"]));
    world.send(Event::Accepted);
    world.send(Event::VolumesReady);
    let fail = || Event::ImageFailed {
        container: "c".to_owned(),
        reason: "ErrImagePull".to_owned(),
        message: "no such image".to_owned(),
        again: Again::Later,
    };
    let mut delays = vec![];
    for _ in 0..7 {
        assert_eq!(world.send(fail()), "*");
        assert_eq!(world.shows("c"), "ErrImagePull");
        assert_eq!(world.doze(), (1, "*".to_owned()));
        assert_eq!(world.shows("c"), "ImagePullBackOff");
        let state = world.told.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
        let message = state.waiting.unwrap().message.unwrap();
        assert_eq!(message, "Back-off pulling image \"perl:5.34.0\": no such image");
        let (seconds, effects) = world.doze();
        assert_eq!(effects, "pull c, *");
        delays.push(seconds + 1);
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(world.image("c"), "start c/0, *");
}

#[test]
fn an_invalid_image_name_is_not_tried_again() {
    let mut world = World::new(&pod("Never", &[], &["c"]));
    world.send(Event::Accepted);
    world.send(Event::VolumesReady);
    world.send(Event::ImageFailed {
        container: "c".to_owned(),
        reason: "InvalidImageName".to_owned(),
        message: "bad".to_owned(),
        again: Again::Never,
    });
    assert_eq!((world.shows("c").as_str(), world.wake), ("InvalidImageName", None));
}

#[test]
fn a_missing_config_map_is_waited_for() {
    let mut world = World::new(&pod("Never", &[], &["c"]));
    world.send(Event::Accepted);
    let message = "configmap \"m\" not found".to_owned();
    assert_eq!(world.send(Event::VolumesFailed { message: message.clone() }), "*");
    assert_eq!(world.doze(), (0, "volumes, *".to_owned()));
    world.send(Event::VolumesReady);
    world.image("c");
    world.live.clear();
    let reason = "CreateContainerConfigError".to_owned();
    world.send(Event::ConfigFailed { container: "c".to_owned(), attempt: Attempt(0), reason, message });
    assert_eq!(world.shows("c"), "CreateContainerConfigError");
    assert_eq!(world.doze().1, "pull c, *");
    assert!(world.image("c").starts_with("start c/0"));
}

#[test]
fn a_start_that_fails_is_an_end_with_128() {
    for (policy, phase) in [("Never", "Failed"), ("OnFailure", "Running")] {
        let mut world = World::new(&pod(policy, &[], &["c"]));
        world.send(Event::Accepted);
        world.send(Event::VolumesReady);
        world.image("c");
        world.live.clear();
        let message = "command \"nosuch\" was not found".to_owned();
        world.send(Event::StartFailed { container: "c".to_owned(), attempt: Attempt(0), message });
        assert_eq!((world.phase(), world.shows("c").as_str()), (phase, "StartError 128"));
    }
}

#[test]
fn the_active_deadline_ends_the_pod() {
    let mut pod = pod("OnFailure", &[], &["c"]);
    pod.spec.as_mut().unwrap().active_deadline_seconds = Some(60);
    let mut world = World::new(&pod);
    world.send(Event::Accepted);
    world.send(Event::VolumesReady);
    world.image("c");
    world.started("c");
    assert_eq!(world.doze(), (60, "signal c".to_owned()));
    assert_eq!(world.told.reason, None, "told when it is over");
    world.exits("c", 0);
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.told.reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_deadline_that_is_moved_is_the_one_that_counts() {
    let mut world = World::running("Never");
    world.send(Event::DeadlineChanged { deadline: Some(SignedDuration::from_secs(60)) });
    world.sleep(10);
    world.send(Event::DeadlineChanged { deadline: Some(SignedDuration::from_secs(40)) });
    assert_eq!(world.doze(), (30, "signal c".to_owned()));
}

#[test]
fn termination_messages_share_their_room() {
    let said = |names: &[&str]| {
        let mut world = World::new(&pod("Never", &[], names));
        world.send(Event::Accepted);
        world.send(Event::VolumesReady);
        world.image("c");
        world.live.clear();
        let message = "ä".repeat(4000);
        world.send(Event::StartFailed { container: "c".to_owned(), attempt: Attempt(0), message });
        let state = world.told.container_statuses.unwrap()[0].state.clone().unwrap();
        state.terminated.unwrap().message.unwrap().len()
    };
    assert_eq!(said(&["c"]), 8000);
    assert_eq!(said(&["c", "d", "e"]), 4096);
    assert_eq!(said(&["c", "d", "e", "f", "g"]), 2456, "a character is not cut in two");
}

#[test]
fn an_oom_kill_and_a_lost_container_are_told() {
    let exit = |code, oom_killed, lost| Exit {
        code,
        signal: None,
        oom_killed,
        lost,
        started_at: Timestamp::UNIX_EPOCH,
        finished_at: Timestamp::UNIX_EPOCH,
        message: None,
    };
    let reason = |exit| Ending::of(None, exit).reason;
    assert_eq!(reason(exit(137, true, false)), "OOMKilled");
    assert_eq!(reason(exit(0, true, false)), "Completed", "a child was killed, and the container coped");
    assert_eq!(reason(exit(255, false, true)), "ContainerStatusUnknown");
    assert_eq!(reason(exit(1, false, false)), "Error");
}

/// Something that may happen to a pod of three containers.
fn happening() -> impl Strategy<Value = (u8, u8, i32, i64)> {
    (0..12_u8, 0..4_u8, prop_oneof![Just(0), Just(1)], 0..400_i64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// `World::send` asserts that nothing is started twice and that a second step does nothing.
    #[test]
    fn every_life_ends(
        policy in prop_oneof![Just("Never"), Just("OnFailure"), Just("Always")],
        happenings in proptest::collection::vec(happening(), 0..60),
    ) {
        let mut world = World::new(&pod(policy, &["side", "i"], &["c", "d"]));
        world.send(Event::Accepted);
        let mut ended: Option<String> = None;
        for (kind, which, code, seconds) in happenings {
            let name = ["side", "i", "c", "d"][usize::from(which)];
            let attempt = world.state.attempt(name).unwrap();
            let starting = world.state.life(name) == Some(&Life::Starting);
            let running = matches!(world.state.life(name), Some(Life::Running { .. }));
            match kind {
                0..3 => { world.send(Event::VolumesReady); world.image(name); }
                3 | 4 if starting => { world.started(name); }
                5 if starting => {
                    world.live.retain(|(live, _)| live != name);
                    world.send(Event::StartFailed { container: name.into(), attempt, message: String::new() });
                }
                6 if starting => {
                    world.live.retain(|(live, _)| live != name);
                    let (reason, message) = (String::new(), String::new());
                    world.send(Event::ConfigFailed { container: name.into(), attempt, reason, message });
                }
                7 if running => { world.exits(name, code); }
                8 => { world.sleep(seconds); }
                9 => { world.send(Event::VolumesFailed { message: String::new() }); }
                10 if seconds < 20 => { world.send(Event::DeleteAsked { grace: seconds }); }
                11 => { world.send(Event::ImageFailed {
                    container: name.into(), reason: "ErrImagePull".into(), message: String::new(), again: Again::Later,
                }); }
                _ => {}
            }
            let phase = world.phase().to_owned();
            if let Some(ended) = &ended {
                prop_assert_eq!(ended, &phase, "a final phase changed");
            } else if phase == "Succeeded" || phase == "Failed" {
                prop_assert!(world.live.is_empty(), "final while something runs");
                ended = Some(phase);
            }
        }
        world.send(Event::DeleteAsked { grace: 5 });
        for _ in 0..3 {
            for (name, _) in world.live.clone() {
                if world.state.life(&name) == Some(&Life::Starting) {
                    world.started(&name);
                }
            }
            world.sleep(5);
            for (name, _) in world.live.clone() {
                world.exits(&name, 137);
            }
        }
        prop_assert!(world.state.is_ended());
        world.send(Event::TornDown);
        prop_assert!(world.state.is_clean());
        if let Some(ended) = ended {
            prop_assert_eq!(ended, world.phase());
        }
    }
}
