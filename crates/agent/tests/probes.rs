//! Probes from the API to the runtime and back: the real router, a fake runtime, and time that passes as fast as it can.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::World;

fn exec(command: &[&str], mut probe: Value) -> Value {
    probe["exec"] = json!({"command": command});
    probe
}

/// A container that lives long, with these probes.
fn container(mut container: Value) -> Value {
    for (member, value) in [("name", json!("c")), ("image", json!("i:1")), ("command", json!(["1000000"]))] {
        container[member] = value;
    }
    container
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_ready_once_its_probes_succeed() {
    let world = World::new();
    let probes = json!({
        "startupProbe": exec(&["after", "12000"], json!({"periodSeconds": 5, "failureThreshold": 10})),
        "readinessProbe": exec(&["after", "30000"], json!({"periodSeconds": 10})),
    });
    world.create("p", json!({"restartPolicy": "Never", "containers": [container(probes)]})).await;
    world.phase("p", "Running").await;
    let began = tokio::time::Instant::now();
    let status = world.wait("p", |s| s.container_statuses.as_ref().is_some_and(|c| c[0].started == Some(true))).await;
    assert!(!status.container_statuses.unwrap()[0].ready);
    let took = began.elapsed().as_secs();
    assert!((14..=16).contains(&took), "at the third question: {took}");
    let is_ready = |s: &k8s_openapi::api::core::v1::PodStatus| {
        s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    let status = world.wait("p", is_ready).await;
    assert!(status.container_statuses.unwrap()[0].ready);
    let took = began.elapsed().as_secs();
    assert!((34..=36).contains(&took), "asked from the start, every ten seconds: {took}");
    world.delete("p", 0).await;
    world.gone("p").await;
    world.clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_not_live_is_restarted_and_people_are_told() {
    let world = World::new();
    let liveness = exec(&["until", "15000"], json!({"terminationGracePeriodSeconds": 4}));
    let mut deaf = container(json!({"livenessProbe": liveness}));
    deaf["command"] = json!(["1000000", "0", "deaf"]);
    world.create("p", json!({"restartPolicy": "Always", "containers": [deaf]})).await;
    let status = world.wait("p", |s| s.container_statuses.as_ref().is_some_and(|c| c[0].restart_count == 1)).await;
    let ended = status.container_statuses.unwrap()[0].last_state.clone().unwrap_or_default().terminated;
    let calls = world.runtime.0.calls();
    let kill = calls.iter().position(|call| call == "kill c_0").expect("it is deaf");
    assert_eq!(calls[kill - 1], "signal 15 c_0");
    assert_eq!(calls[kill - 2], "exec until 15000 c_0", "nobody asks a container that is being ended: {calls:?}");
    if let Some(ended) = ended {
        let (began, over) = (ended.started_at.unwrap().0, ended.finished_at.unwrap().0);
        let lived = over.duration_since(began).as_secs();
        assert_eq!(lived, 44, "fails at 20, 30 and 40 seconds, and has four to end");
    }
    let events = world.events("p", 4).await;
    let c = "spec.containers{c}";
    let unhealthy = format!("{c} Unhealthy x3: Liveness probe failed: ");
    let killing = format!("{c} Killing x1: Container c failed liveness probe, will be restarted");
    assert!(events.contains(&unhealthy) && events.contains(&killing), "{events:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_has_failed_and_one_that_can_not_run_says_nothing() {
    let world = World::new();
    let hangs = container(json!({"livenessProbe": exec(&["hang"], json!({"timeoutSeconds": 3}))}));
    world.create("hangs", json!({"restartPolicy": "Never", "containers": [hangs]})).await;
    world.phase("hangs", "Failed").await;
    let events = world.events("hangs", 4).await;
    let told = "Unhealthy x3: Liveness probe failed: command timed out: \"hang\" timed out after 3s";
    assert!(events.iter().any(|event| event.ends_with(told)), "{events:#?}");

    let strange = container(json!({"livenessProbe": exec(&["strange"], json!({"periodSeconds": 1}))}));
    world.create("strange", json!({"restartPolicy": "Never", "containers": [strange]})).await;
    world.phase("strange", "Running").await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    world.phase("strange", "Running").await;
    let events = world.events("strange", 3).await;
    let told = "Liveness probe errored and resulted in unknown state: ";
    assert!(events.iter().any(|event| event.contains(told)), "{events:#?}");
}

#[tokio::test(start_paused = true)]
async fn probes_go_on_after_the_agent_was_started_again() {
    let mut world = World::new();
    let probes = json!({
        "startupProbe": exec(&["exit", "0", "up"], json!({})),
        "livenessProbe": exec(&["until", "60000"], json!({})),
        "readinessProbe": exec(&["exit", "0"], json!({})),
    });
    world.create("p", json!({"restartPolicy": "Never", "containers": [container(probes)]})).await;
    let ready = |s: &k8s_openapi::api::core::v1::PodStatus| s.container_statuses.as_ref().is_some_and(|c| c[0].ready);
    world.wait("p", ready).await;
    world.crash_agent().await;
    world.runtime.0.calls.lock().unwrap().clear();
    world.start_agent();
    let status = world.phase("p", "Failed").await;
    let ended = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!(ended.exit_code, 143, "its liveness probe failed");
    let calls = world.runtime.0.calls();
    assert!(!calls.contains(&"exec exit 0 up c_0".to_owned()), "it had come up: {calls:?}");
}
