//! Volumes from the API: how they are made, and how they are brought up to date while containers run.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use support::World;

/// What every pod of a cluster has, with a token that lives for ten minutes.
fn access() -> Value {
    json!({"name": "v", "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}})
}

/// A pod that runs for a day, with one volume.
async fn with_volume(world: &World, name: &str, volume: Value) -> Pod {
    let container = json!({"name": "c", "image": "i:1", "command": ["86400000", "0"],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let spec = json!({"restartPolicy": "Never", "serviceAccountName": "robot", "containers": [container],
        "volumes": [volume]});
    world.create(name, spec).await
}

async fn account(world: &World) {
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), "default");
    let account = serde_json::from_value(json!({"metadata": {"name": "robot"}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
}

async fn config_map(world: &World, name: &str, key: &str, value: &str) {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let map = json!({"metadata": {"name": name}, "data": {key: value}});
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
}

/// Where the only container's volume is.
fn mounted(world: &World) -> PathBuf {
    let bundles = world.runtime.0.bundles.lock().unwrap();
    let mounts = bundles[0].spec.mounts().clone().unwrap();
    mounts.iter().find(|mount| mount.destination() == Path::new("/v")).unwrap().source().clone().unwrap()
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// Who the API says that a token is.
async fn review(world: &World, token: &str) -> Value {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let request = http::Request::post("/apis/authentication.k8s.io/v1/tokenreviews");
    let request = request.header("content-type", "application/json").body(body.to_string().into_bytes()).unwrap();
    world.client.request::<Value>(request).await.unwrap()["status"].clone()
}

async fn minutes(count: u64) {
    for _ in 0..count {
        tokio::time::sleep(Duration::from_mins(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_has_a_token_of_its_own_that_ends_with_it() {
    let world = World::new();
    account(&world).await;
    config_map(&world, "kube-root-ca.crt", "ca.crt", "the authority").await;
    let pod = with_volume(&world, "p", access()).await;
    world.phase("p", "Running").await;
    let volume = mounted(&world);
    assert_eq!((read(&volume, "ca.crt").as_str(), read(&volume, "namespace").as_str()), ("the authority", "default"));
    let token = read(&volume, "token");
    let status = review(&world, &token).await;
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot", "{status}");
    let uid = pod.metadata.uid.unwrap();
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-uid"], json!([uid]), "{status}");
    world.delete("p", 0).await;
    world.gone("p").await;
    let status = review(&world, &token).await;
    assert!(status["authenticated"] != true && status["error"].as_str().unwrap().contains("invalidated"), "{status}");
    world.clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_replaced_before_it_ends_also_by_the_next_agent() {
    let mut world = World::new();
    account(&world).await;
    config_map(&world, "kube-root-ca.crt", "ca.crt", "the authority").await;
    with_volume(&world, "p", access()).await;
    world.phase("p", "Running").await;
    let volume = mounted(&world);
    let mut token = read(&volume, "token");
    minutes(7).await;
    assert_eq!(read(&volume, "token"), token, "seven of ten minutes are less than four fifths");
    for _ in 0..6 {
        minutes(3).await;
        let now = read(&volume, "token");
        assert_eq!(review(&world, &now).await["authenticated"], true);
        token = now;
    }
    world.crash_agent().await;
    minutes(9).await;
    assert_eq!(read(&volume, "token"), token, "nobody was there");
    world.start_agent();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_ne!(read(&volume, "token"), token, "who was away for long looks at once");
    minutes(30).await;
    assert_eq!(review(&world, &read(&volume, "token")).await["authenticated"], true);
    let starts = world.runtime.0.calls().iter().filter(|call| call.starts_with("start")).count();
    assert_eq!(starts, 1, "the container runs on");
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_what_its_volumes_need() {
    let world = World::new();
    with_volume(&world, "p", access()).await;
    let condition = |status: &PodStatus, name: &str| {
        status.conditions.iter().flatten().any(|one| one.type_ == name && one.status == "True")
    };
    let status = world.waiting("p", "ContainerCreating").await;
    assert!(!condition(&status, "Ready"));
    minutes(1).await;
    account(&world).await;
    world.waiting("p", "ContainerCreating").await;
    config_map(&world, "kube-root-ca.crt", "ca.crt", "the authority").await;
    let began = tokio::time::Instant::now();
    world.phase("p", "Running").await;
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_running_container_sees_a_changed_config_map_within_a_minute_and_all_of_it_at_once() {
    let world = World::new();
    config_map(&world, "m", "a", "1").await;
    with_volume(&world, "p", json!({"name": "v", "configMap": {"name": "m"}})).await;
    world.phase("p", "Running").await;
    let volume = mounted(&world);
    let link = || std::fs::read_link(volume.join("..data")).unwrap();
    let before = link();
    minutes(5).await;
    assert_eq!(link(), before, "nothing changed");
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let patch = Patch::Merge(json!({"data": {"a": null, "b": "2"}}));
    maps.patch("m", &PatchParams::default(), &patch).await.unwrap();
    minutes(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(link() != before && !volume.join("a").exists());
    assert_eq!(read(&volume, "b"), "2");
    // What is gone takes nothing away from who has it.
    maps.delete("m", &DeleteParams::default()).await.unwrap();
    minutes(3).await;
    assert_eq!(read(&volume, "b"), "2");
    world.delete("p", 0).await;
    world.gone("p").await;
    world.clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_running_container_sees_other_labels_at_once() {
    let world = World::new();
    let labels = json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}});
    with_volume(&world, "p", json!({"name": "v", "downwardAPI": {"items": [labels]}})).await;
    world.phase("p", "Running").await;
    let volume = mounted(&world);
    assert_eq!(read(&volume, "labels"), "");
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    world.pods.patch("p", &PatchParams::default(), &patch).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(read(&volume, "labels"), "a=\"b\"");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_can_not_be_replaced_is_kept_as_long_as_it_is_good() {
    let world = World::new();
    account(&world).await;
    config_map(&world, "kube-root-ca.crt", "ca.crt", "old").await;
    with_volume(&world, "p", access()).await;
    world.phase("p", "Running").await;
    let volume = mounted(&world);
    let token = read(&volume, "token");
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), "default");
    accounts.delete("robot", &DeleteParams::default()).await.unwrap();
    minutes(8).await;
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let patch = Patch::Merge(json!({"data": {"ca.crt": "new"}}));
    maps.patch("kube-root-ca.crt", &PatchParams::default(), &patch).await.unwrap();
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!((read(&volume, "token"), read(&volume, "ca.crt").as_str()), (token.clone(), "new"));
    account(&world).await;
    minutes(2).await;
    assert_ne!(read(&volume, "token"), token, "it is had as soon as it can be");
}
