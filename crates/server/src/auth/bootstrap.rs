//! Makes the roles and bindings that every API server has, and adds to older ones what they lack.

use futures::future::try_join_all;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stint_auth::bootstrap::{cluster_role_bindings, cluster_roles, reconcile_binding, reconcile_role};
use stint_auth::policy::PREFIX;
use stint_core::json;
use stint_store::{Mutation, Outcome};

use crate::encoding::Encoded;
use crate::status::Result;
use crate::update::write;
use crate::{Api, rules};

pub(crate) async fn bootstrap(api: &Api) -> Result<()> {
    // At once, so that the store can commit them together.
    let roles = cluster_roles().into_iter().map(|role| ensure(api, "clusterroles", role, reconcile_role));
    try_join_all(roles).await?;
    let bindings = cluster_role_bindings()
        .into_iter()
        .map(|binding| ensure(api, "clusterrolebindings", binding, reconcile_binding));
    try_join_all(bindings).await?;
    if let Some(auth) = &api.auth {
        super::aggregate::keep(api, auth).await;
    }
    Ok(())
}

/// Creates `wanted`, or writes what `reconcile` makes of the stored object.
async fn ensure<T>(api: &Api, plural: &str, mut wanted: T, reconcile: fn(&T, &T) -> Option<T>) -> Result<()>
where
    T: Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
{
    let key = format!("{PREFIX}{plural}/{}", wanted.metadata().name.as_deref().unwrap_or_default());
    loop {
        let mutation = if let Some(entry) = api.store.get(&key) {
            let stored = json::read(&entry.value);
            let Some(mut new) = stored.ok().and_then(|stored| reconcile(&stored, &wanted)) else { return Ok(()) };
            new.metadata_mut().resource_version = None;
            let encoded = Encoded::of(&new);
            Mutation::update(key.clone(), entry.revision, move |revision| encoded.at(revision))
        } else {
            rules::create(wanted.metadata_mut(), &api.ids.uid(), api.clock.now(), false);
            let encoded = Encoded::of(&wanted);
            Mutation::create(key.clone(), move |revision| encoded.at(revision))
        };
        if let Outcome::Written(_) = write(api, mutation).await? {
            return Ok(());
        }
    }
}
