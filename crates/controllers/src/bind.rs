//! The scheduler's part on one node: pods are bound, or told why not, as `core::bind` decides.
//!
//! Invariants: nothing is bound before all pods that are on the node were listed. A binding of which nobody knows whether it
//! was performed is sent again until that is known; until then its room stays taken.

mod write;

use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ApiResource;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use stint_core::bind::{Scheduler, Seat};
use stint_core::clock::Clock;
use stint_core::plan::Uid;
use tokio::time::{Instant, sleep_until};

use crate::Config;
use crate::events::recorder;
use crate::queue::wait_for;
use crate::watch::{watch, watch_with};
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
}

/// Binds waiting pods to `node` until it is dropped.
pub async fn run(client: Client, clock: Arc<dyn Clock>, config: &Config, node: &str) {
    let (recorder, writing) = recorder(client.clone(), clock.clone(), "default-scheduler");
    let told = config.told_bindings;
    let writer = Writer { client: client.clone(), recorder, clock: clock.clone(), node: node.into(), told };
    let api: Api<Pod> = match config.namespace.as_deref() {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut pods = pin!(watch(api, watcher::Config::default().fields(ALIVE)));
    let nodes = Api::all_with(client, &ApiResource::erase::<Node>(&()));
    let this = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut nodes = pin!(watch_with(nodes, this, "nodes".to_owned()));
    let mut writing = pin!(writing.fuse());
    let mut state = State {
        scheduler: Scheduler::new(node),
        is_listed: false,
        listed: None,
        is_complete: false,
        under_way: FuturesUnordered::new(),
        failed: BTreeSet::new(),
        writer,
    };
    let mut retry = Instant::now();
    loop {
        state.begin(&*clock);
        let wait = wait_for(state.scheduler.wake(), clock.now());
        tokio::select! {
            biased; // so that one seed is one order of events
            Some(done) = state.under_way.next() => {
                let had_none = state.failed.is_empty();
                state.finish(done, &*clock);
                if had_none {
                    retry = Instant::now() + RETRY;
                }
            }
            // The moment stays whatever the watch brings, so that a stream of new pods puts nothing off.
            () = sleep_until(retry), if !state.failed.is_empty() => {
                for seat in std::mem::take(&mut state.failed) {
                    state.bind(seat);
                }
            }
            Some(event) = nodes.next() => state.node_event(event),
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
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Bindings that are to be tried again.
    failed: BTreeSet<Seat>,
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
            Done::Bound(_, Bound::Settled) | Done::Told(_, true) => {}
            Done::Bound(seat, Bound::Refused) => self.scheduler.refused(&seat.uid),
            Done::Bound(seat, Bound::Unknown) => drop(self.failed.insert(seat)),
            Done::Told(uid, false) => self.scheduler.was_not_told(&uid, clock.now()),
        }
    }

    fn node_event(&mut self, event: Event<kube::api::DynamicObject>) {
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
            }
            Event::InitDone => {
                self.scheduler.retain(&self.listed.take().unwrap_or_default());
                self.is_complete = true;
            }
            Event::Apply(pod) => self.scheduler.see(&pod, clock.now()),
            Event::Delete(pod) => self.gone(&Uid::of(&pod.metadata)),
        }
    }

    fn gone(&mut self, uid: &Uid) {
        self.scheduler.gone(uid);
        self.failed.retain(|seat| seat.uid != *uid);
    }
}
