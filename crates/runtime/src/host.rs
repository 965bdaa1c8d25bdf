//! What this machine has: cgroup version, disks, and what is missing for running containers.
//!
//! Invariant: nothing here changes the machine. Leaves out trying things: [`check_host`] reads, it starts nothing.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{fs, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::plan::Frame;
use crate::{Problem, rootless};

/// Where cgroups are mounted.
pub(crate) const CGROUPS: &str = "/sys/fs/cgroup";

/// Below which folder containers' cgroups are made (on v1 with a controller's between): root's below the topmost, another
/// user's below what is delegated. `None`: nothing is.
pub(crate) fn cgroups() -> Option<&'static Path> {
    if rootless::is_confined() { rootless::taken().map(|taken| taken.base.as_path()) } else { Some(Path::new(CGROUPS)) }
}

/// Whether all controllers are in cgroup v2's one hierarchy; otherwise v1 or hybrid.
pub(crate) fn is_unified() -> bool {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    static UNIFIED: OnceLock<bool> = OnceLock::new();
    *UNIFIED.get_or_init(|| {
        rustix::fs::statfs(CGROUPS).is_ok_and(|s| u64::try_from(s.f_type).unwrap_or(0) == CGROUP2_SUPER_MAGIC)
    })
}

/// Whether limits of a cgroup controller, e.g. `memory`, can be set for containers.
pub fn has_controller(name: &str) -> bool {
    if rootless::is_confined() {
        rootless::taken().is_some_and(|taken| taken.controllers.iter().any(|it| it == name))
    } else if is_unified() {
        let path = Path::new(CGROUPS).join("cgroup.controllers");
        fs::read_to_string(path).is_ok_and(|all| all.split_whitespace().any(|c| c == name))
    } else {
        Path::new(CGROUPS).join(name).join("tasks").exists()
    }
}

/// Mount points of further disks and shares of the host, parents before children; not the root.
///
/// To write the table of mounts takes the kernel as long as many a step of a start, so it is read only when it has changed.
pub(crate) fn disks() -> io::Result<Vec<PathBuf>> {
    static KNOWN: Mutex<Option<Disks>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let disks = match known.take() {
        Some(mut disks) => {
            disks.refresh()?;
            disks
        }
        None => Disks::open()?,
    };
    Ok(known.insert(disks).found.clone())
}

/// The disks of this process's mount namespace, as the table of its mounts had them at last.
struct Disks {
    table: File,
    found: Vec<PathBuf>,
}

impl Disks {
    fn open() -> io::Result<Disks> {
        let mut disks = Disks { table: File::open("/proc/self/mountinfo")?, found: Vec::new() };
        disks.read()?;
        Ok(disks)
    }

    fn read(&mut self) -> io::Result<()> {
        let mut text = String::new();
        self.table.rewind()?;
        self.table.read_to_string(&mut text)?;
        self.found = disks_in(&text);
        Ok(())
    }

    /// The kernel tells once of all changes until then, so what changes while it is read is read again the next time.
    fn refresh(&mut self) -> io::Result<()> {
        let mut table = [PollFd::new(&self.table, PollFlags::PRI)];
        if poll(&mut table, Some(&Timespec::default()))? > 0 { self.read() } else { Ok(()) }
    }
}

/// Whether a path is on a mount that shares what is mounted below it with others.
pub(crate) fn is_shared(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|text| is_shared_in(&text, &path))
}

fn is_shared_in(mountinfo: &str, path: &Path) -> bool {
    let mut found: Option<(PathBuf, bool)> = None;
    for line in mountinfo.lines() {
        let mut fields = line.split(' ').skip(4);
        let Some(point) = fields.next().map(|point| PathBuf::from(unescape(point))) else { continue };
        let shared = fields.skip(1).take_while(|field| *field != "-").any(|field| field.starts_with("shared:"));
        // The last of those at one place covers the others.
        let closer = found.as_ref().is_none_or(|(best, _)| point.components().count() >= best.components().count());
        if path.starts_with(&point) && closer {
            found = Some((point, shared));
        }
    }
    found.is_some_and(|(_, shared)| shared)
}

/// The machine's root filesystem as a user namespace may show it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// What is there of it by itself.
    pub(crate) frame: Vec<Frame>,
    /// What is shown of it: overlaid each by itself.
    pub(crate) pieces: Vec<PathBuf>,
}

/// How many pieces a view may have: each is a mount for each container.
const MOST_PIECES: usize = 1000;

/// Takes the root filesystem apart where something is mounted.
///
/// In a user namespace the kernel overlays no tree in which something is mounted, since that could bring to light what lies
/// below. So each folder on the way to a mount point becomes a folder of the frame, and what else is in it is a piece.
/// Of what is mounted disks are pieces, and of anything else there is the mount point.
pub(crate) fn view() -> io::Result<View> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| PathBuf::from(unescape(path)));
    let points: BTreeSet<PathBuf> = points.filter(|path| path != Path::new("/")).collect();
    let taken_apart = points.iter().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
    let mut view = View::default();
    let taking = Taking { points, taken_apart, disks: disks_in(&mountinfo) };
    taking.take(Path::new("/"), &mut view)?;
    if view.pieces.len() > MOST_PIECES {
        return Err(io::Error::other(format!("the root filesystem comes in more than {MOST_PIECES} pieces")));
    }
    Ok(view)
}

struct Taking {
    /// Where something is mounted.
    points: BTreeSet<PathBuf>,
    /// The folders above those.
    taken_apart: BTreeSet<PathBuf>,
    disks: Vec<PathBuf>,
}

impl Taking {
    fn take(&self, folder: &Path, view: &mut View) -> io::Result<()> {
        let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let Ok(found) = path.symlink_metadata() else { continue }; // gone, or not for us to see
            let name = CString::new(&path.as_os_str().as_bytes()[1..])?;
            let kind = found.file_type();
            if kind.is_symlink() {
                let Ok(target) = fs::read_link(&path) else { continue }; // gone by now
                view.frame.push(Frame::Link(name, CString::new(target.into_os_string().into_vec())?));
                continue;
            }
            // Of pipes, sockets and devices there is the name.
            let is_hidden = self.points.contains(&path) && !self.disks.contains(&path);
            view.frame.push(if kind.is_dir() { Frame::Folder(name, found.mode() & 0o7777) } else { Frame::File(name) });
            if is_hidden || !(kind.is_dir() || kind.is_file()) {
                continue;
            }
            if !self.taken_apart.contains(&path) {
                view.pieces.push(path);
            } else if let Err(error) = self.take(&path, view)
                && !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound)
            {
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Filesystems that hold a machine's files. Kernel views, memory filesystems and other containers' overlays do not.
const DISK_FILESYSTEMS: [&str; 20] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "reiserfs", "nilfs2", "erofs",
    "squashfs", "vfat", "exfat", "nfs", "nfs4", "9p", "virtiofs", "cifs",
];

fn disks_in(mountinfo: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(path), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else { continue };
        let path = PathBuf::from(unescape(path));
        let kernels = ["/proc", "/sys", "/dev", "/run"].iter().any(|p| path.starts_with(p));
        if path != Path::new("/") && !kernels && DISK_FILESYSTEMS.contains(&kind) && !found.contains(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Undoes mountinfo's `\040` and the like.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal.and_then(|o| std::str::from_utf8(o).ok()).and_then(|o| u8::from_str_radix(o, 8).ok());
        if let Some(value) = value {
            bytes.push(value);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What this machine lacks for running containers; empty when nothing.
pub fn check_host() -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |what: &str, advice: &str| problems.push(Problem { what: what.into(), advice: advice.into() });
    if !rustix::process::geteuid().is_root() {
        add("containers need root, or a user namespace", "run it as root, e.g. with sudo, or enter a namespace first");
    } else if !has_capability_sys_admin() {
        add("this root user lacks CAP_SYS_ADMIN", "run it outside of a container, or in a privileged one");
    }
    let filesystems = fs::read_to_string("/proc/filesystems");
    match &filesystems {
        Ok(list) => {
            for (name, advice) in [
                ("overlay", "load it with `modprobe overlay`, or use a kernel built with CONFIG_OVERLAY_FS"),
                ("tmpfs", "use a kernel built with CONFIG_TMPFS"),
            ] {
                if !list.lines().any(|line| line.split_whitespace().last() == Some(name)) {
                    add(&format!("this kernel has no {name} filesystem"), advice);
                }
            }
        }
        Err(_) => add("/proc is not mounted", "mount it with `mount -t proc proc /proc`"),
    }
    if kernel() < (5, 12) {
        add("this kernel is older than Linux 5.12", "use Linux 5.15 or later");
    }
    for controller in ["memory", "cpu", "pids"] {
        // Limits that can't be are no fault where nobody was promised any.
        if !rootless::is_confined() && !has_controller(controller) {
            add(
                &format!("the cgroup controller {controller} is not available in {CGROUPS}"),
                "mount cgroups, or run containers without limits on it",
            );
        }
    }
    for namespace in ["pid", "mnt", "uts", "ipc", "cgroup", "net"] {
        if !Path::new("/proc/self/ns").join(namespace).exists() && filesystems.is_ok() {
            add(&format!("this kernel has no {namespace} namespaces"), "use a kernel built with CONFIG_NAMESPACES");
        }
    }
    problems
}

fn has_capability_sys_admin() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
}

/// The running kernel's version.
pub(crate) fn kernel() -> (u32, u32) {
    kernel_version(&rustix::system::uname().release().to_string_lossy())
}

fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_of_the_host_are_shown() {
        let mountinfo = "\
20 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
21 20 0:5 / /dev rw - devtmpfs devtmpfs rw
22 20 254:2 / /var rw - xfs /dev/vdc rw
23 20 254:1 / /home\\040of\\040all rw - ext4 /dev/vdb rw
24 20 0:22 / /run rw - tmpfs tmpfs rw
25 24 254:3 / /run/media/usb rw - vfat /dev/sda1 rw
26 22 0:60 / /var/lib/containers/overlay/merged rw - overlay overlay rw
27 20 0:4 / /proc rw - proc proc rw
";
        assert_eq!(disks_in(mountinfo), [PathBuf::from("/home of all"), PathBuf::from("/var")]);
    }

    #[test]
    fn disks_that_come_and_go_are_seen() {
        use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounts need root");
            return;
        }
        let dir = tempfile::tempdir_in("/var").unwrap();
        let path = dir.path().canonicalize().unwrap();
        let mut disks = Disks::open().unwrap();
        let before = std::mem::replace(&mut disks.found, vec!["/not/read/again".into()]);
        // Any mount is a change; one that is a disk can't be made everywhere.
        mount("stint-test", &path, "tmpfs", MountFlags::empty(), None).unwrap();
        disks.refresh().unwrap();
        assert_eq!(disks.found, before);
        disks.found = vec!["/not/read/again".into()];
        unmount(&path, UnmountFlags::DETACH).unwrap();
        disks.refresh().unwrap();
        assert_eq!(disks.found, before);
    }

    #[test]
    fn a_path_is_as_shared_as_the_mount_that_it_is_on() {
        let mountinfo = "\
20 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
21 20 0:5 / /srv rw,relatime - tmpfs tmpfs rw
22 21 0:6 / /srv/in rw,relatime shared:2 master:1 - tmpfs tmpfs rw";
        let shared = |path| is_shared_in(mountinfo, Path::new(path));
        assert!(shared("/home") && shared("/srv/in/x") && !shared("/srv/x"));
    }

    #[test]
    fn a_view_is_taken_apart_where_something_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for folder in ["home/a", "var/lib/volume/x", "var/log", "tmp/x", "disk/x"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("var/file"), "").unwrap();
        std::os::unix::fs::symlink("home", at("link")).unwrap();
        let points = BTreeSet::from(["var/lib/volume", "tmp", "disk"].map(at));
        let taken_apart = BTreeSet::from(["var/lib", "var", ""].map(at));
        let taking = Taking { points, taken_apart, disks: vec![at("disk")] };
        let mut view = View::default();
        taking.take(dir.path(), &mut view).unwrap();
        let pieces = ["disk", "home", "var/file", "var/log"].map(at);
        assert_eq!(view.pieces, pieces, "what is mounted in memory, and what lies above, is no piece");
        let names: Vec<String> = view
            .frame
            .iter()
            .map(|part| match part {
                Frame::Folder(path, _) | Frame::File(path) | Frame::Link(path, _) => {
                    path.to_string_lossy().into_owned()
                }
            })
            .map(|path| path.trim_start_matches(&dir.path().to_string_lossy()[1..]).to_owned())
            .collect();
        assert_eq!(
            names,
            ["/disk", "/home", "/link", "/tmp", "/var", "/var/file", "/var/lib", "/var/lib/volume", "/var/log"]
        );
    }

    #[test]
    fn kernel_versions_compare() {
        assert_eq!(kernel_version("6.18.44-fc-v657"), (6, 18));
        assert!(kernel_version("5.4.0-1") < (5, 12));
    }
}
