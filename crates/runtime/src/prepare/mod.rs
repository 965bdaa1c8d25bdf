//! From a bundle to a [`Plan`]: all the thinking about a spec, done in the daemon.
//!
//! Invariant: pure but for looking at which cgroup version and which disks the machine has. What the spec asks for is
//! either in the plan or an error.

mod audit;
mod cgroups;
mod command;
mod mounts;
mod namespaces;
mod process;

pub(crate) use command::{native as command, program as command_of_program};
pub(crate) use process::all_capabilities;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccomp, Spec};

use crate::plan::{Bind, Input, Launch, Marks, Plan, Root, Step, Upper};
use crate::{Bundle, ContainerId, Rootfs, StartError, Stdin, Writable, host, rootless};

/// The folder in a bundle that the root filesystem is mounted on: an empty one, so that the mount hides nothing.
pub(crate) const MOUNTPOINT: &str = "rootfs";

/// The folder in a bundle where a runc-compatible program finds what is in a volume and not the whole of it.
const STAGED: &str = "staged";

/// A compiled seccomp filter: instructions and flags.
pub(crate) type Filter = (Vec<u8>, u32);

/// Why a spec can't become a plan; the container's name is added by the caller.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A control that can't be applied, and what to do.
    Unsupported(String, String),
    /// A contradiction in the bundle.
    Invalid(String),
}

pub(crate) type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub(crate) fn of(self, container: &ContainerId) -> StartError {
        let container = container.clone();
        match self {
            Self::Unsupported(control, advice) => StartError::Unsupported { container, control, advice },
            Self::Invalid(fault) => StartError::Invalid { container, fault },
        }
    }
}

pub(crate) fn unsupported<T>(control: impl Into<String>, advice: impl Into<String>) -> Result<T> {
    Err(Refusal::Unsupported(control.into(), advice.into()))
}

pub(crate) fn invalid<T>(fault: impl Into<String>) -> Result<T> {
    Err(Refusal::Invalid(fault.into()))
}

pub(crate) fn c_string(text: impl AsRef<[u8]>, field: &str) -> Result<CString> {
    CString::new(text.as_ref()).or_else(|_| invalid(format!("{field} contains a NUL byte")))
}

pub(crate) fn c_path(path: &Path, field: &str) -> Result<CString> {
    c_string(path.as_os_str().as_bytes(), field)
}

/// A container path without its leading slash; `..` has no place in it.
pub(crate) fn inside(path: &Path, field: &str) -> Result<CString> {
    use std::path::Component;
    let mut clean = PathBuf::new();
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return invalid(format!("{field} {} is not absolute", path.display()));
    }
    for component in components {
        match component {
            Component::Normal(name) => clean.push(name),
            _ => return invalid(format!("{field} {} contains ..", path.display())),
        }
    }
    c_path(&clean, field)
}

/// What the plan for our own init looks like.
///
/// `detached` says that the kernel is new enough for that; `compile` turns a seccomp profile into a filter; it is the caller's so that it can remember.
pub(crate) fn native(
    mut bundle: Bundle,
    detached: bool,
    compile: impl FnOnce(&LinuxSeccomp) -> Result<Filter>,
) -> Result<Plan> {
    let filter = match take_seccomp(&mut bundle.spec) {
        Some(profile) => Some(compile(&profile)?),
        None => None,
    };
    let spec = &bundle.spec;
    let json = serde_json::to_value(spec).or_else(|e| invalid(format!("the spec can't be serialised: {e}")))?;
    if let Some(field) = audit::unapplied(&json) {
        return unsupported(
            field,
            "leave it out; the native runtime has no such control (an installed runc may: --runtime runc)",
        );
    }
    let namespaces = namespaces::of(spec, detached)?;
    let reach = if namespaces.own_processes() { cgroups::Reach::Namespace } else { cgroups::Reach::Cgroup };
    let (cgroups, join) = cgroups::plan(spec, bundle.together.as_ref(), reach)?;
    let mut steps: Vec<Step> = join.into_iter().map(Step::JoinCgroup).collect();
    let process = process::steps(spec, &bundle.rootfs, filter)?;
    let sysctls = mounts::sysctls(spec)?;
    steps.extend(process.early);
    steps.extend(namespaces.early);
    steps.extend(sysctls.of_network);
    steps.push(Step::Root(root(&bundle, &bundle.dir.join(MOUNTPOINT))?));
    steps.extend(namespaces.enter);
    steps.extend(mounts::steps(spec, &bundle.rootfs)?);
    steps.extend(sysctls.others);
    steps.extend(process.folder);
    steps.extend(mounts::protections(spec)?);
    steps.push(Step::Pivot);
    let stdin = input(&bundle);
    if stdin == Input::Terminal {
        steps.push(Step::Terminal);
    }
    if let Some(name) = spec.hostname() {
        steps.push(Step::Hostname(c_string(name, "hostname")?));
    }
    if let Some(name) = spec.domainname() {
        steps.push(Step::Domainname(c_string(name, "domainname")?));
    }
    steps.extend(process.late);
    Ok(Plan {
        id: bundle.id.as_str().to_owned(),
        dir: c_path(&bundle.dir, "dir")?,
        log: c_path(&bundle.log, "log")?,
        rotation: bundle.rotation,
        scratch: scratch(&bundle)?,
        stdin,
        launch: Launch::Native {
            namespaces: namespaces.flags,
            processes: namespaces.processes,
            users: namespaces.users,
            detached,
            cgroups,
            steps,
        },
    })
}

/// What the plan for a runc-compatible program looks like; the bundle's `config.json` is the caller's to write.
///
/// Of a bind mount that shows something in its source the program is told where the shim has put that.
pub(crate) fn program(bundle: &mut Bundle, program: &Path) -> Result<Plan> {
    if input(bundle) != Input::Null {
        return unsupported("input and terminals of containers", "leave them out, or use the native runtime");
    }
    if bundle.rootfs == Rootfs::Nothing {
        return unsupported("a container that holds namespaces for others", "use the native runtime");
    }
    let staged = stage(bundle)?;
    let bundle = &*bundle;
    let mut scratch = scratch(bundle)?;
    if !staged.is_empty() {
        scratch.push(c_path(&bundle.dir.join(STAGED), "dir")?);
    }
    let uid = bundle.spec.process().as_ref().map_or(0, |p| p.user().uid());
    let (oom, remove) = cgroups::of_program(&bundle.spec)?;
    let (above, enable) = cgroups::above_program(&bundle.spec, bundle.together.as_ref())?;
    Ok(Plan {
        id: bundle.id.as_str().to_owned(),
        dir: c_path(&bundle.dir, "dir")?,
        log: c_path(&bundle.log, "log")?,
        rotation: bundle.rotation,
        scratch,
        stdin: Input::Null,
        launch: Launch::Program {
            program: c_path(program, "the program's path")?,
            root: root(bundle, &bundle.dir.join(MOUNTPOINT))?,
            staged,
            uid,
            oom,
            above,
            enable,
            remove,
        },
    })
}

/// Takes what only our own init knows out of the spec's bind mounts: which part of its source each shows.
fn stage(bundle: &mut Bundle) -> Result<Vec<(Bind, CString)>> {
    let mut staged = Vec::new();
    let folder = bundle.dir.join(STAGED);
    for mount in bundle.spec.mounts_mut().iter_mut().flatten() {
        let mut options = mount.options().clone().unwrap_or_default();
        let Some(at) = options.iter().position(|option| option.starts_with(mounts::SUBDIR)) else { continue };
        let below = mounts::below(&options.remove(at)[mounts::SUBDIR.len()..])?;
        let source = mount.source().clone().unwrap_or_default();
        let recursive = options.iter().any(|option| option == "rbind");
        let place = folder.join(staged.len().to_string());
        staged.push((
            Bind { source: c_path(&source, "mounts.source")?, below: Some(below), recursive },
            c_path(&place, "dir")?,
        ));
        mount.set_options(Some(options)).set_source(Some(place));
    }
    Ok(staged)
}

/// What the container's standard input is.
fn input(bundle: &Bundle) -> Input {
    let terminal = bundle.spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal) == Some(true);
    match bundle.stdin {
        _ if terminal => Input::Terminal,
        Stdin::Empty => Input::Null,
        Stdin::Open => Input::Pipe,
        Stdin::Once => Input::PipeOnce,
    }
}

fn take_seccomp(spec: &mut Spec) -> Option<LinuxSeccomp> {
    spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().take())
}

/// What the runtime makes on disk and removes with the container.
fn scratch(bundle: &Bundle) -> Result<Vec<CString>> {
    let mut all = vec![c_path(&bundle.dir.join(MOUNTPOINT), "dir")?];
    if let Rootfs::Overlay { writable: Writable::Directory(dir), .. } = &bundle.rootfs {
        all.push(c_path(&dir.join("upper"), "writable")?);
        all.push(c_path(&dir.join("work"), "writable")?);
    }
    Ok(all)
}

fn root(bundle: &Bundle, mountpoint: &Path) -> Result<Root> {
    let mountpoint = c_path(mountpoint, "dir")?;
    let marks = if rootless::is_confined() { Marks::User } else { Marks::Trusted };
    let host_root = |size: Option<u64>| {
        let unreadable = |e| Refusal::Invalid(format!("the host's mounts can't be read: {e}"));
        let (lower, frame, pieces) = if rootless::is_confined() {
            let view = host::view().map_err(unreadable)?;
            (Vec::new(), view.frame, view.pieces)
        } else {
            (vec![c"/".to_owned()], Vec::new(), host::disks().map_err(unreadable)?)
        };
        let host_mounts = pieces.iter().map(|d| c_path(d, "a mount point")).collect::<Result<_>>()?;
        Ok(Root { mountpoint: mountpoint.clone(), lower, frame, marks, upper: Upper::Tmpfs(size), host_mounts })
    };
    match &bundle.rootfs {
        Rootfs::Host { size } => host_root(*size),
        Rootfs::Nothing => {
            let (lower, frame, host_mounts) = Default::default();
            Ok(Root { mountpoint, lower, frame, marks, upper: Upper::Tmpfs(None), host_mounts })
        }
        Rootfs::Overlay { lower, writable } => {
            if lower.is_empty() {
                return invalid("rootfs has no layer");
            }
            let is_host = lower.len() == 1 && lower[0] == Path::new("/");
            let upper = match writable {
                Writable::Tmpfs { size } if is_host => return host_root(*size),
                Writable::Tmpfs { size } => Upper::Tmpfs(*size),
                Writable::Directory(_) if is_host => {
                    return invalid("the host's root can't have a writable folder that is below it: use Rootfs::Host");
                }
                Writable::Directory(dir) => Upper::Directory(c_path(dir, "writable")?),
            };
            let lower = lower.iter().map(|l| c_path(l, "a layer")).collect::<Result<_>>()?;
            Ok(Root { mountpoint, lower, frame: Vec::new(), marks, upper, host_mounts: Vec::new() })
        }
    }
}

/// Whether the spec gives the container its own namespace of this kind.
pub(crate) fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    namespaces.is_some_and(|all| all.iter().any(|n| n.typ() == kind))
}
