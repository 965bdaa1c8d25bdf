//! What every namespace has from the start: the ServiceAccount `default`, and the ConfigMap `kube-root-ca.crt` with the
//! certificate by which pods know the API.
//!
//! Invariant: both are there in every active namespace, also after somebody deleted them; the ConfigMap says what this
//! server's certificate is, and is never made after the account.
//! Upstream: `pkg/controller/serviceaccount/serviceaccounts_controller.go`,
//! `pkg/controller/certificates/rootcacertpublisher/publisher.go`, v1.36.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use stint_core::clock::Clock;

use crate::queue::{Queue, wait_for};
use stint_watch::watch;

/// The ServiceAccount.
const ACCOUNT: &str = "default";
/// The ConfigMap.
const ROOT_CA: &str = "kube-root-ca.crt";

/// Keeps both in every namespace until it is dropped. Without a certificate there is no ConfigMap.
pub async fn run(client: Client, clock: Arc<dyn Clock>, root_ca: Option<String>) {
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut namespaces = pin!(watch(Api::<Namespace>::all(client.clone()), watcher::Config::default()));
    let mut accounts = pin!(watch(Api::<ServiceAccount>::all(client.clone()), named(ACCOUNT)));
    let mut maps = pin!(watch(Api::<ConfigMap>::all(client.clone()), named(ROOT_CA)));
    let keeper = Keeper { client, root_ca };
    let mut active: BTreeSet<String> = BTreeSet::new();
    let mut queue: Queue<String> = Queue::new();
    loop {
        while let Some(name) = queue.take(clock.now(), |_| true) {
            if !active.contains(&name) {
                queue.done(&name);
                continue;
            }
            match keeper.keep(&name).boxed().await {
                Ok(()) => queue.done(&name),
                Err(error) => {
                    tracing::warn!(%error, namespace = name, "could not make what every namespace has; it is tried again");
                    queue.failed(&name, clock.now());
                }
            }
        }
        let wait = wait_for(queue.next_wake(), clock.now());
        tokio::select! {
            biased;
            Some(event) = namespaces.next() => match event {
                Event::Apply(namespace) | Event::InitApply(namespace) => {
                    let name = namespace.name_any();
                    if namespace.metadata.deletion_timestamp.is_some() {
                        active.remove(&name);
                    } else if active.insert(name.clone()) {
                        queue.mark(name);
                    }
                }
                Event::Delete(namespace) => drop(active.remove(&namespace.name_any())),
                Event::Init | Event::InitDone => {}
            },
            Some(event) = accounts.next() => if let Event::Delete(account) = event {
                queue.mark(account.namespace().unwrap_or_default());
            },
            Some(event) = maps.next() => if let Event::Delete(map) | Event::Apply(map) = event {
                queue.mark(map.namespace().unwrap_or_default());
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

struct Keeper {
    client: Client,
    root_ca: Option<String>,
}

impl Keeper {
    /// The certificate first: a pod may be made as soon as its account is there, and then needs both.
    async fn keep(&self, namespace: &str) -> kube::Result<()> {
        let certificate = self.keep_certificate(namespace).await;
        self.keep_account(namespace).await.and(certificate)
    }

    async fn keep_account(&self, namespace: &str) -> kube::Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        if accounts.get_opt(ACCOUNT).await?.is_some() {
            return Ok(());
        }
        let account = ServiceAccount { metadata: named(ACCOUNT), ..ServiceAccount::default() };
        settled(accounts.create(&PostParams::default(), &account).await)
    }

    async fn keep_certificate(&self, namespace: &str) -> kube::Result<()> {
        let Some(root_ca) = &self.root_ca else { return Ok(()) };
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let wanted = BTreeMap::from([("ca.crt".to_owned(), root_ca.clone())]);
        match maps.get_opt(ROOT_CA).await? {
            None => {
                let mut map = ConfigMap { metadata: named(ROOT_CA), data: Some(wanted), ..ConfigMap::default() };
                let description =
                    "Contains a CA bundle that can be used to verify the API server; it is kept up to date.";
                let note = ("kubernetes.io/description".to_owned(), description.to_owned());
                map.metadata.annotations = Some(BTreeMap::from([note]));
                settled(maps.create(&PostParams::default(), &map).await)
            }
            Some(map) if map.data.as_ref() == Some(&wanted) => Ok(()),
            Some(_) => {
                let patch = Patch::Merge(json!({ "data": { "ca.crt": root_ca } }));
                settled(maps.patch(ROOT_CA, &PatchParams::default(), &patch).await)
            }
        }
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// That somebody else made it, or that the namespace goes, is as good.
fn settled<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}
