//! The real API in memory, an agent, and a runtime whose containers do what their scripts say.
#![allow(dead_code)] // each test file uses its part

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Extension;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod, PodStatus};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use stint_agent::{Agent, AgentConfig, Clock, Folders, Machine, RootfsMode};
use stint_auth::keys::Keyring;
use stint_auth::token::Tokens;
use stint_runtime::{
    BoxFuture, Bundle, ContainerId, ContainerState, Error, ExecError, ExecExit, ExecHandle, Exit, ProcessSpec, Runtime,
    StartError, Started,
};
use stint_server::auth::Auth;
use stint_server::{Ids, Peer};
use stint_store::Store;
use tokio::sync::watch;
use tokio::time::Instant;

/// Time that passes as tokio's does, from a fixed beginning; so it can be paused.
pub struct TokioClock(Instant);

impl TokioClock {
    pub fn new() -> TokioClock {
        TokioClock(Instant::now())
    }

    fn system(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(500_000) + self.0.elapsed()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::try_from(self.system()).unwrap()
    }
}

#[derive(Default)]
pub struct CountingIds(AtomicU64);

impl Ids for CountingIds {
    fn uid(&self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn suffix(&self) -> String {
        format!("{:05}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a container does: it exits with a code after a time, unless a signal ends it first.
#[derive(Clone, Debug)]
pub struct Script {
    pub after: Duration,
    pub code: i32,
    pub obeys_term: bool,
}

struct Running {
    exit: watch::Sender<Option<Exit>>,
    obeys_term: bool,
    started_at: SystemTime,
}

/// Containers by their scripts: the first of `args` is the script's number of milliseconds, the second its exit code, a
/// third of `deaf` means that it ignores signals.
pub struct FakeRuntime {
    clock: Arc<TokioClock>,
    containers: Mutex<HashMap<String, Arc<Running>>>,
    /// Every call, in order.
    pub calls: Mutex<Vec<String>>,
    pub bundles: Mutex<Vec<Bundle>>,
}

impl FakeRuntime {
    pub fn new(clock: Arc<TokioClock>) -> FakeRuntime {
        FakeRuntime { clock, containers: Mutex::default(), calls: Mutex::default(), bundles: Mutex::default() }
    }

    fn note(&self, what: &str, id: &ContainerId) {
        // Without the uid: it is the same for a whole test.
        let short = id.as_str().split_once('_').map_or(id.as_str(), |(_, rest)| rest);
        self.calls.lock().unwrap().push(format!("{what} {short}"));
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn find(&self, id: &ContainerId) -> Result<Arc<Running>, Error> {
        self.containers.lock().unwrap().get(id.as_str()).cloned().ok_or_else(|| Error::NotFound(id.clone()))
    }

    /// What commands in containers do: `exit CODE TEXT` says something and ends, `after MILLISECONDS` succeeds from then on
    /// in the life of the container, `until MILLISECONDS` until then, `hang` never ends. There are no others.
    fn command(&self, id: &ContainerId, args: &[String]) -> Result<ExecHandle, ExecError> {
        let running = self.find(id).map_err(|_| ExecError::NotRunning(id.clone()))?;
        let lived = self.clock.system().duration_since(running.started_at).unwrap().as_millis();
        let number = || args[1].parse::<u128>().unwrap();
        let (code, said) = match args[0].as_str() {
            "exit" => (Some(args[1].parse().unwrap()), args.get(2).cloned().unwrap_or_default()),
            "after" => (Some(i32::from(lived < number())), String::new()),
            "until" => (Some(i32::from(lived >= number())), String::new()),
            "hang" => (None, String::new()),
            other => {
                let (container, command) = (id.clone(), other.to_owned());
                return Err(ExecError::CommandNotFound { container, command });
            }
        };
        let exit: BoxFuture<'static, Result<ExecExit, Error>> = match code {
            Some(code) => Box::pin(std::future::ready(Ok(ExecExit { code, signal: None }))),
            None => Box::pin(std::future::pending()),
        };
        let stdout: Option<stint_runtime::Output> = Some(Box::new(std::io::Cursor::new(said)));
        Ok(ExecHandle { pid: 2, stdin: None, stdout, stderr: None, terminal: None, exit })
    }

    fn end(&self, running: &Running, code: i32, signal: Option<i32>) {
        let finished_at = self.clock.system();
        running.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert(Exit {
                code,
                signal,
                oom_killed: false,
                lost: false,
                started_at: running.started_at,
                finished_at,
            });
            first
        });
    }
}

/// The fake shared with the tasks that end its containers.
#[derive(Clone)]
pub struct Fake(pub Arc<FakeRuntime>);

impl Runtime for Fake {
    fn start(&self, bundle: Bundle) -> BoxFuture<'_, Result<Started, StartError>> {
        let fake = Arc::clone(&self.0);
        Box::pin(async move {
            fake.note("start", &bundle.id);
            let args = bundle.spec.process().as_ref().unwrap().args().clone().unwrap();
            if args[0] == "missing" {
                return Err(StartError::CommandNotFound { container: bundle.id, command: args[0].clone() });
            }
            let after = Duration::from_millis(args[0].parse().unwrap());
            let code = args.get(1).map_or(0, |code| code.parse().unwrap());
            let (exit, _) = watch::channel(None);
            let obeys_term = args.get(2).is_none_or(|word| word != "deaf");
            let at = fake.clock.system();
            let running = Arc::new(Running { exit, obeys_term, started_at: at });
            fake.containers.lock().unwrap().insert(bundle.id.to_string(), Arc::clone(&running));
            fake.bundles.lock().unwrap().push(bundle);
            let own = Arc::clone(&fake);
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                own.end(&running, code, None);
            });
            Ok(Started { pid: 1, at })
        })
    }

    fn exec<'a>(&'a self, id: &'a ContainerId, process: ProcessSpec) -> BoxFuture<'a, Result<ExecHandle, ExecError>> {
        self.0.note(&format!("exec {}", process.args.join(" ")), id);
        Box::pin(std::future::ready(self.0.command(id, &process.args)))
    }

    fn wait<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Exit, Error>> {
        Box::pin(async move {
            let running = self.0.find(id)?;
            let mut exit = running.exit.subscribe();
            let ended = exit.wait_for(Option::is_some).await.expect("the sender is in `running`");
            Ok(ended.expect("waited for"))
        })
    }

    fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), Error> {
        self.0.note(&format!("signal {signal}"), id);
        let running = self.0.find(id)?;
        if running.obeys_term {
            self.0.end(&running, 128 + signal, Some(signal));
        }
        Ok(())
    }

    fn kill(&self, id: &ContainerId) -> Result<(), Error> {
        self.0.note("kill", id);
        self.0.end(&*self.0.find(id)?, 137, Some(9));
        Ok(())
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.0.note("remove", id);
            self.0.containers.lock().unwrap().remove(id.as_str());
            Ok(())
        })
    }

    fn recover(&self, dir: &Path) -> Result<Option<ContainerState>, Error> {
        let parts: Vec<&str> = dir.iter().map(|part| part.to_str().unwrap()).collect();
        let [.., uid, _, container, attempt] = parts[..] else { return Ok(None) };
        let id = ContainerId::new(format!("{uid}_{container}_{attempt}")).unwrap();
        self.0.note("recover", &id);
        let Ok(running) = self.0.find(&id) else { return Ok(None) };
        let exit = *running.exit.borrow();
        Ok(Some(match exit {
            Some(exit) => ContainerState::Exited { id, exit },
            None => ContainerState::Running { id, started: Started { pid: 1, at: running.started_at } },
        }))
    }
}

/// The API, an agent, and what is below it.
pub struct World {
    pub client: Client,
    pub pods: Api<Pod>,
    pub runtime: Fake,
    pub clock: Arc<TokioClock>,
    pub data: tempfile::TempDir,
    rootfs: RootfsMode,
    configure: Configure,
    agent: Option<tokio::task::JoinHandle<()>>,
}

/// What a test changes of an agent's configuration.
type Configure = Box<dyn Fn(&mut AgentConfig) + Send + Sync>;

impl World {
    pub fn new() -> World {
        World::with(|_| RootfsMode::Host { size: None })
    }

    pub fn with(rootfs: impl FnOnce(&Path) -> RootfsMode) -> World {
        World::configured(rootfs, |_| {})
    }

    pub fn configured(
        rootfs: impl FnOnce(&Path) -> RootfsMode,
        configure: impl Fn(&mut AgentConfig) + Send + Sync + 'static,
    ) -> World {
        let clock = Arc::new(TokioClock::new());
        let store = Store::in_memory();
        let mut api = stint_server::Api::new(store.clone(), clock.clone(), Arc::new(CountingIds::default()));
        let keys = Keyring::from_pem(&stint_auth::keys::generate().unwrap()).unwrap();
        api.auth = Some(Arc::new(Auth::new(store, 0).with_tokens(Tokens::new("https://issuer", keys))));
        let client = Client::new(stint_server::router(api).layer(Extension(Peer::InProcess)), "default");
        let data = tempfile::tempdir().unwrap();
        let runtime = Fake(Arc::new(FakeRuntime::new(clock.clone())));
        let pods = Api::namespaced(client.clone(), "default");
        let rootfs = rootfs(data.path());
        let mut world =
            World { client, pods, runtime, clock, data, rootfs, configure: Box::new(configure), agent: None };
        world.start_agent();
        world
    }

    pub fn start_agent(&mut self) {
        let machine = Machine {
            name: "node".into(),
            ip: Some("10.0.0.1".into()),
            cpu_milli: 2000,
            memory: 1 << 30,
            lowest_oom_score: 0,
            limits: stint_agent::Limits::ALL,
            limits_huge_pages: true,
        };
        let folders = Folders::within(self.data.path());
        let mut config = AgentConfig::new(machine, folders, self.rootfs.clone(), PathBuf::from("/stint/test"));
        config.lease = true;
        config.events = true;
        (self.configure)(&mut config);
        let runtime = Arc::new(self.runtime.clone());
        let agent = Agent::new(config, self.client.clone(), runtime, self.clock.clone());
        self.agent = Some(tokio::spawn(agent.run(std::future::pending())));
    }

    /// Ends the agent as a crash does: nothing is finished, nothing is written.
    pub async fn crash_agent(&mut self) {
        let agent = self.agent.take().unwrap();
        agent.abort();
        let _ = agent.await;
    }

    /// Creates a pod that is bound to the node.
    pub async fn create(&self, name: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["nodeName"] = json!("node");
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        self.pods.create(&PostParams::default(), &pod).await.unwrap()
    }

    /// A pod of one container that runs this script.
    pub async fn run(&self, name: &str, policy: &str, script: &[&str]) -> Pod {
        let container = json!({"name": "c", "image": "i:1", "command": script});
        self.create(name, json!({"restartPolicy": policy, "containers": [container]})).await
    }

    pub async fn delete(&self, name: &str, grace: u32) {
        self.pods
            .delete(name, &DeleteParams { grace_period_seconds: Some(grace), ..DeleteParams::default() })
            .await
            .unwrap();
    }

    /// Waits for the pod's status to be as wanted; time is virtual or short.
    pub async fn wait(&self, name: &str, wanted: impl Fn(&PodStatus) -> bool) -> PodStatus {
        for _ in 0..20_000 {
            let status = self.pods.get(name).await.unwrap().status.unwrap_or_default();
            if wanted(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name}: {:#?}", self.pods.get(name).await.unwrap().status);
    }

    pub async fn phase(&self, name: &str, phase: &str) -> PodStatus {
        self.wait(name, |status| status.phase.as_deref() == Some(phase)).await
    }

    pub async fn waiting(&self, name: &str, reason: &str) -> PodStatus {
        self.wait(name, |status| waiting_reason(status).as_deref() == Some(reason)).await
    }

    pub async fn gone(&self, name: &str) {
        for _ in 0..20_000 {
            if self.pods.get_opt(name).await.unwrap().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name} is still there");
    }

    /// What Events tell of the pod once `count` of them are there, in the order in which they were first told: what each is
    /// about, its reason, message and count.
    pub async fn events(&self, pod: &str, count: usize) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let of_pod = ListParams::default().fields(&format!("involvedObject.name={pod}"));
        for _ in 0..20_000 {
            let mut events = api.list(&of_pod).await.unwrap().items;
            if events.len() >= count {
                events.sort_by_key(|event| event.metadata.name.clone());
                return events.iter().map(told).collect();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("there are not {count} Events about {pod}");
    }

    /// What Events tell of the node by now: type, reason and message.
    pub async fn events_of_node(&self) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let events = api.list(&ListParams::default().fields("involvedObject.kind=Node")).await.unwrap().items;
        let text = |text: Option<String>| text.unwrap_or_default();
        events.into_iter().map(|it| format!("{} {}: {}", text(it.type_), text(it.reason), text(it.message))).collect()
    }

    /// Waits until the runtime was asked for this, in this order, and for nothing else: what is asked for last may come behind
    /// what the API shows.
    pub async fn calls(&self, expected: &[&str]) {
        for _ in 0..20_000 {
            if self.runtime.0.calls() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:#?}", self.runtime.0.calls());
    }

    /// Waits until Events tell all of this of the node: type, reason and message.
    pub async fn events_of_node_tell(&self, expected: &[&str]) {
        for _ in 0..20_000 {
            let told = self.events_of_node().await;
            if expected.iter().all(|event| told.iter().any(|it| it == event)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:#?}", self.events_of_node().await);
    }

    /// Waits until no pod has a folder.
    pub async fn clean(&self) {
        let pods = self.data.path().join("pods");
        for _ in 0..20_000 {
            if std::fs::read_dir(&pods).map_or(0, Iterator::count) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("folders are left in {}", pods.display());
    }
}

fn told(event: &Event) -> String {
    let source = event.source.clone().unwrap_or_default();
    assert_eq!((source.component.as_deref(), source.host.as_deref()), (Some("kubelet"), Some("node")));
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (part, reason, message) = (&event.involved_object.field_path, &event.reason, &event.message);
    format!("{} {} x{}: {}", text(part), text(reason), event.count.unwrap_or(0), text(message))
}

pub fn waiting_reason(status: &PodStatus) -> Option<String> {
    let first = status.container_statuses.as_ref()?.first()?;
    first.state.as_ref()?.waiting.as_ref()?.reason.clone()
}
