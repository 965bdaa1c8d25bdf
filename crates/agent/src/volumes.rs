//! A pod's volumes: what is to be in them, decided purely ([`content`]); then made in the pod's folder.
//!
//! Files that come from the API lie in the folder of records, in memory where there is such a folder: secrets reach no
//! disk. They are written by [`atomic`] and so can be brought up to date at any time.
//!
//! Invariants: no path leads out of its volume; a volume that this node can't provide is an error, never an empty
//! folder; every mount made here is below the pod's folder, and [`remove`] takes it down.

mod atomic;
mod content;
mod host_path;
pub(crate) mod image;
mod ownership;
pub mod sub_path;

use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, PodSpec, Volume};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::claims::{Claims, Place};
use crate::downward::Downward;
use crate::error::Error;
use crate::folder::{PodFolder, make_dirs};
use crate::sources::Sources;
use ownership::When;

/// What is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    volumes: Vec<(String, Content)>,
    /// `securityContext.fsGroup`.
    group: Option<u32>,
    /// Which volumes are given to it that hold something already.
    when: When,
}

/// What is in one volume.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    /// An empty folder.
    Empty,
    /// An empty folder in memory, with the most it may hold in bytes.
    Memory(Option<u64>),
    /// An empty folder whose files are in huge pages.
    HugePages {
        /// The size of a page, in bytes.
        page: u64,
        /// The most it may hold, in bytes.
        size: Option<u64>,
    },
    /// Files from the API.
    Files(atomic::Files),
    /// A path of the host, to be checked.
    Host(HostPathVolumeSource),
    /// What a claim is bound to; `None` where that is made already, and only files from the API are looked after.
    Claim(Option<Place>),
    /// What is in an image, which is mounted when a container asks for it.
    Image,
}

/// Whether a volume holds files from the API, and not what containers write.
pub(crate) fn is_from_api(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

impl Plan {
    /// What the pod's volumes are to hold.
    pub fn of(spec: &PodSpec, sources: &Sources, claims: &Claims, down: Downward<'_>) -> Result<Plan, Error> {
        let mut volumes = Vec::new();
        for volume in spec.volumes.iter().flatten() {
            volumes.push((volume.name.clone(), content::of(spec, volume, sources, claims, down)?));
        }
        let context = spec.security_context.as_ref();
        let group = context.and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok());
        let when = match context.and_then(|context| context.fs_group_change_policy.as_deref()) {
            Some("OnRootMismatch") => When::OnRootMismatch,
            _ => When::Always,
        };
        Ok(Plan { volumes, group, when })
    }

    /// Makes the volumes. Making them again replaces what came from the API and keeps what containers wrote.
    pub fn make(&self, folder: &PodFolder, now: Timestamp) -> Result<(), Error> {
        for (name, content) in &self.volumes {
            self.make_one(&folder.volume(name), content).map_err(|fault| in_volume(name, &fault))?;
        }
        self.update(folder, now)
    }

    fn make_one(&self, path: &Path, content: &Content) -> Result<(), Error> {
        match content {
            Content::Empty => self.make_empty(path),
            Content::Memory(size) => {
                make_dirs(path).map_err(Error::io("make volume", path))?;
                let size = size.map_or_else(String::new, |size| format!(",size={size}"));
                mount_on(path, c"tmpfs", format!("mode=0777{size}"))?;
                self.make_empty(path)
            }
            Content::HugePages { page, size } => {
                make_dirs(path).map_err(Error::io("make volume", path))?;
                let size = size.map_or_else(String::new, |size| format!(",size={size}"));
                mount_on(path, c"hugetlbfs", format!("mode=0777,pagesize={page}{size}"))?;
                self.make_empty(path)
            }
            Content::Host(host) => host_path::check(host),
            Content::Claim(Some(place)) => self.make_claimed(path, place),
            Content::Files(_) | Content::Claim(None) | Content::Image => Ok(()),
        }
    }

    /// Brings what came from the API up to date, and touches nothing else.
    pub fn update(&self, folder: &PodFolder, now: Timestamp) -> Result<(), Error> {
        for (name, content) in &self.volumes {
            if let Content::Files(files) = content {
                let written = atomic::write(&folder.files(name), files, self.group, now);
                written.map_err(|fault| in_volume(name, &fault))?;
            }
        }
        Ok(())
    }

    /// A volume of a claim is somewhere else; a link among the pod's volumes leads there.
    fn make_claimed(&self, link: &Path, place: &Place) -> Result<(), Error> {
        let path = match place {
            Place::Made(path) if !path.exists() => {
                make_dirs(path).map_err(Error::io("make volume", path))?;
                set_mode(path, 0o777)?;
                path.as_path()
            }
            Place::Local(path) if !path.exists() => {
                return Err(Error::config(format!("path {:?} does not exist", path.display())));
            }
            Place::Made(path) | Place::Local(path) => path,
            Place::Host(host) => {
                host_path::check(host)?;
                Path::new(&host.path)
            }
        };
        // What is the host's own stays as it is.
        if let (Some(group), Place::Made(_) | Place::Local(_)) = (self.group, place) {
            ownership::give(path, group, self.when)?;
        }
        let parent = link.parent().unwrap_or(link);
        make_dirs(parent).map_err(Error::io("make folder", parent))?;
        match std::os::unix::fs::symlink(path, link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io("link", link)(error)),
            _ => Ok(()),
        }
    }

    fn make_empty(&self, path: &Path) -> Result<(), Error> {
        make_dirs(path).map_err(Error::io("make volume", path))?;
        let mode = if self.group.is_some() { 0o2777 } else { 0o777 };
        if self.group.is_some() {
            chown(path, None, self.group).map_err(Error::io("give to fsGroup", path))?;
        }
        set_mode(path, mode)
    }
}

/// What failed, in the words of the kubelet's Event (`pkg/volume/util/operationexecutor/operation_generator.go`, v1.36).
fn in_volume(name: &str, fault: &Error) -> Error {
    Error::config(format!("MountVolume.SetUp failed for volume {name:?} : {}", fault.chain()))
}

/// Whether there is anything to [`remove`]. It costs two looks.
pub(crate) fn are_there(folder: &PodFolder) -> bool {
    folder.volumes().exists() || folder.all_files().exists()
}

/// Takes down the mounts below the pod's volumes, and removes the volumes. Nothing of `hostPath` is touched.
pub fn remove(folder: &PodFolder) -> Result<(), Error> {
    let path = folder.volumes();
    if path.exists() {
        unmount_below(&path)?;
    }
    // Nothing is ever mounted below the files.
    for path in [path, folder.all_files()] {
        // However deep containers have nested folders.
        stint_runtime::remove_folder(&path).map_err(Error::io("remove volumes", &path))?;
    }
    Ok(())
}

/// Unmounts everything below `path`, the latest first.
pub(crate) fn unmount_below(path: &Path) -> Result<(), Error> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(Error::io("read", table))?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let below: Vec<PathBuf> = points.map(PathBuf::from).filter(|point| point.starts_with(path)).collect();
    for point in below.iter().rev() {
        unmount(point, UnmountFlags::DETACH).map_err(|errno| Error::io("unmount", point)(errno.into()))?;
    }
    Ok(())
}

/// Whether something is mounted exactly there.
fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| Path::new(&unescape(point)) == path)
}

/// `/proc/self/mountinfo` writes blanks and the like as three octal digits.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Mounts a filesystem of its own there, unless that was done.
fn mount_on(path: &Path, filesystem: &CStr, options: String) -> Result<(), Error> {
    if is_mounted(path) {
        return Ok(());
    }
    let options = CString::new(options).expect("digits and words");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount(c"stint", path, filesystem, flags, options.as_c_str())
        .map_err(|errno| Error::io("mount a volume in memory on", path)(errno.into()))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("set the mode of", path))
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value)] // `json!` reads best by value
mod tests {
    use crate::folder::Folders;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::downward::Machine;

    fn plan(spec: Value) -> Result<Plan, String> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec})).unwrap();
        let node = Machine::of_tests();
        let sources = Sources {
            config_maps: [("m".to_owned(), serde_json::from_value(json!({"data": {"k": "v", "l": "w"}})).unwrap())]
                .into(),
            secrets: [("s".to_owned(), serde_json::from_value(json!({"data": {"p": "cHc="}})).unwrap())].into(),
            ..Sources::default()
        };
        let down = Downward { pod: &pod, node: &node, addresses: &[] };
        Plan::of(pod.spec.as_ref().unwrap(), &sources, &Claims::new(), down).map_err(|error| error.chain())
    }

    fn made(volume: Value) -> (tempfile::TempDir, PathBuf) {
        let data = tempfile::tempdir().unwrap();
        let folder = PodFolder::new(&Folders::within(data.path()), "u").unwrap();
        let plan = plan(json!({"containers": [], "volumes": [volume]})).unwrap();
        plan.make(&folder, Timestamp::UNIX_EPOCH).unwrap();
        plan.make(&folder, Timestamp::UNIX_EPOCH).expect("making it again is no error");
        let files = folder.files("v");
        (data, if files.exists() { files } else { folder.volume("v") })
    }

    #[test]
    fn config_maps_and_secrets_become_files() {
        let (_data, path) = made(json!({"name": "v", "projected": {"defaultMode": 0o400, "sources": [
            {"configMap": {"name": "m", "items": [{"key": "k", "path": "sub/k", "mode": 0o755}]}},
            {"secret": {"name": "s"}},
            {"secret": {"name": "none", "optional": true}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}));
        assert_eq!(fs::read_to_string(path.join("sub/k")).unwrap(), "v");
        assert_eq!(fs::read_to_string(path.join("p")).unwrap(), "pw");
        assert_eq!(fs::read_to_string(path.join("labels")).unwrap(), "a=\"b\"");
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("sub/k"), mode("p")), (0o755, 0o400));
        assert!(fs::symlink_metadata(path.join("p")).unwrap().is_symlink());
    }

    #[test]
    fn an_empty_folder_is_everyones() {
        let (_data, path) = made(json!({"name": "v", "emptyDir": {}}));
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o777);
    }

    #[test]
    fn what_is_missing_or_unknown_is_refused_by_name() {
        let fault = |volume: Value| plan(json!({"containers": [], "volumes": [volume]})).unwrap_err();
        for (volume, text) in [
            (json!({"name": "v", "configMap": {"name": "x"}}), "configmap \"x\" not found"),
            (
                json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "z", "path": "z"}]}}),
                "non-existent config key: z",
            ),
            (
                json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "k", "path": "../z"}]}}),
                "must not contain '..'",
            ),
            (
                json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "p", "path": "/z"}]}}),
                "must be relative",
            ),
            (json!({"name": "v", "nfs": {"server": "s", "path": "/"}}), "not supported"),
        ] {
            let told = fault(volume);
            assert!(told.starts_with("MountVolume.SetUp failed for volume \"v\" : ") && told.contains(text), "{told}");
        }
    }
}
