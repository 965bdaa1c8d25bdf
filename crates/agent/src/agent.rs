//! The agent: watches the pods of its node and keeps a worker for each.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use stint_core::clock::Clock;
use stint_core::pod;
use stint_core::pressure::{Condition, ImagePolicy, refusal};
use stint_core::unmanaged::UnmanagedPod;
use stint_image::{Access, ImageStore, LayerState};
use stint_network::Server;
use stint_runtime::{LogRotation, Runtime};
use stint_watch::map;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};

use crate::collector::Collector;
use crate::downward::Machine;
use crate::error::Error;
use crate::etc::{self, ClusterDns};
use crate::events::{self, Recorder};
use crate::folder::{Folders, PodFolder};
use crate::gauge::{Gauge, MachineGauge};
use crate::images::release_images;
use crate::isolation::Isolation;
use crate::names::{Finder, Names};
use crate::network::{Joined, PodNetwork, forget};
use crate::node;
use crate::pressure::{Ask, Guard, Kept, PressureConfig};
use crate::reclaim;
use crate::recover::{self, Recovered};
use crate::service::Service;
use crate::worker::{Message, Worker};

/// The kubelet's `maxPods`, where nothing else is said.
const MAX_PODS: u32 = 110;

/// What containers see as `/`.
#[derive(Clone, Debug)]
pub enum RootfsMode {
    /// Their image.
    Image {
        /// Where images are.
        store: ImageStore,
        /// How to reach registries.
        access: Access,
    },
    /// This machine's own root filesystem, read-only below a throw-away overlay. Images are not looked at.
    Host {
        /// The most that a container may write, in bytes; the kernel's default is half of the memory.
        size: Option<u64>,
    },
}

/// A pod that has this annotation with the value `host` asks for the machine's own root filesystem, as in
/// [`RootfsMode::Host`].
pub const ROOTFS_ANNOTATION: &str = "stint.dev/rootfs";

/// How an agent works.
#[derive(Clone)]
pub struct AgentConfig {
    /// The machine: its name is the node's. [`Machine::here`] describes the one that this runs on.
    pub machine: Machine,
    /// Where the things of pods are.
    pub folders: Folders,
    /// What containers see as `/`.
    pub rootfs: RootfsMode,
    /// Whether a pod gets the machine's own root filesystem by asking for it with [`ROOTFS_ANNOTATION`].
    pub allow_host_rootfs: bool,
    /// The cgroup below which pods have theirs, e.g. `/stint/run-1`.
    pub cgroup_parent: PathBuf,
    /// Where containers reach the API. `None` where it is not served to them.
    pub api: Option<SocketAddr>,
    /// The network that each pod has a part of. `None`: all pods are on the node's own.
    pub network: Option<PodNetwork>,
    /// What the names of pods end with (the kubelet's `clusterDomain`).
    pub cluster_domain: String,
    /// Whether the node shows in a Lease that it lives, as a cluster's do.
    pub lease: bool,
    /// How many pods the node says it takes (the kubelet's `maxPods`).
    pub max_pods: u32,
    /// Whether Events tell what goes on with the node's pods.
    pub events: bool,
    /// Where the volumes are that are made on this node for claims. `None`: none are.
    pub volumes: Option<PathBuf>,
    /// When images go that nobody uses. `None`: this agent takes none away.
    pub images: Option<ImagePolicy>,
    /// How often it is looked whether images have to go (the kubelet's `ImageGCPeriod`).
    pub collect_period: Duration,
    /// When the node is short of something, and pods have to go.
    pub pressure: PressureConfig,
    /// Tells how much of the machine is in use.
    pub gauge: Arc<dyn Gauge>,
    /// How far pods are kept apart.
    pub isolation: Isolation,
    /// How often it is measured what pods with limits on local storage have written (the kubelet's `monitoringInterval`).
    pub measure_period: Duration,
    /// How often what came from the API is read again for pods that run (the kubelet's `syncFrequency`).
    pub sync_period: Duration,
    /// Which boot of the machine this is, so that records of an earlier one are known. `None`: there are none.
    pub boot: Option<String>,
    /// How much of a container's output is kept (the kubelet's `containerLogMaxSize` and `containerLogMaxFiles`). `None`: all.
    pub log_rotation: Option<LogRotation>,
    /// For how long a status that is not final waits for a newer one.
    pub status_delay: Duration,
    /// Who is told of progress.
    pub observer: Arc<dyn Observer>,
}

impl AgentConfig {
    /// The usual configuration: what a node needs for the pods of an API that only this process reaches.
    pub fn new(machine: Machine, folders: Folders, rootfs: RootfsMode, cgroup_parent: PathBuf) -> AgentConfig {
        let status_delay = Duration::from_millis(20);
        let isolation = Isolation::usual(folders.scratch.with_file_name("seccomp"));
        let observer = Arc::new(NoObserver);
        let store = match &rootfs {
            RootfsMode::Image { store, .. } => Some(store.path().to_owned()),
            RootfsMode::Host { .. } => None,
        };
        let gauge = MachineGauge::new(&folders, store);
        AgentConfig {
            machine,
            folders,
            rootfs,
            allow_host_rootfs: false,
            cgroup_parent,
            api: None,
            network: None,
            cluster_domain: "cluster.local".to_owned(),
            lease: false,
            max_pods: MAX_PODS,
            events: false,
            volumes: None,
            images: None,
            collect_period: Duration::from_mins(5),
            pressure: PressureConfig::default(),
            gauge: Arc::new(gauge),
            isolation,
            measure_period: Duration::from_secs(10),
            sync_period: Duration::from_mins(1),
            boot: None,
            log_rotation: None,
            status_delay,
            observer,
        }
    }
}

/// Is told what goes on, as it happens. Calls should return quickly.
pub trait Observer: Send + Sync + 'static {
    /// A layer of the image of a pod's container is now in this state.
    fn layer(&self, _pod_uid: &str, _container: &str, _digest: &str, _state: LayerState) {}

    /// The pod's status is now this; the API learns of it later, and may never learn of one in between.
    fn status(&self, _pod: &Pod, _status: &PodStatus) {}
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) config: AgentConfig,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Who is told of pods in Events. `None`: nobody reads them.
    pub(crate) recorder: Option<Recorder>,
    /// Who answers for the names of pods, once somebody does.
    pub(crate) dns: OnceLock<ClusterDns>,
    /// Held by who chooses which users of the host a pod's are.
    pub(crate) ranges: Mutex<()>,
}

impl Shared {
    /// Whether the node gives pods files for `/etc`; the host's root filesystem has its own, which are right on the host's
    /// network.
    pub(crate) fn has_etc(&self, pod: &Pod) -> bool {
        matches!(self.rootfs(pod), Ok(RootfsMode::Image { .. })) || self.network(pod).is_some()
    }

    /// What the pod's containers see as `/`. An error when it asks for what it may not have or what there is not: it is
    /// not to be run on something else.
    pub(crate) fn rootfs(&self, pod: &Pod) -> Result<&RootfsMode, Error> {
        const OWN: RootfsMode = RootfsMode::Host { size: None };
        let annotations = pod.metadata.annotations.as_ref();
        let asked = annotations.and_then(|all| all.get(ROOTFS_ANNOTATION)).map(String::as_str);
        match (&self.config.rootfs, asked) {
            (rootfs, None) | (rootfs @ RootfsMode::Host { .. }, _) => Ok(rootfs),
            (_, Some("host")) if self.config.allow_host_rootfs => Ok(&OWN),
            (_, Some("host")) => Err(Error::config(format!(
                "the pod asks for the node's own root filesystem ({ROOTFS_ANNOTATION}: host), which the node does not \
                 allow: start it with `stint serve --allow-host-rootfs`, or take the annotation away to run the image"
            ))),
            (_, Some(other)) => Err(Error::config(format!(
                "the pod's annotation {ROOTFS_ANNOTATION} is {other:?}: write `host`, or take it away to run the image"
            ))),
        }
    }
}

/// Runs the pods that are bound to its node.
pub struct Agent {
    shared: Arc<Shared>,
    events: Option<events::Writer>,
    workers: HashMap<String, Handle>,
    tasks: JoinSet<()>,
    /// Which task is whose worker.
    owners: HashMap<Id, String>,
    /// What was found on disk and not yet claimed by a pod of the API.
    found: HashMap<String, Recovered>,
    /// What DNS knows of the pods.
    names: Names,
    /// The pods of the list that is being read.
    listed: Option<HashSet<String>>,
    /// Whether pods were listed to the end once; before that nothing is said of them.
    is_complete: bool,
    /// What the node is short of.
    conditions: watch::Sender<BTreeSet<Condition>>,
}

/// A worker that runs.
struct Handle {
    pod: Arc<Pod>,
    outbox: mpsc::UnboundedSender<Message>,
}

impl Agent {
    /// An agent. It does nothing until it is run.
    pub fn new(config: AgentConfig, client: Client, runtime: Arc<dyn Runtime>, clock: Arc<dyn Clock>) -> Agent {
        let told = config.events.then(|| events::recorder(client.clone(), &config.machine.name));
        let (recorder, events) = told.unzip();
        Agent {
            shared: Arc::new(Shared {
                config,
                client,
                runtime,
                clock,
                recorder,
                dns: OnceLock::new(),
                ranges: Mutex::new(()),
            }),
            names: Names::default(),
            events,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            owners: HashMap::new(),
            found: HashMap::new(),
            listed: None,
            is_complete: false,
            conditions: watch::Sender::new(BTreeSet::new()),
        }
    }

    /// What others may ask of this agent's pods. It works as long as anybody holds it, also while no agent runs.
    pub fn service(&self) -> Service {
        Service::new(Arc::clone(&self.shared))
    }

    /// Runs pods until `shutdown` resolves. Containers that run then go on; the next agent takes them over.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        if let Some(boot) = &self.shared.config.boot
            && let Err(error) = recover::after_reboot(&self.shared.config.folders, boot)
        {
            tracing::error!(error = %error.chain(), "what is left of an earlier boot could not be sorted out");
        }
        self.found = recover::scan(&self.shared.config.folders, &*self.shared.runtime);
        self.claim_networks();
        let names = self.answer_for_names().await;
        let Shared { config, client, clock, .. } = &*self.shared;
        let capacity = node::Capacity::of(&config.folders.scratch, config.max_pods);
        let pressed = config.lease.then(|| self.conditions.subscribe());
        let node = node::live(client.clone(), config.machine.clone(), capacity, Arc::clone(clock), pressed);
        let node = tokio::spawn(node);
        let (asks, mut asked) = mpsc::unbounded_channel();
        let guard = tokio::spawn(Guard::new(&self.shared, self.conditions.clone(), asks).run());
        let told = self.events.take().map(|writer| tokio::spawn(writer.run()));
        let reclaim = config.volumes.clone().map(|folder| tokio::spawn(reclaim::run(client.clone(), folder)));
        let collector = Collector::of(&self.shared).map(|collector| tokio::spawn(collector.run()));
        let mut events = pin!(self.watch());
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(event) = events.next() => self.take(event),
                Some(ask) = asked.recv(), if self.is_complete => self.tell_pods(ask),
                Some(done) = self.tasks.join_next_with_id() => self.worker_ended(done),
            }
        }
        node.abort();
        guard.abort();
        names.inspect(JoinHandle::abort);
        told.inspect(JoinHandle::abort);
        reclaim.inspect(JoinHandle::abort);
        collector.inspect(JoinHandle::abort);
    }

    /// Tells the network which namespaces have pods; what else there is goes.
    fn claim_networks(&mut self) {
        let Some(network) = &self.shared.config.network else { return };
        let claimed: Vec<Joined> = self.found.values().filter_map(|found| found.joined.clone()).collect();
        let lost = network.keep(&claimed);
        for (uid, found) in &mut self.found {
            if let Some(joined) = found.joined.take_if(|joined| lost.contains(&joined.sandbox)) {
                tracing::info!(uid, address = joined.sandbox.name, "the network namespace of a pod is gone");
                // Soon the address is another's, who must not lose it when this pod gives up what it had.
                let forgotten = PodFolder::new(&self.shared.config.folders, uid).and_then(|folder| forget(&folder));
                if let Err(error) = forgotten {
                    tracing::warn!(uid, error = %error.chain(), "failed to forget the network of a pod");
                }
            }
        }
    }

    /// Answers for the names of pods, at the node's address on their network.
    async fn answer_for_names(&self) -> Option<JoinHandle<()>> {
        let Shared { config, client, dns, .. } = &*self.shared;
        let network = config.network.as_ref()?;
        let server = network.gateway()?;
        let (names, client, domain) = (self.names.clone(), client.clone(), config.cluster_domain.clone());
        let finder = Finder { names, client, domain: domain.clone(), api: config.api.map(|api| api.ip()) };
        let bind = async move { Server::bind(server, etc::RESOLVERS, Box::new(finder)).await };
        let bound = network.place().run(bind).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        match bound {
            Ok(answering) => {
                let _ = dns.set(ClusterDns { server: server.into(), domain }); // an agent runs once
                Some(tokio::spawn(answering.run()))
            }
            Err(error) => {
                tracing::warn!(%error, "can't listen at {server}:53: pods use this machine's resolvers and have no names");
                None
            }
        }
    }

    fn watch(&self) -> impl Stream<Item = Event<Pod>> + use<> {
        let api: Api<UnmanagedPod> = Api::all(self.shared.client.clone());
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", self.shared.config.machine.name));
        stint_watch::watch(api, mine).map(|event| map(event, |UnmanagedPod(pod)| pod))
    }

    fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(pod) | Event::Apply(pod) => self.changed(pod),
            Event::Delete(pod) => self.gone(&pod.metadata.uid.unwrap_or_default()),
            Event::InitDone => self.end_list(),
        }
    }

    fn changed(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if let Some(listed) = &mut self.listed {
            listed.insert(uid.clone());
        }
        if self.shared.config.network.is_some() {
            self.names.changed(&uid, &pod);
        }
        let pod = Arc::new(pod);
        if let Some(handle) = self.workers.get_mut(&uid) {
            handle.pod = Arc::clone(&pod);
            let _ = handle.outbox.send(Message::Changed(pod));
            return;
        }
        let found = self.found.remove(&uid);
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let over = matches!(phase, Some("Succeeded" | "Failed"));
        if over && found.is_none() && pod.metadata.deletion_timestamp.is_none() {
            return; // nothing of it is here, and nothing is asked
        }
        let is_new = found.is_none() && pod.status.as_ref().is_none_or(|status| status.start_time.is_none());
        let refused = if is_new { refusal(&self.conditions.borrow(), &pod) } else { None };
        let first = match (refused, pod::admit(&pod, &self.shared.grounds(&pod))) {
            (Some(message), _) => pod::Event::Rejected { reason: "Evicted", message },
            (None, Err(pod::Rejection { reason, message })) if is_new => pod::Event::Rejected { reason, message },
            (None, _) => pod::Event::Accepted,
        };
        self.spawn(uid, pod, found.unwrap_or_default(), first);
    }

    /// Tells which pods have workers, and how to reach those.
    fn tell_pods(&self, ask: Ask) {
        let kept = |handle: &Handle| Kept { pod: Arc::clone(&handle.pod), outbox: handle.outbox.clone() };
        let _ = ask.send(self.workers.values().map(kept).collect());
    }

    fn spawn(&mut self, uid: String, pod: Arc<Pod>, found: Recovered, first: pod::Event) {
        let (outbox, inbox) = mpsc::unbounded_channel();
        let worker = Worker::new(Arc::clone(&self.shared), Arc::clone(&pod), found, outbox.clone(), inbox);
        match worker {
            Ok(worker) => {
                let task = self.tasks.spawn(worker.run(first));
                self.owners.insert(task.id(), uid.clone());
                self.workers.insert(uid, Handle { pod, outbox });
            }
            Err(error) => tracing::error!(uid, error = %error.chain(), "the pod can't be taken"),
        }
    }

    fn gone(&mut self, uid: &str) {
        self.names.gone(uid);
        if let Some(handle) = self.workers.get(uid) {
            let _ = handle.outbox.send(Message::Gone);
        }
    }

    /// The list is complete: what it does not name is gone.
    fn end_list(&mut self) {
        let Some(listed) = self.listed.take() else { return };
        self.is_complete = true;
        let gone: Vec<String> = self.workers.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.gone(&uid);
        }
        self.give_back_images();
        for (uid, _) in self.found.drain() {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                if let Err(error) = clean_up(&shared, &uid).await {
                    tracing::warn!(uid, error = %error.chain(), "failed to clean up a pod that is gone");
                }
            });
        }
    }

    /// Gives back the images of pods that ended while no agent was there. Those that are found here and are to be cleaned
    /// up still need theirs.
    fn give_back_images(&self) {
        let RootfsMode::Image { store, .. } = &self.shared.config.rootfs else { return };
        let is_kept = |uid: &str| self.workers.contains_key(uid) || self.found.contains_key(uid);
        release_images(store, &self.shared.config.holder(), is_kept);
    }

    /// A worker is done with its pod, or it panicked: then a new one starts from what is on disk.
    fn worker_ended(&mut self, done: Result<(Id, ()), JoinError>) {
        let id = match &done {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(uid) = self.owners.remove(&id) else { return };
        let Some(handle) = self.workers.remove(&uid) else { return };
        let Err(error) = done else { return };
        if !error.is_panic() {
            return;
        }
        tracing::error!(uid, %error, "the worker of a pod panicked; another one takes over");
        match PodFolder::new(&self.shared.config.folders, &uid) {
            Ok(folder) => {
                let found = recover::one(&folder, &uid, &*self.shared.runtime);
                self.spawn(uid, handle.pod, found, pod::Event::Accepted);
            }
            Err(error) => tracing::error!(uid, error = %error.chain(), "the pod can't be taken over"),
        }
    }
}

/// Ends and removes what is left of a pod, and gives back its images.
async fn clean_up(Shared { config, runtime, .. }: &Shared, uid: &str) -> Result<(), Error> {
    recover::clean_up(&config.folders, uid, &**runtime, config.network.as_ref()).await?;
    if let RootfsMode::Image { store, .. } = &config.rootfs {
        release_images(store, &config.holder(), |kept| kept != uid);
    }
    Ok(())
}
