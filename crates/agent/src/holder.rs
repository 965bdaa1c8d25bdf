//! The process that holds a pod's PID namespace (`shareProcessNamespace`): a container of the pod's that only waits, as a
//! cluster's sandbox does. The others see each other's processes, and it is everybody's process 1.
//!
//! Invariant: it is on record in the pod's folder like any other container, so that it outlives the agent and is found
//! again; it starts with the first container that needs it and is removed when all of them are.
//! Left out: what becomes of processes that a container leaves behind; the runtime ends them with it.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use oci_spec::runtime::User;
use stint_runtime::{Bundle, ContainerId, ContainerState, Rootfs, Runtime, Stdin};

use crate::error::{Error, chain};
use crate::folder::{PodFolder, make_dirs};
use crate::spec::resources;
use crate::worker::Context;

/// The user that it runs as, who has nothing (`nobody`).
const NOBODY: u32 = 65_534;

fn is_asked_for(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.share_process_namespace == Some(true))
}

impl Context {
    /// The PID namespace that the pod's containers share, if they do.
    pub(crate) async fn shared_processes(&self) -> Result<Option<PathBuf>, Error> {
        if !is_asked_for(&self.pod) {
            return Ok(None);
        }
        // Containers of a pod start at the same time.
        let _alone = self.holding.lock().await;
        let runtime = &*self.shared.runtime;
        let dir = self.folder.holder();
        let found = runtime.recover(&dir).map_err(failed("recover the holder of the pod's PID namespace"))?;
        let pid = match found {
            Some(ContainerState::Running { started, .. }) => started.pid,
            Some(ContainerState::Exited { .. }) => {
                remove(&self.folder, &self.identity.uid, runtime).await?;
                self.start_holder().await?
            }
            None => self.start_holder().await?,
        };
        Ok(Some(PathBuf::from(format!("/proc/{pid}/ns/pid"))))
    }

    async fn start_holder(&self) -> Result<i32, Error> {
        let dir = self.folder.holder();
        self.folder.make(&self.identity)?;
        make_dirs(&dir).map_err(Error::io("make folder", &dir))?;
        let mut spec = stint_runtime::default_spec();
        let mut user = User::default();
        user.set_uid(NOBODY).set_gid(NOBODY);
        if let Some(process) = spec.process_mut() {
            process.set_args(None).set_user(user).set_capabilities(None).set_no_new_privileges(Some(true));
            process.set_oom_score_adj(Some(self.shared.config.machine.lowest_oom_score.max(-998)));
        }
        let cgroup = self.shared.config.cgroup_parent.join(&self.identity.uid).join(".holder");
        if let Some(linux) = spec.linux_mut() {
            linux.set_cgroups_path(Some(cgroup));
        }
        spec.set_mounts(None);
        let id = id(&self.identity.uid)?;
        let config = &self.shared.config;
        let together = resources::together(&self.pod, config.isolation.pod_max_pids, config.machine.limits)?;
        let (log, rotation, rootfs, stdin) = (dir.join("log"), None, Rootfs::Nothing, Stdin::Empty);
        let started = self.shared.runtime.start(Bundle { id, spec, rootfs, dir, log, rotation, stdin, together }).await;
        let started = started.map_err(|fault| {
            Error::config(format!("the process that holds the pod's PID namespace: {}", chain(&fault)))
        })?;
        Ok(started.pid)
    }
}

/// Ends and removes the holder of a pod; that there is none is no error.
pub(crate) async fn remove(folder: &PodFolder, uid: &str, runtime: &dyn Runtime) -> Result<(), Error> {
    let dir = folder.holder();
    if !dir.exists() {
        return Ok(());
    }
    let id = id(uid)?;
    if runtime.recover(&dir).map_err(failed("recover the holder of a PID namespace"))?.is_some() {
        runtime.remove(&id).await.map_err(failed("remove the holder of a PID namespace"))?;
    }
    std::fs::remove_dir_all(&dir).map_err(Error::io("remove", &dir))
}

/// No container has such a name.
fn id(uid: &str) -> Result<ContainerId, Error> {
    ContainerId::new(format!("{uid}_.holder")).map_err(|fault| Error::config(fault.to_string()))
}

fn failed(attempt: &'static str) -> impl FnOnce(stint_runtime::Error) -> Error {
    move |source| Error::Runtime { attempt, source }
}
