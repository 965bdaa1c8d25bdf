//! Objects read from JSON without the entries of their field managers.
//!
//! Which field belongs to whom concerns the API alone, and as trees of JSON these entries may cost more than all the rest:
//! who acts on what a watch shows passes them over.
//!
//! Invariant: what is read is the whole object but for `metadata.managedFields`. A test below asserts it.
//! Left out: requests that write a whole object. Without entries they say nothing about them, and the API keeps what it has.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};

/// Makes a type one that clients ask the API for under the name of `$whole`.
macro_rules! resource {
    ($part:ty, $whole:ty) => {
        impl k8s_openapi::Resource for $part {
            const API_VERSION: &'static str = <$whole as k8s_openapi::Resource>::API_VERSION;
            const GROUP: &'static str = <$whole as k8s_openapi::Resource>::GROUP;
            const KIND: &'static str = <$whole as k8s_openapi::Resource>::KIND;
            const VERSION: &'static str = <$whole as k8s_openapi::Resource>::VERSION;
            const URL_PATH_SEGMENT: &'static str = <$whole as k8s_openapi::Resource>::URL_PATH_SEGMENT;
            type Scope = k8s_openapi::NamespaceResourceScope;
        }

        impl k8s_openapi::Metadata for $part {
            type Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

            fn metadata(&self) -> &Self::Ty {
                &self.0.metadata
            }

            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.0.metadata
            }
        }
    };
}
pub(crate) use resource;

/// A pod without its field managers.
#[derive(Clone, Debug, PartialEq)]
pub struct UnmanagedPod(pub Pod);

/// A Job without its field managers.
#[derive(Clone, Debug, PartialEq)]
pub struct UnmanagedJob(pub Job);

resource!(UnmanagedPod, Pod);
resource!(UnmanagedJob, Job);

/// The members of an object.
#[derive(Deserialize)]
struct Parts<Spec, Status> {
    #[serde(default)]
    metadata: UnmanagedMeta,
    spec: Option<Spec>,
    status: Option<Status>,
}

impl<'de> Deserialize<'de> for UnmanagedPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UnmanagedPod, D::Error> {
        let Parts { metadata, spec, status } = Parts::<PodSpec, PodStatus>::deserialize(deserializer)?;
        Ok(UnmanagedPod(Pod { metadata: metadata.into(), spec, status }))
    }
}

impl<'de> Deserialize<'de> for UnmanagedJob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UnmanagedJob, D::Error> {
        let Parts { metadata, spec, status } = Parts::<JobSpec, JobStatus>::deserialize(deserializer)?;
        Ok(UnmanagedJob(Job { metadata: metadata.into(), spec, status }))
    }
}

/// Metadata as it is read, to be made an [`ObjectMeta`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnmanagedMeta {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    self_link: Option<String>,
    uid: Option<String>,
}

impl From<UnmanagedMeta> for ObjectMeta {
    fn from(read: UnmanagedMeta) -> ObjectMeta {
        ObjectMeta {
            annotations: read.annotations,
            creation_timestamp: read.creation_timestamp,
            deletion_grace_period_seconds: read.deletion_grace_period_seconds,
            deletion_timestamp: read.deletion_timestamp,
            finalizers: read.finalizers,
            generate_name: read.generate_name,
            generation: read.generation,
            labels: read.labels,
            managed_fields: None,
            name: read.name,
            namespace: read.namespace,
            owner_references: read.owner_references,
            resource_version: read.resource_version,
            self_link: read.self_link,
            uid: read.uid,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    /// An object of which every member of the metadata is set.
    fn object(spec: &Value, status: &Value) -> Value {
        let entry = json!({ "manager": "m", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": { "f:metadata": { "f:labels": { ".": {}, "f:k": {} } } } });
        let owner = json!({ "apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "o", "controller": true });
        json!({
            "metadata": {
                "annotations": { "a": "b" }, "creationTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 1,
                "deletionTimestamp": "2026-01-01T00:00:01Z", "finalizers": ["f"], "generateName": "n-", "generation": 3,
                "labels": { "k": "v" }, "managedFields": [entry], "name": "n", "namespace": "ns",
                "ownerReferences": [owner], "resourceVersion": "7", "selfLink": "/x", "uid": "u",
            },
            "spec": spec, "status": status,
        })
    }

    fn whole<K: k8s_openapi::Metadata<Ty = ObjectMeta> + DeserializeOwned>(object: &Value) -> K {
        let mut whole: K = serde_json::from_value(object.clone()).unwrap();
        whole.metadata_mut().managed_fields = None;
        whole
    }

    #[test]
    fn all_but_the_managers_is_read() {
        let template = json!({ "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }] } });
        let job = object(&json!({ "completions": 3, "template": template }), &json!({ "active": 2 }));
        assert_eq!(serde_json::from_value::<UnmanagedJob>(job.clone()).unwrap().0, whole(&job));
        let pod = object(&template["spec"], &json!({ "phase": "Running" }));
        let read: UnmanagedPod = serde_json::from_str(&pod.to_string()).unwrap();
        assert_eq!(read.0, whole(&pod));
        assert!(read.0.metadata.self_link.is_some() && read.0.metadata.managed_fields.is_none());
        for members in pod["metadata"].as_object().unwrap().keys() {
            let mut less = pod.clone();
            less["metadata"].as_object_mut().unwrap().remove(members);
            assert_eq!(serde_json::from_value::<UnmanagedPod>(less.clone()).unwrap().0, whole(&less), "{members}");
        }
    }

    #[test]
    fn an_object_may_lack_everything() {
        assert_eq!(serde_json::from_str::<UnmanagedPod>("{}").unwrap().0, Pod::default());
        assert_eq!(serde_json::from_str::<UnmanagedJob>("{}").unwrap().0, Job::default());
    }
}
