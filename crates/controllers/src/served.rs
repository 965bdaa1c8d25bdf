//! Which kinds the API serves, by its own discovery: what garbage collection and namespaces have to look at.

use std::borrow::Cow;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject};
use kube::core::DynamicResourceScope;
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client, Resource};
use serde::Deserialize;
use stint_core::unmanaged::UnmanagedMeta;

/// A kind whose objects can be listed, watched and deleted.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its names.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Served {
    /// Reaches objects of this kind in `namespace`; in all of them, or those of a cluster-wide kind, with `None`.
    pub fn objects(&self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) if self.namespaced => Api::namespaced_with(client.clone(), namespace, &self.resource),
            _ => Api::all_with(client.clone(), &self.resource),
        }
    }

    /// The same, for their metadata only.
    pub fn metadata(&self, client: &Client, namespace: Option<&str>) -> Api<Partial> {
        match namespace {
            Some(namespace) if self.namespaced => Api::namespaced_with(client.clone(), namespace, &self.resource),
            _ => Api::all_with(client.clone(), &self.resource),
        }
    }
}

/// An object of any kind, of which no more is read than its metadata, without the entries of its field managers. (kube's
/// `PartialObjectMeta` first keeps all members of an object, spec and status with all that is in them, to find out which of
/// them it knows.)
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Partial {
    /// `metadata`.
    #[serde(default, deserialize_with = "unmanaged")]
    pub metadata: ObjectMeta,
}

fn unmanaged<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    UnmanagedMeta::deserialize(deserializer).map(ObjectMeta::from)
}

impl Resource for Partial {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Asks the API until it answers.
///
/// Events are left out, as upstream's `DefaultIgnoredResources` does: they belong to nobody and end by age.
pub async fn discover(client: &Client) -> Vec<Served> {
    let mut delay = Duration::from_millis(100);
    loop {
        match Discovery::new(client.clone()).run_aggregated().await {
            Ok(discovery) => {
                let mut served: Vec<Served> = discovery
                    .groups()
                    .flat_map(kube::discovery::ApiGroup::recommended_resources)
                    .filter(|(resource, can)| {
                        resource.plural != "events"
                            && [verbs::LIST, verbs::WATCH, verbs::DELETE]
                                .iter()
                                .all(|verb| can.supports_operation(verb))
                    })
                    .map(|(resource, can)| Served { resource, namespaced: can.scope == Scope::Namespaced })
                    .collect();
                served.sort_by(|a, b| {
                    (&a.resource.group, &a.resource.plural).cmp(&(&b.resource.group, &b.resource.plural))
                });
                return served;
            }
            Err(error) => {
                tracing::warn!(%error, "the API's kinds could not be discovered; it is asked again");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(10));
            }
        }
    }
}
