//! One pod's worker: events in, `core::pod::step`, effects carried out.
//!
//! Invariant: the worker alone changes the pod's state, and it never waits for an effect; what an effect yields comes
//! back as an event. A task of the worker that panics takes the worker along, and the agent makes a new one from what
//! is on disk.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use stint_core::pod::{
    self, Attempt, Effect, Event, Eviction, Exit, HookKind, HookResult, Life, News, Origin, Place, Remains, State,
};
use stint_image::User;
use stint_runtime::ContainerId;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use crate::agent::{RootfsMode, Shared};
use crate::error::{Error, chain};
use crate::etc::{self, Name};
use crate::folder::{Identity, PodFolder, make_dirs};
use crate::handler::Target;
use crate::images::image_volumes;
use crate::keeper::{self, Keeper};
use crate::network::{Joined, PodNetwork};
use crate::prober;
use crate::recover::Recovered;
use crate::sources::{Sources, Wanted as WantedSources};
use crate::status::{self, Wanted};
use crate::{holder, signal, termination, usage, volumes};

/// The longest wait at a stretch, so that a clock that was set is noticed.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something happened to the pod.
    Event(Event),
    /// The API object changed.
    Changed(Arc<Pod>),
    /// The API object is gone.
    Gone,
    /// What a run left was removed.
    Removed,
}

/// What the worker and its tasks share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) identity: Identity,
    pub(crate) folder: PodFolder,
    /// The pod's own network, once it has it.
    pub(crate) joined: Arc<OnceLock<Joined>>,
    /// Held by who looks after the process that holds the pod's PID namespace.
    pub(crate) holding: Arc<tokio::sync::Mutex<()>>,
    outbox: mpsc::UnboundedSender<Message>,
}

/// A pod's worker.
pub(crate) struct Worker {
    context: Context,
    state: State,
    inbox: mpsc::UnboundedReceiver<Message>,
    tasks: JoinSet<()>,
    /// Who makes the pod's volumes and keeps them up to date.
    keeper: Option<keeper::Handle>,
    /// Who asks the probes of containers that run, by name.
    probers: HashMap<String, prober::Handle>,
    /// Who measures what the pod writes, if that is limited.
    measurer: Option<AbortHandle>,
    told: PodStatus,
    status: watch::Sender<Wanted>,
    /// What the API has.
    known: watch::Receiver<Arc<PodStatus>>,
    /// How many removals are under way, and whether the pod is to be torn down after them.
    removals: usize,
    tear_down: bool,
    gone: bool,
}

impl Worker {
    /// A worker for `pod`, with what was found of it on disk. It does nothing until it is run.
    pub(crate) fn new(
        shared: Arc<Shared>,
        pod: Arc<Pod>,
        mut found: Recovered,
        outbox: mpsc::UnboundedSender<Message>,
        inbox: mpsc::UnboundedReceiver<Message>,
    ) -> Result<Worker, Error> {
        let meta = &pod.metadata;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let identity = Identity { namespace: text(&meta.namespace), name: text(&meta.name), uid: text(&meta.uid) };
        let folder = PodFolder::new(&shared.config.folders, &identity.uid)?;
        let facts = Arc::new(pod::Facts::of(&pod));
        for one in &mut found.attempts {
            if let (pod::FoundAttempt::Exited(exit), Some(spec)) = (&mut one.life, find(&pod, &one.container)) {
                exit.message = termination::message(&folder, &spec, one.attempt, exit.code);
            }
        }
        let told = pod.status.clone().unwrap_or_default();
        let any_runs = found.attempts.iter().any(|one| matches!(one.life, pod::FoundAttempt::Running { .. }));
        let remains = match folder.identity() {
            _ if any_runs => Remains::Containers,
            Some(_) => Remains::Files,
            None => Remains::Nothing,
        };
        let state = State::recovered(&facts, &told, found.attempts, remains, shared.clock.now());
        let (status, _) = watch::channel(Wanted::default());
        let (_, known) = watch::channel(Arc::new(told.clone()));
        let joined = Arc::new(found.joined.map_or_else(OnceLock::new, OnceLock::from));
        let context = Context { shared, pod, identity, folder, joined, holding: Arc::default(), outbox };
        Ok(Worker {
            context,
            state,
            inbox,
            tasks: JoinSet::new(),
            keeper: None,
            probers: HashMap::new(),
            measurer: None,
            told,
            status,
            known,
            removals: 0,
            tear_down: false,
            gone: false,
        })
    }

    /// Works until the pod's object is gone and nothing is left of it on the node. A pod that has not ended begins with
    /// `first`: it is taken, or it is not.
    pub(crate) async fn run(mut self, first: Event) {
        let Context { shared, identity, .. } = self.context.clone();
        let (knowing, known) = watch::channel(Arc::new(self.told.clone()));
        self.known = known;
        let (wanted, delay) = (self.status.subscribe(), shared.config.status_delay);
        let writer = tokio::spawn(status::write(shared.client.clone(), identity, wanted, knowing, delay));
        self.pick_up();
        let mut queue = VecDeque::from([if self.state.is_ended() { Event::Tick } else { first }]);
        if self.state.is_ended() {
            self.tear_down();
        }
        queue.extend(delete_asked(&self.context.pod));
        while !(self.gone && self.state.is_clean()) {
            let wake = self.work(&mut queue);
            let wait = wake.map_or(LONGEST_WAIT, |at| until(at, shared.clock.now()));
            tokio::select! {
                biased;
                Some(message) = self.inbox.recv() => self.take(message, &mut queue),
                Some(done) = self.tasks.join_next() => resume_panic(done),
                () = sleep(wait), if wake.is_some() => queue.push_back(Event::Tick),
            }
        }
        drop(self.status);
        writer.abort();
        if let Err(error) = self.context.folder.remove() {
            tracing::warn!(error = %error.chain(), "failed to remove the folders of a pod that is gone");
        }
    }

    /// After a restart: waits for what still runs, keeps its volumes, and removes what ended without being removed.
    fn pick_up(&mut self) {
        let mut any_runs = false;
        for (container, attempt) in self.context.folder.attempts() {
            let running = matches!(self.state.life(&container), Some(Life::Running { .. }));
            if running && self.state.attempt(&container) == Some(attempt) {
                any_runs = true;
                let context = self.context.clone();
                let Some(spec) = find(&self.context.pod, &container) else { continue };
                self.tasks.spawn(async move { context.watch_exit(&spec, attempt).await });
                self.probe(&container, attempt);
            } else {
                self.remove(&container, attempt);
            }
        }
        if any_runs {
            self.measure();
        }
        if any_runs && keeper::has_files(&self.context.pod) {
            let (keeper, handle) = Keeper::new(self.context.clone());
            self.keeper = Some(handle);
            self.tasks.spawn(keeper.keep());
        }
    }

    /// Takes the queue's events, carries out what follows, and lets the newest status be written.
    fn work(&mut self, queue: &mut VecDeque<Event>) -> Option<Timestamp> {
        let mut write = false;
        let mut release = false;
        let mut wake = None;
        if queue.is_empty() {
            queue.push_back(Event::Tick); // an event that changes nothing: it tells when to wake
        }
        while let Some(event) = queue.pop_front() {
            let now = self.context.shared.clock.now();
            tracing::debug!(pod = %self.context.identity.name, ?event, "pod event");
            let transition = pod::step(self.state.clone(), event, now);
            self.state = transition.state;
            wake = transition.wake;
            for effect in transition.effects {
                match effect {
                    Effect::WriteStatus => write = true,
                    Effect::Release => release = true,
                    effect => self.obey(effect, queue),
                }
            }
        }
        if self.state.is_stopping() {
            self.probers.values().for_each(prober::Handle::quieten);
        }
        if write || release {
            let shared = &self.context.shared;
            let generation = self.context.pod.metadata.generation;
            let place = Place { host_ip: shared.config.machine.ip.clone(), pod_ip: self.pod_ip(), generation };
            self.told = pod::status(&self.state, &self.told, &place, shared.clock.now());
            shared.config.observer.status(&self.context.pod, &self.told);
            let status = Arc::new(self.told.clone());
            self.status.send_modify(|wanted| {
                wanted.status = Some(status);
                wanted.release |= release;
            });
        }
        wake
    }

    fn take(&mut self, message: Message, queue: &mut VecDeque<Event>) {
        match message {
            Message::Event(event) => queue.push_back(event),
            Message::Changed(pod) => {
                queue.extend(delete_asked(&pod));
                let deadline = pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
                let deadline = deadline.map(SignedDuration::from_secs);
                if deadline != self.state.facts().deadline {
                    queue.push_back(Event::DeadlineChanged { deadline });
                }
                let ephemeral = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
                let ephemeral: Vec<_> = ephemeral.map(pod::ContainerFacts::of_ephemeral).collect();
                if ephemeral.iter().any(|facts| self.state.life(&facts.name).is_none()) {
                    queue.push_back(Event::Joined { ephemeral });
                }
                for (container, image) in changed_images(self.state.facts(), &pod) {
                    queue.push_back(Event::ImageChanged { container, image });
                }
                if let Some(keeper) = &self.keeper {
                    keeper.changed(&pod);
                }
                self.context.pod = pod;
            }
            Message::Gone => {
                self.gone = true;
                queue.push_back(Event::DeleteAsked { grace: 0 });
            }
            Message::Removed => {
                self.removals -= 1;
                if self.removals == 0 && self.tear_down {
                    self.tear_down();
                }
            }
        }
    }

    fn obey(&mut self, effect: Effect, queue: &mut VecDeque<Event>) {
        match effect {
            Effect::PrepareVolumes => self.prepare_volumes(queue),
            Effect::PullImage { container } => self.pull_image(container, queue),
            Effect::StartContainer { container, attempt } => self.start(&container, attempt),
            Effect::Probe { container, attempt } => self.probe(&container, attempt),
            Effect::RunHook { container, attempt, hook } => self.run_hook(container, attempt, hook),
            Effect::Signal { container, attempt } => {
                if let Some(prober) = self.probers.get(&container) {
                    prober.quieten();
                }
                let signal = self.stop_signal(&container, attempt);
                self.tell("signal", &container, attempt, |runtime, id| runtime.signal(id, signal));
            }
            Effect::Kill { container, attempt } => {
                self.tell("kill", &container, attempt, stint_runtime::Runtime::kill);
            }
            Effect::RemoveContainer { container, attempt } => {
                self.probers.remove(&container);
                self.remove(&container, attempt);
            }
            Effect::TearDown => {
                self.tear_down = true;
                if self.removals == 0 {
                    self.tear_down();
                }
            }
            Effect::Tell(news) => self.context.tell(news),
            Effect::WriteStatus | Effect::Release => {} // gathered by `work`
        }
    }

    /// The pod's own address (`status.podIP`).
    fn pod_ip(&self) -> Option<String> {
        self.context.addresses().first().map(IpAddr::to_string)
    }

    /// Where handlers of a run of a container run and ask.
    fn target(&self, container: &str, attempt: Attempt) -> Option<Target> {
        let runtime = self.context.shared.runtime.clone();
        let id = self.context.id(container, attempt).ok()?;
        let container = Arc::new(find(&self.context.pod, container)?);
        let place = self.context.shared.network(&self.context.pod).map(PodNetwork::place).unwrap_or_default();
        Some(Target { runtime, id, container, address: self.pod_ip(), place })
    }

    fn probe(&mut self, container: &str, attempt: Attempt) {
        let Some(prober) = self.state.prober(container) else { return };
        let Some(target) = self.target(container, attempt) else { return };
        let (quiet, quieted) = watch::channel(false);
        let task = self.tasks.spawn(prober::ask(self.context.clone(), target, attempt, prober, quieted));
        self.probers.insert(container.to_owned(), prober::Handle::new(task, quiet));
    }

    fn run_hook(&mut self, container: String, attempt: Attempt, hook: HookKind) {
        let (context, target) = (self.context.clone(), self.target(&container, attempt));
        self.tasks.spawn(async move {
            let lifecycle = target.as_ref().and_then(|target| target.container.lifecycle.as_ref());
            let handler = lifecycle.and_then(|hooks| match hook {
                HookKind::PostStart => hooks.post_start.as_ref(),
                HookKind::PreStop => hooks.pre_stop.as_ref(),
            });
            let ended = match (&target, handler) {
                (Some(target), Some(handler)) => target.hook(handler).await,
                _ => Err("the pod no longer has it".to_owned()),
            };
            let result = if ended.is_ok() { HookResult::Done } else { HookResult::Failed };
            if let Err(fault) = ended {
                let pod = &context.identity.name;
                tracing::warn!(pod, container, ?hook, fault, "a hook of a container failed");
            }
            context.send(Event::HookEnded { container, attempt, hook, result });
        });
    }

    /// Has the pod measured, if it sets limits.
    fn measure(&mut self) {
        let Some(limits) = pod::Limits::of(&self.context.pod) else { return };
        if self.measurer.is_none() {
            let context = self.context.clone();
            self.measurer = Some(self.tasks.spawn(async move { context.measure(limits).await }));
        }
    }

    fn prepare_volumes(&mut self, queue: &mut VecDeque<Event>) {
        self.measure();
        let context = self.context.clone();
        let has_volumes = context.pod.spec.iter().any(|spec| spec.volumes.as_ref().is_some_and(|v| !v.is_empty()));
        if !has_volumes && !context.shared.has_etc(&context.pod) {
            queue.push_back(Event::VolumesReady);
            return;
        }
        let (mut keeper, handle) = Keeper::new(context.clone());
        self.keeper = Some(handle);
        self.tasks.spawn(async move {
            if let Err(error) = context.join_network().await {
                return context.send(Event::SandboxFailed { message: error.chain() });
            }
            match keeper.make().await {
                Ok(()) => {
                    context.send(Event::VolumesReady);
                    keeper.keep().await;
                }
                Err(error) => context.send(Event::VolumesFailed { message: error.chain() }),
            }
        });
    }

    fn pull_image(&mut self, container: String, queue: &mut VecDeque<Event>) {
        let context = self.context.clone();
        let needs_none =
            find(&context.pod, &container).is_none_or(|spec| image_volumes(&context.pod, &spec).is_empty());
        if needs_none && !matches!(context.shared.rootfs(&context.pod), Ok(RootfsMode::Image { .. })) {
            queue.push_back(Event::ImageReady { container, image_id: String::new(), origin: Origin::Host });
            return;
        }
        self.tasks.spawn(async move {
            let event = context.find_images(container).await;
            context.send(event);
        });
    }

    fn start(&mut self, container: &str, attempt: Attempt) {
        let context = self.context.clone();
        let Some(spec) = find(&context.pod, container) else { return };
        self.tasks.spawn(async move {
            let container = spec.name.clone();
            let bundle = match context.bundle(&spec, attempt).await {
                Ok(bundle) => bundle,
                Err(error) => {
                    let (reason, message) = (error.waiting_reason().to_owned(), error.chain());
                    return context.send(Event::ConfigFailed { container, attempt, reason, message });
                }
            };
            let id = bundle.id.to_string();
            match context.shared.runtime.start(bundle).await {
                Ok(started) => {
                    let at = timestamp(started.at);
                    context.send(Event::Started { container, attempt, id, at });
                    context.forget_before(&spec.name, attempt).await;
                    context.watch_exit(&spec, attempt).await;
                }
                Err(error) => {
                    context.release_image(&id).await;
                    context.send(Event::StartFailed { container, attempt, message: chain(&error) });
                }
            }
        });
    }

    /// Tells the runtime something about a run; a failure is told in the log, as the container may just have ended.
    fn tell(
        &self,
        what: &'static str,
        container: &str,
        attempt: Attempt,
        how: impl FnOnce(&dyn stint_runtime::Runtime, &ContainerId) -> Result<(), stint_runtime::Error>,
    ) {
        let told = self.context.id(container, attempt).and_then(|id| {
            how(&*self.context.shared.runtime, &id).map_err(|source| Error::Runtime { attempt: what, source })
        });
        if let Err(error) = told {
            let pod = &self.context.identity.name;
            tracing::warn!(pod, container, error = %error.chain(), "failed to {what} a container");
        }
    }

    /// The container's own, else that of the image that the run is of.
    fn stop_signal(&self, container: &str, attempt: Attempt) -> i32 {
        let facts = self.state.facts().containers.iter().find(|c| c.name == container);
        let own = facts.and_then(|facts| facts.stop_signal.clone());
        let of_image = || fs::read_to_string(self.context.folder.stop_signal(container, attempt)).ok();
        own.or_else(of_image).as_deref().and_then(signal::number).unwrap_or(signal::TERM)
    }

    /// Removes what a run left, once the API knows how it ended: until then its record is all that a next agent could tell.
    fn remove(&mut self, container: &str, attempt: Attempt) {
        self.removals += 1;
        let (context, container, mut known) = (self.context.clone(), container.to_owned(), self.known.clone());
        self.tasks.spawn(async move {
            if let Ok(id) = context.id(&container, attempt) {
                // An error means that nobody writes any more, since the object is gone.
                let _ = known.wait_for(|status| status::tells_end(status, &container, attempt, &id)).await;
            }
            context.remove(&container, attempt).await;
            let _ = context.outbox.send(Message::Removed);
        });
    }

    /// Removes the pod's network and volumes; the agent's own folder of it stays until the object is gone.
    fn tear_down(&mut self) {
        self.tear_down = false;
        let (context, keeper) = (self.context.clone(), self.keeper.take());
        self.measurer.take().inspect(AbortHandle::abort);
        self.tasks.spawn(async move {
            if let Some(keeper) = keeper {
                keeper.stop().await;
            }
            let mut pause = Duration::from_secs(1);
            while let Err(error) = context.remove_prepared().await {
                let pod = &context.identity.name;
                tracing::warn!(pod, error = %error.chain(), "failed to remove what a pod had; it is tried again");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_WAIT);
            }
            context.send(Event::TornDown);
        });
    }
}

impl Context {
    pub(crate) fn send(&self, event: Event) {
        // Nobody listens only when the worker is gone, and then nobody needs to know.
        let _ = self.outbox.send(Message::Event(event));
    }

    /// Tells people, if anybody reads it.
    pub(crate) fn tell(&self, news: News) {
        if let Some(recorder) = &self.shared.recorder {
            let seen = self.pod.metadata.resource_version.as_deref();
            recorder.tell(&self.identity, seen, news, self.shared.clock.now());
        }
    }

    pub(crate) fn id(&self, container: &str, attempt: Attempt) -> Result<ContainerId, Error> {
        container_id(&self.identity.uid, container, attempt)
    }

    /// The pod's names.
    pub(crate) fn name(&self) -> Result<Name, Error> {
        let config = &self.shared.config;
        Name::of(&self.pod, &config.machine.name, &config.cluster_domain)
    }

    /// The files of `/etc` that the node gives a pod.
    pub(crate) fn make_etc(&self) -> Result<(), Error> {
        let etc = self.folder.etc();
        make_dirs(&etc).map_err(Error::io("make folder", &etc))?;
        let name = self.name()?;
        let own = self.sandbox().map(|sandbox| sandbox.addresses.as_slice()).unwrap_or_default();
        let hosts = etc::hosts(&self.pod, &name, own, &etc::of_host("/etc/hosts"));
        let resolver = etc::resolver_of_host(self.sandbox().is_some()).of_pod(&self.pod, self.shared.dns.get());
        let files = [("hosts", hosts), ("hostname", format!("{}\n", name.host)), ("resolv.conf", resolver.text())];
        for (name, text) in files {
            let path = etc.join(name);
            fs::write(&path, text).map_err(Error::io("write", &path))?;
            let all = fs::Permissions::from_mode(0o644);
            fs::set_permissions(&path, all).map_err(Error::io("set the mode of", &path))?;
        }
        Ok(())
    }

    /// Measures what the pod writes until it is more than it may.
    async fn measure(&self, limits: pod::Limits) {
        loop {
            sleep(self.shared.config.measure_period).await;
            let (pod, folder) = (Arc::clone(&self.pod), self.folder.clone());
            let used = blocking(move || Ok(usage::of(&pod, &folder))).await.unwrap_or_default();
            if let Some(message) = limits.exceeded(&used) {
                return self.send(Event::Evicted { why: Eviction::OverLimit, message });
            }
        }
    }

    async fn remove_prepared(&self) -> Result<(), Error> {
        holder::remove(&self.folder, &self.identity.uid, &*self.shared.runtime).await?;
        self.leave_network().await?;
        // Whether there are any costs two looks; many pods have none, and need no other thread.
        if !volumes::are_there(&self.folder) {
            return Ok(());
        }
        let folder = self.folder.clone();
        blocking(move || volumes::remove(&folder)).await?;
        let volumes = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes.filter(|volume| volume.image.is_some()) {
            self.release_image(&self.lease_of(volume)).await;
        }
        Ok(())
    }

    pub(crate) async fn read_sources(&self, container: &Container) -> Result<Sources, Error> {
        WantedSources::by_container(container).read(&self.shared.client, &self.identity.namespace).await
    }

    /// Waits for a run to end and tells of it.
    async fn watch_exit(&self, container: &Container, attempt: Attempt) {
        let Ok(id) = self.id(&container.name, attempt) else { return };
        let exit = match self.shared.runtime.wait(&id).await {
            Ok(exit) => Exit {
                code: exit.code,
                signal: exit.signal,
                oom_killed: exit.oom_killed,
                lost: exit.lost,
                started_at: timestamp(exit.started_at),
                finished_at: timestamp(exit.finished_at),
                message: termination::message(&self.folder, container, attempt, exit.code),
            },
            Err(error) => {
                let now = self.shared.clock.now();
                let message = Some(format!("the end of the container can't be learned: {}", chain(&error)));
                let (started_at, finished_at) = (now, now);
                Exit { code: 255, signal: None, oom_killed: false, lost: true, started_at, finished_at, message }
            }
        };
        self.send(Event::Exited { container: container.name.clone(), attempt, exit });
    }

    /// Lets go of what is kept of all runs before the previous one, which clients may still ask for.
    async fn forget_before(&self, container: &str, attempt: Attempt) {
        if attempt.0 < 2 {
            return;
        }
        let is_old = |(name, old): &(String, Attempt)| name == container && old.0 + 1 < attempt.0;
        for (container, old) in self.folder.attempts().into_iter().filter(is_old) {
            self.remove(&container, old).await; // most likely it was
            if let Err(error) = self.folder.forget(&container, old) {
                tracing::warn!(container, error = %error.chain(), "failed to remove the log of an earlier run");
            }
        }
    }

    /// Removes what a run left, and tries again until that works: a cgroup may be busy for a while.
    async fn remove(&self, container: &str, attempt: Attempt) {
        let Ok(id) = self.id(container, attempt) else { return };
        let mut pause = Duration::from_millis(100);
        loop {
            match self.shared.runtime.remove(&id).await {
                Ok(()) | Err(stint_runtime::Error::NotFound(_)) => break,
                Err(error) => {
                    tracing::warn!(container = %id, error = %chain(&error), "failed to remove what a container left; it is tried again");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_WAIT);
        }
        // The runtime did that, unless a reboot took its records.
        let writable = self.folder.writable(container, attempt);
        if writable.exists() {
            let removed =
                blocking(move || stint_runtime::remove_folder(&writable).map_err(Error::io("remove", writable)));
            if let Err(error) = removed.await {
                tracing::warn!(container = %id, error = %error.chain(), "failed to remove what a container wrote");
            }
        }
        self.release_image(id.as_str()).await;
    }
}

/// The runtime's name for a run of a container.
pub(crate) fn container_id(uid: &str, container: &str, attempt: Attempt) -> Result<ContainerId, Error> {
    ContainerId::new(format!("{uid}_{container}_{}", attempt.0)).map_err(|fault| Error::config(fault.to_string()))
}

/// What the object says about its deletion.
fn delete_asked(pod: &Pod) -> Option<Event> {
    pod.metadata.deletion_timestamp.as_ref()?;
    let spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    Some(Event::DeleteAsked { grace: pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(30) })
}

/// The containers that the object names another image for than `facts` do, with that image.
fn changed_images(facts: &pod::Facts, pod: &Pod) -> Vec<(String, String)> {
    let spec = pod.spec.iter();
    let all = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let named = all.filter_map(|container| Some((&container.name, container.image.as_ref()?)));
    let is_new = |(name, image): &(&String, &String)| {
        facts.containers.iter().any(|known| known.name == **name && known.image != **image)
    };
    named.filter(is_new).map(|(name, image)| (name.clone(), image.clone())).collect()
}

/// The spec of a container of the pod.
pub(crate) fn find(pod: &Pod, container: &str) -> Option<Container> {
    pod::find(pod.spec.as_ref()?, container)
}

/// Users by number on the host's root filesystem: its names are not the container's business.
pub(crate) fn host_user(name: &str) -> Result<User, String> {
    let uid: u32 = if name.is_empty() { 0 } else { name.parse().map_err(|_| format!("user {name:?} is no number"))? };
    let home = if uid == 0 { "/root" } else { "/" };
    Ok(User { uid, gid: 0, additional_gids: Vec::new(), home: home.to_owned(), name: None })
}

/// Disk work that may take long, off the threads that serve everybody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::config("the agent is shutting down")),
    }
}

fn resume_panic(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// How long to wait for `at`, at least a moment and at most a minute.
pub(crate) fn until(at: Timestamp, now: Timestamp) -> Duration {
    let left = at.duration_since(now);
    Duration::try_from(left).unwrap_or(Duration::ZERO).clamp(Duration::from_millis(1), LONGEST_WAIT)
}

pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}
