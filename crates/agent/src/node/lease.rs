//! The node's Lease in `kube-node-lease`: renewed while the agent lives, so that others can tell.
//!
//! Invariant: a Lease goes with its Node. One that somebody deleted is noticed with the next renewal, and made again for the
//! Node that there is then.
//! Upstream: `k8s.io/component-helpers/apimachinery/lease/controller.go`, as the kubelet uses it, v1.36.

use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use stint_core::clock::Clock;
use tokio::time::sleep;

/// For how long one renewal speaks (the kubelet's `nodeLeaseDurationSeconds`).
const LIFETIME_SECONDS: u64 = 40;
/// How often it is renewed (the kubelet's: a quarter of its lifetime).
const PERIOD: Duration = Duration::from_secs(LIFETIME_SECONDS / 4);
/// Where the Leases of nodes are.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Makes the Lease of the node `name`, whose object has the uid `uid`, and renews it until it is gone.
pub(super) async fn keep(client: &Client, name: &str, uid: &str, clock: &dyn Clock) {
    let path = format!("{LEASES}/{name}");
    let spec = |now: Timestamp| json!({ "spec": lease(name, uid, now)["spec"] });
    let mut done = match send(client, "POST", LEASES, &lease(name, uid, clock.now())).await {
        Err(kube::Error::Api(status)) if status.code == 409 => send(client, "PATCH", &path, &spec(clock.now())).await,
        other => other,
    };
    loop {
        if let Err(error) = done {
            tracing::debug!(node = name, %error, "failed to renew the node's Lease; it is tried again");
        }
        sleep(PERIOD).await;
        done = send(client, "PATCH", &path, &spec(clock.now())).await;
        if let Err(kube::Error::Api(status)) = &done
            && status.code == 404
        {
            return;
        }
    }
}

/// As bare JSON: the types would be used for nothing else.
async fn send(client: &Client, method: &str, path: &str, body: &Value) -> kube::Result<()> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, kind);
    let request = request.body(body.to_string().into_bytes()).map_err(kube::Error::HttpError)?;
    client.request::<Value>(request).await.map(drop)
}

fn lease(name: &str, uid: &str, now: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": name, "uid": uid }],
        },
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": LIFETIME_SECONDS,
            "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        },
    })
}
