//! Which kinds the API serves, by its own discovery: what garbage collection and namespaces have to look at.

use std::time::Duration;

use kube::api::{ApiResource, DynamicObject};
use kube::core::metadata::PartialObjectMeta;
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client};

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
    pub fn metadata(&self, client: &Client, namespace: Option<&str>) -> Api<PartialObjectMeta<DynamicObject>> {
        match namespace {
            Some(namespace) if self.namespaced => Api::namespaced_with(client.clone(), namespace, &self.resource),
            _ => Api::all_with(client.clone(), &self.resource),
        }
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
