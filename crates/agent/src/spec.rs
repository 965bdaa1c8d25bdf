//! The OCI runtime spec of one container: what Kubernetes says, laid over what its image says, laid over the runtime's
//! defaults.
//!
//! Invariant: pure, and it fails closed. What the pod asks for and what would be less safe, or mean something else, if
//! it were left out is an error with the field's name; what is merely not honoured is told to whoever
//! creates the pod (`stint_core::validate::unhonoured`).
//!
//! Left out: everything that the spec of a running pod may change.

mod env;
mod mounts;
pub(crate) mod resources;
mod security;

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use oci_spec::runtime::{
    Capability, Linux, LinuxDevice, LinuxDeviceCgroupBuilder, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources, LinuxSeccomp, Spec,
};
use stint_core::pod::Attempt;
use stint_image::User;

use crate::downward::{Downward, Machine};
use crate::error::Error;
use crate::folder::PodFolder;
use crate::sources::Sources;
use crate::volumes::sub_path::SubPath;
use crate::{huge_pages, ids};

/// What a container's spec is made from.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container, one of the pod's.
    pub container: &'a Container,
    /// Which run.
    pub attempt: Attempt,
    /// What the image says.
    pub image: &'a ImageRun,
    /// Who a user is in the container: a name or number, with a group after a colon or without.
    pub users: &'a dyn Fn(&str) -> Result<User, String>,
    /// The ConfigMaps and Secrets that exist.
    pub sources: &'a Sources,
    /// The machine.
    pub node: &'a Machine,
    /// Where the pod's things are.
    pub folder: &'a PodFolder,
    /// The cgroup below which pods have theirs, e.g. `/stint/run-1`.
    pub cgroup_parent: &'a Path,
    /// The host name.
    pub hostname: &'a str,
    /// The pod's addresses.
    pub addresses: &'a [IpAddr],
    /// The pod's network namespace. `None`: it is on the host's network.
    pub network: Option<&'a Path>,
    /// The PID namespace that the container is born into, if it does not get one of its own.
    pub processes: Option<&'a Path>,
    /// Whether `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` are mounted from the pod's folder.
    pub etc: bool,
    /// Where containers reach the API, if they can.
    pub api: Option<SocketAddr>,
    /// The host's id of the pod's user 0, and of its group 0, if it has a user namespace.
    pub ids: Option<u32>,
    /// The machine's devices, which privileged containers see.
    pub devices: &'a [LinuxDevice],
    /// The capabilities that a container can be given at most.
    pub held: &'a HashSet<Capability>,
    /// The AppArmor profile that the container has.
    pub app_armor: Option<&'a str>,
    /// What is in the seccomp profile of a name.
    pub profile: &'a dyn Fn(&str) -> io::Result<Vec<u8>>,
}

/// How an image's containers run by default; empty on the host's own root filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRun {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`.
    pub env: Vec<String>,
    /// `WorkingDir`.
    pub working_dir: String,
    /// `User`.
    pub user: String,
    /// `StopSignal`.
    pub stop_signal: Option<String>,
}

impl ImageRun {
    /// What an image's configuration says.
    pub fn of(config: &stint_image::Config) -> ImageRun {
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        ImageRun {
            entrypoint: list(config.entrypoint()),
            cmd: list(config.cmd()),
            env: list(config.env()),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone(),
        }
    }
}

/// What a container gets that asks for nothing: made once, as its seccomp profile alone is hundreds of names.
static DEFAULTS: LazyLock<Spec> = LazyLock::new(stint_runtime::default_spec);

/// What the runtime is told of a container, and what is to be there before it is.
#[derive(Clone, Debug)]
pub struct Built {
    /// The container's spec.
    pub spec: Spec,
    /// What the container is to see of volumes that it does not see as a whole, in the order of its mounts.
    pub sub_paths: Vec<SubPath>,
}

/// The container's spec.
pub fn build(request: Request<'_>) -> Result<Built, Error> {
    let pod_spec = request.pod.spec.as_ref().ok_or_else(|| Error::config("the pod has no spec"))?;
    let down = Downward { pod: request.pod, node: request.node, addresses: request.addresses };
    let variables = env::of_pod(request.container, request.sources, down, request.api)?;
    let security = security::Security::of(pod_spec, request.container)?;
    let (user, home) = security.user(&request, pod_spec)?;
    let capabilities = security.capabilities(&request)?;
    let hostname = request.hostname.to_owned();
    let terminal = request.container.tty == Some(true);
    let kind = terminal.then(|| "TERM=xterm".to_owned());
    let given: Vec<String> = kind.into_iter().chain(request.image.env.iter().cloned()).collect();

    let mut spec = DEFAULTS.clone();
    let mut process = spec.process_mut().take().unwrap_or_default();
    process
        .set_args(Some(command(request.container, request.image, &variables)?))
        .set_env(Some(env::complete(&given, &hostname, &home, &variables)))
        .set_cwd(working_dir(request.container, request.image))
        .set_user(user)
        .set_capabilities(Some(stint_runtime::defaults::capability_sets(&capabilities)))
        .set_no_new_privileges(security.no_new_privileges().then_some(true))
        .set_apparmor_profile(request.app_armor.map(str::to_owned))
        .set_oom_score_adj(Some(resources::oom_score(request.pod, request.container, request.node)))
        .set_rlimits(None)
        .set_terminal(terminal.then_some(true));
    let mut root = spec.root_mut().take().unwrap_or_default();
    root.set_readonly(Some(security.read_only_root()));
    let (mounts, sub_paths) = mounts::of(&request, pod_spec, &variables, spec.mounts_mut().take().unwrap_or_default())?;
    let linux = linux(&request, pod_spec, &security, &capabilities, spec.linux_mut().take().unwrap_or_default())?;
    spec.set_process(Some(process))
        .set_root(Some(root))
        .set_hostname(Some(hostname))
        .set_mounts(Some(mounts))
        .set_linux(Some(linux));
    Ok(Built { spec, sub_paths })
}

/// `command` replaces the image's entry point and drops its arguments; `args` replaces its arguments.
fn command(container: &Container, image: &ImageRun, variables: &env::Variables) -> Result<Vec<String>, Error> {
    let set = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(list.iter().map(|text| variables.expand(text)).collect())
    };
    let (command, args) = (set(&container.command), set(&container.args));
    let whole: Vec<String> = match (command, args) {
        (Some(command), args) => command.into_iter().chain(args.into_iter().flatten()).collect(),
        (None, Some(args)) => image.entrypoint.iter().cloned().chain(args).collect(),
        (None, None) => image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
    };
    if whole.first().is_none_or(String::is_empty) {
        return Err(Error::config(format!(
            "container {:?} has nothing to run: its image names no command, so set the container's `command` \
             (on the host's root filesystem there is no image, and `command` is always needed)",
            container.name
        )));
    }
    Ok(whole)
}

fn working_dir(container: &Container, image: &ImageRun) -> PathBuf {
    let own = container.working_dir.as_deref().filter(|dir| !dir.is_empty());
    let dir = own.unwrap_or(&image.working_dir);
    Path::new("/").join(dir)
}

fn linux(
    request: &Request<'_>,
    pod_spec: &PodSpec,
    security: &security::Security,
    capabilities: &HashSet<Capability>,
    mut linux: Linux,
) -> Result<Linux, Error> {
    let mut resources = linux.resources().clone().unwrap_or_default();
    resources::apply(&mut resources, request.container.resources.as_ref(), request.node.limits)?;
    if let Some(wanted) = request.container.resources.as_ref().filter(|_| request.node.limits_huge_pages) {
        let limits = huge_pages::limits(wanted)?;
        resources.set_hugepage_limits((!limits.is_empty()).then_some(limits));
    }
    if security.is_privileged() && request.ids.is_none() {
        allow_all_devices(&mut resources);
        linux.set_devices((!request.devices.is_empty()).then(|| request.devices.to_vec()));
    }
    if security.shows_all_of_proc() {
        linux.set_masked_paths(None).set_readonly_paths(None);
    }
    if let Some(first) = request.ids {
        let whole = LinuxIdMappingBuilder::default().container_id(0_u32).host_id(first).size(ids::COUNT).build();
        let whole = vec![whole.map_err(|fault| Error::config(format!("the pod's user namespace: {fault}")))?];
        linux.set_uid_mappings(Some(whole.clone())).set_gid_mappings(Some(whole));
    }
    let uid = request.pod.metadata.uid.as_deref().unwrap_or_default();
    // Each run has its own: what cleans up after one must not meet the next.
    let cgroup = format!("{}_{}", request.container.name, request.attempt.0);
    linux
        .set_namespaces(Some(namespaces(request, pod_spec, linux.namespaces().clone().unwrap_or_default())?))
        .set_resources(Some(resources))
        .set_sysctl(security.sysctls())
        .set_cgroups_path(Some(request.cgroup_parent.join(uid).join(cgroup)));
    match security.seccomp()? {
        security::Seccomp::Unconfined => {
            linux.set_seccomp(None);
        }
        security::Seccomp::File(name) => {
            linux.set_seccomp(Some(profile(request, &name, capabilities)?));
        }
        security::Seccomp::Default if *capabilities != stint_runtime::default_capabilities() => {
            // The default profile lets through what a capability is for.
            linux.set_seccomp(Some(stint_runtime::seccomp::default_profile_with(capabilities)));
        }
        security::Seccomp::Default => {}
    }
    Ok(linux)
}

fn namespaces(
    request: &Request<'_>,
    pod_spec: &PodSpec,
    mut all: Vec<LinuxNamespace>,
) -> Result<Vec<LinuxNamespace>, Error> {
    all.retain(|namespace| match namespace.typ() {
        LinuxNamespaceType::Pid => pod_spec.host_pid != Some(true) && request.processes.is_none(),
        LinuxNamespaceType::Ipc => pod_spec.host_ipc != Some(true),
        LinuxNamespaceType::Network => false,
        _ => true,
    });
    let mut join = |kind: LinuxNamespaceType, path: Option<&Path>| {
        let mut namespace = LinuxNamespaceBuilder::default().typ(kind);
        if let Some(path) = path {
            namespace = namespace.path(path);
        }
        let built = namespace.build().map_err(|fault| Error::config(format!("the pod's {kind} namespace: {fault}")))?;
        all.push(built);
        Ok::<_, Error>(())
    };
    if let Some(path) = request.processes {
        join(LinuxNamespaceType::Pid, Some(path))?;
    }
    if let Some(path) = request.network {
        join(LinuxNamespaceType::Network, Some(path))?;
    }
    if request.ids.is_some() {
        join(LinuxNamespaceType::User, None)?;
    }
    Ok(all)
}

fn allow_all_devices(resources: &mut LinuxResources) {
    let all = LinuxDeviceCgroupBuilder::default().allow(true).access("rwm").build();
    resources.set_devices(all.ok().map(|all| vec![all]));
}

/// A profile of the node's. The words are containerd's.
fn profile(request: &Request<'_>, name: &str, capabilities: &HashSet<Capability>) -> Result<LinuxSeccomp, Error> {
    let failed = |fault: String| Error::config(format!("cannot load seccomp profile {name:?}: {fault}"));
    let text = (request.profile)(name).map_err(|fault| failed(fault.to_string()))?;
    stint_runtime::seccomp::parse(&text, capabilities).map_err(|fault| failed(fault.to_string()))
}

/// Whether the container asks for all that the machine has.
pub(crate) fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true))
}

/// Where the container may leave its last words; the API's default if it does not say.
pub(crate) fn termination_path(container: &Container) -> Option<&str> {
    let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    (!path.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests;
