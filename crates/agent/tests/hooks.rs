//! Hooks from the API to the runtime and back: the real router, a fake runtime, and time that passes as fast as it can.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::World;

fn container(name: &str, lifecycle: &Value) -> Value {
    json!({"name": name, "image": "i:1", "command": ["1000000"], "lifecycle": lifecycle})
}

fn exec(command: &[&str]) -> Value {
    json!({"exec": {"command": command}})
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_when_its_hook_has_ended_and_is_asked_to_end_after_the_other() {
    let world = World::new();
    let hooks = json!({"postStart": {"sleep": {"seconds": 20}}, "preStop": exec(&["exit", "0", "bye"])});
    let containers = json!([container("c", &hooks), container("d", &json!({}))]);
    let began = tokio::time::Instant::now();
    world.create("p", json!({"restartPolicy": "Never", "containers": containers})).await;
    world.wait("p", |_| world.runtime.0.calls() == ["start c_0"]).await;
    world.phase("p", "Pending").await;
    world.phase("p", "Running").await;
    assert!(began.elapsed() >= Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(world.runtime.0.calls(), ["start c_0", "start d_0"], "d waits for the hook of c");
    world.runtime.0.calls.lock().unwrap().clear();
    world.delete("p", 30).await;
    world.gone("p").await;
    world.clean().await;
    let calls = world.runtime.0.calls();
    let of_c: Vec<&String> = calls.iter().filter(|call| call.ends_with(" c_0")).collect();
    assert_eq!(of_c, ["exec exit 0 bye c_0", "signal 15 c_0", "remove c_0"]);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_fails_ends_its_container() {
    let world = World::new();
    for (name, hook) in [("code", exec(&["exit", "1"])), ("socket", json!({"tcpSocket": {"port": 1}}))] {
        let failing = container("c", &json!({"postStart": hook}));
        world.create(name, json!({"restartPolicy": "Never", "containers": [failing]})).await;
        let status = world.phase(name, "Failed").await;
        let ended = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
        assert_eq!(ended.exit_code, 143);
        let c = "spec.containers{c}";
        let told = ["FailedPostStartHook x1: PostStartHook failed", "Killing x1: FailedPostStartHook"];
        let events = world.events(name, 4).await;
        assert_eq!(events[2..], told.map(|text| format!("{c} {text}")), "{events:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_hangs_takes_no_more_than_the_grace() {
    let world = World::new();
    let hangs = container("c", &json!({"preStop": exec(&["hang"])}));
    world.create("p", json!({"restartPolicy": "Never", "containers": [hangs]})).await;
    world.phase("p", "Running").await;
    let began = tokio::time::Instant::now();
    world.delete("p", 10).await;
    world.gone("p").await;
    let took = began.elapsed().as_secs();
    assert!((10..=11).contains(&took), "it obeys its signal, which comes when the grace is over: {took}");
    world.calls(&["start c_0", "exec hang c_0", "signal 15 c_0", "remove c_0"]).await;
}
