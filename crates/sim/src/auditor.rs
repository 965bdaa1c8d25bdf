//! A watcher that decides nothing: at the end, what it was shown must be what the disk holds.

use std::collections::{BTreeMap, Bound};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};

use crate::node::Steady;
use crate::world::{State, World};

type Seen = Arc<Mutex<BTreeMap<String, String>>>;

/// What the watches have shown so far: revisions by key.
pub struct Auditor {
    seen: Vec<(&'static str, Seen)>,
}

/// Starts to watch Jobs and pods, in one world of four: it costs time.
pub fn start(world: &World, client: &Client) -> Auditor {
    if !world.state().names.chance(250) {
        return Auditor { seen: Vec::new() };
    }
    let follow_kind = |prefix: &'static str, kind: ApiResource| {
        let seen = Seen::default();
        tokio::spawn(follow(Api::namespaced_with(client.clone(), "default", &kind), prefix, seen.clone()));
        (prefix, seen)
    };
    Auditor {
        seen: vec![
            follow_kind("batch/jobs/default/", ApiResource::erase::<Job>(&())),
            follow_kind("core/pods/default/", ApiResource::erase::<Pod>(&())),
        ],
    }
}

async fn follow(api: Api<DynamicObject>, prefix: &'static str, seen: Seen) {
    let mut events = watcher::watcher(api, watcher::Config::default()).backoff(Steady).boxed();
    let mut listed = BTreeMap::new();
    let key = |object: &DynamicObject| format!("{prefix}{}", object.name_any());
    let revision = |object: &DynamicObject| object.resource_version().unwrap_or_default();
    while let Some(event) = events.next().await {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => drop(listed.insert(key(&object), revision(&object))),
            Ok(Event::InitDone) => *seen = std::mem::take(&mut listed),
            Ok(Event::Apply(object)) => drop(seen.insert(key(&object), revision(&object))),
            Ok(Event::Delete(object)) => drop(seen.remove(&key(&object))),
            Err(_) => {}
        }
    }
}

impl Auditor {
    /// Compares with the disk.
    pub fn agrees_with(&self, state: &State) -> Result<(), String> {
        for (prefix, seen) in &self.seen {
            let stored: BTreeMap<String, String> = state
                .files
                .entries
                .range::<str, _>((Bound::Included(*prefix), Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(prefix))
                .map(|(key, entry)| (key.to_string(), entry.revision.to_string()))
                .collect();
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen != stored {
                return Err(format!("a watch of {prefix} has shown {seen:?}, and stored is {stored:?}"));
            }
        }
        Ok(())
    }
}
