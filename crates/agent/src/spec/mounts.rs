//! A container's mounts: the runtime's own, the node's files, and what it asks for of the pod's volumes.
//!
//! Invariant: what a mount shows of a volume is named to the runtime as a path in the volume (`X-mount.subdir`), never as
//! a path of the host: who writes to the volume could turn that into any other.
//! Upstream: `pkg/kubelet/kubelet_pods.go` (`makeMounts`), `kuberuntime/kuberuntime_container.go`
//! (`translateMountPropagation`), v1.36.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{PodSpec, Volume, VolumeMount};
use oci_spec::runtime::{Mount, MountBuilder};

use super::{Request, env, termination_path};
use crate::error::Error;
use crate::volumes;
use crate::volumes::sub_path::SubPath;

/// The mounts, outer ones first, and what is to be in volumes before.
pub(super) fn of(
    request: &Request<'_>,
    pod_spec: &PodSpec,
    variables: &env::Variables,
    defaults: Vec<Mount>,
) -> Result<(Vec<Mount>, Vec<SubPath>), Error> {
    let mut ours = Vec::new();
    let mut sub_paths = Vec::new();
    if request.etc {
        for name in ["hosts", "hostname", "resolv.conf"] {
            ours.push(bind(request, &request.folder.etc().join(name), &format!("/etc/{name}"), &["rprivate"])?);
        }
    }
    if let Some(path) = termination_path(request.container) {
        ours.push(bind(
            request,
            &request.folder.termination_log(&request.container.name, request.attempt),
            path,
            &["rprivate"],
        )?);
    }
    for (index, mount) in request.container.volume_mounts.iter().flatten().enumerate() {
        let volume = pod_spec.volumes.iter().flatten().find(|volume| volume.name == mount.name);
        let Some(volume) = volume else {
            let fault = format!("volumeMounts[{index}].name {:?} is no volume of the pod", mount.name);
            return Err(Error::config(format!("container {:?}: {fault}", request.container.name)));
        };
        let sub_path = sub_path(request, variables, mount)?;
        ours.push(volume_mount(request, volume, mount, sub_path.as_deref())?);
        if let Some(path) = sub_path {
            let (volume, source) = (mount.name.clone(), source_of(request, volume));
            sub_paths.push(SubPath { volume, source, path });
        }
    }
    let privileged = super::is_privileged(request.container);
    let defaults = defaults.into_iter().map(|mount| if privileged { writable(mount) } else { mount });
    let taken = |mount: &Mount| ours.iter().any(|own| own.destination() == mount.destination());
    let mut all: Vec<Mount> = defaults.filter(|mount| !taken(mount)).collect();
    ours.sort_by_key(|mount| mount.destination().components().count());
    all.extend(ours);
    Ok((all, sub_paths))
}

/// A default mount as a privileged container has it: `/sys` takes writes.
fn writable(mut mount: Mount) -> Mount {
    let options = mount.options().iter().flatten().filter(|option| *option != "ro").cloned().collect();
    mount.set_options(Some(options));
    mount
}

/// Where a volume is on the node.
fn source_of(request: &Request<'_>, volume: &Volume) -> PathBuf {
    match &volume.host_path {
        Some(host) => PathBuf::from(&host.path),
        None if volumes::is_from_api(volume) => request.folder.files(&volume.name),
        None => request.folder.volume(&volume.name),
    }
}

/// What the container is to see of the volume, if not all of it.
fn sub_path(request: &Request<'_>, variables: &env::Variables, mount: &VolumeMount) -> Result<Option<String>, Error> {
    let set = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
    let path = match (set(&mount.sub_path), set(&mount.sub_path_expr)) {
        (None, None) => return Ok(None),
        (Some(path), _) => path,
        (None, Some(text)) => variables.expand_whole(&text).map_err(|name| {
            Error::config(format!(
                "couldn't expand {text:?} of volumeMount {:?} of container {:?}: missing value for {name:?}",
                mount.name, request.container.name
            ))
        })?,
    };
    if path.starts_with('/') {
        return Err(Error::config(format!("error SubPath `{path}` must not be an absolute path")));
    }
    if Path::new(&path).components().any(|part| part == Component::ParentDir) {
        return Err(Error::config(format!("unable to provision SubPath `{path}`: must not contain '..'")));
    }
    Ok(Some(path).filter(|path| !path.is_empty()))
}

fn volume_mount(
    request: &Request<'_>,
    volume: &Volume,
    mount: &VolumeMount,
    sub_path: Option<&str>,
) -> Result<Mount, Error> {
    let from_api = volumes::is_from_api(volume);
    let propagation = match mount.mount_propagation.as_deref() {
        None | Some("None" | "") => "rprivate",
        Some("HostToContainer") => "rslave",
        Some("Bidirectional") if super::is_privileged(request.container) => "rshared",
        Some(other) => {
            return Err(Error::config(format!(
                "container {:?}: the mountPropagation {other} of volumeMount {:?} is not supported: it needs a \
                 privileged container",
                request.container.name, mount.name
            )));
        }
    };
    // What a pod learns of ConfigMaps and the like is not for it to change.
    let never_written = from_api
        || volume.image.is_some()
        || volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.read_only == Some(true));
    let read_only = mount.read_only == Some(true) || never_written;
    let access = match (read_only, is_read_only_throughout(mount)?) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let mut options = vec![propagation.to_owned(), access.to_owned()];
    if from_api {
        // Memory filesystems are often not for programs; a script in a ConfigMap is one.
        options.push("exec".to_owned());
    }
    if let Some(path) = sub_path {
        options.push(format!("X-mount.subdir={path}"));
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    bind(request, &source_of(request, volume), &mount.mount_path, &options)
}

/// Whether what is mounted below the volume is read-only too.
///
/// Upstream: `resolveRecursiveReadOnly`; our runtime always can.
fn is_read_only_throughout(mount: &VolumeMount) -> Result<bool, Error> {
    let name = &mount.name;
    let refuse = |why: String| {
        Err(Error::config(format!("volume {name:?} requested recursive read-only mode, but it is not {why}")))
    };
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some("IfPossible" | "Enabled") => {}
        Some(other) => return Err(Error::config(format!("unknown recursive read-only mode {other:?}"))),
    }
    if mount.read_only != Some(true) {
        return refuse("read-only".to_owned());
    }
    match mount.mount_propagation.as_deref().filter(|propagation| *propagation != "None") {
        Some(propagation) => refuse(format!("compatible with propagation {propagation:?}")),
        None => Ok(true),
    }
}

/// In a user namespace, files show their owners as the container's users.
fn bind(request: &Request<'_>, source: &Path, destination: &str, options: &[&str]) -> Result<Mount, Error> {
    let mapped = request.ids.map(|_| "ridmap");
    let options = std::iter::once("rbind").chain(options.iter().copied()).chain(mapped);
    let options: Vec<String> = options.map(str::to_owned).collect();
    MountBuilder::default()
        .destination(Path::new("/").join(destination))
        .typ("bind")
        .source(source)
        .options(options)
        .build()
        .map_err(|fault| Error::config(format!("mount {destination:?}: {fault}")))
}
