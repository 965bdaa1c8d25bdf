//! The machine of a model world: its node, which runs the world's containers; who binds pods to it; who collects garbage.
//!
//! What the node does about a pod is decided where the simulator's other node decides it. All three look at the API as it
//! is, some time after something was committed, so that what the controller sees and what they do differ as much as it may.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use stint_core::bind::{Room, Wish, amounts};
use stint_core::job::view::{Class, class, controller_of, uid_of};
use stint_core::owners::{FOREGROUND, ORPHAN};
use stint_core::plan::Uid;

use super::api::{Api, Notice};
use super::weather::Weather;
use crate::containers::{Container, Containers};
use crate::node::{NODE, Next, decide};
use crate::rng::Rng;

/// How long after a commit garbage is collected, in milliseconds.
const COLLECT: u64 = 5000;

/// The machine.
pub struct Machine {
    /// What runs, or ran.
    pub containers: Containers,
    /// When the node looks at a pod next, by name.
    looks: BTreeMap<String, u64>,
    binds_at: Option<u64>,
    collects_at: Option<u64>,
    room: Room,
    /// What pods request, by name: it never changes, and is asked for again and again.
    wishes: BTreeMap<String, Wish>,
}

impl Machine {
    /// A machine without pods.
    pub fn new(seed: u64) -> Machine {
        let allocatable = super::NODE.status.as_ref().and_then(|status| status.allocatable.as_ref());
        let mut room = Room::default();
        room.allocatable = allocatable.map(amounts).unwrap_or_default();
        Machine {
            containers: Containers::new(Rng::new(seed, 3)),
            looks: BTreeMap::new(),
            binds_at: None,
            collects_at: None,
            room,
            wishes: BTreeMap::new(),
        }
    }

    /// When there is something to do next.
    pub fn next(&self) -> u64 {
        let looks = self.looks.values().copied();
        looks.chain(self.binds_at).chain(self.collects_at).min().unwrap_or(u64::MAX)
    }

    /// Something was committed.
    pub fn hears(&mut self, now: u64, notice: &Notice, weather: &mut Weather) {
        self.collects_at.get_or_insert(now + COLLECT);
        match notice {
            Notice::Pod(pod) => {
                let name = pod.metadata.name.clone().unwrap_or_default();
                self.wishes.entry(name.clone()).or_insert_with(|| Wish::of(pod));
                if is_bound(pod) {
                    let at = now + weather.lag() + weather.dawdles();
                    self.looks.insert(name, at);
                }
                self.binds_at.get_or_insert(now + weather.lag());
            }
            Notice::PodGone(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                self.looks.remove(name);
                self.wishes.remove(name);
                let uid = uid_of(pod).to_string();
                let last = self.containers.of_pod(&uid).next_back().map(|(attempt, _)| attempt);
                if let Some(attempt) = last {
                    self.containers.kill(&(uid, attempt), Duration::from_millis(now));
                }
                self.binds_at.get_or_insert(now + weather.lag());
            }
            Notice::Job(_) | Notice::JobGone(_) => {}
        }
    }

    /// The wall clock has stepped: what waits for it looks again.
    pub fn clock_stepped(&mut self, now: u64, api: &Api) {
        let bound = api.pods.iter().filter(|(_, pod)| is_bound(pod));
        self.looks.extend(bound.map(|(name, _)| (name.clone(), now)));
    }

    /// Does what is to be done now. An error is a broken invariant.
    pub fn act(&mut self, now: u64, api: &mut Api, weather: &mut Weather) -> Result<(), String> {
        if self.binds_at.take_if(|at| *at <= now).is_some() {
            self.bind(api);
        }
        if self.collects_at.take_if(|at| *at <= now).is_some() {
            collect(api);
        }
        while let Some(name) = self.looks.iter().find(|(_, at)| **at <= now).map(|(name, _)| name.clone()) {
            self.looks.remove(&name);
            if let Some(at) = self.settle(&name, now, api, weather)? {
                self.looks.insert(name, at.max(now + 1));
            }
        }
        Ok(())
    }

    /// Binds every pod that fits.
    fn bind(&mut self, api: &mut Api) {
        let waiting = |pod: &Pod| !is_bound(pod) && class(pod) == Class::Active;
        if !api.pods.values().any(|pod| waiting(pod)) {
            return;
        }
        let mut room = self.room.clone();
        for (name, pod) in api.pods.iter().filter(|(_, pod)| is_bound(pod)) {
            if matches!(class(pod), Class::Active | Class::Leaving) {
                room.take(&self.wishes[name]);
            }
        }
        let names: Vec<String> =
            api.pods.iter().filter(|(_, pod)| waiting(pod)).map(|(name, _)| name.clone()).collect();
        for name in names {
            let wish = &self.wishes[&name];
            if room.lacks(wish).is_none() {
                room.take(wish);
                let bind = |pod: &mut Pod| pod.spec.get_or_insert_default().node_name = Some(NODE.to_owned());
                api.change_pod(&name, None, None, bind).expect("it was just looked at");
            }
        }
    }

    /// Does what is to be done about a pod of the node; when to look again, if nothing happens.
    fn settle(&mut self, name: &str, now: u64, api: &mut Api, weather: &mut Weather) -> Result<Option<u64>, String> {
        let elapsed = Duration::from_millis(now);
        for _ in 0..4 {
            let Some(pod) = api.pods.get(name).cloned() else { return Ok(None) };
            let uid = uid_of(&pod).to_string();
            let attempts: Vec<(u32, Container)> =
                self.containers.of_pod(&uid).map(|(attempt, one)| (attempt, one.clone())).collect();
            match decide(&pod, &attempts, elapsed, api.now) {
                Next::Wait(until) => {
                    return Ok(until.map(|until| u64::try_from(until.as_millis()).unwrap_or(u64::MAX)));
                }
                Next::Start(attempt) => {
                    let command = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.command.clone());
                    weather.tell(api, || format!("node starts {name} attempt {attempt}"));
                    self.containers.start((uid, attempt), &command.unwrap_or_default(), elapsed, api.now)?;
                }
                Next::Term(attempt) => self.containers.term(&(uid, attempt), elapsed),
                Next::Kill(attempt) => self.containers.kill(&(uid, attempt), elapsed),
                Next::Tell(status) => {
                    let status = *status;
                    let told = |pod: &mut Pod| {
                        let old = pod.status.take().unwrap_or_default();
                        let conditions = status.conditions.or(old.conditions);
                        pod.status = Some(PodStatus { qos_class: old.qos_class, conditions, ..status });
                    };
                    // Its own change shows it what comes next.
                    return api
                        .change_pod(name, None, None, told)
                        .map(|_| None)
                        .map_err(|refusal| format!("{refusal:?}"));
                }
                Next::Release => {
                    let done = api.delete_pod(name, Some(&uid_of(&pod)), Some(0));
                    return done.map(|()| None).map_err(|refusal| format!("{refusal:?}"));
                }
            }
        }
        Ok(Some(now + 1))
    }
}

/// Says of a pod that it is about to be evicted, and deletes it (upstream: `pkg/registry/core/pod/storage/eviction.go`).
pub fn evict(api: &mut Api, name: &str) {
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("EvictionByEvictionAPI".to_owned()),
        ..PodCondition::default()
    };
    let told = |pod: &mut Pod| {
        let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.retain(|one| one.type_ != condition.type_);
        conditions.push(condition);
    };
    if api.pods.get(name).is_some_and(|pod| class(pod) == Class::Active)
        && api.change_pod(name, None, None, told).is_ok()
    {
        let _ = api.delete_pod(name, None, None);
    }
}

/// Stands in for the garbage collectors: pods of Jobs that are gone, or wait for their pods to go, are deleted, or orphaned;
/// Jobs that nothing holds any more go; pods that were deleted before they got a node have failed, and go.
fn collect(api: &mut Api) {
    let names: Vec<String> = api.pods.keys().cloned().collect();
    for name in names {
        let Some(pod) = api.pods.get(&name).cloned() else { continue };
        if class(&pod) == Class::Leaving && !is_bound(&pod) {
            let fail = |pod: &mut Pod| pod.status.get_or_insert_default().phase = Some("Failed".to_owned());
            let _ = api.change_pod(&name, None, None, fail);
        }
        let Some(owner) = controller_of(&pod) else { continue };
        let uid = Uid::from(owner.uid.as_str());
        let job = api.jobs.get(&owner.name).filter(|job| Uid::of(&job.metadata) == uid);
        let waits = |finalizer: &str| job.is_some_and(|job| is_held(job, finalizer));
        if waits(ORPHAN) {
            let let_go = |pod: &mut Pod| {
                let owners = pod.metadata.owner_references.get_or_insert_default();
                owners.retain(|owner| Uid::from(owner.uid.as_str()) != uid);
            };
            let _ = api.change_pod(&name, None, None, let_go);
        } else if (job.is_none() || waits(FOREGROUND)) && pod.metadata.deletion_timestamp.is_none() {
            let _ = api.delete_pod(&name, None, None);
        }
    }
    let leaving = api.jobs.iter().filter(|(_, job)| job.metadata.deletion_timestamp.is_some());
    let bare = leaving.filter(|(_, job)| {
        let uid = job.metadata.uid.as_ref();
        !api.pods.values().any(|pod| controller_of(pod).map(|owner| &owner.uid) == uid)
    });
    let bare: Vec<String> = bare.map(|(name, _)| name.clone()).collect();
    for name in bare {
        let _ = api.change_job(&name, |job| job.metadata.finalizers = None);
    }
}

fn is_held(job: &Job, name: &str) -> bool {
    job.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

fn is_bound(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
}
