//! The garbage collector: watches the metadata of everything, and carries out what `core::owners` decides.
//!
//! Invariant: a write names the uid that it is about, and a deletion the revision too: an object that was made again under
//! the same name, or was given to another owner meanwhile, is not touched.
//! Left out: kinds that are added while it runs (there are none).

mod graph;

use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, FuturesUnordered, SelectAll};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use stint_core::clock::Clock;
use stint_core::owners::{Action, Owner, OwnerState, Propagation, Step, reconcile};
use stint_core::plan::Uid;

use crate::queue::{Queue, wait_for};
use crate::served::{Served, discover};
use graph::{Graph, KindIndex, Node};
use stint_watch::{map, watch_with};

/// How many objects are worked on at once.
const WORKERS: usize = 16;
/// How many objects are looked at before events are, and before others in the process get their turn.
const LOOKS: usize = 256;

/// Collects garbage until it is dropped.
pub async fn run(client: Client, clock: Arc<dyn Clock>) {
    let kinds: Arc<[Served]> = discover(&client).await.into();
    let mut events = pin!(watch_all(&client, &kinds));
    let unlisted = kinds.iter().zip(0..).map(|(_, position)| KindIndex(position)).collect();
    let mut collector = Collector {
        api: Api { client, kinds },
        graph: Graph::default(),
        queue: Queue::new(),
        working: FuturesUnordered::new(),
        unlisted,
    };
    loop {
        let more = collector.begin(clock.now());
        let wait = collector.wait(clock.now());
        tokio::select! {
            biased;
            Some((uid, outcome)) = collector.working.next() => collector.finish(&uid, outcome, clock.now()),
            Some((kind, event)) = events.next() => collector.take(kind, event),
            () = tokio::task::yield_now(), if more => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

type Change = (KindIndex, Event<ObjectMeta>);

fn watch_all(client: &Client, kinds: &[Served]) -> SelectAll<BoxStream<'static, Change>> {
    stream::select_all(kinds.iter().enumerate().map(|(position, kind)| {
        let index = KindIndex(u16::try_from(position).expect("there are some dozens of kinds"));
        let name = kind.resource.plural.clone();
        watch_with(kind.metadata(client, None), watcher::Config::default(), name)
            .map(move |event| (index, map(event, |object| object.metadata)))
            .boxed()
    }))
}

/// What a piece of work came to.
enum Outcome {
    /// The API was asked how it stands with these owners of the object.
    States(Vec<OwnerState>),
    /// All steps were taken.
    Done,
    /// One was not: try again after a while.
    Failed,
}

struct Collector {
    api: Api,
    graph: Graph,
    queue: Queue<Uid>,
    working: FuturesUnordered<BoxFuture<'static, (Uid, Outcome)>>,
    /// The kinds that have not been listed yet. Before that an owner may be there and not known.
    unlisted: HashSet<KindIndex>,
}

impl Collector {
    fn take(&mut self, kind: KindIndex, event: Event<ObjectMeta>) {
        let dirty = match event {
            Event::Init => {
                self.graph.list_begins(kind);
                BTreeSet::new()
            }
            Event::InitApply(meta) | Event::Apply(meta) => self.graph.apply(kind, &meta),
            Event::InitDone => {
                self.unlisted.remove(&kind);
                self.graph.list_ends(kind)
            }
            Event::Delete(meta) => self.graph.delete(&Uid::of(&meta)),
        };
        for uid in dirty {
            self.queue.mark(uid);
        }
    }

    /// Looks at objects that are to be looked at, as long as there are workers; returns whether there may be more of them,
    /// since so many had nothing to be done about.
    fn begin(&mut self, now: Timestamp) -> bool {
        for _ in 0..LOOKS {
            if !self.unlisted.is_empty() || self.queue.busy() >= WORKERS {
                return false;
            }
            let Some(uid) = self.queue.take(now, |_| true) else { return false };
            let Some(node) = self.graph.node(&uid) else {
                self.queue.done(&uid);
                continue;
            };
            let known: Option<Vec<OwnerState>> =
                node.item.owners.iter().map(|owner| self.graph.state(&owner.uid)).collect();
            match known {
                Some(states) => self.decide(&uid, &states),
                None if node.item.deleting => self.decide(&uid, &vec![OwnerState::Unknown; node.item.owners.len()]),
                None => {
                    let (api, node) = (self.api.clone(), node.clone());
                    self.working.push(async move { (uid, api.states(&node).await) }.boxed());
                }
            }
        }
        true
    }

    /// Decides about an object, and has the steps taken.
    fn decide(&mut self, uid: &Uid, states: &[OwnerState]) {
        let Some(node) = self.graph.node(uid).filter(|node| node.item.owners.len() == states.len()) else {
            return self.queue.done(uid); // it changed, and with that it was marked
        };
        let dependents = self.graph.dependents(uid).map(|node| &node.item);
        let steps = reconcile(&node.item, states, dependents);
        if steps.is_empty() {
            return self.queue.done(uid);
        }
        let (api, node) = (self.api.clone(), node.clone());
        let targets: Vec<(Step, Node)> = steps
            .into_iter()
            .filter_map(|step| {
                let target = match &step.action {
                    Action::Orphan(dependent) => self.graph.node(dependent)?.clone(),
                    _ => node.clone(),
                };
                Some((step, target))
            })
            .collect();
        self.working.push(async move { (node.item.uid.clone(), api.execute(&node.item.uid, targets).await) }.boxed());
    }

    fn finish(&mut self, uid: &Uid, outcome: Outcome, now: Timestamp) {
        match outcome {
            Outcome::States(states) => self.decide(uid, &states),
            Outcome::Done => self.queue.done(uid),
            Outcome::Failed => self.queue.failed(uid, now),
        }
    }

    fn wait(&self, now: Timestamp) -> Duration {
        wait_for(self.queue.next_wake(), now)
    }
}

/// Reaches objects of every kind.
#[derive(Clone)]
struct Api {
    client: Client,
    kinds: Arc<[Served]>,
}

impl Api {
    fn kind(&self, node: &Node) -> &Served {
        &self.kinds[usize::from(node.kind.0)]
    }

    /// Asks the API for each owner of `node`.
    async fn states(&self, node: &Node) -> Outcome {
        let mut states = Vec::new();
        for owner in &node.item.owners {
            match self.state(node, owner).await {
                Ok(state) => states.push(state),
                Err(error) => {
                    let (name, kind) = (&owner.name, &owner.kind);
                    tracing::warn!(%error, "could not ask whether {kind} {name} still exists; it is asked again");
                    return Outcome::Failed;
                }
            }
        }
        Outcome::States(states)
    }

    async fn state(&self, node: &Node, owner: &Owner) -> kube::Result<OwnerState> {
        let is_it =
            |kind: &&Served| *kind.resource.kind == *owner.kind && *kind.resource.api_version == *owner.api_version;
        let Some(kind) = self.kinds.iter().find(is_it) else { return Ok(OwnerState::Unknown) };
        if kind.namespaced && node.namespace.is_none() {
            return Ok(OwnerState::Unknown); // a cluster-wide object can't have an owner in a namespace
        }
        let found = kind.metadata(&self.client, node.namespace.as_deref()).get_opt(&owner.name).await?;
        let Some(found) = found.filter(|found| Uid::of(&found.metadata) == owner.uid) else {
            return Ok(OwnerState::Gone);
        };
        let item = stint_core::owners::Item::of(&found.metadata);
        Ok(if item.deleting && item.waits { OwnerState::Waiting } else { OwnerState::Alive })
    }

    /// Takes steps in order until one fails. `uid` is the object that they are about.
    async fn execute(&self, uid: &Uid, targets: Vec<(Step, Node)>) -> Outcome {
        let (orphans, rest): (Vec<_>, Vec<_>) =
            targets.into_iter().partition(|(step, _)| matches!(step.action, Action::Orphan(_)));
        let release = |(step, target): (Step, Node)| {
            let (api, uid) = (self.clone(), uid.clone());
            async move { api.take(&uid, &step, &target).await }
        };
        let mut released = stream::iter(orphans).map(release).buffer_unordered(WORKERS);
        let mut all = true;
        while let Some(done) = released.next().await {
            all &= done;
        }
        if !all {
            return Outcome::Failed;
        }
        for (step, target) in &rest {
            if !self.take(uid, step, target).await {
                return Outcome::Failed;
            }
        }
        Outcome::Done
    }

    /// Takes one step. Whether it went through, or is no longer needed.
    async fn take(&self, uid: &Uid, step: &Step, target: &Node) -> bool {
        let kind = self.kind(target);
        let (plural, name) = (&kind.resource.plural, &target.name);
        tracing::debug!(why = step.why, "{plural} {name}: {:?}", step.action);
        let result = match &step.action {
            Action::Delete(propagation) => self.delete(target, *propagation).await,
            Action::Disown(owners) => self.patch(target, disown(target, owners.iter())).await,
            Action::Orphan(_) => self.patch(target, disown(target, std::iter::once(uid))).await,
            Action::Unblock => {
                let references: Vec<Value> = target
                    .item
                    .owners
                    .iter()
                    .map(|owner| json!({ "uid": owner.uid, "blockOwnerDeletion": false }))
                    .collect();
                let patch = json!({ "metadata": { "uid": target.item.uid, "ownerReferences": references } });
                self.patch(target, patch).await
            }
            Action::Finalize(finalizer) => {
                let patch = json!({ "metadata": {
                    "uid": target.item.uid,
                    "$deleteFromPrimitiveList/finalizers": [finalizer],
                }});
                self.patch(target, patch).await
            }
        };
        match result {
            Ok(()) => true,
            Err(kube::Error::Api(status)) if status.code == 404 => true,
            Err(kube::Error::Api(status)) if status.code == 409 => false, // it changed: the watch will show how
            Err(error) => {
                tracing::warn!(%error, why = step.why, "garbage collection of {plural} {name} failed; it is tried again");
                false
            }
        }
    }

    async fn delete(&self, target: &Node, propagation: Propagation) -> kube::Result<()> {
        let params = DeleteParams {
            propagation_policy: Some(match propagation {
                Propagation::Background => PropagationPolicy::Background,
                Propagation::Foreground => PropagationPolicy::Foreground,
                Propagation::Orphan => PropagationPolicy::Orphan,
            }),
            preconditions: Some(Preconditions {
                uid: Some(target.item.uid.to_string()),
                resource_version: Some(target.revision.to_string()),
            }),
            ..DeleteParams::default()
        };
        let objects = self.kind(target).objects(&self.client, target.namespace.as_deref());
        objects.delete(&target.name, &params).await.map(drop)
    }

    async fn patch(&self, target: &Node, patch: Value) -> kube::Result<()> {
        let objects = self.kind(target).metadata(&self.client, target.namespace.as_deref());
        objects.patch(&target.name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
    }
}

/// A patch that removes the references to `owners` from `target`.
fn disown<'a>(target: &Node, owners: impl Iterator<Item = &'a Uid>) -> Value {
    let references: Vec<Value> = owners.map(|uid| json!({ "$patch": "delete", "uid": uid })).collect();
    json!({ "metadata": { "uid": target.item.uid, "ownerReferences": references } })
}
