//! The whole of Stint in this process: API, controllers and agent, joined by a client and nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use kube::Client;
use stint_agent::{Agent, AgentConfig, Machine, Observer, RootfsMode};
use stint_core::job::{Backoff, Tuning};
use stint_core::mandate::Mandate;
use stint_core::storage::Provisioner;
use stint_image::{Access, ImageStore};
use stint_runtime::zygote::{self, ZygoteHandle};
use stint_runtime::{Native, OciCli, Runtime};
use stint_server::{Api, Ownership};
use stint_store::Store;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::args::RegistryArgs;
use crate::client::{Part, client};
use crate::folder::{self, RunFolder};
use crate::real::{RandomIds, SystemClock};
use crate::rootless;

/// How containers are started: by Stint's own runtime, or by a runc-compatible program below the same shim.
#[derive(Debug)]
pub struct Launcher {
    zygote: ZygoteHandle,
    program: Option<PathBuf>,
}

impl Launcher {
    /// Becomes root of a namespace, if this is another user, and forks the zygote. The process must still have one thread, and
    /// is best small.
    pub fn fork(data: &Path, program: Option<&Path>) -> anyhow::Result<Launcher> {
        let program = program.map(find_program).transpose()?;
        // The zygote keeps the place among the user's processes.
        let member = rootless::enter(data)?;
        stint_runtime::rootless::take_cgroup();
        if let (Some(program), Some(_)) = (&program, &member) {
            bail!("{} starts containers for root only: leave --runtime out", program.display());
        }
        let zygote =
            zygote::spawn_as(member.as_ref()).context("can't start the zygote that containers are forked from")?;
        Ok(Launcher { zygote, program })
    }

    /// The runtime. Needs a tokio runtime around it.
    pub fn runtime(self) -> Arc<dyn Runtime> {
        match self.program {
            None => Arc::new(Native::new(self.zygote)),
            Some(program) => Arc::new(OciCli::new(self.zygote, program)),
        }
    }
}

/// Where `program` is: a name is looked up in PATH.
fn find_program(program: &Path) -> anyhow::Result<PathBuf> {
    if program.components().count() > 1 {
        return std::path::absolute(program).with_context(|| format!("{} is no path", program.display()));
    }
    in_path(program).with_context(|| format!("there is no program {} in PATH; give its path", program.display()))
}

/// Where the program of this name is, if it is installed.
pub fn in_path(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where Debian has runc; users' PATHs often leave it out.
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The image store below `data`.
pub fn images(data: &Path) -> anyhow::Result<ImageStore> {
    let folder = folder::images(data);
    ImageStore::open(&folder).with_context(|| {
        format!("can't open the image store in {}; choose another data folder with --data", folder.display())
    })
}

/// How registries are reached, as the user said.
pub fn access(registry: &RegistryArgs) -> Access {
    Access { mirrors: registry.mirror.clone(), docker: folder::docker().map(Arc::from), ..Access::default() }
}

/// Whether there are claims, for which volumes are to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claims {
    /// There are none, and nothing looks for any.
    None,
    /// There are some.
    Some,
}

/// API, controllers and agent, at work.
pub struct Embedded {
    /// Reaches the API.
    pub client: Client,
    controllers: JoinHandle<()>,
    agent: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Embedded {
    /// Starts everything over a store in memory; containers and logs are kept in `folder`. So are
    /// the volumes of claims, if there are any.
    pub fn start(
        runtime: Arc<dyn Runtime>,
        folder: &RunFolder,
        rootfs: RootfsMode,
        observer: Arc<dyn Observer>,
        backoff: Backoff,
        claims: Claims,
    ) -> Embedded {
        let clock = Arc::new(SystemClock);
        // All clients are this process's own, and the objects end with it: nobody will ask who owns which field.
        let ownership = Ownership::Untracked;
        let api = Api { ownership, ..Api::new(Store::in_memory(), clock.clone(), Arc::new(RandomIds)) };
        let router = stint_server::router(api);
        let machine = Machine::here(&node_name());
        let volumes = (claims == Claims::Some).then(|| folder::volumes(&folder.path));
        let config = stint_controllers::Config {
            node: Some(machine.name.clone()),
            provisioner: volumes.clone().map(|folder| Provisioner { node: machine.name.clone(), folder }),
            job_mandate: Mandate::Instead, // nobody else comes to this API
            cron_jobs: false,              // what they would start is run once, see `run::load`
            workers: 16,
            tuning: Tuning { backoff, ..Tuning::default() },
            ttl: false, // what is followed to its end must not go before it was told
            ..stint_controllers::Config::default()
        };
        let controllers = client(&router, Part::Controllers);
        let controllers = tokio::spawn(stint_controllers::run(controllers, clock.clone(), config));
        let cgroups = Path::new("/stint").join(&folder.id);
        let mut config = AgentConfig::new(machine, folder.agent.clone(), rootfs, cgroups);
        config.volumes = volumes;
        config.observer = observer;
        config.isolation.seccomp_profiles = folder::seccomp(folder.data());
        config.max_pods = u32::MAX; // parallelism alone says how many a run may have
        let agent = Agent::new(config, client(&router, Part::Agent), runtime, clock);
        let (stop, stopped) = oneshot::channel();
        let agent = tokio::spawn(async move {
            // A sender that is gone asks for the same.
            agent.run(async { drop(stopped.await) }).await;
        });
        Embedded { client: client(&router, Part::Command), controllers, agent, stop }
    }

    /// Stops everything; containers that still run go on.
    pub async fn stop(self) {
        self.controllers.abort();
        drop(self.stop);
        if let Err(error) = self.agent.await {
            tracing::error!(%error, "the agent ended badly");
        }
    }
}

/// This node's name: the machine's, made a DNS subdomain.
pub fn node_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let clean = clean.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if clean.is_empty() { "localhost".to_owned() } else { clean.to_owned() }
}
