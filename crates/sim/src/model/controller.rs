//! The Job controller of a model world: the real one's knowledge and queue, over watches that lag and break, with plans that
//! are carried out one write after the other while the world goes on.
//!
//! What a step becomes as a write, what its answer means, and what is read again when nobody knows is as in
//! `stint_controllers`' `execute`; what is decided, and when, is its `Reconciler` itself.
//!
//! Invariant: one call of [`Controller::act`] makes at most one write, so that a crash may come before and after each.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use stint_controllers::Config;
use stint_controllers::parts::{Ended, JobKey, Reconciler, Report, Sighting, SlowStart, What, Work};
use stint_core::job::view::{controller_of, is_tracked};
use stint_core::job::{TRACKING_FINALIZER, foreign_controller};
use stint_core::owners::Propagation;
use stint_core::plan::{Action, Phase, Plan, PodRef, Step, Uid};
use stint_core::ttl;

use super::api::{Api, Notice, Refusal, revision};
use super::channel::{Channel, owned};
use super::fault::Fault;
use super::weather::Weather;
use crate::chaos::{OnRequest, OnWrite};

/// How long after an unknown outcome a release is tried again, in milliseconds.
const RETRY: u64 = 1000;

/// The controller's process.
pub struct Controller {
    reconciler: Reconciler,
    jobs: Channel<Job>,
    pods: Channel<Pod>,
    executing: Vec<Execution>,
    /// Pods that nobody controls and that still have the finalizer, with the time of the next attempt.
    bare: Vec<(u64, PodRef, String)>,
    fault: Fault,
}

/// A plan that is being carried out.
struct Execution {
    key: JobKey,
    job: Arc<Job>,
    plan: Plan,
    /// Of pods without a Job: those that they name. The API is asked first.
    owners: Option<Vec<Uid>>,
    /// When the next write is made.
    at: u64,
    /// When the plan was made.
    planned: Timestamp,
    start: SlowStart,
    /// How many steps were taken, and at which the batch that is under way ends.
    taken: usize,
    batch: usize,
    ended: Ended,
    /// Whether the API is to be read, since an outcome is unknown.
    reads: bool,
    sightings: Vec<Sighting>,
}

/// Why one step did not go through.
enum Trouble {
    Conflict,
    Refused,
    Unknown,
}

/// Whether the process lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It does.
    GoesOn,
    /// It has crashed.
    Crashed,
}

impl Controller {
    /// A process that starts now.
    pub fn starts(now: u64, api: &Api, weather: &mut Weather, config: Config, fault: Fault) -> Controller {
        Controller {
            reconciler: Reconciler::new(api.now, config),
            jobs: Channel::begins(now, now + weather.latency()),
            pods: Channel::begins(now, now + weather.latency()),
            executing: Vec::new(),
            bare: Vec::new(),
            fault,
        }
    }

    /// When there is something to do next.
    pub fn next(&self, now: u64, wall: Timestamp) -> u64 {
        // A clock that steps is noticed within a minute.
        let wake = self.reconciler.wake().duration_since(wall).as_millis().clamp(0, 60_000);
        let wake = now + u64::try_from(wake).expect("clamped") + 1;
        let writes = self.executing.iter().map(|execution| execution.at);
        let releases = self.bare.iter().map(|(at, ..)| *at);
        let watches = self.jobs.next().into_iter().chain(self.pods.next().filter(|_| self.reconciler.has_jobs()));
        writes.chain(releases).chain(watches).chain([wake]).min().unwrap_or(wake)
    }

    /// The watches are told what was committed.
    pub fn hears(&mut self, now: u64, notice: &Notice, weather: &mut Weather) {
        let at = now + weather.lag();
        match notice {
            Notice::Job(job) => self.jobs.send(at, Event::Apply(job.clone())),
            Notice::JobGone(job) => self.jobs.send(at, Event::Delete(job.clone())),
            Notice::Pod(pod) => self.pods.send(at, Event::Apply(pod.clone())),
            Notice::PodGone(pod) => self.pods.send(at, Event::Delete(pod.clone())),
        }
    }

    /// Does what is to be done now: takes in what the watches show, decides, and makes at most one write.
    pub fn act(&mut self, now: u64, api: &mut Api, weather: &mut Weather) -> Life {
        self.watch(now, api, weather);
        let life = self.write(now, api, weather);
        if life == Life::Crashed {
            return life;
        }
        let (executing, wall) = (&mut self.executing, api.now);
        self.reconciler.begin(wall, |work| executing.push(Execution::of(work, now + weather.latency(), wall)));
        Life::GoesOn
    }

    fn watch(&mut self, now: u64, api: &Api, weather: &mut Weather) {
        self.jobs.list(now, now + weather.latency(), api.jobs.values());
        self.pods.list(now, now + weather.latency(), api.pods.values());
        let fault = self.fault;
        while let Some(event) = self.jobs.receive(now) {
            self.reconciler.job_event(owned(event, |job| fault.of_job(job)), api.now);
            if weather.breaks_watch() {
                self.jobs = Channel::begins(now, now + weather.latency());
            }
        }
        if self.reconciler.wants_pods() {
            self.pods = Channel::begins(now, now + weather.latency());
        }
        while self.reconciler.has_jobs()
            && let Some(event) = self.pods.receive(now)
        {
            let event = owned(event, |pod| fault.of_pod(pod));
            if let Event::Apply(pod) | Event::InitApply(pod) = &event
                && controller_of(pod).is_none()
                && is_tracked(pod)
            {
                let at = pod.metadata.resource_version.clone().unwrap_or_default();
                self.bare.push((now + weather.latency(), PodRef::of(pod), at));
            }
            self.reconciler.pod_event(event, api.now);
            if weather.breaks_watch() {
                self.pods = Channel::begins(now, now + weather.latency());
            }
        }
    }

    /// Makes the next write that is due.
    fn write(&mut self, now: u64, api: &mut Api, weather: &mut Weather) -> Life {
        if let Some(which) = self.bare.iter().position(|(at, ..)| *at <= now) {
            let (_, pod, at) = self.bare.swap_remove(which);
            let unchanged = Some(at.clone());
            let (life, result) = request(api, weather, true, |api| {
                api.change_pod(&pod.name, Some(&pod.uid), unchanged.as_ref(), release).map(|_| None)
            });
            if matches!(result, Err(Trouble::Unknown)) {
                self.bare.push((now + RETRY, pod, at));
            }
            return life;
        }
        let Some(which) = self.executing.iter().position(|execution| execution.at <= now) else { return Life::GoesOn };
        let life = self.executing[which].advance(api, weather, self.fault);
        if self.executing[which].is_over() {
            let execution = self.executing.swap_remove(which);
            let Execution { key, plan, ended, mut sightings, .. } = execution;
            if self.fault == Fault::NoBarrier {
                sightings.clear();
            }
            self.reconciler.finish(&key, Report { phase: plan.phase, ended, sightings }, api.now);
        } else {
            self.executing[which].at = now + weather.latency();
        }
        life
    }
}

impl Execution {
    fn of(work: Work, at: u64, planned: Timestamp) -> Execution {
        let (job, plan, owners) = match work.what {
            What::Plan { job, plan } => (job, plan, None),
            What::Absent { owners, plan } => (Arc::default(), plan, Some(owners)),
        };
        let mut start = SlowStart::default();
        let batch = start.batch(&plan.steps);
        let (ended, reads, sightings) = (Ended::Done, false, Vec::new());
        Execution { key: work.key, job, plan, owners, at, planned, start, taken: 0, batch, ended, reads, sightings }
    }

    fn is_over(&self) -> bool {
        let between = self.taken == self.batch && !self.reads && self.owners.is_none();
        between && (self.taken == self.plan.steps.len() || self.ended != Ended::Done)
    }

    /// Asks the API one thing.
    fn advance(&mut self, api: &mut Api, weather: &mut Weather, fault: Fault) -> Life {
        if let Some(owners) = self.owners.take() {
            let job = api.jobs.get(&*self.key.name);
            if job.is_some_and(|job| owners.contains(&Uid::of(&job.metadata))) {
                (self.ended, self.taken) = (Ended::Failed, self.batch);
            }
            return Life::GoesOn;
        }
        if self.taken < self.batch {
            let step = self.plan.steps[self.taken].clone();
            self.taken += 1;
            let life = self.take(&step, api, weather, fault);
            if life == Life::Crashed {
                return life;
            }
        } else if self.reads {
            self.reads = false;
            self.read(api);
        }
        if self.taken < self.batch || self.reads {
            return Life::GoesOn;
        }
        if self.ended == Ended::Refused && !self.plan.otherwise.is_empty() {
            self.plan.steps = std::mem::take(&mut self.plan.otherwise);
            for step in self.plan.steps.clone() {
                if self.take(&step, api, weather, fault) == Life::Crashed {
                    return Life::Crashed;
                }
            }
            (self.ended, self.taken, self.batch) = (Ended::Refused, self.plan.steps.len(), self.plan.steps.len());
        } else if self.ended == Ended::Done {
            self.batch = self.taken + self.start.batch(&self.plan.steps[self.taken..]);
        }
        Life::GoesOn
    }

    fn take(&mut self, step: &Step, api: &mut Api, weather: &mut Weather, fault: Fault) -> Life {
        if !matches!(step.action, Action::Announce) {
            weather.tell(api, || format!("controller {:?}: {}", self.plan.phase, step.why));
        }
        let may_conflict = !matches!(step.action, Action::DeletePod(_) | Action::DeleteJob(_) | Action::Announce);
        let (phase, planned) = (self.plan.phase, self.planned);
        let (key, job) = (self.key.clone(), self.job.clone());
        let (life, result) =
            request(api, weather, may_conflict, |api| perform(&key, &job, phase, planned, &step.action, api, fault));
        match result {
            Ok(sighting) => self.sightings.extend(sighting),
            Err(Trouble::Conflict) => self.ends(Ended::Conflict),
            Err(Trouble::Refused) => self.ends(Ended::Refused),
            Err(Trouble::Unknown) if fault == Fault::TrustsUnknown => {}
            Err(Trouble::Unknown) => {
                self.reads = true;
                self.ends(Ended::Failed);
            }
        }
        life
    }

    fn ends(&mut self, how: Ended) {
        let before = std::mem::replace(&mut self.ended, Ended::Done);
        self.ended = before.and(how);
    }

    /// Reads the Job and its pods, most recent, after a write whose outcome is unknown.
    fn read(&mut self, api: &Api) {
        let own = |pod: &&Arc<Pod>| controller_of(pod).is_some_and(|owner| *owner.name == *self.key.name);
        let newest = api.pods.values().filter(own).map(|pod| revision(&pod.metadata)).max();
        let job = api.jobs.get(&*self.key.name).map(|job| Sighting::JobsAt(revision(&job.metadata)));
        self.sightings.extend(newest.map(Sighting::PodsAt).into_iter().chain(job));
    }
}

/// One request for a write, as the weather has it.
fn request(
    api: &mut Api,
    weather: &mut Weather,
    may_conflict: bool,
    perform: impl FnOnce(&mut Api) -> Result<Option<Sighting>, Refusal>,
) -> (Life, Result<Option<Sighting>, Trouble>) {
    let fate = weather.on_request(may_conflict);
    match fate {
        OnRequest::Conflict => return (Life::GoesOn, Err(Trouble::Conflict)),
        OnRequest::Refuse | OnRequest::Unreachable => return (Life::GoesOn, Err(Trouble::Unknown)),
        OnRequest::Answer | OnRequest::PerformThen500 | OnRequest::PerformThenLost => {}
    }
    let on_write = weather.on_write();
    if matches!(on_write, OnWrite::CrashBefore | OnWrite::Fail { kept: false }) {
        return (Life::Crashed, Err(Trouble::Unknown));
    }
    let result = perform(api);
    let life = if on_write == OnWrite::Commit { Life::GoesOn } else { Life::Crashed };
    let result = match result {
        _ if fate != OnRequest::Answer => Err(Trouble::Unknown),
        Ok(sighting) => Ok(sighting),
        Err(Refusal::Conflict) => Err(Trouble::Conflict),
        Err(Refusal::NotFound | Refusal::Invalid(_)) => Err(Trouble::Refused),
    };
    (life, result)
}

/// Whether this Job is another controller's, of which ours deletes nothing but the Job itself, after its time.
fn is_foreign(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| foreign_controller(spec).is_some())
}

/// Performs one step's write; what the cache must show of it.
fn perform(
    key: &JobKey,
    job: &Job,
    phase: Phase,
    planned: Timestamp,
    action: &Action,
    api: &mut Api,
    fault: Fault,
) -> Result<Option<Sighting>, Refusal> {
    let name = &*key.name;
    let same = api.jobs.get(name).filter(|same| same.metadata.uid == job.metadata.uid);
    if same.is_some_and(|job| is_foreign(job)) && !matches!(action, Action::DeleteJob(_)) {
        api.broken
            .get_or_insert(format!("job {name}: another controller manages it, and ours takes a step: {action:?}"));
    }
    match action {
        Action::CreatePod(pod) => {
            if fault == Fault::CreatesTwice {
                api.create_pod((**pod).clone())?;
            }
            let (_, at) = api.create_pod((**pod).clone())?;
            Ok(Some(Sighting::PodsAt(at)))
        }
        Action::DeletePod(pod) => match api.delete_pod(&pod.name, Some(&pod.uid), None) {
            // Another pod has the name now: the one that the plan is about is gone.
            Ok(()) | Err(Refusal::NotFound | Refusal::Conflict) => Ok(Some(Sighting::PodLeaving(pod.uid.clone()))),
            Err(refusal) => Err(refusal),
        },
        Action::ReleasePod(pod) => take_off(api, pod, None),
        Action::ReleaseUncounted { pod, resource_version } => take_off(api, pod, Some(resource_version)),
        Action::Adopt(pod) => {
            let fresh = api.jobs.get(name).filter(|fresh| fresh.metadata.uid == job.metadata.uid);
            let Some(fresh) = fresh.filter(|fresh| fresh.metadata.deletion_timestamp.is_none()).cloned() else {
                return Err(Refusal::Conflict);
            };
            changed(pod, api.change_pod(&pod.name, Some(&pod.uid), None, |pod| adopt(pod, &fresh)))
        }
        Action::LetGo(pod) => {
            let let_go = |pod: &mut Pod| {
                let owners = pod.metadata.owner_references.iter_mut();
                owners.for_each(|owners| owners.retain(|owner| Some(&owner.uid) != job.metadata.uid.as_ref()));
                release(pod);
            };
            let seen = changed(pod, api.change_pod(&pod.name, Some(&pod.uid), None, let_go))?;
            Ok(seen.map(|seen| seen.of_let_go(&pod.uid)))
        }
        Action::DeleteJob(uid) => {
            let only = Some((uid, job.metadata.resource_version.as_ref()));
            let deleted = api.jobs.get(name).cloned();
            match api.delete_job(name, only, Propagation::Foreground) {
                Ok(()) => {
                    // The time of the plan counts: the clock may have stepped back since.
                    if deleted.is_some_and(|job| ttl::expires_at(&job).is_none_or(|at| at > planned)) {
                        api.broken.get_or_insert(format!("job {name}: it is deleted before its time"));
                    }
                    Ok(None)
                }
                Err(Refusal::NotFound) => Ok(None),
                Err(refusal) => Err(refusal),
            }
        }
        Action::Announce => Ok(None),
        Action::WriteJobStatus(status) => {
            let mut status = (**status).clone();
            fault.of_status(phase, &job.status.clone().unwrap_or_default(), &mut status);
            if fault == Fault::ReleasesFirst {
                let recorded = status.uncounted_terminated_pods.clone().unwrap_or_default();
                let uids = recorded.succeeded.into_iter().chain(recorded.failed).flatten();
                for uid in uids.map(|uid| Uid::from(uid.as_str())) {
                    let name = api.pods.values().find(|pod| Uid::of(&pod.metadata) == uid).map(|pod| PodRef::of(pod));
                    name.map(|pod| take_off(api, &pod, None)).transpose()?;
                }
            }
            Ok(Some(Sighting::JobsAt(api.write_status(name, job, &status)?)))
        }
    }
}

fn changed(pod: &PodRef, result: Result<u64, Refusal>) -> Result<Option<Sighting>, Refusal> {
    match result {
        Ok(at) => Ok(Some(Sighting::PodsAt(at))),
        Err(Refusal::NotFound) => Ok(Some(Sighting::PodGone(pod.uid.clone()))),
        Err(refusal) => Err(refusal),
    }
}

fn take_off(api: &mut Api, pod: &PodRef, at: Option<&String>) -> Result<Option<Sighting>, Refusal> {
    match api.change_pod(&pod.name, Some(&pod.uid), at, release) {
        Ok(_) | Err(Refusal::NotFound) => Ok(Some(Sighting::PodReleased(pod.uid.clone()))),
        Err(refusal) => Err(refusal),
    }
}

fn release(pod: &mut Pod) {
    let finalizers = pod.metadata.finalizers.iter_mut();
    finalizers.for_each(|finalizers| finalizers.retain(|finalizer| finalizer != TRACKING_FINALIZER));
}

fn adopt(pod: &mut Pod, job: &Job) {
    pod.metadata.owner_references.get_or_insert_default().push(super::owner(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING_FINALIZER) {
        finalizers.push(TRACKING_FINALIZER.to_owned());
    }
}
