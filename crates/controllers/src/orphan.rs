//! Pods that carry the tracking finalizer and that no controller has: nobody is going to count them, so nothing may hold
//! them. A Job that was deleted with `--cascade=orphan` leaves such pods, and so does who edits a pod by hand.
//!
//! Invariant: only a pod that is as it was seen loses its finalizer. One that has been adopted in the meantime keeps it.
//! Upstream: `pkg/controller/job/job_controller.go` (`syncOrphanPod`), v1.36.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use serde_json::json;
use stint_core::job::TRACKING_FINALIZER;
use stint_core::job::view::{controller_of, is_tracked};

/// The longest wait after a failure.
const LONGEST: Duration = Duration::from_mins(1);

/// The pods that are being released.
pub struct Orphans {
    client: Client,
    releases: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Orphans {
    /// None so far.
    pub fn new(client: Client) -> Orphans {
        Orphans { client, releases: FuturesUnordered::new() }
    }

    /// Looks at what the watch of pods shows.
    pub fn see(&mut self, event: &Event<Pod>) {
        let (Event::Apply(pod) | Event::InitApply(pod)) = event else { return };
        if controller_of(pod).is_none() && is_tracked(pod) {
            self.releases.push(release(self.client.clone(), pod).boxed());
        }
    }

    /// Goes on with the releases until one of them is done; `None` if there is none.
    pub async fn progress(&mut self) -> Option<()> {
        self.releases.next().await
    }
}

/// Takes the finalizer off; tries as long as nobody knows whether that went through.
fn release(client: Client, pod: &Pod) -> impl Future<Output = ()> + use<> {
    let meta = &pod.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client, meta.namespace.as_deref().unwrap_or_default());
    let patch = json!({ "metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "$deleteFromPrimitiveList/finalizers": [TRACKING_FINALIZER],
    }});
    async move {
        let mut delay = Duration::from_secs(1);
        loop {
            match api.patch(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                Ok(_) => return,
                // Gone, changed (then the watch shows it anew), or refused.
                Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                    tracing::debug!(
                        pod = name,
                        message = status.message,
                        "a pod without a controller was not released"
                    );
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, pod = name, "a pod without a controller was not released; it is tried again");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(LONGEST);
                }
            }
        }
    }
}
