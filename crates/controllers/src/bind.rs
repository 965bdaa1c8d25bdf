//! The scheduler's part on one node: pods are bound, or told why not, as `core::bind` decides.
//!
//! Invariants: nothing is bound before all pods that are on the node were listed. A binding of which nobody knows whether it
//! was performed is sent again until that is known; until then its room stays taken.

mod ephemeral;
mod write;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use stint_core::bind::{Scheduler, Seat, Standing, standing};
use stint_core::clock::Clock;
use stint_core::plan::Uid;
use stint_core::storage::ClaimKey;
use stint_core::unmanaged::UnmanagedPod;
use tokio::time::{Instant, sleep_until};

use crate::Config;
use crate::events::recorder;
use crate::queue::wait_for;
use stint_watch::{map, watch, watch_with};
use write::{Bound, Writer};

/// How long a binding that failed waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How many writes are under way at once: enough for the store to commit them together.
const WRITES: usize = 32;
/// Pods that take room or may come to: all but those that are over.
const ALIVE: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// What became of a write.
enum Done {
    Bound(Seat, Bound),
    Told(Uid, bool),
    /// The claims of a pod's ephemeral volumes, and whether they were made.
    Claims(Uid, bool),
}

/// Binds waiting pods to `node` until it is dropped.
pub async fn run(client: Client, clock: Arc<dyn Clock>, config: &Config, node: &str) {
    let (recorder, writing) = recorder(client.clone(), clock.clone(), "default-scheduler");
    let told = config.told_bindings;
    let writer = Writer { client: client.clone(), recorder, clock: clock.clone(), node: node.into(), told };
    let api: Api<UnmanagedPod> = match config.namespace.as_deref() {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let pods = watch(api, watcher::Config::default().fields(ALIVE));
    let mut pods = pin!(pods.map(|event| map(event, |UnmanagedPod(pod)| pod)));
    let claim = ApiResource::erase::<PersistentVolumeClaim>(&());
    let claims = match config.namespace.as_deref() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &claim),
        None => Api::all_with(client.clone(), &claim),
    };
    let mut claims = pin!(watch_with(claims, watcher::Config::default(), "persistentvolumeclaims".to_owned()));
    let nodes = Api::all_with(client, &ApiResource::erase::<Node>(&()));
    let this = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut nodes = pin!(watch_with(nodes, this, "nodes".to_owned()));
    let mut writing = pin!(writing.fuse());
    let mut state = State {
        scheduler: Scheduler::new(node),
        is_listed: false,
        listed: None,
        is_complete: false,
        claims: BTreeSet::new(),
        under_way: FuturesUnordered::new(),
        failed: BTreeSet::new(),
        claimants: HashMap::new(),
        claimless: BTreeSet::new(),
        writer,
    };
    let mut retry = Instant::now();
    loop {
        state.begin(&*clock);
        let wait = wait_for(state.scheduler.wake(), clock.now());
        tokio::select! {
            biased; // so that one seed is one order of events
            Some(done) = state.under_way.next() => {
                let had_none = !state.has_failed();
                state.finish(done, &*clock);
                if had_none {
                    retry = Instant::now() + RETRY;
                }
            }
            // The moment stays whatever the watch brings, so that a stream of new pods puts nothing off.
            () = sleep_until(retry), if state.has_failed() => {
                for seat in std::mem::take(&mut state.failed) {
                    state.bind(seat);
                }
                for uid in std::mem::take(&mut state.claimless) {
                    state.make_claims(&uid);
                }
            }
            Some(event) = nodes.next() => state.node_event(event),
            // Before pods, so that one that names a claim finds it.
            Some(event) = claims.next() => state.claim_event(event),
            Some(event) = pods.next() => state.pod_event(event, &*clock),
            () = tokio::time::sleep(wait) => {}
            () = &mut writing => {}
        }
    }
}

struct State {
    scheduler: Scheduler,
    /// Whether the node is in the list of nodes that is coming in, or was the last.
    is_listed: bool,
    /// The pods of a list that is coming in.
    listed: Option<HashSet<Uid>>,
    /// Whether pods were listed to the end once.
    is_complete: bool,
    /// The claims of a list that is coming in.
    claims: BTreeSet<ClaimKey>,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Bindings that are to be tried again.
    failed: BTreeSet<Seat>,
    /// Pods that wait and have ephemeral volumes, and those whose claims are to be tried again.
    claimants: HashMap<Uid, Arc<Pod>>,
    claimless: BTreeSet<Uid>,
    writer: Writer,
}

impl State {
    /// Begins as many writes as there may be: bindings first.
    fn begin(&mut self, clock: &dyn Clock) {
        if !self.is_complete {
            return;
        }
        let now = clock.now();
        while self.under_way.len() < WRITES {
            if let Some(seat) = self.scheduler.next(now) {
                self.bind(seat);
            } else if let Some((seat, why)) = self.scheduler.tell(now) {
                let writer = self.writer.clone();
                let told = async move { Done::Told(seat.uid.clone(), writer.tell(&seat, &why).await) };
                self.under_way.push(told.boxed());
            } else {
                return;
            }
        }
    }

    fn bind(&mut self, seat: Seat) {
        let writer = self.writer.clone();
        let bound = async move {
            let bound = writer.bind(&seat).await;
            Done::Bound(seat, bound)
        };
        self.under_way.push(bound.boxed());
    }

    fn finish(&mut self, done: Done, clock: &dyn Clock) {
        match done {
            Done::Bound(_, Bound::Settled) | Done::Told(_, true) | Done::Claims(_, true) => {}
            Done::Bound(seat, Bound::Refused) => self.scheduler.refused(&seat.uid),
            Done::Bound(seat, Bound::Unknown) => drop(self.failed.insert(seat)),
            Done::Claims(uid, false) => drop(self.claimless.insert(uid)),
            Done::Told(uid, false) => self.scheduler.was_not_told(&uid, clock.now()),
        }
    }

    fn claim_event(&mut self, event: Event<DynamicObject>) {
        let key = |claim: &DynamicObject| (claim.namespace().unwrap_or_default(), claim.name_any());
        match event {
            Event::Init => self.claims.clear(),
            Event::InitApply(claim) | Event::Apply(claim) => {
                self.claims.insert(key(&claim));
                match claim.try_parse() {
                    Ok(claim) => self.scheduler.claim(&claim),
                    Err(error) => tracing::warn!(%error, "a claim is not readable; what was known of it stays"),
                }
            }
            Event::InitDone => self.scheduler.retain_claims(&std::mem::take(&mut self.claims)),
            Event::Delete(claim) => self.scheduler.claim_gone(&key(&claim)),
        }
    }

    fn node_event(&mut self, event: Event<DynamicObject>) {
        self.is_listed = match &event {
            Event::Init => false,
            Event::InitApply(_) => true,
            _ => self.is_listed,
        };
        match event {
            Event::Init => {}
            Event::InitApply(node) | Event::Apply(node) => match node.try_parse::<Node>() {
                Ok(node) => self.scheduler.node(Some(&node)),
                Err(error) => tracing::warn!(%error, "the node is not readable; what was known of it stays"),
            },
            Event::InitDone if self.is_listed => {}
            Event::InitDone | Event::Delete(_) => self.scheduler.node(None),
        }
    }

    fn pod_event(&mut self, event: Event<Pod>, clock: &dyn Clock) {
        match event {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(pod) => {
                self.listed.get_or_insert_default().insert(Uid::of(&pod.metadata));
                self.scheduler.see(&pod, clock.now());
                self.claimant(pod);
            }
            Event::InitDone => {
                self.scheduler.retain(&self.listed.take().unwrap_or_default());
                self.is_complete = true;
            }
            Event::Apply(pod) => {
                self.scheduler.see(&pod, clock.now());
                self.claimant(pod);
            }
            Event::Delete(pod) => self.gone(&Uid::of(&pod.metadata)),
        }
    }

    /// Has the claims made that a waiting pod needs, once.
    fn claimant(&mut self, pod: Pod) {
        let uid = Uid::of(&pod.metadata);
        if !ephemeral::has_any(&pod) || standing(&pod) != Standing::Waits || self.claimants.contains_key(&uid) {
            return;
        }
        self.claimants.insert(uid.clone(), Arc::new(pod));
        self.make_claims(&uid);
    }

    fn make_claims(&mut self, uid: &Uid) {
        let Some(pod) = self.claimants.get(uid).cloned() else { return };
        let (client, uid) = (self.writer.client.clone(), uid.clone());
        self.under_way.push(async move { Done::Claims(uid, ephemeral::make(&client, &pod).await) }.boxed());
    }

    fn has_failed(&self) -> bool {
        !self.failed.is_empty() || !self.claimless.is_empty()
    }

    fn gone(&mut self, uid: &Uid) {
        self.claimants.remove(uid);
        self.scheduler.gone(uid);
        self.failed.retain(|seat| seat.uid != *uid);
    }
}
