//! `stint serve`: the Kubernetes API with its controllers and this node's agent, until it is told to stop.
//!
//! ```text
//!   https, unix socket ─► http ─► API ─► store in DATA/store
//!                                  ▲
//!              controllers, agent ─┘ (in the process)
//! ```
//!
//! Invariants:
//!
//! - One daemon per data folder ([`instance`]).
//! - Containers are nobody's children here: they go on when the daemon stops or is killed, and the next one takes them over.
//! - On the way out the store is closed last, and what was answered is in it.

mod door;
mod http;
mod instance;
mod linger;
mod listen;
mod metrics;
mod network;
mod node;
mod notify;
mod pki;
mod room;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::Router;
use jiff::Timestamp;
use stint_agent::{Agent, AgentConfig, Machine, PodNetwork, RootfsMode};
use stint_controllers::{Housekeeping, ToldBindings};
use stint_core::storage::Provisioner;
use stint_runtime::LogRotation;
use stint_server::{Admission, Api};
use stint_store::{SqliteDisk, Store};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::client::{Part, client};
use crate::embedded::{self, Launcher};
use crate::exit::Exit;
use crate::folder::{self, write_private};
use crate::kubeconfig;
use crate::real;
use crate::real::{Log, RandomIds, SystemClock};
use crate::settings::{Flags, Resolved, Settings, number, signed};
use crate::zones;
use door::Door;
use http::Http;
use instance::Instance;
use listen::Sockets;
use metrics::Metrics;
pub use metrics::SETTINGS;
use node::Here;
use pki::Pki;
use tls::Tls;

/// How often certificates and the keys of tokens are looked at.
const RENEWAL: Duration = Duration::from_hours(6);
/// How long mutations may take whose clients have gone, before the process ends.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or Ctrl-C.
pub fn main(flags: &Flags) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let resolved = flags.resolve()?;
    let settings = &resolved.settings;
    // The zygote is forked from a process that is still small, has one thread, and holds no lock.
    let launcher =
        if settings.no_agent { None } else { Some(Launcher::fork(&resolved.data, settings.runtime.as_deref())?) };
    stint_runtime::allocator::expect_many_threads();
    let log = real::log_to_stderr_as(settings.log_format, settings.log_level);
    if launcher.is_some() {
        let problems = stint_runtime::check_host();
        if !problems.is_empty() {
            let lines: Vec<String> = problems.iter().map(|problem| format!("- {problem}")).collect();
            bail!(
                "this machine can't run containers as things are (--no-agent serves the API without):\n{}",
                lines.join("\n")
            );
        }
    }
    raise_descriptor_limit();
    zones::settle();
    let instance = Instance::take(&resolved.data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("can't start the async runtime")?;
    let daemon = Daemon { flags, resolved, log, instance, started };
    let ended = runtime.block_on(daemon.run(launcher));
    // Nothing that is left may hold up the end: what matters was waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended.map(|()| Exit::Done)
}

/// What a daemon is made of.
struct Daemon<'a> {
    flags: &'a Flags,
    resolved: Resolved,
    log: Log,
    instance: Instance,
    started: Instant,
}

impl Daemon<'_> {
    async fn run(mut self, launcher: Option<Launcher>) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for Ctrl-C")?;
        let mut hangup = signal(SignalKind::hangup()).context("can't listen for SIGHUP")?;

        let data = self.resolved.data.clone();
        let socket = socket_path(&self.resolved);
        // A user's own is closed to others, wherever it is.
        let open_to_all = !socket.starts_with(&data) && stint_runtime::rootless::caller() == 0;
        let mut sockets = Sockets::open(&self.resolved.settings.listen, &socket, open_to_all)?;
        let network = match &launcher {
            Some(_) => network::open(&self.resolved, &self.instance.id)?,
            None => None,
        };
        let gate = network.as_ref().and_then(|network| Some((network.gateway()?, network.place())));
        let inner = gate.map(|(gate, place)| sockets.listen_for_pods(gate, &place)).transpose()?.flatten();
        let mut addresses = sockets.addresses();
        addresses.extend(inner.filter(|inner| !addresses.contains(inner)));
        let pki = self.pki(&addresses)?;
        let tls = Tls::new(tls::config(&self.resolved.settings, &pki)?);
        self.write_kubeconfig(&addresses, &pki)?;

        let store = open_store(&data)?;
        // Ends when the last handle of the store is gone, and so tells when everything is written.
        let mut closed = store.watch("", store.revision()).ok();
        let objects = store.snapshot().count("");
        let clock = Arc::new(SystemClock);
        let counted = stint_controllers::Metrics::default();
        let metrics = Arc::new(Metrics::new(store.clone(), counted.clone()));
        metrics.runs_with(self.resolved.told());
        let here = Here::default();
        let mut api = Api::new(store.clone(), clock, Arc::new(RandomIds));
        api.admission = Admission::Cluster;
        let mut door = Door::open(&data, &self.resolved.settings, store)?;
        api.auth = Some(door.auth());
        api.observe = Some(metrics.clone());
        api.node = Some(Arc::new(here.clone()));
        let router = stint_server::router(api);
        let address = match &network {
            Some(PodNetwork::Bridge(_)) => inner,
            // It has to be one that leads here from another network, and that the certificate has.
            Some(PodNetwork::Plugins(_)) => {
                let leads_here = |address: &SocketAddr| !address.ip().is_loopback() && !address.ip().is_unspecified();
                addresses.iter().copied().find(leads_here)
            }
            None => addresses.first().copied().map(kubeconfig::reachable),
        };
        let way = Way { root_ca: pki.ca.clone(), address, network: network.clone() };
        let parts = Parts::start(&self.resolved, &self.instance.id, &router, launcher, way, &here, counted)?;
        parts.tasks().for_each(|(part, task)| metrics.check(part, task));
        bootstrapped(&router).await?;
        let http = Arc::new(Http::new(router, metrics.clone()));
        let taking = sockets.serve(&tls, &http);

        let shown = shown(&addresses, &socket);
        self.instance.tell(&format!("at {shown}"))?;
        let took = self.started.elapsed();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), data = %data.display(), objects,
            ready_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "serving at {shown}"
        );
        notify::notify(notify::READY);

        let mut renewal = interval(RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let why = loop {
            tokio::select! {
                _ = terminate.recv() => break "SIGTERM",
                _ = interrupt.recv() => break "Ctrl-C",
                _ = hangup.recv() => {
                    notify::notify(&notify::reloading());
                    self.reload();
                    metrics.runs_with(self.resolved.told());
                    self.renew(&addresses, &tls);
                    door.reload(&self.resolved.settings);
                    notify::notify(notify::READY);
                }
                _ = renewal.tick() => {
                    self.renew(&addresses, &tls);
                    door.rotate(&self.resolved.settings);
                }
            }
        };
        tracing::info!("stopping on {why}; containers go on");
        notify::notify(notify::STOPPING);
        // First nobody new, then nobody in the process who would write, then the last answers.
        drop((taking, door, metrics));
        here.set(None);
        parts.stop().await;
        if let Some(network) = network
            && let Err(error) = network.close()
        {
            tracing::warn!(%error, "the network of pods could not be taken down");
        }
        let http = all_of(http).await;
        if let Some(http) = http
            && !http.stop(self.resolved.settings.shutdown_grace).await
        {
            tracing::warn!("some requests did not end within --shutdown-grace and are cut off");
        }
        let last = async {
            while let Some(watch) = &mut closed
                && watch.next().await.is_some()
            {}
        };
        if timeout(LAST_WRITES, last).await.is_err() {
            tracing::warn!("something still holds the store open; what was answered is written");
        }
        tracing::info!("stopped");
        Ok(())
    }

    fn pki(&self, addresses: &[SocketAddr]) -> anyhow::Result<Pki> {
        let names = pki::names(&self.resolved.settings.tls_san, addresses.iter().map(SocketAddr::ip));
        Pki::ensure(&self.resolved.data, &names, Timestamp::now())
    }

    /// Looks at the certificates, and serves with what is there now. What fails leaves things as they are.
    fn renew(&self, addresses: &[SocketAddr], tls: &Tls) {
        let renewed = self.pki(addresses).and_then(|pki| {
            tls.replace(tls::config(&self.resolved.settings, &pki)?);
            if pki.changed { self.write_kubeconfig(addresses, &pki) } else { Ok(()) }
        });
        if let Err(error) = renewed {
            tracing::error!("the certificates stay as they are: {error:#}");
        }
    }

    /// Reads the settings again, and takes those that may change.
    fn reload(&mut self) {
        let next = match self.flags.resolve() {
            Ok(next) => next,
            Err(error) => return tracing::error!("the settings stay as they are: {error:#}"),
        };
        let (now, later): (Vec<_>, Vec<_>) = self
            .resolved
            .differing(&next)
            .partition(|name| crate::settings::named(name).is_some_and(|setting| setting.reloads));
        if !later.is_empty() {
            tracing::warn!("changed, but only taken by a restart: {}", later.join(", "));
        }
        tracing::info!(
            "read the settings again; taken: {}",
            if now.is_empty() { "no change".to_owned() } else { now.join(", ") }
        );
        self.log.set_level(next.settings.log_level);
        // The others are compared with again at the next reload, and so told again.
        self.resolved.take(next);
    }

    fn write_kubeconfig(&self, addresses: &[SocketAddr], pki: &Pki) -> anyhow::Result<()> {
        let Some(address) = addresses.first() else { return Ok(()) };
        let config = kubeconfig::admin(&kubeconfig::url(*address), &pki.ca, &pki.admin.certificate, &pki.admin.key);
        write_private(&kubeconfig::file(&self.resolved.data), kubeconfig::to_yaml(&config)?.as_bytes())
    }
}

/// How pods reach the API and each other.
struct Way {
    /// The authority's certificate, in PEM.
    root_ca: String,
    /// Where the API is: at the node's address on the pods' network, or as everybody on this machine reaches it.
    address: Option<SocketAddr>,
    network: Option<PodNetwork>,
}

/// Controllers and agent, at work in the process.
struct Parts {
    controllers: Option<JoinHandle<()>>,
    agent: Option<(JoinHandle<()>, oneshot::Sender<()>)>,
}

impl Parts {
    fn start(
        resolved: &Resolved,
        id: &str,
        router: &Router,
        launcher: Option<Launcher>,
        way: Way,
        here: &Here,
        counted: stint_controllers::Metrics,
    ) -> anyhow::Result<Parts> {
        let settings = &resolved.settings;
        let clock = Arc::new(SystemClock);
        let machine = Machine::here(&settings.node_name.clone().unwrap_or_else(embedded::node_name));
        let wanted = settings.controllers;
        let config = stint_controllers::Config {
            node: (wanted.bind && launcher.is_some()).then(|| machine.name.clone()),
            told_bindings: ToldBindings::All,
            jobs: wanted.jobs,
            cron_jobs: wanted.cronjobs,
            workers: number(settings.concurrent_job_syncs),
            tuning: settings.tuning(),
            slow_start: number(settings.job_slow_start),
            gather: signed(settings.job_sync_batch_period),
            housekeeping: wanted.housekeeping.then_some(Housekeeping { root_ca: Some(way.root_ca) }),
            metrics: counted,
            // What a volume holds is removed by the agent.
            provisioner: (wanted.housekeeping && launcher.is_some())
                .then(|| Provisioner { node: machine.name.clone(), folder: folder::volumes(&resolved.data) }),
            ..stint_controllers::Config::default()
        };
        let any = wanted.jobs || wanted.cronjobs || wanted.bind || wanted.housekeeping;
        let controllers = any.then(|| {
            let client = client(router, Part::Controllers);
            tokio::spawn(stint_controllers::run(client, clock.clone(), config))
        });
        let agent = match launcher {
            None => None,
            Some(launcher) => {
                let store = embedded::images(&resolved.data)?;
                let rootfs = RootfsMode::Image { store, access: access(settings) };
                let folders = folder::served(&resolved.data, id);
                let mut config = AgentConfig::new(machine, folders, rootfs, Path::new("/stint").join(id));
                config.allow_host_rootfs = settings.allow_host_rootfs;
                config.api = way.address;
                config.network = way.network;
                config.lease = true;
                config.max_pods = settings.max_pods;
                config.isolation = settings.isolation(&resolved.data);
                config.events = true;
                config.volumes = Some(folder::volumes(&resolved.data));
                config.boot = real::boot_id();
                config.log_rotation = Some(LogRotation {
                    max_size: settings.container_log_max_size.0,
                    max_files: settings.container_log_max_files.0,
                });
                config.images = Some(settings.images().map_err(anyhow::Error::msg)?);
                config.pressure.settings = settings.shortage().map_err(anyhow::Error::msg)?;
                let agent = Agent::new(config, client(router, Part::Agent), launcher.runtime(), clock);
                here.set(Some(agent.service()));
                let (stop, stopped) = oneshot::channel();
                // A sender that is gone asks for the same.
                Some((tokio::spawn(agent.run(async { drop(stopped.await) })), stop))
            }
        };
        Ok(Parts { controllers, agent })
    }

    /// Those that are there, by name.
    fn tasks(&self) -> impl Iterator<Item = (&'static str, AbortHandle)> {
        let controllers = self.controllers.as_ref().map(|task| ("controllers", task.abort_handle()));
        let agent = self.agent.as_ref().map(|(task, _)| ("agent", task.abort_handle()));
        controllers.into_iter().chain(agent)
    }

    /// Stops deciding. Containers that run go on.
    async fn stop(self) {
        if let Some(controllers) = self.controllers {
            controllers.abort();
            // Always cancelled; awaited so that it lets go of the store.
            let _ = controllers.await;
        }
        if let Some((agent, stop)) = self.agent {
            drop(stop);
            if let Err(error) = agent.await {
                tracing::error!(%error, "the agent ended badly");
            }
        }
    }
}

/// Waits until the API has what every API has from the start, which its first request makes.
async fn bootstrapped(router: &Router) -> anyhow::Result<()> {
    let request = ::http::Request::get("/api/v1/namespaces/default").body(Vec::new()).expect("the path is one");
    let answer = client(router, Part::Command).request_text(request).await;
    answer.map(drop).context("can't make the namespaces and roles that every API has; is there room on the disk?")
}

fn access(settings: &Settings) -> stint_image::Access {
    let mirrors = settings.mirror.iter().map(|mirror| (mirror.registry.clone(), mirror.url.clone())).collect();
    stint_image::Access { mirrors, docker: folder::docker().map(Arc::from), ..stint_image::Access::default() }
}

fn open_store(data: &Path) -> anyhow::Result<Store> {
    let folder = data.join("store");
    let failed = || format!("can't open the objects in {}", folder.display());
    Store::open(SqliteDisk::open(&folder).with_context(failed)?).with_context(failed)
}

/// Where the unix socket is.
fn socket_path(resolved: &Resolved) -> PathBuf {
    resolved.settings.socket.clone().unwrap_or_else(|| folder::socket(&resolved.data))
}

fn shown(addresses: &[SocketAddr], socket: &Path) -> String {
    let urls = addresses.iter().map(|address| format!("https://{address}"));
    urls.chain([socket.display().to_string()]).collect::<Vec<_>>().join(" and ")
}

/// The server once the tasks that take connections have let go of it; they were just ended.
async fn all_of(mut http: Arc<Http>) -> Option<Http> {
    for _ in 0..1000 {
        match Arc::try_unwrap(http) {
            Ok(http) => return Some(http),
            Err(shared) => http = shared,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}

/// Every connection is a descriptor, and the usual limit of 1,024 is for programs that use select(2).
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // At worst there is room for fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
