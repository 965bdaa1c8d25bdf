//! Whose processes an ephemeral container sees: those of the container that it is to look at (`targetContainerName`).
//!
//! Left out: pods on the host's PID namespace, and those whose containers share one, where everybody sees everything.

use std::path::PathBuf;

use stint_runtime::ContainerState;

use crate::error::Error;
use crate::worker::Context;

impl Context {
    /// The PID namespace that the container is to be born into, if it is another container's. That one has to run.
    pub(crate) fn processes(&self, container: &str) -> Result<Option<PathBuf>, Error> {
        let Some(spec) = self.pod.spec.as_ref().filter(|spec| spec.host_pid != Some(true)) else { return Ok(None) };
        let own = spec.ephemeral_containers.iter().flatten().find(|one| one.name == container);
        let target = own.and_then(|one| one.target_container_name.as_deref()).filter(|target| !target.is_empty());
        let Some(target) = target else { return Ok(None) };
        let attempts = self.folder.attempts();
        let latest = attempts.iter().rfind(|(name, _)| name == target);
        let dir = latest.map(|(name, attempt)| self.folder.container(name, *attempt));
        let failed = |source| Error::Runtime { attempt: "find the container to look at", source };
        let found = dir.map(|dir| self.shared.runtime.recover(&dir)).transpose().map_err(failed)?;
        match found.flatten() {
            Some(ContainerState::Running { started, .. }) => {
                Ok(Some(PathBuf::from(format!("/proc/{}/ns/pid", started.pid))))
            }
            _ => Err(Error::config(format!("unable to find target container {target}"))),
        }
    }
}
