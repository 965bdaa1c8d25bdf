//! A node that runs short, on a machine that is as full as a test says.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Node, PodStatus};
use kube::Api;
use serde_json::{Value, json};
use stint_agent::{Gauge, Measured, RootfsMode};
use stint_core::pressure::{Amount, ContainerUsage, ImageDisk, PodUsage, Readings, Settings, Signal, levels};
use support::World;

/// What a test says of the machine: what is available of a thousand, and what pods use by their names.
#[derive(Default)]
struct Told {
    readings: Mutex<Readings>,
    memory: Mutex<Vec<(&'static str, u64)>>,
}

impl Told {
    fn available(&self, signal: Signal, available: u64) {
        self.readings.lock().unwrap().insert(signal, Amount { available, capacity: 1000 });
    }
}

impl Gauge for Told {
    fn read(&self) -> Readings {
        self.readings.lock().unwrap().clone()
    }

    fn image_disk(&self) -> ImageDisk {
        ImageDisk::Shared
    }

    fn pods(&self, pods: &[Measured], _: Signal) -> Vec<Option<PodUsage>> {
        let all = self.memory.lock().unwrap();
        let usage = |pod: &Measured| {
            assert_eq!(pod.processes, [("c".to_owned(), 1)], "it is told which process each container has");
            let (_, memory) = all.iter().find(|(name, _)| pod.pod.metadata.name.as_deref() == Some(*name))?;
            let container = ContainerUsage { memory: *memory, disk: 0 };
            Some(PodUsage { memory: *memory, containers: [("c".to_owned(), container)].into(), ..PodUsage::default() })
        };
        pods.iter().map(usage).collect()
    }
}

fn world(told: &Arc<Told>) -> World {
    let gauge = Arc::clone(told);
    World::configured(
        |_| RootfsMode::Host { size: None },
        move |config| {
            let hard = ["memory.available<100", "pid.available<100"].map(str::to_owned);
            config.pressure.settings = Settings {
                hard: levels(&hard).unwrap(),
                transition: SignedDuration::from_mins(5),
                ..Settings::default()
            };
            config.gauge = gauge.clone();
        },
    )
}

async fn pod(world: &World, name: &str, spec: Value) {
    let mut spec = spec;
    spec["restartPolicy"] = json!("Never");
    spec["containers"] = json!([{"name": "c", "image": "i:1", "command": ["100000000"]}]);
    world.create(name, spec).await;
}

/// The node's conditions and taints, as `MemoryPressure=False`.
async fn node(world: &World) -> (Vec<String>, Vec<String>) {
    let api: Api<Node> = Api::all(world.client.clone());
    let node = api.get("node").await.unwrap();
    let conditions = node.status.unwrap().conditions.unwrap();
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    (
        conditions.into_iter().map(|it| format!("{}={}", it.type_, it.status)).collect(),
        taints.into_iter().map(|it| format!("{}:{}", it.key, it.effect)).collect(),
    )
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..10_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("waited too long until {what}");
}

fn disruption(status: &PodStatus) -> Option<String> {
    let all = status.conditions.iter().flatten();
    all.filter(|it| it.type_ == "DisruptionTarget").find_map(|it| it.reason.clone())
}

#[tokio::test(start_paused = true)]
async fn one_pod_after_the_other_goes_until_there_is_enough_and_new_ones_are_kept_away() {
    let told = Arc::new(Told::default());
    told.available(Signal::MemoryAvailable, 100);
    *told.memory.lock().unwrap() = vec![("small", 10), ("large", 500), ("important", 900)];
    let world = world(&told);
    pod(&world, "small", json!({})).await;
    pod(&world, "large", json!({})).await;
    pod(&world, "important", json!({"priority": 1000})).await;
    for name in ["small", "large", "important"] {
        world.phase(name, "Running").await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(node(&world).await.0, ["MemoryPressure=False", "DiskPressure=False", "PIDPressure=False", "Ready=True"]);

    told.available(Signal::MemoryAvailable, 99);
    let status = world.phase("large", "Failed").await;
    told.available(Signal::MemoryAvailable, 100);
    let words = "The node was low on resource: memory. Threshold quantity: 100, available: 99. Container c was using 500, \
                 request is 0, has larger consumption of memory. ";
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some(words)));
    assert_eq!(disruption(&status).as_deref(), Some("TerminationByKubelet"));
    until("the node says so", async || {
        let (conditions, taints) = node(&world).await;
        conditions[0] == "MemoryPressure=True" && taints == ["node.kubernetes.io/memory-pressure:NoSchedule"]
    })
    .await;

    // Whoever comes past the scheduler is told at the door.
    pod(&world, "late", json!({})).await;
    let status = world.phase("late", "Failed").await;
    let words = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some(words)));
    assert_eq!(disruption(&status), None);
    tokio::time::sleep(Duration::from_mins(1)).await;
    for name in ["small", "important"] {
        world.phase(name, "Running").await;
    }
    until("the node is well again", async || {
        node(&world).await
            == (
                ["MemoryPressure=False", "DiskPressure=False", "PIDPressure=False", "Ready=True"]
                    .map(str::to_owned)
                    .into(),
                Vec::new(),
            )
    })
    .await;
    world
        .events_of_node_tell(&[
            "Warning EvictionThresholdMet: Attempting to reclaim memory",
            "Normal NodeHasInsufficientMemory: Node node status is now: NodeHasInsufficientMemory",
            "Normal NodeHasSufficientMemory: Node node status is now: NodeHasSufficientMemory",
        ])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_system_needs_stays_and_a_users_taint_does_too() {
    let told = Arc::new(Told::default());
    told.available(Signal::PidAvailable, 500);
    let world = world(&told);
    pod(&world, "critical", json!({"priority": 2_000_000_000})).await;
    pod(&world, "other", json!({"priority": 1_000_000_000})).await;
    world.phase("critical", "Running").await;
    world.phase("other", "Running").await;
    let api: Api<Node> = Api::all(world.client.clone());
    let own = json!({"spec": {"taints": [{"key": "own", "effect": "NoSchedule"}]}});
    api.patch("node", &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&own)).await.unwrap();
    told.available(Signal::PidAvailable, 5);
    let status = world.phase("other", "Failed").await;
    assert!(
        status
            .message
            .unwrap()
            .starts_with("The node was low on resource: pids. Threshold quantity: 100, available: 5.")
    );
    tokio::time::sleep(Duration::from_mins(2)).await;
    world.phase("critical", "Running").await;
    assert_eq!(node(&world).await.1, ["own:NoSchedule", "node.kubernetes.io/pid-pressure:NoSchedule"]);
    told.available(Signal::PidAvailable, 500);
    until("only the user's taint is left", async || node(&world).await.1 == ["own:NoSchedule"]).await;
}
