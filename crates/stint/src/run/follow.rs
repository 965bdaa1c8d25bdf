//! Watching a run: what the containers print, how the pods fare, and how each Job ends.
//!
//! Invariant: a Job's outcome is told after everything that its containers printed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{AsyncBufReadExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodCondition};
use kube::api::{DeleteParams, ListParams, LogParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use stint_agent::logs::{self, Follow as Log};
use stint_agent::{Attempt, Folders, Observer, log_path};
use stint_core::job::view::controller_of;
use stint_core::job::{Outcome, condition, finished};
use stint_image::LayerState;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::screen::{Screen, Stream};
use crate::exit::Exit;

/// Where the Jobs run.
pub enum Place {
    /// On this machine: what containers print is in files of its agent's.
    Here(Folders),
    /// Anywhere. What containers print comes from the API, of attempts that it still knows, and this namespace is looked at.
    Anywhere(String),
}

/// Follows the Jobs of one run.
pub struct Follow {
    client: Client,
    screen: Arc<Screen>,
    place: Place,
    /// The Jobs by UID, in the newest state seen.
    jobs: BTreeMap<String, Job>,
    /// UIDs in the order of the manifests.
    order: Vec<String>,
    started: Instant,
    ended: BTreeMap<String, Duration>,
    /// For each container attempt (its log): tells its follower that it ended.
    attempts: BTreeMap<PathBuf, watch::Sender<bool>>,
    followers: JoinSet<()>,
    /// The last words said about each pod.
    words: BTreeMap<String, String>,
    /// Name and Job of each pod, by UID.
    pods: BTreeMap<String, (String, String)>,
    /// The layers that are being downloaded.
    pulling: watch::Receiver<Layers>,
    /// When, and with what, the last container failed, by the UID of its Job.
    failures: BTreeMap<String, (Timestamp, u8)>,
}

impl Follow {
    /// Follows `jobs`, which were just created.
    pub fn new(
        client: Client,
        screen: Arc<Screen>,
        place: Place,
        pulling: watch::Receiver<Layers>,
        jobs: Vec<Job>,
        started: Instant,
    ) -> Follow {
        let uid = |job: &Job| job.uid().unwrap_or_default();
        Follow {
            client,
            screen,
            place,
            order: jobs.iter().map(uid).collect(),
            jobs: jobs.into_iter().map(|job| (uid(&job), job)).collect(),
            started,
            ended: BTreeMap::new(),
            attempts: BTreeMap::new(),
            followers: JoinSet::new(),
            words: BTreeMap::new(),
            pods: BTreeMap::new(),
            pulling,
            failures: BTreeMap::new(),
        }
    }

    /// Shows everything until every Job has finished and all that its containers printed is on the screen.
    pub async fn until_finished(&mut self) -> anyhow::Result<()> {
        let mut jobs = pin!(watcher(self.api::<Job>(), watcher::Config::default()).default_backoff());
        let mut pods = pin!(watcher(self.api::<Pod>(), watcher::Config::default()).default_backoff());
        while self.ended.len() < self.jobs.len() {
            tokio::select! {
                Some(event) = jobs.next() => match event.context("watching the Jobs")? {
                    Event::Apply(job) | Event::InitApply(job) => self.job(job),
                    Event::Delete(_) | Event::Init | Event::InitDone => {}
                },
                Some(event) = pods.next() => match event.context("watching the pods")? {
                    Event::Apply(pod) | Event::InitApply(pod) => self.pod(&pod),
                    Event::Delete(_) | Event::Init | Event::InitDone => {}
                },
                Ok(()) = self.pulling.changed() => self.pulls(),
                Some(_) = self.followers.join_next() => {}
            }
        }
        self.drain().await
    }

    /// Deletes the Jobs and their pods, and waits until the pods have ended with their grace period.
    pub async fn cut_short(&mut self) -> anyhow::Result<()> {
        for job in self.jobs.values() {
            let api: Api<Job> = Api::namespaced(self.client.clone(), &job.namespace().unwrap_or_default());
            ignore_gone(api.delete(&job.name_any(), &DeleteParams::background()).await).context("deleting a Job")?;
        }
        let all = self.api::<Pod>();
        let mut delay = Duration::from_millis(2);
        loop {
            let pods = all.list(&ListParams::default()).await.context("listing the pods")?;
            if pods.items.is_empty() {
                return self.drain().await;
            }
            for pod in &pods {
                self.pod(pod);
                if pod.metadata.deletion_timestamp.is_none() {
                    let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
                    ignore_gone(api.delete(&pod.name_any(), &DeleteParams::default()).await)
                        .context("deleting a pod")?;
                }
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_millis(100));
        }
    }

    /// Tells how each Job ended; returns what the process is to end with.
    pub fn outcome(&self) -> Exit {
        let mut exit = Exit::Done;
        let mut latest: Option<Timestamp> = None;
        for uid in &self.order {
            let job = &self.jobs[uid];
            let status = job.status.clone().unwrap_or_default();
            let took = self.ended.get(uid).copied().unwrap_or_default().as_secs_f64();
            let name = job.name_any();
            let wanted = job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1);
            let done = format!("{}/{wanted}", status.succeeded.unwrap_or(0));
            if finished(&status) == Some(Outcome::Success) {
                self.screen.say(&format!("job/{name} Complete {done} in {took:.1}s"));
                continue;
            }
            let failed = condition(&status, "Failed").cloned().unwrap_or_default();
            let reason = failed.reason.unwrap_or_default();
            let message = failed.message.unwrap_or_default();
            let (at, code) = self.failures.get(uid).copied().unwrap_or((Timestamp::MIN, 1));
            let line = format!("job/{name} Failed {done} in {took:.1}s: {message} ({reason}); last exit code {code}");
            self.screen.insist(&line);
            if latest.is_none_or(|latest| at >= latest) {
                latest = Some(at);
                exit = Exit::JobFailed(code);
            }
        }
        exit
    }

    /// The Jobs as they ended: one object, or a List of them.
    pub fn objects(&self) -> String {
        let mut objects: Vec<serde_json::Value> =
            self.order.iter().map(|uid| serde_json::to_value(&self.jobs[uid]).expect("a Job is JSON")).collect();
        let object = match objects.len() {
            1 => objects.remove(0),
            _ => serde_json::json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": objects }),
        };
        format!("{object:#}\n")
    }

    fn job(&mut self, job: Job) {
        let uid = job.uid().unwrap_or_default();
        if !self.jobs.contains_key(&uid) || self.ended.contains_key(&uid) {
            return;
        }
        let status = job.status.clone().unwrap_or_default();
        let name = job.name_any();
        if finished(&status).is_some() {
            self.ended.insert(uid.clone(), self.started.elapsed());
            self.screen.job_ends(&name);
        } else {
            self.screen.job(&name, self.standing(&uid, &status));
        }
        self.jobs.insert(uid, job);
    }

    /// Where a Job's pods are, in a line.
    fn standing(&self, job: &str, status: &JobStatus) -> String {
        let count = |number: Option<i32>| number.unwrap_or(0);
        let (active, ready) = (count(status.active), count(status.ready));
        let pulling = self.pods.iter().filter(|(uid, (_, owner))| owner == job && self.is_pulling(uid)).count();
        let pulling = i32::try_from(pulling).unwrap_or(i32::MAX).min(active - ready);
        let parts = [
            (active - ready - pulling, "pending"),
            (pulling, "pulling"),
            (ready, "running"),
            (count(status.succeeded), "succeeded"),
            (count(status.failed), "failed"),
        ];
        let parts = parts.iter().filter(|(number, word)| *number > 0 || *word == "running");
        parts.map(|(number, word)| format!("{number} {word}")).collect::<Vec<_>>().join(", ")
    }

    fn is_pulling(&self, pod: &str) -> bool {
        self.pulling.borrow().iter().any(|(uid, _)| uid == pod)
    }

    /// Downloads began or ended: tells of each pod's once, and of the Jobs' standing.
    fn pulls(&mut self) {
        self.pulling.mark_unchanged();
        for (uid, (name, _)) in &self.pods {
            let told = self.words.get(name).is_some_and(|words| words == PULLING);
            if self.is_pulling(uid) && !told {
                self.screen.pod(&format!("pod/{name} {PULLING}"));
                self.words.insert(name.clone(), PULLING.to_owned());
            }
        }
        for (uid, job) in self.jobs.iter().filter(|(uid, _)| !self.ended.contains_key(*uid)) {
            self.screen.job(&job.name_any(), self.standing(uid, &job.status.clone().unwrap_or_default()));
        }
    }

    fn pod(&mut self, pod: &Pod) {
        let Some(status) = &pod.status else { return };
        let name = pod.name_any();
        let owner = controller_of(pod).map(|owner| owner.uid.clone()).unwrap_or_default();
        if !self.jobs.contains_key(&owner) {
            return; // a daemon has others, too
        }
        self.pods.insert(pod.uid().unwrap_or_default(), (name.clone(), owner));
        let containers =
            || status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let words = words(pod, containers());
        if self.words.get(&name) != Some(&words) {
            let line = format!("pod/{name} {words}");
            // Plain phases are in the Job's live line on a terminal; reasons are not. Of many pods that wait for the same
            // room, one speaks for all.
            let is_repeated = words.starts_with(UNSCHEDULABLE) && self.words.values().any(|said| *said == words);
            if words.contains(": ") && !is_repeated {
                self.screen.say(&line);
            } else {
                self.screen.pod(&line);
            }
            self.words.insert(name.clone(), words);
        }
        let alone = containers().count() == 1;
        for container in containers() {
            self.attempts_of(pod, container, alone);
            self.failure_of(pod, container);
        }
    }

    /// Follows the log of every attempt of `container` that has begun.
    fn attempts_of(&mut self, pod: &Pod, container: &ContainerStatus, alone: bool) {
        let state = container.state.clone().unwrap_or_default();
        let begun = state.running.is_some() || state.terminated.is_some() || container.last_state.is_some();
        if !begun {
            return;
        }
        let uid = pod.uid().unwrap_or_default();
        let source = if alone { pod.name_any() } else { format!("{} {}", pod.name_any(), container.name) };
        let latest = u32::try_from(container.restart_count).unwrap_or(0);
        // While a container that is restarted has not begun again, the newest attempt is the one that ended.
        let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let ended = state.terminated.as_ref().or(last).and_then(|end| end.container_id.as_deref());
        let latest_is_over = ended.and_then(|id| id.rsplit('_').next()).is_some_and(|of| of == latest.to_string());
        for attempt in 0..=latest {
            let path = match &self.place {
                // A name that makes no path has no log.
                Place::Here(folders) => match log_path(folders, &uid, &container.name, Attempt(attempt)) {
                    Ok(path) => path,
                    Err(_) => return,
                },
                Place::Anywhere(_) if attempt < latest || (state.running.is_none() && !latest_is_over) => continue,
                Place::Anywhere(_) => PathBuf::from(format!("{uid}/{}/{attempt}", container.name)),
            };
            let is_over = attempt < latest || latest_is_over;
            let (screen, followers) = (&self.screen, &mut self.followers);
            let (place, client) = (&self.place, &self.client);
            let ended = self.attempts.entry(path.clone()).or_insert_with(|| {
                let (ended, over) = watch::channel(false);
                let (screen, source) = (Arc::clone(screen), source.clone());
                match place {
                    Place::Here(_) => followers.spawn(show(Log::new(path, over), screen, source)),
                    Place::Anywhere(namespace) => {
                        let pods = Api::namespaced(client.clone(), namespace);
                        let (pod, container) = (pod.name_any(), container.name.clone());
                        followers.spawn(show_from_api(pods, pod, container, screen, source))
                    }
                };
                ended
            });
            if is_over {
                ended.send_replace(true);
            }
        }
    }

    /// The objects of a kind that are looked at.
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.place {
            Place::Here(_) => Api::all(self.client.clone()),
            Place::Anywhere(namespace) => Api::namespaced(self.client.clone(), namespace),
        }
    }

    fn failure_of(&mut self, pod: &Pod, container: &ContainerStatus) {
        let terminated = |state: &Option<ContainerState>| state.as_ref().and_then(|s| s.terminated.clone());
        for ended in [terminated(&container.last_state), terminated(&container.state)].into_iter().flatten() {
            let Ok(code @ 1..) = u8::try_from(ended.exit_code) else { continue };
            let at = ended.finished_at.map_or(Timestamp::MIN, |time| time.0);
            for owner in pod.owner_references() {
                let known = self.failures.entry(owner.uid.clone()).or_insert((at, code));
                if at >= known.0 {
                    *known = (at, code);
                }
            }
        }
    }

    /// Reads every pod once more, since the pod watch may lag behind the Job watch, and shows their logs to the end.
    async fn drain(&mut self) -> anyhow::Result<()> {
        let pods = self.api::<Pod>();
        for pod in pods.list(&ListParams::default()).await.context("listing the pods")? {
            self.pod(&pod);
        }
        for ended in self.attempts.values() {
            ended.send_replace(true);
        }
        while self.followers.join_next().await.is_some() {}
        Ok(())
    }
}

/// Shows one log until its container has ended and all of it was shown.
async fn show(mut log: Log, screen: Arc<Screen>, source: String) {
    loop {
        match log.next().await {
            Ok(Some(mut line)) => {
                if !line.partial {
                    line.bytes.push(b'\n');
                }
                let stream = match line.stream {
                    logs::Stream::Stdout => Stream::Out,
                    logs::Stream::Stderr => Stream::Err,
                };
                screen.output(&source, stream, &line.bytes);
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, container = source, "a log could not be read to its end");
                break;
            }
        }
    }
    screen.output_ends(&source);
}

/// Shows what the API tells that a container prints, until it has ended.
async fn show_from_api(pods: Api<Pod>, pod: String, container: String, screen: Arc<Screen>, source: String) {
    let params = LogParams { container: Some(container), follow: true, ..LogParams::default() };
    let mut line = Vec::new();
    match pods.log_stream(&pod, &params).await {
        Ok(log) => {
            let mut log = pin!(log);
            while log.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                screen.output(&source, Stream::Out, &line);
                line.clear();
            }
        }
        Err(error) => tracing::warn!(%error, container = source, "a log could not be read"),
    }
    screen.output_ends(&source);
}

/// Layers that are being downloaded: the pod's UID and the layer's digest.
pub type Layers = BTreeSet<(String, String)>;

/// What is said of a pod whose image is being downloaded.
const PULLING: &str = "Pulling";

/// Shows the downloads of images, and says which pods wait for them.
pub struct Downloads {
    screen: Arc<Screen>,
    pulling: watch::Sender<Layers>,
}

impl Downloads {
    /// Shows them on `screen`; the other half says what is being downloaded.
    pub fn new(screen: Arc<Screen>) -> (Downloads, watch::Receiver<Layers>) {
        let (pulling, others) = watch::channel(Layers::new());
        (Downloads { screen, pulling }, others)
    }
}

impl Observer for Downloads {
    fn layer(&self, pod_uid: &str, _container: &str, digest: &str, state: LayerState) {
        let layer = (pod_uid.to_owned(), digest.to_owned());
        match state {
            LayerState::Waiting => {}
            LayerState::Downloading { done, total } => {
                self.screen.layer(digest, done, total);
                self.pulling.send_if_modified(|layers| layers.insert(layer));
            }
            LayerState::Unpacking => self.screen.layer(digest, 1, 1),
            LayerState::Done | LayerState::Cached => {
                self.screen.layer(digest, 1, 1);
                self.pulling.send_if_modified(|layers| layers.remove(&layer));
            }
        }
    }
}

/// What is said of a pod that does not fit beside those that run.
const UNSCHEDULABLE: &str = "Unschedulable";

/// How a pod fares, in the words of `kubectl get pods`, with the reason where it waits or failed.
fn words<'a>(pod: &Pod, containers: impl Iterator<Item = &'a ContainerStatus>) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let told = |parts: [Option<String>; 2]| parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
    if status.reason.is_some() {
        return told([status.reason, status.message]);
    }
    let unscheduled = |it: &&PodCondition| it.type_ == "PodScheduled" && it.reason.as_deref() == Some(UNSCHEDULABLE);
    if let Some(condition) = status.conditions.iter().flatten().find(unscheduled) {
        return told([condition.reason.clone(), condition.message.clone()]);
    }
    let phase = status.phase.unwrap_or_else(|| "Pending".to_owned());
    for container in containers {
        let state = container.state.clone().unwrap_or_default();
        let waits =
            state.waiting.filter(|w| !matches!(w.reason.as_deref(), Some("ContainerCreating" | "PodInitializing")));
        if let Some(waiting) = waits {
            return told([waiting.reason, waiting.message]);
        }
        if let Some(ended) = state.terminated.filter(|ended| phase == "Failed" && ended.exit_code != 0) {
            let reason = ended.reason.filter(|reason| reason != "Error");
            let reason =
                reason.unwrap_or_else(|| format!("container {} ended with {}", container.name, ended.exit_code));
            return told([Some(format!("{phase}: {reason}")), ended.message]);
        }
    }
    phase
}

fn ignore_gone<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
