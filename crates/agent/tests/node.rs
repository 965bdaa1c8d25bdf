//! The node as the API shows it.

mod support;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use support::World;

#[tokio::test(start_paused = true)]
async fn a_node_renews_its_lease_and_comes_back_with_it_when_they_are_gone() {
    let world = World::new();
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "kube-node-lease");
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(leases.get_opt("node").await.unwrap().is_none(), "the namespace is not there");
    let namespace = serde_json::from_value(json!({"metadata": {"name": "kube-node-lease"}})).unwrap();
    Api::<Namespace>::all(world.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let renewed = async || -> Timestamp {
        tokio::time::sleep(Duration::from_secs(15)).await;
        leases.get("node").await.unwrap().spec.unwrap().renew_time.unwrap().0
    };
    let first = renewed().await;
    let lease = leases.get("node").await.unwrap();
    let node = Api::<Node>::all(world.client.clone()).get("node").await.unwrap();
    let owner = &lease.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), Some(&owner.uid)), ("Node", node.metadata.uid.as_ref()));
    let info = node.status.as_ref().unwrap().node_info.as_ref().unwrap();
    assert!(!info.boot_id.is_empty() && !info.os_image.is_empty() && !info.kernel_version.is_empty(), "{info:?}");
    let spec = lease.spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_duration_seconds), (Some("node"), Some(40)));
    let second = renewed().await;
    assert!(second > first, "{first} {second}");
    leases.delete("node", &DeleteParams::default()).await.unwrap();
    let third = renewed().await;
    assert!(third > second);
    // With the Node goes its Lease; in a cluster that is the garbage collector's business.
    let nodes = Api::<Node>::all(world.client.clone());
    nodes.delete("node", &DeleteParams::default()).await.unwrap();
    leases.delete("node", &DeleteParams::default()).await.unwrap();
    assert!(renewed().await > third);
    let (owner, node) = (leases.get("node").await.unwrap(), nodes.get("node").await.unwrap());
    assert_eq!(Some(&owner.metadata.owner_references.unwrap()[0].uid), node.metadata.uid.as_ref());
}
