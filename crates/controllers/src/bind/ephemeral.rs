//! The claims of ephemeral volumes: made for a pod that waits, and gone with it.
//!
//! Invariant: a claim that is there already is left alone; whether it was made for the pod is looked at where it is used.
//! Upstream: `pkg/controller/volume/ephemeral/controller.go`, v1.36.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use stint_core::storage::ephemeral_name;

/// Whether claims are to be made for the pod.
pub fn has_any(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|volume| volume.ephemeral.is_some())
}

/// Makes the claims of a pod; returns whether that is done with.
pub async fn make(client: &Client, pod: &Pod) -> bool {
    let mut is_done = true;
    for claim in claims(pod) {
        let kind = ApiResource::erase::<PersistentVolumeClaim>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &pod.namespace().unwrap_or_default(), &kind);
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                tracing::debug!(claim = claim.name_any(), message = status.message, "a pod's claim was not made");
            }
            Err(error) => {
                tracing::warn!(%error, claim = claim.name_any(), "a pod's claim was not made; it is tried again");
                is_done = false;
            }
        }
    }
    is_done
}

/// The claims of a pod's ephemeral volumes: its own.
fn claims(pod: &Pod) -> Vec<DynamicObject> {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let templates = volumes.filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        let given = template.metadata.clone().unwrap_or_default();
        let kind = ApiResource::erase::<PersistentVolumeClaim>(&());
        let mut claim =
            DynamicObject::new(&ephemeral_name(pod, &volume.name), &kind).data(json!({ "spec": template.spec }));
        claim.metadata = ObjectMeta {
            namespace: pod.namespace(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![owner.clone()]),
            ..claim.metadata
        };
        Some(claim)
    });
    templates.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_claim_has_the_templates_labels_and_belongs_to_the_pod() {
        let spec = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
        let template = json!({ "metadata": { "labels": { "a": "b" } }, "spec": spec });
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u" },
            "spec": { "containers": [], "volumes": [
                { "name": "v", "ephemeral": { "volumeClaimTemplate": template } }, { "name": "e", "emptyDir": {} }] },
        }))
        .unwrap();
        assert!(has_any(&pod));
        let claims = claims(&pod);
        assert_eq!(claims.len(), 1);
        assert_eq!((claims[0].name_any().as_str(), claims[0].labels()["a"].as_str()), ("p-v", "b"));
        let owner = &claims[0].owner_references()[0];
        assert_eq!((owner.uid.as_str(), owner.controller), ("u", Some(true)));
        assert_eq!(claims[0].data["spec"], spec);
    }
}
