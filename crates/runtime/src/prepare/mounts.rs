//! The spec's mounts, devices, sysctls, masked and read-only paths, as steps.
//!
//! Invariant: an option that is neither known here nor a parameter of the filesystem is an error.

use std::ffi::CString;
use std::path::{Component, Path};

use oci_spec::runtime::{LinuxDeviceType, LinuxNamespaceType, Mount as SpecMount, Spec};

use super::{Result, c_path, c_string, has_namespace, inside, invalid, unsupported};
use crate::plan::{Bind, Mount, Node, Source, Step};
use crate::sys::attr;
use crate::{Rootfs, host};

const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;
const MS_UNBINDABLE: u64 = 1 << 17;

/// Mounts in the spec's order, then device nodes.
pub(super) fn steps(spec: &Spec, rootfs: &Rootfs) -> Result<Vec<Step>> {
    let none = Vec::new();
    let mounts = spec.mounts().as_ref().unwrap_or(&none);
    let mut steps = Vec::with_capacity(mounts.len() + 8);
    let is_host = match rootfs {
        Rootfs::Host { .. } => true,
        Rootfs::Nothing => false,
        Rootfs::Overlay { lower, .. } => lower.len() == 1 && lower[0] == Path::new("/"),
    };
    if is_host {
        // Sockets and secrets of the host's services stay out of sight.
        for dest in ["/run", "/dev"] {
            if dest == "/run" || !mounts.iter().any(|m| m.destination() == Path::new(dest)) {
                steps.push(Step::Mount(hide(dest)?));
            }
        }
    }
    for mount in mounts {
        steps.push(Step::Mount(one(spec, mount)?));
    }
    if let Some(devices) = spec.linux().as_ref().and_then(|l| l.devices().as_ref()) {
        for device in devices {
            let kind = match device.typ() {
                LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
                LinuxDeviceType::B => libc::S_IFBLK,
                LinuxDeviceType::P => libc::S_IFIFO,
                LinuxDeviceType::A => return invalid("linux.devices.type is \"a\""),
            };
            let number = |n: i64| u32::try_from(n).or_else(|_| invalid("linux.devices has a negative number"));
            steps.push(Step::Node(Node {
                path: inside(device.path(), "linux.devices.path")?,
                mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
                rdev: rustix::fs::makedev(number(device.major())?, number(device.minor())?),
                uid: device.uid().unwrap_or(0),
                gid: device.gid().unwrap_or(0),
            }));
        }
    }
    Ok(steps)
}

/// The spec's sysctls as steps.
#[derive(Default)]
pub(super) struct Sysctls {
    /// Those of the network, which need not be the user namespace's: before that is entered.
    pub(super) of_network: Vec<Step>,
    /// The others: after it, and after `/proc` is mounted.
    pub(super) others: Vec<Step>,
}

pub(super) fn sysctls(spec: &Spec) -> Result<Sysctls> {
    let mut all = Sysctls::default();
    if let Some(sysctl) = spec.linux().as_ref().and_then(|l| l.sysctl().as_ref()) {
        let mut names: Vec<_> = sysctl.iter().collect();
        names.sort();
        for (name, value) in names {
            match sysctl_step(spec, name, value)? {
                (LinuxNamespaceType::Network, step) => all.of_network.push(step),
                (_, step) => all.others.push(step),
            }
        }
    }
    Ok(all)
}

/// Masked and read-only paths, and the read-only root.
pub(super) fn protections(spec: &Spec) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let linux = spec.linux().as_ref();
    for path in linux.and_then(|l| l.masked_paths().as_ref()).into_iter().flatten() {
        steps.push(Step::Mask(inside(Path::new(path), "linux.maskedPaths")?));
    }
    for path in linux.and_then(|l| l.readonly_paths().as_ref()).into_iter().flatten() {
        steps.push(Step::Protect(inside(Path::new(path), "linux.readonlyPaths")?));
    }
    if spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)) {
        steps.push(Step::ProtectRoot);
    }
    Ok(steps)
}

fn hide(dest: &str) -> Result<Mount> {
    Ok(Mount {
        dest: inside(Path::new(dest), "destination")?,
        source: Source::New(c"tmpfs".to_owned(), vec![(c"mode".to_owned(), Some(c"755".to_owned()))]),
        set: attr::NOSUID | attr::NODEV,
        clear: 0,
        set_all: 0,
        propagation: None,
        devices: false,
        mapped: false,
    })
}

fn one(spec: &Spec, mount: &SpecMount) -> Result<Mount> {
    let place = mount.destination();
    let at = place.display();
    let dest = inside(place, "mounts.destination")?;
    if dest.is_empty() {
        return unsupported("a mount at /", "describe the root filesystem as the bundle's rootfs");
    }
    if place.starts_with("/proc") && place != Path::new("/proc") {
        return unsupported(format!("a mount at {at}"), "the kernel's own files can't be covered");
    }
    let none = Vec::new();
    let options = Options::parse(mount.options().as_ref().unwrap_or(&none), place)?;
    if options.mapped && !has_namespace(spec, LinuxNamespaceType::User) {
        return invalid(format!("option idmap of the mount at {at} needs a user namespace"));
    }
    let kind = mount.typ().as_deref().unwrap_or("bind");
    let source = if options.bind.is_some() || kind == "bind" {
        if let Some((key, _)) = options.parameters.first() {
            return unsupported(format!("option {} of the bind mount at {at}", key.to_string_lossy()), "leave it out");
        }
        let Some(source) = mount.source() else { return invalid(format!("the bind mount at {at} has no source")) };
        if !source.is_absolute() {
            return invalid(format!("the source {} of the mount at {at} is not absolute", source.display()));
        }
        if options.propagation.is_some_and(|(kind, _)| kind == MS_SHARED) && !host::is_shared(source) {
            let control = format!("option rshared of the mount at {at}");
            let advice = format!(
                "path {:?} is not on a shared mount: make it one with `mount --make-rshared` on its mount point",
                source.display()
            );
            return unsupported(control, advice);
        }
        let source = c_path(source, "mounts.source")?;
        Source::Bind(Bind { source, below: options.below, recursive: options.bind.unwrap_or(false) })
    } else {
        if options.below.is_some() {
            return unsupported(format!("option {SUBDIR} of the mount at {at}"), "it is for bind mounts");
        }
        if options.mapped || options.propagation.is_some_and(|(kind, _)| kind == MS_SHARED) {
            return unsupported(format!("option shared or idmap of the mount at {at}"), "it is for bind mounts");
        }
        let mut parameters = options.parameters;
        let kind = match kind {
            "cgroup" | "cgroup2" if !host::is_unified() => {
                return unsupported(format!("a cgroup mount at {at}"), "leave it out: this machine uses cgroup v1");
            }
            "cgroup" | "cgroup2" => "cgroup2",
            other => other,
        };
        if let Some(source) = mount.source() {
            parameters.insert(0, (c"source".to_owned(), Some(c_path(source, "mounts.source")?)));
        }
        Source::New(c_string(kind, "mounts.type")?, parameters)
    };
    let propagation = match (options.propagation, &source) {
        (None, Source::Bind(..)) => Some((MS_PRIVATE, true)),
        (other, _) => other,
    };
    let devices = place == Path::new("/dev") && kind == "tmpfs";
    Ok(Mount {
        dest,
        source,
        set: options.set,
        clear: options.clear,
        set_all: options.set_all,
        propagation,
        devices,
        mapped: options.mapped,
    })
}

type Parameters = Vec<(CString, Option<CString>)>;

#[derive(Default)]
struct Options {
    /// Set for `bind` (false) and `rbind` (true).
    bind: Option<bool>,
    set: u64,
    clear: u64,
    set_all: u64,
    propagation: Option<(u64, bool)>,
    /// Whether its files are shown with the ids of the container's user namespace.
    mapped: bool,
    /// What in the source is to be mounted.
    below: Option<CString>,
    parameters: Parameters,
}

/// What `mount(8)` calls the option that mounts something in the source, and not the source: its path follows.
pub(super) const SUBDIR: &str = "X-mount.subdir=";

/// A path in the source of a bind mount.
pub(super) fn below(path: &str) -> Result<CString> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if path.is_empty() || !plain {
        return invalid(format!("{SUBDIR}{path} does not name something in the source"));
    }
    c_string(path, "mounts.options")
}

impl Options {
    fn parse(options: &[String], place: &Path) -> Result<Self> {
        let mut all = Self::default();
        for option in options {
            match option.as_str() {
                "" | "defaults" | "async" | "nomand" | "norelatime" | "nostrictatime" => {}
                "bind" => all.bind = all.bind.or(Some(false)),
                "rbind" => all.bind = Some(true),
                "ro" => all.set(attr::RDONLY),
                "rw" => all.clear(attr::RDONLY),
                "nosuid" => all.set(attr::NOSUID),
                "suid" => all.clear(attr::NOSUID),
                "nodev" => all.set(attr::NODEV),
                "dev" => all.clear(attr::NODEV),
                "noexec" => all.set(attr::NOEXEC),
                "exec" => all.clear(attr::NOEXEC),
                "nosymfollow" => all.set(attr::NOSYMFOLLOW),
                "symfollow" => all.clear(attr::NOSYMFOLLOW),
                "nodiratime" => all.set(attr::NODIRATIME),
                "diratime" => all.clear(attr::NODIRATIME),
                "noatime" => all.atime(attr::NOATIME),
                "atime" | "relatime" => all.atime(attr::RELATIME),
                "strictatime" => all.atime(attr::STRICTATIME),
                "rro" => all.set_all |= attr::RDONLY,
                "rnosuid" => all.set_all |= attr::NOSUID,
                "rnodev" => all.set_all |= attr::NODEV,
                "rnoexec" => all.set_all |= attr::NOEXEC,
                "private" => all.propagation = Some((MS_PRIVATE, false)),
                "rprivate" => all.propagation = Some((MS_PRIVATE, true)),
                "slave" => all.propagation = Some((MS_SLAVE, false)),
                "rslave" => all.propagation = Some((MS_SLAVE, true)),
                "unbindable" => all.propagation = Some((MS_UNBINDABLE, false)),
                "runbindable" => all.propagation = Some((MS_UNBINDABLE, true)),
                "shared" => all.propagation = Some((MS_SHARED, false)),
                "rshared" => all.propagation = Some((MS_SHARED, true)),
                "idmap" | "ridmap" => all.mapped = true,
                "tmpcopyup" => {
                    let control = format!("option {option} of the mount at {}", place.display());
                    return unsupported(control, "leave it out");
                }
                other if other.starts_with(SUBDIR) => all.below = Some(below(&other[SUBDIR.len()..])?),
                other => {
                    let (key, value) = match other.split_once('=') {
                        Some((key, value)) => (key, Some(c_string(value, "mounts.options")?)),
                        None => (other, None),
                    };
                    all.parameters.push((c_string(key, "mounts.options")?, value));
                }
            }
        }
        Ok(all)
    }

    fn set(&mut self, flag: u64) {
        self.set |= flag;
        self.clear &= !flag;
    }

    fn clear(&mut self, flag: u64) {
        self.clear |= flag;
        self.set &= !flag;
    }

    fn atime(&mut self, value: u64) {
        self.set = self.set & !attr::ATIME_MASK | value;
        self.clear |= attr::ATIME_MASK; // the kernel wants the whole field cleared to set it
    }
}

/// Only what belongs to a namespace of the container's own may be set.
fn sysctl_step(spec: &Spec, name: &str, value: &str) -> Result<(LinuxNamespaceType, Step)> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    // Both a.b.c and a/b/c are in use; with slashes, a dot is part of a name.
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let dotted = if name.contains('/') { name.replace('/', ".") } else { name.to_owned() };
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return invalid(format!("sysctl {name:?} is no name"));
    }
    let needs = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        LinuxNamespaceType::Ipc
    } else if dotted.starts_with("net.") {
        LinuxNamespaceType::Network
    } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
        LinuxNamespaceType::Uts
    } else {
        return unsupported(format!("sysctl {name}"), "it would change the host: set it there");
    };
    if !has_namespace(spec, needs) {
        let advice = format!("give the container its own {needs} namespace: it would change the host");
        return unsupported(format!("sysctl {name}"), advice);
    }
    Ok((needs, Step::Sysctl(c_string(format!("proc/sys/{path}"), "linux.sysctl")?, value.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        let owned: Vec<String> = options.iter().map(|&o| o.to_owned()).collect();
        Options::parse(&owned, Path::new("/x")).ok().unwrap()
    }

    #[test]
    fn later_options_win() {
        let options = parse(&["ro", "nosuid", "rw"]);
        assert_eq!(options.set, attr::NOSUID);
        assert_eq!(options.clear, attr::RDONLY);
    }

    #[test]
    fn what_is_no_flag_is_a_parameter_of_the_filesystem() {
        let options = parse(&["nosuid", "size=64k", "newinstance", "noatime"]);
        assert_eq!(options.parameters.len(), 2);
        assert_eq!(options.parameters[1], (c"newinstance".to_owned(), None));
        assert_eq!(options.set, attr::NOSUID | attr::NOATIME);
    }

    #[test]
    fn a_path_in_a_source_never_leads_up() {
        assert_eq!(parse(&["rbind", "X-mount.subdir=a/b"]).below, Some(c"a/b".to_owned()));
        for path in ["", "/a", "..", "a/../b"] {
            assert!(Options::parse(&[format!("{SUBDIR}{path}")], Path::new("/x")).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_mount_is_shared_or_mapped_when_it_says_so() {
        assert_eq!(parse(&["rbind", "rshared"]).propagation, Some((MS_SHARED, true)));
        assert!(parse(&["ridmap"]).mapped);
        assert!(Options::parse(&["tmpcopyup".to_owned()], Path::new("/x")).is_err());
    }
}
