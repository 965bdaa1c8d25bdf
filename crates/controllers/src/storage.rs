//! Binds claims to volumes, makes volumes for claims, and lets go of both: what `core::storage` decides.
//!
//! ```text
//!   watch of claims, volumes, classes ──┐
//!                                       ├─► view ─► core::storage ─► one write ─► its answer is in the view at once
//!   watch of pods, while there are ─────┘
//!   any claims
//! ```
//!
//! Invariants: nothing is decided before everything was listed; an object in the view is never replaced by an older one;
//! what can't be taken back is decided from what the API says at that moment, and not from a watch: that a claim's volume may
//! go, and that no pod uses a claim.

use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt, future};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use stint_core::clock::Clock;
use stint_core::plan::Step;
use stint_core::storage::{self, Action, CLASS, ClaimKey, Provisioner, Uses, View};

use crate::events::{Recorder, recorder};
use crate::queue::{Queue, wait_for};
use stint_watch::{watch, watch_with};

/// What a watch shows.
type Events<K> = Pin<Box<dyn Stream<Item = Event<K>> + Send>>;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Claim(ClaimKey),
    Volume(String),
}

/// Works until it is dropped.
pub async fn run(client: Client, clock: Arc<dyn Clock>, provisioner: Provisioner) {
    let (recorder, writing) = recorder(client.clone(), clock.clone(), "persistentvolume-controller");
    let mut writing = pin!(writing.fuse());
    let mut claims = watch_all::<PersistentVolumeClaim>(&client);
    let mut volumes = watch_all::<PersistentVolume>(&client);
    let mut classes = watch_all::<StorageClass>(&client);
    let mut pods: Option<Events<Pod>> = None;
    let mut state = State {
        client: client.clone(),
        recorder,
        view: View { provisioner, ..View::default() },
        listed: BTreeSet::new(),
        fresh: BTreeSet::new(),
        queue: Queue::new(),
    };
    loop {
        if state.view.claims.is_empty() {
            // Nobody asks who uses them, and pods are many.
            pods = None;
            state.listed.remove("Pod");
            state.view.pods.clear();
        } else if pods.is_none() {
            pods = Some(watch(Api::<Pod>::all(client.clone()), watcher::Config::default()).boxed());
        }
        if [PersistentVolumeClaim::KIND, PersistentVolume::KIND, "StorageClass"]
            .iter()
            .all(|kind| state.listed.contains(kind))
            && (pods.is_none() || state.listed.contains("Pod"))
        {
            while let Some(key) = state.queue.take(clock.now(), |_| true) {
                match state.settle(&key).boxed().await {
                    Ok(()) => state.queue.done(&key),
                    Err(error) => {
                        tracing::warn!(%error, ?key, "a claim or a volume could not be looked after; it is tried again");
                        state.queue.failed(&key, clock.now());
                    }
                }
            }
        }
        let wait = wait_for(state.queue.next_wake(), clock.now());
        let next_pod = async {
            match &mut pods {
                Some(pods) => pods.next().await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(event) = claims.next() => state.event::<PersistentVolumeClaim>(event),
            Some(event) = volumes.next() => state.event::<PersistentVolume>(event),
            Some(event) = classes.next() => if state.class_event(event) {
                state.make_class().await;
            },
            Some(event) = next_pod => state.pod_event(event),
            () = tokio::time::sleep(wait) => {}
            () = &mut writing => {}
        }
    }
}

/// Kinds that are watched without their types, which are large and of no further use here.
fn watch_all<K: Resource<DynamicType = ()>>(client: &Client) -> Events<DynamicObject> {
    let api = Api::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    watch_with(api, watcher::Config::default(), K::plural(&()).into_owned()).boxed()
}

/// A kind that is kept in the view.
trait Kept: Resource<DynamicType = ()> + DeserializeOwned {
    /// Its name, as [`State::listed`] has it.
    const KIND: &'static str;

    fn key(&self) -> Key;
    fn held<'a>(view: &'a View, key: &Key) -> Option<&'a Self>;
    fn put(self, view: &mut View);
    fn take(view: &mut View, key: &Key) -> Option<Self>;
    fn keys(view: &View) -> Vec<Key>;
}

impl Kept for PersistentVolumeClaim {
    const KIND: &'static str = "PersistentVolumeClaim";

    fn key(&self) -> Key {
        Key::Claim(storage::key(self))
    }

    fn held<'a>(view: &'a View, key: &Key) -> Option<&'a Self> {
        if let Key::Claim(key) = key { view.claims.get(key) } else { None }
    }

    fn put(self, view: &mut View) {
        view.claims.insert(storage::key(&self), self);
    }

    fn take(view: &mut View, key: &Key) -> Option<Self> {
        if let Key::Claim(key) = key { view.claims.remove(key) } else { None }
    }

    fn keys(view: &View) -> Vec<Key> {
        view.claims.keys().cloned().map(Key::Claim).collect()
    }
}

impl Kept for PersistentVolume {
    const KIND: &'static str = "PersistentVolume";

    fn key(&self) -> Key {
        Key::Volume(self.name_any())
    }

    fn held<'a>(view: &'a View, key: &Key) -> Option<&'a Self> {
        if let Key::Volume(name) = key { view.volumes.get(name) } else { None }
    }

    fn put(self, view: &mut View) {
        view.volumes.insert(self.name_any(), self);
    }

    fn take(view: &mut View, key: &Key) -> Option<Self> {
        if let Key::Volume(name) = key { view.volumes.remove(name) } else { None }
    }

    fn keys(view: &View) -> Vec<Key> {
        view.volumes.keys().cloned().map(Key::Volume).collect()
    }
}

struct State {
    client: Client,
    recorder: Recorder,
    view: View,
    /// The kinds that were listed to the end.
    listed: BTreeSet<&'static str>,
    /// What a list that is coming in has shown.
    fresh: BTreeSet<Key>,
    queue: Queue<Key>,
}

impl State {
    fn event<K: Kept>(&mut self, event: Event<DynamicObject>) {
        match event {
            Event::Init => self.fresh.retain(|key| K::held(&self.view, key).is_none()),
            Event::InitApply(object) | Event::Apply(object) => match object.try_parse::<K>() {
                Ok(object) => {
                    self.fresh.insert(object.key());
                    self.see(object);
                }
                Err(error) => tracing::warn!(%error, "a claim or a volume is not readable"),
            },
            Event::InitDone => {
                let old: Vec<Key> = K::keys(&self.view).into_iter().filter(|key| !self.fresh.contains(key)).collect();
                for key in &old {
                    self.gone::<K>(key);
                }
                self.listed.insert(K::KIND);
            }
            Event::Delete(object) => {
                if let Ok(object) = object.try_parse::<K>() {
                    self.gone::<K>(&object.key());
                }
            }
        }
    }

    /// An object is so now, unless a newer one is known.
    fn see<K: Kept>(&mut self, object: K) {
        let revision = |object: &K| object.meta().resource_version.as_ref().and_then(|text| text.parse::<u64>().ok());
        let key = object.key();
        if K::held(&self.view, &key).is_some_and(|held| revision(held) > revision(&object)) {
            return;
        }
        object.put(&mut self.view);
        self.touched(key);
    }

    fn gone<K: Kept>(&mut self, key: &Key) {
        self.fresh.remove(key);
        if K::take(&mut self.view, key).is_some() {
            self.touched(key.clone());
        }
    }

    /// Marks what may have to do with what changed.
    fn touched(&mut self, key: Key) {
        match &key {
            Key::Claim(claim) => {
                let is_its = |volume: &&PersistentVolume| {
                    let held = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
                    held.is_some_and(|held| {
                        (held.namespace.as_deref(), held.name.as_deref()) == (Some(&claim.0), Some(&claim.1))
                    })
                };
                let volumes: Vec<String> =
                    self.view.volumes.values().filter(is_its).map(ResourceExt::name_any).collect();
                for name in volumes {
                    self.queue.mark(Key::Volume(name));
                }
            }
            Key::Volume(name) => {
                let held = self.view.volumes.get(name).and_then(|volume| volume.spec.as_ref()?.claim_ref.clone());
                let its = held.map(|held| (held.namespace.unwrap_or_default(), held.name.unwrap_or_default()));
                let names_it = |claim: &&PersistentVolumeClaim| {
                    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
                    named == Some(name) || its == Some(storage::key(claim)) || is_unbound(claim) && its.is_none()
                };
                let claims: Vec<ClaimKey> = self.view.claims.values().filter(names_it).map(storage::key).collect();
                self.mark_claims(claims);
            }
        }
        self.queue.mark(key);
    }

    /// Returns whether all classes were listed just now.
    fn class_event(&mut self, event: Event<DynamicObject>) -> bool {
        match event {
            Event::Init => self.view.classes.clear(),
            Event::InitApply(object) | Event::Apply(object) => {
                if let Ok(class) = object.try_parse::<StorageClass>() {
                    self.view.classes.insert(class.name_any(), class);
                }
            }
            Event::Delete(object) => drop(self.view.classes.remove(&object.name_any())),
            Event::InitDone => return self.listed.insert("StorageClass"),
        }
        let waiting: Vec<ClaimKey> =
            self.view.claims.values().filter(|claim| is_unbound(claim)).map(storage::key).collect();
        self.mark_claims(waiting);
        false
    }

    /// Makes the class of our own volumes, once for each start: who deletes it has it back then.
    async fn make_class(&mut self) {
        let Some(class) = storage::class(&self.view.classes) else { return };
        let made = serde_json::from_value(class).expect("a class is an object");
        let classes: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::erase::<StorageClass>(&()));
        if let Err(error) = classes.create(&PostParams::default(), &made).await {
            tracing::warn!(%error, class = CLASS, "the class of local volumes could not be made");
        }
    }

    fn pod_event(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.view.pods.clear(),
            Event::InitApply(pod) | Event::Apply(pod) => self.pod(&pod),
            Event::Delete(pod) => {
                if let Some(uses) = self.view.pods.remove(&pod.uid().unwrap_or_default()) {
                    self.mark_claims(uses.claims);
                }
            }
            Event::InitDone => {
                self.listed.insert("Pod");
            }
        }
    }

    fn pod(&mut self, pod: &Pod) {
        let Some(uses) = Uses::of(pod) else { return };
        let uid = pod.uid().unwrap_or_default();
        if self.view.pods.get(&uid) != Some(&uses) {
            self.view.pods.insert(uid, uses.clone());
            self.mark_claims(uses.claims);
        }
    }

    fn mark_claims(&mut self, keys: Vec<ClaimKey>) {
        for key in keys {
            self.queue.mark(Key::Claim(key));
        }
    }

    /// Takes the next step for a key, if there is one.
    async fn settle(&mut self, key: &Key) -> kube::Result<()> {
        self.make_sure(key).await?;
        let step = match key {
            Key::Claim(key) => self.view.claims.get(key).and_then(|one| storage::claim(one, &self.view)),
            Key::Volume(name) => self.view.volumes.get(name).and_then(|one| storage::volume(one, &self.view)),
        };
        let Some(Step { action, why, events }) = step else { return Ok(()) };
        tracing::debug!(?key, why, "taking a step");
        self.take(action).await?;
        for event in &events {
            match key {
                Key::Claim(key) => {
                    self.view.claims.get(key).inspect(|claim| self.recorder.record(*claim, event, None));
                }
                Key::Volume(name) => {
                    self.view.volumes.get(name).inspect(|volume| self.recorder.record(*volume, event, None));
                }
            }
        }
        Ok(())
    }

    /// Asks the API where a watch that lags would do harm.
    async fn make_sure(&mut self, key: &Key) -> kube::Result<()> {
        match key {
            Key::Claim(key) => {
                let claim = self.view.claims.get(key);
                if claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
                    let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.0);
                    self.view.pods.retain(|_, uses| uses.claims.iter().all(|claim| claim.0 != key.0));
                    for pod in pods.list(&ListParams::default()).await? {
                        if let Some(uses) = Uses::of(&pod) {
                            self.view.pods.insert(pod.uid().unwrap_or_default(), uses);
                        }
                    }
                }
            }
            Key::Volume(name) => {
                let held = self.view.volumes.get(name).and_then(|volume| volume.spec.as_ref()?.claim_ref.as_ref());
                let Some(held) = held.filter(|held| held.uid.as_ref().is_some_and(|uid| !uid.is_empty())) else {
                    return Ok(());
                };
                let key = (held.namespace.clone().unwrap_or_default(), held.name.clone().unwrap_or_default());
                let known = self.view.claims.get(&key).and_then(|claim| claim.metadata.uid.clone());
                if known != held.uid {
                    match self.claims(&key.0).get_opt(&key.1).await? {
                        Some(claim) => {
                            if let Ok(claim) = claim.try_parse::<PersistentVolumeClaim>() {
                                self.see(claim);
                            }
                        }
                        None => self.gone::<PersistentVolumeClaim>(&Key::Claim(key)),
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes, and takes note of the answer. That somebody else was faster is no error: the watch shows what they did.
    async fn take(&mut self, action: Action) -> kube::Result<()> {
        let params = PatchParams::default();
        match action {
            Action::Announce => Ok(()),
            Action::CreateVolume(volume) => {
                let volume: DynamicObject = serde_json::from_value(volume).expect("a volume is an object");
                let made = self.volumes().create(&PostParams::default(), &volume).await;
                self.note::<PersistentVolume>(made)
            }
            Action::PatchVolume(name, patch) => {
                let patched = self.volumes().patch(&name, &params, &Patch::Merge(patch)).await;
                self.note::<PersistentVolume>(patched)
            }
            Action::PatchVolumeStatus(name, patch) => {
                let patched = self.volumes().patch_status(&name, &params, &Patch::Merge(patch)).await;
                self.note::<PersistentVolume>(patched)
            }
            Action::PatchClaim(key, patch) => {
                let patched = self.claims(&key.0).patch(&key.1, &params, &Patch::Merge(patch)).await;
                self.note::<PersistentVolumeClaim>(patched)
            }
            Action::PatchClaimStatus(key, patch) => {
                let patched = self.claims(&key.0).patch_status(&key.1, &params, &Patch::Merge(patch)).await;
                self.note::<PersistentVolumeClaim>(patched)
            }
            Action::DeleteVolume(name) => {
                let uid = self.view.volumes.get(&name).and_then(ResourceExt::uid);
                let preconditions = Some(Preconditions { uid, resource_version: None });
                let params = DeleteParams { preconditions, ..DeleteParams::default() };
                match self.volumes().delete(&name, &params).await {
                    Ok(_) => Ok(()),
                    Err(error) => settled(error),
                }
            }
        }
    }

    fn note<K: Kept>(&mut self, answer: kube::Result<DynamicObject>) -> kube::Result<()> {
        match answer {
            Ok(object) => {
                // The last finalizer is gone, and with it the object: the watch tells.
                let is_gone = object.metadata.deletion_timestamp.is_some() && object.finalizers().is_empty();
                match object.try_parse::<K>() {
                    Ok(object) if is_gone => self.gone::<K>(&object.key()),
                    Ok(object) => self.see(object),
                    Err(error) => tracing::warn!(%error, "what the API answered is not readable"),
                }
                Ok(())
            }
            Err(error) => settled(error),
        }
    }

    fn volumes(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &ApiResource::erase::<PersistentVolume>(&()))
    }

    fn claims(&self, namespace: &str) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<PersistentVolumeClaim>(&());
        Api::namespaced_with(self.client.clone(), namespace, &kind)
    }
}

fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default().is_empty()
}

fn settled(error: kube::Error) -> kube::Result<()> {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => Ok(()),
        error => Err(error),
    }
}
