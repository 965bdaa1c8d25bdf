//! kube-rs over TLS, with the kubeconfig that the daemon writes.

use std::pin::pin;
use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::Daemon;

const NAMESPACE: &str = "kube-rs";

fn job(name: &str, script: &str) -> Job {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "backoffLimit": 0, "template": {
            "metadata": { "annotations": { "stint.dev/rootfs": "host" } },
            "spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                "containers": [{ "name": "c", "image": "none", "command": ["sh", "-c", script] }],
            },
        } },
    }))
    .unwrap()
}

#[test]
fn kube_rs_does_what_it_does_on_a_cluster() {
    let Some(daemon) = Daemon::with_agent() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_mins(10), Box::pin(session(&daemon)))
            .await
            .expect("a session takes seconds");
    });
}

async fn session(daemon: &Daemon) {
    let kubeconfig = Kubeconfig::read_from(daemon.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    assert!(client.apiserver_version().await.unwrap().git_version.starts_with("v1."));
    let namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } })).unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();

    // A watcher sees what happens to a Job until it is complete.
    let jobs: Api<Job> = Api::namespaced(client.clone(), NAMESPACE);
    let mut events = pin!(watcher(jobs.clone(), watcher::Config::default().streaming_lists()));
    assert!(matches!(events.next().await, Some(Ok(Event::Init))));
    assert!(matches!(events.next().await, Some(Ok(Event::InitDone))));
    jobs.create(&PostParams::default(), &job("hello", "echo hello")).await.unwrap();
    let complete = loop {
        let Event::Apply(job) = events.next().await.unwrap().unwrap() else { panic!("nothing is deleted") };
        let status = job.status.clone().unwrap_or_default();
        if status.conditions.iter().flatten().any(|condition| condition.type_ == "Complete") {
            break job;
        }
    };
    assert_eq!(complete.status.unwrap().succeeded, Some(1));

    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let of_job = |name: &str| ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
    let pod = pods.list(&of_job("hello")).await.unwrap().items.remove(0);
    let lines = pods.log_stream(&pod.name_any(), &LogParams { follow: true, ..LogParams::default() }).await.unwrap();
    assert_eq!(lines.lines().try_collect::<Vec<_>>().await.unwrap(), ["hello"]);
    let metadata = jobs.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["hello"]);

    // Two appliers, and who is in the way of whom.
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let map = |value: &str| {
        let metadata = json!({ "name": "shared" });
        Patch::Apply(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "a": value } }))
    };
    maps.patch("shared", &PatchParams::apply("one"), &map("1")).await.unwrap();
    let refused = maps.patch("shared", &PatchParams::apply("two"), &map("2")).await.unwrap_err();
    let kube::Error::Api(status) = &refused else { panic!("{refused}") };
    assert!(status.code == 409 && status.message.contains("conflict with \"one\": .data.a"), "{}", status.message);
    let forced = maps.patch("shared", &PatchParams::apply("two").force(), &map("2")).await.unwrap();
    assert_eq!(forced.data.unwrap()["a"], "2");

    // A write on top of what has changed meanwhile is refused.
    let stale = maps.get("shared").await.unwrap();
    let label = Patch::Merge(json!({ "metadata": { "labels": { "x": "1" } } }));
    maps.patch("shared", &PatchParams::default(), &label).await.unwrap();
    let refused = maps.replace("shared", &PostParams::default(), &stale).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.is_conflict()), "{refused}");

    jobs.create(&PostParams::default(), &job("long", "sleep 600")).await.unwrap();
    let running = loop {
        let found = pods.list(&of_job("long")).await.unwrap().items;
        if let Some(pod) = found.first() {
            let name = pod.name_any();
            await_condition(pods.clone(), &name, conditions::is_pod_running()).await.unwrap();
            break name;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut attached = pods.exec(&running, ["sh", "-c", "echo out; exit 3"], &AttachParams::default()).await.unwrap();
    let mut out = String::new();
    attached.stdout().unwrap().read_to_string(&mut out).await.unwrap();
    let status = attached.take_status().unwrap().await.unwrap();
    assert_eq!(out, "out\n");
    assert_eq!((status.status.as_deref(), status.reason.as_deref()), (Some("Failure"), Some("NonZeroExitCode")));

    let delete = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    let uid = jobs.delete("long", &delete).await.unwrap().left().expect("the Job waits for its pod").uid().unwrap();
    await_condition(jobs.clone(), "long", conditions::is_deleted(&uid)).await.unwrap();
    assert!(pods.get_opt(&running).await.unwrap().is_none(), "a Job that is deleted in the foreground goes last");

    let uid = namespaces.get(NAMESPACE).await.unwrap().uid().unwrap();
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await.unwrap();
    await_condition(namespaces, NAMESPACE, conditions::is_deleted(&uid)).await.unwrap();
    assert!(jobs.list(&ListParams::default()).await.unwrap().items.is_empty());
}
