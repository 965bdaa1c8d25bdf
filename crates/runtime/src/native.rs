//! Stint's own launcher, and the same shim around a runc-compatible program.
//!
//! Invariant: a start, once asked for, is carried through whether or not its future is polled to the end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

use crate::prepare::{self, Filter};
use crate::supervisor::Supervisor;
use crate::zygote::ZygoteHandle;
use crate::{
    BoxFuture, Bundle, ContainerId, ContainerState, Error, ExecError, ExecHandle, Exit, Joined, ProcessSpec, Runtime,
    StartError, Started, seccomp,
};

/// How many compiled seccomp profiles are remembered.
const FILTERS: usize = 16;

/// Stint's own launcher. Use it within a tokio runtime that has I/O enabled.
#[derive(Debug)]
pub struct Native {
    supervisor: Supervisor,
    detached: bool,
    filters: Mutex<Vec<Arc<(LinuxSeccomp, Filter)>>>,
}

impl Native {
    /// A launcher on top of a zygote.
    pub fn new(zygote: ZygoteHandle) -> Self {
        // In a user namespace the kernel wants /proc in sight to mount another.
        let detached = crate::host::kernel() >= (6, 15) && !crate::rootless::is_confined();
        Self { supervisor: Supervisor::new(zygote), detached, filters: Mutex::default() }
    }

    /// The same as on kernels before Linux 6.15, for tests on later ones.
    #[doc(hidden)]
    pub fn of_older_kernels(zygote: ZygoteHandle) -> Self {
        Self { detached: false, ..Self::new(zygote) }
    }

    /// Compiles a profile once, however many containers have it.
    fn filter(&self, profile: &LinuxSeccomp) -> prepare::Result<Filter> {
        let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = filters.iter().find(|known| known.0 == *profile) {
            return Ok(known.1.clone());
        }
        let filter = seccomp::compile(profile)?;
        if filters.len() == FILTERS {
            filters.remove(0);
        }
        filters.push(Arc::new((profile.clone(), filter.clone())));
        Ok(filter)
    }
}

/// A runc-compatible program (runc, crun, youki), driven by the same shims: same logs, same records.
///
/// It is slower, and applies what the program applies. [`StartError::Unsupported`] is then the program's own message.
#[derive(Debug)]
pub struct OciCli {
    supervisor: Supervisor,
    program: PathBuf,
}

impl OciCli {
    /// `program` is an absolute path, e.g. `/usr/sbin/runc`.
    pub fn new(zygote: ZygoteHandle, program: impl Into<PathBuf>) -> Self {
        Self { supervisor: Supervisor::new(zygote), program: program.into() }
    }

    /// Writes the bundle as the program wants it.
    fn prepare(&self, bundle: &mut Bundle) -> Result<crate::plan::Plan, StartError> {
        let plan = prepare::program(bundle, &self.program).map_err(|refusal| refusal.of(&bundle.id))?;
        let failed = |step: &str, source: std::io::Error| StartError::Failed {
            container: bundle.id.clone(),
            step: format!("{step} in {}", bundle.dir.display()),
            source,
        };
        let mut spec = bundle.spec.clone();
        let mut root = spec.root().clone().unwrap_or_default();
        root.set_path(PathBuf::from(prepare::MOUNTPOINT));
        spec.set_root(Some(root));
        let text = serde_json::to_vec(&spec).map_err(|e| failed("write config.json", e.into()))?;
        std::fs::write(bundle.dir.join("config.json"), text).map_err(|e| failed("write config.json", e))?;
        Ok(plan)
    }
}

fn command(bundle: &Bundle) -> String {
    let args = bundle.spec.process().as_ref().and_then(|p| p.args().as_ref());
    args.and_then(|args| args.first()).cloned().unwrap_or_default()
}

/// Runs a start in a task of its own, which goes on when the caller goes away.
async fn carry_through(
    supervisor: Supervisor,
    id: ContainerId,
    dir: PathBuf,
    plan: crate::plan::Plan,
    command: String,
) -> Result<Started, StartError> {
    let container = id.clone();
    let task = tokio::spawn(async move { supervisor.start(id, dir, plan, command).await });
    task.await.unwrap_or_else(|e| {
        let source = std::io::Error::other(e);
        Err(StartError::Failed { container, step: "run the task that starts it".into(), source })
    })
}

impl Runtime for Native {
    fn start(&self, bundle: Bundle) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(async move {
            let (id, dir, command) = (bundle.id.clone(), bundle.dir.clone(), command(&bundle));
            let plan = prepare::native(bundle, self.detached, |profile| self.filter(profile))
                .map_err(|refusal| refusal.of(&id))?;
            carry_through(self.supervisor.clone(), id, dir, plan, command).await
        })
    }

    fn wait<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Exit, Error>> {
        Box::pin(self.supervisor.wait(id))
    }

    fn exec<'a>(&'a self, id: &'a ContainerId, process: ProcessSpec) -> BoxFuture<'a, Result<ExecHandle, ExecError>> {
        Box::pin(async move {
            let dir = self.supervisor.running(id)?;
            let name = process.args.first().cloned().unwrap_or_default();
            let command = prepare::command(id, &dir, &process)?;
            self.supervisor.exec(id, command, process.stdio, name).await
        })
    }

    fn join<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Option<Joined>, Error>> {
        Box::pin(self.supervisor.join(id))
    }

    fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), Error> {
        self.supervisor.signal(id, signal)
    }

    fn kill(&self, id: &ContainerId) -> Result<(), Error> {
        // The death of PID 1 is the death of its namespace.
        self.supervisor.signal(id, libc::SIGKILL)
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.supervisor.remove(id))
    }

    fn recover(&self, dir: &Path) -> Result<Option<ContainerState>, Error> {
        self.supervisor.recover(dir)
    }
}

impl Runtime for OciCli {
    fn start(&self, mut bundle: Bundle) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(async move {
            let plan = self.prepare(&mut bundle)?;
            let command = command(&bundle);
            carry_through(self.supervisor.clone(), bundle.id, bundle.dir, plan, command).await
        })
    }

    fn wait<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Exit, Error>> {
        Box::pin(self.supervisor.wait(id))
    }

    fn exec<'a>(&'a self, id: &'a ContainerId, process: ProcessSpec) -> BoxFuture<'a, Result<ExecHandle, ExecError>> {
        Box::pin(async move {
            let dir = self.supervisor.running(id)?;
            let name = process.args.first().cloned().unwrap_or_default();
            let command = prepare::command_of_program(id, &dir, &self.program, &process)?;
            self.supervisor.exec(id, command, process.stdio, name).await
        })
    }

    fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), Error> {
        self.supervisor.signal(id, signal)
    }

    fn kill(&self, id: &ContainerId) -> Result<(), Error> {
        self.supervisor.signal(id, libc::SIGKILL)
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.supervisor.remove(id))
    }

    fn recover(&self, dir: &Path) -> Result<Option<ContainerState>, Error> {
        self.supervisor.recover(dir)
    }
}
