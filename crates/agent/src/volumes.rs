//! A pod's volumes: what is to be in them, decided purely; then made in the pod's folder.
//!
//! Files that come from the API lie in `..data`, a link to a folder, and their names are links into it, as the
//! kubelet's atomic writer has it; so they can be replaced all at once later.
//!
//! Invariants: no path leads out of its volume; a volume that this node can't provide is an error, never an empty
//! folder; every mount made here is below the pod's folder, and [`remove`] takes it down.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, PodSpec, Volume};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::downward::Downward;
use crate::error::Error;
use crate::folder::{PodFolder, make_dirs};
use crate::sources::Sources;

/// What is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    volumes: Vec<(String, Content)>,
    /// `securityContext.fsGroup`.
    group: Option<u32>,
}

/// What is in one volume.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    /// An empty folder.
    Empty,
    /// An empty folder in memory, with the most it may hold in bytes.
    Memory(Option<u64>),
    /// Files, by path.
    Files(BTreeMap<String, File>),
    /// A path of the host, to be checked.
    Host(HostPathVolumeSource),
}

/// A file from the API.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    bytes: Vec<u8>,
    mode: u32,
}

impl Plan {
    /// What the pod's volumes are to hold.
    pub fn of(spec: &PodSpec, sources: &Sources, down: Downward<'_>) -> Result<Plan, Error> {
        let mut volumes = Vec::new();
        for volume in spec.volumes.iter().flatten() {
            volumes.push((volume.name.clone(), content(volume, sources, down)?));
        }
        let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
        Ok(Plan { volumes, group: group.and_then(|group| u32::try_from(group).ok()) })
    }

    /// Makes the volumes. Making them again replaces what came from the API and keeps what containers wrote.
    pub fn make(&self, folder: &PodFolder) -> Result<(), Error> {
        for (name, content) in &self.volumes {
            let path = folder.volume(name);
            match content {
                Content::Empty => self.make_empty(&path)?,
                Content::Memory(size) => {
                    make_dirs(&path).map_err(Error::io("make volume", &path))?;
                    mount_memory(&path, *size)?;
                    self.make_empty(&path)?;
                }
                Content::Files(files) => self.make_files(&path, files)?,
                Content::Host(host) => check_host_path(name, host)?,
            }
        }
        Ok(())
    }

    fn make_empty(&self, path: &Path) -> Result<(), Error> {
        make_dirs(path).map_err(Error::io("make volume", path))?;
        let mode = if self.group.is_some() { 0o2777 } else { 0o777 };
        self.own(path)?;
        set_mode(path, mode)
    }

    fn make_files(&self, path: &Path, files: &BTreeMap<String, File>) -> Result<(), Error> {
        make_dirs(path).map_err(Error::io("make volume", path))?;
        set_mode(path, 0o755)?;
        let made = path.join("..v0");
        if made.exists() {
            fs::remove_dir_all(&made).map_err(Error::io("replace", &made))?;
        }
        make_dirs(&made).map_err(Error::io("make folder", &made))?;
        set_mode(&made, 0o755)?;
        for (name, file) in files {
            let target = made.join(name);
            let mut parent = made.clone();
            for part in Path::new(name).parent().into_iter().flat_map(Path::components) {
                parent.push(part);
                make_dirs(&parent).map_err(Error::io("make folder", &parent))?;
                set_mode(&parent, 0o755)?;
            }
            fs::write(&target, &file.bytes).map_err(Error::io("write", &target))?;
            self.own(&target)?;
            let group_reads = if self.group.is_some() { 0o440 } else { 0 };
            set_mode(&target, file.mode | group_reads)?;
        }
        link(&path.join("..data"), Path::new("..v0"))?;
        for name in files.keys() {
            let first = Path::new(name).components().next().expect("checked: a file has a name");
            link(&path.join(first), &Path::new("..data").join(first))?;
        }
        Ok(())
    }

    fn own(&self, path: &Path) -> Result<(), Error> {
        let Some(group) = self.group else { return Ok(()) };
        chown(path, None, Some(group)).map_err(Error::io("give to fsGroup", path))
    }
}

/// Takes down the mounts below the pod's volumes, and removes the volumes. Nothing of `hostPath` is touched.
pub fn remove(folder: &PodFolder) -> Result<(), Error> {
    let path = folder.volumes();
    unmount_below(&path)?;
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove volumes", &path)(error)),
        _ => Ok(()),
    }
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

fn mount_memory(path: &Path, size: Option<u64>) -> Result<(), Error> {
    if is_mounted(path) {
        return Ok(());
    }
    let options = size.map_or_else(|| "mode=0777".to_owned(), |size| format!("mode=0777,size={size}"));
    let options = std::ffi::CString::new(options).expect("digits and words");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("stint", path, "tmpfs", flags, options.as_c_str())
        .map_err(|errno| Error::io("mount a volume in memory on", path)(errno.into()))
}

fn content(volume: &Volume, sources: &Sources, down: Downward<'_>) -> Result<Content, Error> {
    let in_volume = |fault: Error| Error::config(format!("volume {:?}: {}", volume.name, fault.chain()));
    if let Some(empty) = &volume.empty_dir {
        return match empty.medium.as_deref() {
            None | Some("") => Ok(Content::Empty),
            Some("Memory") => {
                let limit = empty.size_limit.as_ref().map(|size| stint_core::quantity::parse(&size.0)).transpose();
                let limit = limit.map_err(|fault| in_volume(Error::config(format!("sizeLimit: {fault}"))))?;
                Ok(Content::Memory(limit.and_then(|size| u64::try_from(size.value()).ok()).filter(|size| *size > 0)))
            }
            Some(medium) => Err(in_volume(Error::config(format!("emptyDir.medium {medium} is not supported")))),
        };
    }
    if let Some(host) = &volume.host_path {
        return Ok(Content::Host(host.clone()));
    }
    let mut files = Files { by_path: BTreeMap::new(), sources, down };
    if let Some(map) = &volume.config_map {
        let mode = map.default_mode;
        files.config_map(&map.name, map.items.as_deref(), mode, map.optional).map_err(in_volume)?;
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        files.secret(name, secret.items.as_deref(), secret.default_mode, secret.optional).map_err(in_volume)?;
    } else if let Some(downward) = &volume.downward_api {
        files.downward(downward.items.as_deref(), downward.default_mode).map_err(in_volume)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode;
        for source in projected.sources.iter().flatten() {
            if let Some(map) = &source.config_map {
                files.config_map(&map.name, map.items.as_deref(), mode, map.optional).map_err(in_volume)?;
            } else if let Some(secret) = &source.secret {
                files.secret(&secret.name, secret.items.as_deref(), mode, secret.optional).map_err(in_volume)?;
            } else if let Some(downward) = &source.downward_api {
                files.downward(downward.items.as_deref(), mode).map_err(in_volume)?;
            } else {
                let told = "projected: only configMap, secret and downwardAPI sources are supported yet";
                return Err(in_volume(Error::config(told)));
            }
        }
    } else {
        let told =
            "this kind of volume is not supported; use emptyDir, hostPath, configMap, secret, downwardAPI or projected";
        return Err(in_volume(Error::config(told)));
    }
    Ok(Content::Files(files.by_path))
}

/// Files being gathered from sources.
struct Files<'a> {
    by_path: BTreeMap<String, File>,
    sources: &'a Sources,
    down: Downward<'a>,
}

impl Files<'_> {
    fn config_map(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: Option<i32>,
        optional: Option<bool>,
    ) -> Result<(), Error> {
        let entries = self.sources.config_map(name);
        self.entries(entries, "configmap", name, items, mode, optional)
    }

    fn secret(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: Option<i32>,
        optional: Option<bool>,
    ) -> Result<(), Error> {
        let entries = self.sources.secret(name);
        self.entries(entries, "secret", name, items, mode, optional)
    }

    fn entries(
        &mut self,
        entries: Option<BTreeMap<&str, &[u8]>>,
        kind: &str,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: Option<i32>,
        optional: Option<bool>,
    ) -> Result<(), Error> {
        let optional = optional == Some(true);
        let Some(entries) = entries else {
            return if optional { Ok(()) } else { Err(Error::config(format!("{kind} \"{name}\" not found"))) };
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, bytes) in entries {
                self.add(key, bytes.to_vec(), None, mode)?;
            }
            return Ok(());
        };
        for item in items {
            match entries.get(item.key.as_str()) {
                Some(bytes) => self.add(&item.path, bytes.to_vec(), item.mode, mode)?,
                None if optional => {}
                None => {
                    return Err(Error::config(format!(
                        "{kind} \"{name}\" references non-existent config key: {}",
                        item.key
                    )));
                }
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: Option<&[DownwardAPIVolumeFile]>, mode: Option<i32>) -> Result<(), Error> {
        for item in items.into_iter().flatten() {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => self.down.field(field)?,
                (None, Some(resource)) => self.down.resource(resource, None)?,
                (None, None) => return Err(Error::config(format!("{:?} names no field", item.path))),
            };
            self.add(&item.path, text.into_bytes(), item.mode, mode)?;
        }
        Ok(())
    }

    fn add(&mut self, path: &str, bytes: Vec<u8>, own: Option<i32>, default: Option<i32>) -> Result<(), Error> {
        let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if path.is_empty() || !plain || path.starts_with("..") || path.contains('\0') {
            return Err(Error::config(format!("the path {path:?} must be relative and must not contain '..'")));
        }
        let mode = own.or(default).unwrap_or(0o644);
        let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
        self.by_path.insert(path.to_owned(), File { bytes, mode });
        Ok(())
    }
}

/// Checks what `hostPath.type` asks for, and makes what it says is to be made.
fn check_host_path(name: &str, host: &HostPathVolumeSource) -> Result<(), Error> {
    let path = Path::new(&host.path);
    let refuse = |what: &str| Err(Error::config(format!("volume {name:?}: hostPath {} is not {what}", host.path)));
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return refuse("an absolute path without '..'");
    }
    let kind = host.type_.as_deref().unwrap_or_default();
    if kind == "DirectoryOrCreate" && !path.exists() {
        fs::create_dir_all(path).map_err(Error::io("make hostPath folder", path))?;
        return set_mode(path, 0o755);
    }
    if kind == "FileOrCreate" && !path.exists() {
        fs::write(path, b"").map_err(Error::io("make hostPath file", path))?;
        return set_mode(path, 0o644);
    }
    let found = fs::metadata(path).map(|meta| meta.file_type());
    let is = |check: fn(&fs::FileType) -> bool| found.as_ref().is_ok_and(check);
    match kind {
        "Directory" | "DirectoryOrCreate" if !is(fs::FileType::is_dir) => refuse("a directory"),
        "File" | "FileOrCreate" if !is(fs::FileType::is_file) => refuse("a file"),
        "Socket" if !is(fs::FileType::is_socket) => refuse("a socket"),
        "CharDevice" if !is(fs::FileType::is_char_device) => refuse("a character device"),
        "BlockDevice" if !is(fs::FileType::is_block_device) => refuse("a block device"),
        // Without a type, the mount itself tells when nothing is there.
        "" | "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" | "Socket" | "CharDevice" | "BlockDevice" => {
            Ok(())
        }
        other => Err(Error::config(format!("volume {name:?}: hostPath.type {other:?} is unknown"))),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("set the mode of", path))
}

/// Makes a link, unless it is there already.
fn link(at: &Path, to: &Path) -> Result<(), Error> {
    match symlink(to, at) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io("link", at)(error)),
        _ => Ok(()),
    }
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
        let node = Machine { name: "n".into(), ip: None, cpu_milli: 1, memory: 1, lowest_oom_score: 0 };
        let sources = Sources {
            config_maps: [("m".to_owned(), serde_json::from_value(json!({"data": {"k": "v", "l": "w"}})).unwrap())]
                .into(),
            secrets: [("s".to_owned(), serde_json::from_value(json!({"data": {"p": "cHc="}})).unwrap())].into(),
        };
        let down = Downward { pod: &pod, node: &node };
        Plan::of(pod.spec.as_ref().unwrap(), &sources, down).map_err(|error| error.chain())
    }

    fn made(volume: Value) -> (tempfile::TempDir, PathBuf) {
        let data = tempfile::tempdir().unwrap();
        let folder = PodFolder::new(&Folders::within(data.path()), "u").unwrap();
        let plan = plan(json!({"containers": [], "volumes": [volume]})).unwrap();
        plan.make(&folder).unwrap();
        plan.make(&folder).expect("making it again is no error");
        let path = folder.volume("v");
        (data, path)
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
            (json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}), "not supported"),
            (json!({"name": "v", "nfs": {"server": "s", "path": "/"}}), "not supported"),
        ] {
            let told = fault(volume);
            assert!(told.starts_with("volume \"v\": ") && told.contains(text), "{told}");
        }
    }

    #[test]
    fn host_paths_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, kind: &str| {
            let path = dir.path().join(name).display().to_string();
            check_host_path("v", &HostPathVolumeSource { path, type_: Some(kind.to_owned()) })
                .map_err(|e| e.to_string())
        };
        check("made", "DirectoryOrCreate").unwrap();
        check("made", "Directory").unwrap();
        check("file", "FileOrCreate").unwrap();
        check("file", "File").unwrap();
        check("none", "").unwrap();
        assert!(check("none", "Directory").unwrap_err().contains("not a directory"));
        assert!(check("file", "Socket").unwrap_err().contains("not a socket"));
        assert!(check("file", "Odd").unwrap_err().contains("unknown"));
        assert!(check("../x", "Directory").is_err());
    }
}
