//! Pods from the API to the runtime and back: the real router, a fake runtime, and time that passes as fast as it can.

mod support;

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use stint_agent::RootfsMode;
use support::World;

#[tokio::test(start_paused = true)]
async fn a_pod_succeeds_and_its_status_tells_it_all() {
    let world = World::new();
    let pod = world.run("p", "Never", &["1500", "0"]).await;
    let status = world.phase("p", "Running").await;
    assert_eq!(status.host_ip.as_deref(), Some("10.0.0.1"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert!(container.ready && container.state.as_ref().unwrap().running.is_some());
    let uid = pod.metadata.uid.unwrap();
    assert_eq!(container.container_id.as_deref(), Some(format!("stint://{uid}_c_0").as_str()));
    let status = world.phase("p", "Succeeded").await;
    let ended = status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (0, Some("Completed")));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert!(status.conditions.unwrap().iter().any(|c| c.type_ == "PodScheduled" && c.status == "True"));
    world.calls(&["start c_0", "remove c_0"]).await;
    world.delete("p", 30).await;
    world.gone("p").await;
    world.clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_fails_with_its_containers_code() {
    let world = World::new();
    world.run("p", "Never", &["10", "3"]).await;
    let status = world.phase("p", "Failed").await;
    let ended = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (3, Some("Error")));
}

#[tokio::test(start_paused = true)]
async fn a_missing_command_is_a_start_error() {
    let world = World::new();
    world.run("p", "Never", &["missing"]).await;
    let status = world.phase("p", "Failed").await;
    let ended = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (128, Some("StartError")));
    assert!(ended.message.unwrap().contains("\"missing\" was not found"));
}

#[tokio::test(start_paused = true)]
async fn on_failure_restarts_with_counts_and_back_off() {
    let world = World::new();
    world.run("p", "OnFailure", &["10", "1"]).await;
    let status = world.waiting("p", "CrashLoopBackOff").await;
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.restart_count, 1);
    assert_eq!(container.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let restarted = |n| {
        move |s: &k8s_openapi::api::core::v1::PodStatus| s.container_statuses.as_ref().unwrap()[0].restart_count >= n
    };
    let began = tokio::time::Instant::now();
    world.wait("p", restarted(3)).await;
    let took = began.elapsed();
    assert!(took > Duration::from_secs(28) && took < Duration::from_secs(33), "10 s and 20 s: {took:?}");
    world.delete("p", 5).await;
    world.gone("p").await;
    world.clean().await;
}

#[tokio::test(start_paused = true)]
async fn deletion_sends_term_waits_for_the_grace_and_kills() {
    let world = World::new();
    world.run("polite", "Never", &["100000", "0"]).await;
    world.phase("polite", "Running").await;
    world.delete("polite", 30).await;
    world.gone("polite").await;
    world.calls(&["start c_0", "signal 15 c_0", "remove c_0"]).await;
    world.runtime.0.calls.lock().unwrap().clear();

    world.run("deaf", "Never", &["1000000", "0", "deaf"]).await;
    world.phase("deaf", "Running").await;
    let began = tokio::time::Instant::now();
    world.delete("deaf", 30).await;
    world.gone("deaf").await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(32), "{took:?}");
    world.calls(&["start c_0", "signal 15 c_0", "kill c_0", "remove c_0"]).await;
    world.clean().await;
}

#[tokio::test]
async fn a_missing_image_backs_off() {
    let world = World::with(|data| RootfsMode::Image {
        store: stint_image::ImageStore::open(&data.join("images")).unwrap(),
        access: stint_image::Access::default(),
    });
    // Nobody listens on the discard port of this machine.
    let container = json!({"name": "c", "image": "127.0.0.1:9/none:1"});
    world.create("p", json!({"restartPolicy": "Never", "containers": [container]})).await;
    let status = world.waiting("p", "ErrImagePull").await;
    let message = |status: &k8s_openapi::api::core::v1::PodStatus| {
        let state = status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
        state.waiting.unwrap().message.unwrap()
    };
    assert!(message(&status).contains("127.0.0.1:9"), "{}", message(&status));
    let status = world.waiting("p", "ImagePullBackOff").await;
    assert!(message(&status).starts_with("Back-off pulling image \"127.0.0.1:9/none:1\": "));
    assert_eq!(status.phase.as_deref(), Some("Pending"));

    let container = json!({"name": "c", "image": "Not A Name"});
    world.create("bad", json!({"restartPolicy": "Never", "containers": [container]})).await;
    world.waiting("bad", "InvalidImageName").await;
    let container = json!({"name": "c", "image": "none:1", "imagePullPolicy": "Never"});
    world.create("never", json!({"restartPolicy": "Never", "containers": [container]})).await;
    world.waiting("never", "ErrImageNeverPull").await;
}

#[tokio::test(start_paused = true)]
async fn a_config_map_is_waited_for() {
    let world = World::new();
    let container = json!({"name": "c", "image": "i:1", "command": ["10", "0"],
        "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]});
    world.create("p", json!({"restartPolicy": "Never", "containers": [container]})).await;
    let status = world.waiting("p", "CreateContainerConfigError").await;
    let state = status.container_statuses.unwrap()[0].state.clone().unwrap();
    assert_eq!(state.waiting.unwrap().message.as_deref(), Some("configmap \"m\" not found"));
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    world.phase("p", "Succeeded").await;
    let bundles = world.runtime.0.bundles.lock().unwrap();
    let env = bundles[0].spec.process().as_ref().unwrap().env().clone().unwrap();
    assert!(env.contains(&"A=v".to_owned()), "{env:?}");
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_made_and_removed() {
    let world = World::new();
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    let container = json!({"name": "c", "image": "i:1", "command": ["60000", "0"],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "e", "mountPath": "/e"}]});
    world
        .create(
            "p",
            json!({"restartPolicy": "Never", "containers": [container],
        "volumes": [{"name": "v", "configMap": {"name": "m"}}, {"name": "e", "emptyDir": {}}]}),
        )
        .await;
    world.phase("p", "Running").await;
    let file = {
        let bundles = world.runtime.0.bundles.lock().unwrap();
        let mounts = bundles[0].spec.mounts().clone().unwrap();
        let mount = mounts.iter().find(|m| m.destination() == std::path::Path::new("/v")).unwrap().clone();
        mount.source().clone().unwrap().join("k")
    };
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "v");
    world.phase("p", "Succeeded").await;
    for _ in 0..20_000 {
        if !file.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the volume goes with the end of the pod");
}

#[tokio::test(start_paused = true)]
async fn a_pod_goes_on_under_the_next_agent() {
    let mut world = World::new();
    world.run("running", "Never", &["60000", "0"]).await;
    world.run("ending", "Never", &["5000", "4"]).await;
    world.run("deleted", "Never", &["60000", "0"]).await;
    for name in ["running", "ending", "deleted"] {
        world.phase(name, "Running").await;
    }
    world.crash_agent().await;
    world.delete("deleted", 0).await; // nobody is there to end its containers
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.start_agent();
    let ended = world.phase("ending", "Failed").await.container_statuses.unwrap()[0].state.clone().unwrap();
    let ended = ended.terminated.unwrap();
    assert_eq!(ended.exit_code, 4);
    let took = ended.finished_at.unwrap().0.duration_since(ended.started_at.unwrap().0);
    assert_eq!(took.as_secs(), 5, "its true time, not when it was noticed");
    world.phase("running", "Succeeded").await;
    let calls = world.runtime.0.calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("start")).count(), 3, "nothing ran twice: {calls:?}");
    assert!(calls.contains(&"kill c_0".to_owned()), "the pod that is gone was killed: {calls:?}");
    for name in ["running", "ending"] {
        world.delete(name, 0).await;
    }
    world.clean().await;
}

#[tokio::test(start_paused = true)]
async fn init_containers_come_first() {
    let world = World::new();
    let make = |name: &str, code: &str| json!({"name": name, "image": "i:1", "command": ["10", code]});
    world
        .create(
            "p",
            json!({"restartPolicy": "Never", "initContainers": [make("a", "0"), make("b", "0")],
                             "containers": [make("c", "0"), make("d", "0")]}),
        )
        .await;
    world.phase("p", "Succeeded").await;
    let calls = world.runtime.0.calls();
    let starts: Vec<&str> = calls.iter().filter_map(|call| call.strip_prefix("start ")).collect();
    assert_eq!(starts[..2], ["a_0", "b_0"]);
    world
        .create(
            "q",
            json!({"restartPolicy": "Never", "initContainers": [make("a", "7")],
                             "containers": [make("c", "0")]}),
        )
        .await;
    world.phase("q", "Failed").await;
}

#[tokio::test(start_paused = true)]
async fn many_pods_at_once() {
    let world = World::new();
    for n in 0..200 {
        world.run(&format!("p{n}"), "Never", &["100", "0"]).await;
    }
    for n in 0..200 {
        world.phase(&format!("p{n}"), "Succeeded").await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_on_with_a_pod_is_told_in_events() {
    let world = World::new();
    world.run("polite", "Never", &["100000"]).await;
    world.phase("polite", "Running").await;
    world.delete("polite", 30).await;
    let c = |told: &str| format!("spec.containers{{c}} {told}");
    assert_eq!(
        world.events("polite", 3).await,
        [c("Created x1: Container created"), c("Started x1: Container started"), c("Killing x1: Stopping container c")]
    );

    let pod = world.run("crash", "OnFailure", &["10", "1"]).await;
    world.waiting("crash", "CrashLoopBackOff").await;
    let name = format!("crash_default({})", pod.metadata.uid.unwrap());
    assert_eq!(
        world.events("crash", 3).await,
        [
            c("Created x2: Container created"),
            c("Started x2: Container started"),
            c(&format!("BackOff x1: Back-off restarting failed container c in pod {name}")),
        ]
    );

    world.run("none", "Never", &["missing"]).await;
    let told = world.events("none", 2).await;
    assert_eq!(told[0], c("Created x1: Container created"));
    assert!(told[1].starts_with(&c("Failed x1: Error: ")) && told[1].contains("\"missing\" was not found"), "{told:?}");

    let volume = json!({"name": "v", "configMap": {"name": "later"}});
    let container = json!({"name": "c", "image": "i:1", "command": ["10"]});
    world.create("volume", json!({"containers": [container], "volumes": [volume]})).await;
    let told = world.events("volume", 1).await;
    let words = "MountVolume.SetUp failed for volume \"v\" : configmap \"later\" not found";
    assert!(told[0].starts_with(" FailedMount x") && told[0].ends_with(words), "{told:?}");
}

#[tokio::test]
async fn a_pull_that_fails_is_told_in_events() {
    let world = World::with(|data| RootfsMode::Image {
        store: stint_image::ImageStore::open(&data.join("images")).unwrap(),
        access: stint_image::Access::default(),
    });
    // Nobody listens on the discard port of this machine.
    let container = json!({"name": "c", "image": "127.0.0.1:9/none:1"});
    world.create("p", json!({"restartPolicy": "Never", "containers": [container]})).await;
    world.waiting("p", "ImagePullBackOff").await;
    let told = world.events("p", 5).await;
    let c = |told: &str| format!("spec.containers{{c}} {told}");
    assert_eq!(told[0], c("Pulling x1: Pulling image \"127.0.0.1:9/none:1\""));
    assert!(told[1].starts_with(&c("Failed x1: Failed to pull image \"127.0.0.1:9/none:1\": ")), "{told:?}");
    let rest = [
        c("Failed x1: Error: ErrImagePull"),
        c("BackOff x1: Back-off pulling image \"127.0.0.1:9/none:1\""),
        c("Failed x1: Error: ImagePullBackOff"),
    ];
    assert_eq!(told[2..], rest);
}

#[tokio::test(start_paused = true)]
async fn what_had_ended_is_not_run_again_by_the_next_agent() {
    let mut world = World::new();
    let container = |name: &str, script: [&str; 2]| json!({"name": name, "image": "i", "command": script});
    let spec = json!({"restartPolicy": "OnFailure", "initContainers": [container("i", ["10", "0"])],
        "containers": [container("short", ["10", "0"]), container("long", ["100000", "0"])]});
    world.create("p", spec).await;
    world
        .wait("p", |status| {
            let all = status.container_statuses.iter().flatten();
            all.filter(|one| one.state.as_ref().is_some_and(|state| state.terminated.is_some())).count() == 1
        })
        .await;
    let starts = |world: &World| {
        world.runtime.0.calls().into_iter().filter(|call| call.starts_with("start")).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        world.crash_agent().await;
        world.start_agent();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let status = world.phase("p", "Succeeded").await;
    assert_eq!(starts(&world), ["start i_0", "start short_0", "start long_0"]);
    assert!(status.container_statuses.unwrap().iter().all(|one| one.restart_count == 0));
}
