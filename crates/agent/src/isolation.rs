//! How far a node keeps pods apart, and what it lets those have that ask for more.
//!
//! What becomes of a pod that asks for too much is [`stint_core::pod::admit`]'s to say; here is what the machine answers.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use rustix::fs::{FileType, Mode, OFlags, major, minor};
use stint_core::pod::Grounds;

use crate::agent::Shared;

/// How many processes and threads a pod may have, where nothing else is said. A kubelet sets no limit; this one is out of the
/// way of all but runaway pods, and far from what a machine has for all.
pub const POD_MAX_PIDS: u32 = 16_384;

/// What a node's pods are held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolation {
    /// How many processes and threads a pod may have (the kubelet's `podPidsLimit`). `None`: any number.
    pub pod_max_pids: Option<u32>,
    /// Sysctls beside the safe ones that pods may set in their namespaces, by name or as `kernel.msg*` (the kubelet's
    /// `allowedUnsafeSysctls`).
    pub allowed_unsafe_sysctls: Vec<String>,
    /// The folder of seccomp profiles that pods name (the kubelet's `seccomp` folder).
    pub seccomp_profiles: PathBuf,
}

impl Isolation {
    /// The usual, with the seccomp profiles in this folder. The number of processes is limited where the machine can.
    pub fn usual(seccomp_profiles: PathBuf) -> Isolation {
        let pod_max_pids = stint_runtime::has_controller("pids").then_some(POD_MAX_PIDS);
        Isolation { pod_max_pids, allowed_unsafe_sysctls: Vec::new(), seccomp_profiles }
    }
}

impl Shared {
    /// What decides whether the pod is taken.
    pub(crate) fn grounds(&self, pod: &Pod) -> Grounds<'_> {
        Grounds {
            unsafe_sysctls: &self.config.isolation.allowed_unsafe_sysctls,
            on_host_network: self.network(pod).is_none(),
            has_app_armor: stint_runtime::app_armor::is_enabled(),
        }
    }
}

/// Reads a profile that a pod names. Links and `..` lead nowhere out of the folder.
pub(crate) fn read_profile(folder: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    use rustix::fs::{ResolveFlags, open, openat2};
    let folder = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat2(folder, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)?;
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut text)?;
    Ok(text)
}

/// The machine's devices, for a privileged container. What containers have of their own is left out.
///
/// Upstream: containerd's `pkg/oci/utils_unix.go` (`getDevices`).
pub(crate) fn host_devices() -> Vec<LinuxDevice> {
    let mut found = Vec::new();
    devices_below(Path::new("/dev"), &mut found);
    found
}

fn devices_below(folder: &Path, found: &mut Vec<LinuxDevice>) {
    const OWN_FOLDERS: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
    const OWN: [&str; 8] = ["console", "null", "zero", "full", "random", "urandom", "tty", "ptmx"];
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let Ok(stat) = rustix::fs::lstat(&path) else { continue };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if !OWN_FOLDERS.iter().any(|own| name == *own) => {
                devices_below(&path, found);
                continue;
            }
            FileType::CharacterDevice => LinuxDeviceType::C,
            FileType::BlockDevice => LinuxDeviceType::B,
            _ => continue,
        };
        if folder == Path::new("/dev") && OWN.iter().any(|own| name == *own) {
            continue;
        }
        let device = LinuxDeviceBuilder::default()
            .path(path)
            .typ(kind)
            .major(i64::from(major(stat.st_rdev)))
            .minor(i64::from(minor(stat.st_rdev)))
            .file_mode(stat.st_mode & 0o7777)
            .uid(stat.st_uid)
            .gid(stat.st_gid)
            .build();
        found.extend(device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_never_read_from_elsewhere() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("seccomp");
        std::fs::create_dir_all(folder.join("audit")).unwrap();
        std::fs::write(folder.join("audit/a.json"), "{}").unwrap();
        std::fs::write(data.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("up")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join("away")).unwrap();
        assert_eq!(read_profile(&folder, "audit/a.json").unwrap(), b"{}");
        for name in ["../secret", "up", "away", "/etc/passwd", "none", "audit"] {
            assert!(read_profile(&folder, name).is_err(), "{name}");
        }
    }
}
