//! The end of namespaces: looks at what is in one, and carries out what `core::namespace` decides.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use stint_core::clock::Clock;
use stint_core::namespace::{FINALIZER, Plan, Remains, is_terminating, reconcile};

use crate::queue::{Queue, wait_for};
use crate::served::{Served, discover};
use stint_watch::watch;

/// How many namespaces are emptied at once.
const WORKERS: usize = 4;
/// How many kinds of one namespace are looked at once.
const LOOKS: usize = 8;
/// The delay before the next look at a namespace that is not empty yet: doubled each time, from and up to these.
const DELAYS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Empties and removes namespaces that are being deleted, until it is dropped.
pub async fn run(client: Client, clock: Arc<dyn Clock>) {
    let kinds = discover(&client).await.into_iter().filter(|kind| kind.namespaced).collect::<Vec<_>>();
    let cleaner = Cleaner { client: client.clone(), kinds: kinds.into() };
    let mut events = pin!(watch(Api::<Namespace>::all(client), watcher::Config::default()));
    let mut queue: Queue<String> = Queue::new();
    let mut looks: BTreeMap<String, u32> = BTreeMap::new();
    let mut working = FuturesUnordered::new();
    loop {
        while queue.busy() < WORKERS {
            let Some(name) = queue.take(clock.now(), |_| true) else { break };
            let cleaner = cleaner.clone();
            let now = clock.now();
            working.push(async move { (name.clone(), cleaner.clean(&name, now).await) });
        }
        let wait = wait_for(queue.next_wake(), clock.now());
        tokio::select! {
            biased;
            Some((name, result)) = working.next() => match result {
                Ok(true) => {
                    looks.remove(&name);
                    queue.done(&name);
                }
                Ok(false) => {
                    let looked = looks.entry(name.clone()).or_insert(0);
                    let delay = DELAYS.0.saturating_mul(1_u32.checked_shl(*looked).unwrap_or(u32::MAX)).min(DELAYS.1);
                    *looked += 1;
                    queue.done(&name);
                    queue.mark_at(name, clock.now().saturating_add(delay).unwrap_or(Timestamp::MAX));
                }
                Err(error) => {
                    tracing::warn!(%error, namespace = name, "could not empty a namespace; it is tried again");
                    queue.failed(&name, clock.now());
                }
            },
            Some(event) = events.next() => match event {
                Event::Apply(namespace) | Event::InitApply(namespace) if is_terminating(&namespace) => {
                    queue.mark(namespace.name_any());
                }
                _ => {}
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[derive(Clone)]
struct Cleaner {
    client: Client,
    kinds: Arc<[Served]>,
}

impl Cleaner {
    /// One look and what follows from it. Whether nothing is left to do.
    async fn clean(&self, name: &str, now: Timestamp) -> kube::Result<bool> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let Some(mut namespace) = namespaces.get_opt(name).await? else { return Ok(true) };
        if !is_terminating(&namespace) {
            return Ok(true);
        }
        let look = |kind: Served| {
            let (client, namespace) = (self.client.clone(), name.to_owned());
            async move { look(&client, &kind, &namespace).await }
        };
        let found = stream::iter(self.kinds.to_vec()).map(look).buffered(LOOKS);
        let remains: Vec<Remains> = found.collect::<Vec<_>>().await.into_iter().collect::<kube::Result<_>>()?;
        let (status, delete) = match reconcile(&namespace, &remains, now) {
            Plan::Rest => return Ok(true),
            Plan::Clear { status, delete } => (status, Some(delete)),
            Plan::Finalize { status } => (status, None),
        };
        if let Some(status) = status {
            namespace.status = Some(*status);
            namespace = namespaces.replace_status(name, &PostParams::default(), &namespace).await?;
        }
        let Some(delete) = delete else {
            tracing::info!(namespace = name, "a namespace is empty and goes");
            let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            let answer: kube::Result<Namespace> =
                namespaces.replace_subresource("finalize", name, &PostParams::default(), &namespace).await;
            return match answer {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
                Err(error) => Err(error),
            };
        };
        for position in delete {
            let objects = self.kinds[position].objects(&self.client, Some(name));
            objects.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
        }
        Ok(false)
    }
}

/// What there is of one kind in a namespace, read consistently.
async fn look(client: &Client, kind: &Served, namespace: &str) -> kube::Result<Remains> {
    let list = kind.metadata(client, Some(namespace)).list(&ListParams::default()).await?;
    let mut remains = Remains {
        plural: kind.resource.plural.clone(),
        group: kind.resource.group.clone(),
        count: list.items.len(),
        deleting: 0,
        finalizers: BTreeMap::new(),
    };
    for object in &list.items {
        remains.deleting += usize::from(object.metadata.deletion_timestamp.is_some());
        for finalizer in object.metadata.finalizers.iter().flatten() {
            *remains.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
    Ok(remains)
}
