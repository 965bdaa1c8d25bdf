//! Requests whose answers are read no further than they are needed. The whole object comes by the watch anyway.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::core::{Request, request};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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

/// The replacement of an object's status. Its spec does not go along, which such a request can't change; nor do its field
/// managers, which only the server does.
pub fn replace_status<K: Resource<DynamicType = ()>>(object: &K, status: &impl Serialize) -> Formed {
    let meta = object.meta();
    let (name, namespace) = (meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref().unwrap_or_default());
    let (api_version, kind) = (K::api_version(&()), K::kind(&()));
    let metadata = ObjectMeta { managed_fields: None, ..meta.clone() };
    let body = body(&Outline { api_version: &api_version, kind: &kind, metadata: &metadata, status })?;
    of::<K>(namespace).replace_subresource("status", name, &PostParams::default(), body)
}

/// An object without its spec.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outline<'a, S> {
    api_version: &'a str,
    kind: &'a str,
    metadata: &'a ObjectMeta,
    status: &'a S,
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
