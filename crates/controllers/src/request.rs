//! Requests whose answers are read no further than they are needed. The whole object comes by the watch anyway.

use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{Request, request};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stint_core::json::merge_patch;

/// What is read of an object that was written.
#[derive(Deserialize)]
pub struct Written {
    /// A part of its metadata.
    pub metadata: WrittenMeta,
}

/// What is read of its metadata.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WrittenMeta {
    /// `metadata.name`.
    pub name: Option<String>,
    /// `metadata.resourceVersion`.
    pub resource_version: Option<String>,
}

/// A request that is formed, or why it can't be.
pub type Formed = Result<http::Request<Vec<u8>>, request::Error>;

/// Requests about objects of a namespace.
pub fn of<K: Resource<DynamicType = ()>>(namespace: &str) -> Request {
    Request::new(K::url_path(&(), Some(namespace)))
}

/// The creation of an object in a namespace.
pub fn create<K: Resource<DynamicType = ()> + Serialize>(namespace: &str, object: &K) -> Formed {
    of::<K>(namespace).create(&PostParams::default(), body(object)?)
}

/// The patch that makes the status of an object, as it was seen, the new one; a conflict if it has changed since. What a newer
/// API has in a status and this program has never heard of stays.
pub fn patch_status<K: Resource<DynamicType = ()>, S: Serialize>(seen: &K, old: Option<&S>, new: &S) -> Formed {
    let meta = seen.meta();
    let (name, namespace) = (meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref().unwrap_or_default());
    let json = |status: &S| serde_json::to_value(status).map_err(request::Error::SerializeBody);
    let old = old.map_or_else(|| Ok(json!({})), json)?;
    let patch = Patch::Merge(json!({
        "metadata": { "uid": meta.uid, "resourceVersion": meta.resource_version },
        "status": merge_patch(&old, &json(new)?),
    }));
    of::<K>(namespace).patch_subresource("status", name, &PatchParams::default(), &patch)
}

/// Sends a request, and reads of the answer what `T` has.
pub async fn send<T: DeserializeOwned>(client: &Client, request: Formed) -> kube::Result<T> {
    client.request(request.map_err(kube::Error::BuildRequest)?).await
}

/// Sends a request of which nobody reads the answer, if it is a good one.
pub async fn send_unread(client: &Client, request: Formed) -> kube::Result<()> {
    client.request_text(request.map_err(kube::Error::BuildRequest)?).await.map(drop)
}

fn body(object: &impl Serialize) -> Result<Vec<u8>, request::Error> {
    serde_json::to_vec(object).map_err(request::Error::SerializeBody)
}
