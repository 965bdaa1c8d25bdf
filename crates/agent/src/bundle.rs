//! From a pod's container to what the runtime is handed to start it.
//!
//! Invariant: everything that the container needs of the node (its image, folders, ids, namespaces) is there and written
//! down before the runtime hears of it.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::Container;
use oci_spec::runtime::Capability;
use stint_core::pod::Attempt;
use stint_runtime::{Bundle, Rootfs, Stdin, Writable};

use crate::agent::RootfsMode;
use crate::error::Error;
use crate::folder::make_dirs;
use crate::spec::{self, Built, ImageRun, Request};
use crate::worker::{Context, blocking, host_user};
use crate::{app_armor, isolation};

/// The capabilities that this process has: nobody can be given others.
static HELD: LazyLock<HashSet<Capability>> = LazyLock::new(stint_runtime::defaults::held_capabilities);

impl Context {
    /// Everything that the runtime needs for a run.
    pub(crate) async fn bundle(&self, container: &Container, attempt: Attempt) -> Result<Bundle, Error> {
        let id = self.id(&container.name, attempt)?;
        let sources = self.read_sources(container).await?;
        let config = &self.shared.config;
        let (image, rootfs) = match self.shared.rootfs(&self.pod)? {
            RootfsMode::Host { size } => (None, Rootfs::Host { size: *size }),
            RootfsMode::Image { store, .. } => {
                let image = self.lease(container.image.clone().unwrap_or_default(), store, id.as_str()).await?;
                if image.layers.is_empty() {
                    return Err(Error::config(format!("image {} has no layers to run from", image.reference)));
                }
                let writable = self.folder.writable(&container.name, attempt);
                let rootfs =
                    Rootfs::Overlay { lower: image.layers.clone(), writable: Writable::Directory(writable.clone()) };
                (Some(image), rootfs)
            }
        };
        self.show_images(container).await?;
        let run = image.as_ref().map(|image| ImageRun::of(&image.config)).unwrap_or_default();
        let users = |name: &str| match &image {
            Some(image) => image.resolve_user(name).map_err(|error| error.to_string()),
            None => host_user(name),
        };
        let network = self.sandbox().map(|sandbox| sandbox.path.clone());
        if network.is_none() && self.shared.network(&self.pod).is_some() {
            return Err(Error::config("the pod's network namespace is gone: replace the pod"));
        }
        let ids = self.ids()?;
        let processes = match self.shared_processes().await? {
            Some(all) => Some(all),
            None => self.processes(&container.name)?,
        };
        let devices = if spec::is_privileged(container) { isolation::host_devices() } else { Vec::new() };
        let profile = |name: &str| isolation::read_profile(&config.isolation.seccomp_profiles, name);
        let app_armor = app_armor::profile_of(&self.pod, container).await?;
        let Built { spec, sub_paths } = spec::build(Request {
            pod: &self.pod,
            container,
            attempt,
            image: &run,
            users: &users,
            sources: &sources,
            node: &config.machine,
            folder: &self.folder,
            cgroup_parent: &config.cgroup_parent,
            etc: self.shared.has_etc(&self.pod),
            hostname: &self.name()?.host,
            addresses: &self.addresses(),
            network: network.as_deref(),
            api: config.api,
            ids,
            processes: processes.as_deref(),
            devices: &devices,
            held: &HELD,
            app_armor: app_armor.as_deref(),
            profile: &profile,
        })?;
        let together = spec::resources::together(&self.pod, config.isolation.pod_max_pids, config.machine.limits)?;
        self.folder.make(&self.identity)?;
        self.folder.make_container(&container.name, attempt)?;
        if let Some(signal) = &run.stop_signal {
            let path = self.folder.stop_signal(&container.name, attempt);
            fs::write(&path, signal).map_err(Error::io("write", path))?;
        }
        if !sub_paths.is_empty() {
            let container = container.name.clone();
            blocking(move || sub_paths.iter().try_for_each(|part| part.make(&container))).await?;
        }
        if let Rootfs::Overlay { writable: Writable::Directory(path), .. } = &rootfs {
            make_dirs(path).map_err(Error::io("make folder", path))?;
        }
        if spec::termination_path(container).is_some() {
            let path = self.folder.termination_log(&container.name, attempt);
            fs::write(&path, b"").map_err(Error::io("write", &path))?;
            let all = fs::Permissions::from_mode(0o666);
            fs::set_permissions(&path, all).map_err(Error::io("set the mode of", &path))?;
        }
        let dir = self.folder.container(&container.name, attempt);
        let stdin = match (container.stdin, container.stdin_once) {
            (Some(true), Some(true)) => Stdin::Once,
            (Some(true), _) => Stdin::Open,
            _ => Stdin::Empty,
        };
        let (log, rotation) = (self.folder.log(&container.name, attempt), config.log_rotation);
        Ok(Bundle { id, spec, rootfs, dir, log, rotation, stdin, together })
    }
}
