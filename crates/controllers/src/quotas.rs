//! What ResourceQuotas say is used: counted anew whenever something comes, goes or is over in their namespace.
//!
//! ```text
//!   quotas ──────────────────────────────┐
//!                                        ├─▶ queue of quotas ─▶ list, count (core) ─▶ status, if it says something else
//!   kinds that a quota limits, watched ──┘
//!   in its namespace only
//! ```
//!
//! Invariant: nothing is watched or listed that no quota limits. What is used is counted from the objects, so that it does
//! not matter what was missed. Admission counts by itself, and does not wait for this.
//! Upstream: `pkg/controller/resourcequota/resource_quota_controller.go`, v1.36. Left out: Events, which are counted when
//! one is created.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::future::{AbortHandle, BoxFuture};
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures::{FutureExt, StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use kube::api::{ListParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use stint_core::admission::quota::{self, Amounts, Counted};
use stint_core::clock::Clock;

use crate::queue::{Queue, wait_for};
use crate::served::{Served, discover};
use stint_watch::watch_with;

/// How many quotas are counted at once.
const WORKERS: usize = 2;
/// How long changes are gathered before they are counted: a Job's pods come and go together.
const GATHER: SignedDuration = SignedDuration::from_millis(250);
/// How often everything is counted though nothing happened (upstream: `--resource-quota-sync-period`).
const FULL_PASS: SignedDuration = SignedDuration::from_mins(5);

/// A quota: its namespace and name.
type Key = (String, String);

/// Keeps the status of quotas until it is dropped.
pub async fn run(client: Client, clock: Arc<dyn Clock>) {
    let served = discover(&client).await;
    let Some(own) = served.iter().find(|kind| name_of(kind) == "resourcequotas").cloned() else { return };
    let kinds: Arc<[Served]> = served.into_iter().filter(|kind| kind.namespaced).collect();
    let quotas = watch_with(own.metadata(&client, None), watcher::Config::default(), "resourcequotas".into());
    let mut quotas = pin!(quotas);
    let mut keeper = Keeper {
        client,
        kinds,
        queue: Queue::new(),
        working: FuturesUnordered::new(),
        limits: BTreeMap::new(),
        watched: BTreeMap::new(),
        changes: SelectAll::new(),
    };
    loop {
        keeper.begin(clock.now());
        let wait = wait_for(keeper.queue.next_wake(), clock.now());
        tokio::select! {
            biased;
            Some((key, counted)) = keeper.working.next() => keeper.finish(key, counted, clock.now()),
            Some(event) = quotas.next() => if let Event::Apply(quota) | Event::InitApply(quota) | Event::Delete(quota) = event {
                keeper.queue.mark(key(quota.metadata.namespace, quota.metadata.name));
            },
            Some((namespace, kind)) = keeper.changes.next() => keeper.changed(&namespace, kind, clock.now()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn key(namespace: Option<String>, name: Option<String>) -> Key {
    (namespace.unwrap_or_default(), name.unwrap_or_default())
}

/// What quotas call a kind: `pods`, `jobs.batch`.
fn name_of(kind: &Served) -> String {
    let (group, plural) = (&kind.resource.group, &kind.resource.plural);
    if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") }
}

/// Which kinds a quota limits: their places in the list of kinds.
type Limited = BTreeSet<usize>;

struct Keeper {
    client: Client,
    kinds: Arc<[Served]>,
    queue: Queue<Key>,
    working: FuturesUnordered<BoxFuture<'static, (Key, kube::Result<Option<Limited>>)>>,
    /// What each quota limits.
    limits: BTreeMap<Key, Limited>,
    /// The kinds that are watched in each namespace that has a quota.
    watched: BTreeMap<String, BTreeMap<usize, AbortHandle>>,
    changes: SelectAll<BoxStream<'static, (String, usize)>>,
}

impl Keeper {
    fn begin(&mut self, now: Timestamp) {
        while self.queue.busy() < WORKERS
            && let Some(key) = self.queue.take(now, |_| true)
        {
            let (client, kinds) = (self.client.clone(), Arc::clone(&self.kinds));
            self.working.push(
                async move {
                    let counted = count(&client, &kinds, &key).await;
                    (key, counted)
                }
                .boxed(),
            );
        }
    }

    /// A quota was counted, and limits these kinds; or it is gone.
    fn finish(&mut self, key: Key, counted: kube::Result<Option<Limited>>, now: Timestamp) {
        match counted {
            Err(error) => {
                tracing::warn!(%error, namespace = key.0, name = key.1, "could not count what a quota limits; it is tried again");
                self.queue.failed(&key, now);
            }
            Ok(limited) => {
                self.queue.done(&key);
                let namespace = key.0.clone();
                match limited {
                    None => drop(self.limits.remove(&key)),
                    Some(limited) => {
                        self.limits.insert(key.clone(), limited);
                        self.queue.mark_at(key, now.saturating_add(FULL_PASS).unwrap_or(Timestamp::MAX));
                    }
                }
                self.watch(&namespace);
            }
        }
    }

    /// Something of a kind has changed in a namespace.
    fn changed(&mut self, namespace: &str, kind: usize, now: Timestamp) {
        let at = now.saturating_add(GATHER).unwrap_or(Timestamp::MAX);
        let concerned = self.limits.iter().filter(|((of, _), limited)| of == namespace && limited.contains(&kind));
        for (key, _) in concerned {
            // Earlier than the full pass, for which it waits already.
            self.queue.mark_at(key.clone(), at);
        }
    }

    /// Watches in a namespace what its quotas limit, and nothing else. What is there already is told first, so that what
    /// happened since it was counted is counted again.
    fn watch(&mut self, namespace: &str) {
        let of_it = self.limits.iter().filter(|((of, _), _)| of == namespace);
        let wanted: Limited = of_it.flat_map(|(_, limited)| limited.iter().copied()).collect();
        let watched = self.watched.entry(namespace.to_owned()).or_default();
        watched.retain(|kind, handle| {
            let stays = wanted.contains(kind);
            if !stays {
                handle.abort();
            }
            stays
        });
        for index in wanted {
            if watched.contains_key(&index) {
                continue;
            }
            let kind = &self.kinds[index];
            let api = kind.metadata(&self.client, Some(namespace));
            let events = watch_with(api, watcher::Config::default(), kind.resource.plural.clone());
            let of = namespace.to_owned();
            let changes = events.filter_map(move |event| {
                let told = matches!(event, Event::Apply(_) | Event::InitDone | Event::Delete(_));
                std::future::ready(told.then(|| (of.clone(), index)))
            });
            let (changes, handle) = stream::abortable(changes);
            watched.insert(index, handle);
            self.changes.push(changes.boxed());
        }
        if watched.is_empty() {
            self.watched.remove(namespace);
        }
    }
}

/// Counts what a quota limits and writes it down. Returns which kinds that are; none: the quota is gone.
async fn count(client: &Client, kinds: &[Served], (namespace, name): &Key) -> kube::Result<Option<Limited>> {
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
    let Some(mut quota) = quotas.get_opt(name).await? else { return Ok(None) };
    let hard = quota::hard(&quota);
    let concerned = |kind: &Served| quota::concerns(hard.keys(), &name_of(kind));
    let limited: Limited =
        kinds.iter().enumerate().filter(|(_, kind)| concerned(kind)).map(|(index, _)| index).collect();
    let mut used = Amounts::new();
    quota::add(&quota, &mut used, &Amounts::new());
    for index in &limited {
        tally(client, &kinds[*index], namespace, &quota, &mut used).await?;
    }
    let status = quota::status(&quota, &used);
    if quota.status.as_ref() == Some(&status) {
        return Ok(Some(limited));
    }
    quota.status = Some(status);
    match quotas.replace_status(name, &PostParams::default(), &quota).await {
        Ok(_) => Ok(Some(limited)),
        // Gone, or somebody was faster: its next event says so.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Some(limited)),
        Err(error) => Err(error),
    }
}

/// Adds what the objects of a kind use. Only those are read that use something besides their place.
async fn tally(
    client: &Client,
    kind: &Served,
    namespace: &str,
    quota: &ResourceQuota,
    used: &mut Amounts,
) -> kube::Result<()> {
    let resource = name_of(kind);
    match resource.as_str() {
        "pods" => tally_of(client, namespace, quota, &resource, used, |pod: &Pod| Counted::Pod(pod)).await,
        "persistentvolumeclaims" => {
            tally_of(client, namespace, quota, &resource, used, |claim: &PersistentVolumeClaim| Counted::Claim(claim))
                .await
        }
        "services" => {
            tally_of(client, namespace, quota, &resource, used, |service: &Service| Counted::Service(service)).await
        }
        _ if quota::matches(quota, Counted::Other) => {
            let list = kind.metadata(client, Some(namespace)).list(&ListParams::default()).await?;
            let usage = quota::usage(&resource, Counted::Other);
            list.items.iter().for_each(|_| quota::add(quota, used, &usage));
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn tally_of<K>(
    client: &Client,
    namespace: &str,
    quota: &ResourceQuota,
    resource: &str,
    used: &mut Amounts,
    counted: impl Fn(&K) -> Counted<'_>,
) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let list = Api::<K>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?;
    for object in &list.items {
        let object = counted(object);
        if quota::matches(quota, object) {
            quota::add(quota, used, &quota::usage(resource, object));
        }
    }
    Ok(())
}
