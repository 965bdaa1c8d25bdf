//! The scheduler's part on one node: every pod that waits for a node gets it (`core::bind` decides).

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use stint_core::bind::{Verdict, decide};
use tokio::time::{Instant, sleep_until};

use crate::watch::watch;

/// How long a binding that failed waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Binds waiting pods to `node` until it is dropped.
pub async fn run(client: Client, namespace: Option<&str>, node: &str) {
    let api: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut waiting = pin!(watch(api, watcher::Config::default().fields("spec.nodeName=")));
    let mut failed: BTreeMap<String, Pod> = BTreeMap::new();
    let mut retry = Instant::now();
    loop {
        tokio::select! {
            biased; // so that one seed is one order of events
            // The moment stays whatever the watch brings, so that a stream of new pods puts nothing off.
            () = sleep_until(retry), if !failed.is_empty() => {
                for (uid, pod) in std::mem::take(&mut failed) {
                    if let Err(pod) = bind(&client, pod, node).await {
                        failed.insert(uid, *pod);
                    }
                }
                retry = Instant::now() + RETRY;
            }
            Some(event) = waiting.next() => match event {
                Event::Apply(pod) | Event::InitApply(pod) => {
                    if let Err(pod) = bind(&client, pod, node).await {
                        if failed.is_empty() {
                            retry = Instant::now() + RETRY;
                        }
                        failed.insert(pod.uid().unwrap_or_default(), *pod);
                    }
                }
                Event::Delete(pod) => drop(failed.remove(&pod.uid().unwrap_or_default())),
                Event::Init | Event::InitDone => {}
            },
        }
    }
}

/// Binds one pod; gives it back when that is to be tried again.
async fn bind(client: &Client, pod: Pod, node: &str) -> Result<(), Box<Pod>> {
    let Verdict::Bind(node) = decide(&pod, node) else { return Ok(()) };
    let name = pod.name_any();
    let namespace = pod.namespace().unwrap_or_default();
    let binding = Binding {
        metadata: ObjectMeta { name: Some(name.clone()), uid: pod.uid(), ..ObjectMeta::default() },
        target: ObjectReference { kind: Some("Node".to_owned()), name: Some(node), ..ObjectReference::default() },
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let answer: Result<serde_json::Value, _> =
        api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
    match answer {
        Ok(_) => Ok(()),
        // Gone, bound already, or refused for good: the watch tells if it changes.
        Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
            tracing::debug!(pod = name, message = status.message, "a binding was refused");
            Ok(())
        }
        Err(error) => {
            tracing::warn!(%error, pod = name, "a binding failed; it is tried again");
            Err(Box::new(pod))
        }
    }
}
