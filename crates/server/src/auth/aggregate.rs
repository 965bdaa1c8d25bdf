//! Writes down the rules of aggregated ClusterRoles, so that who reads one sees what it gives.
//!
//! Nothing is decided by what is written here: the policy puts the rules together itself.
//! Invariant: the task keeps no store open, and ends with it.
//! Upstream: `pkg/controller/clusterroleaggregation/clusterroleaggregation_controller.go`, v1.36.

use std::sync::{Arc, Weak};

use k8s_openapi::api::rbac::v1::ClusterRole;
use stint_auth::policy::PREFIX;
use stint_core::json;
use stint_store::{Mutation, Store, Watch};

use super::Auth;
use crate::Api;
use crate::encoding::Encoded;

/// Writes what is not written yet, and goes on to do so for as long as the API is there.
pub(super) async fn keep(api: &Api, auth: &Arc<Auth>) {
    // Watched from before the first look, so that nothing in between is missed.
    let watch = watch(&api.store);
    write(auth, &api.store).await;
    tokio::spawn(follow(Arc::downgrade(auth), watch));
}

fn watch(store: &Store) -> Option<Watch> {
    store.watch(&format!("{PREFIX}clusterroles/"), store.revision()).ok()
}

async fn follow(auth: Weak<Auth>, mut changes: Option<Watch>) {
    loop {
        let lost = match &mut changes {
            None => true,
            Some(changes) => match changes.next().await {
                None => return,
                Some(first) => {
                    // One look is enough for all that has happened so far.
                    let mut lost = first.is_err();
                    while let Some(more) = changes.try_next() {
                        lost |= more.is_err();
                    }
                    lost
                }
            },
        };
        let Some(auth) = auth.upgrade() else { return };
        let store = auth.policy.store().clone();
        if lost {
            changes = watch(&store);
        }
        write(&auth, &store).await;
    }
}

async fn write(auth: &Auth, store: &Store) {
    let index = auth.policy.index();
    for name in index.aggregated_names() {
        let Some(entry) = store.get(&format!("{PREFIX}clusterroles/{name}")) else { continue };
        let Ok(mut role) = json::read::<ClusterRole>(&entry.value) else { continue };
        let rules = index.aggregated(name).unwrap_or_default();
        if role.rules.as_deref().unwrap_or_default() == rules {
            continue;
        }
        role.rules = Some(rules.to_vec());
        role.metadata.resource_version = None;
        let encoded = Encoded::of(&role);
        let mutation = Mutation::update(entry.key.clone(), entry.revision, move |revision| encoded.at(revision));
        // If somebody else was faster, their write brings us here again.
        if let Err(error) = store.write(mutation).await {
            tracing::warn!(%name, %error, "cannot write down the rules of an aggregated ClusterRole");
        }
    }
}
