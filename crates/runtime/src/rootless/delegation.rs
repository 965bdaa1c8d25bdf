//! The cgroup of an ordinary user's own, by systemd's delegation or because somebody gave it to the user: containers' cgroups
//! are below it as root's are below the topmost one.
//!
//! ```text
//! BASE                        the cgroup that this process was started in; controllers are on for what is below
//! ├── stint-daemon            who was in it: this process, those that it starts, and its neighbours
//! └── stint/ID/POD/CONTAINER
//! ```
//!
//! The kernel turns controllers on below a cgroup only if there is no process in it. A later process that is started by one of
//! the neighbours is born into `stint-daemon`, and so is the main process of a unit with `DelegateSubgroup=stint-daemon`:
//! both find `BASE` above themselves.
//!
//! All cgroups below a user's own systemd belong to the user, but systemd goes on with those that it was not told to delegate. It
//! stops such a unit as a whole, this process with it, when the kernel kills a container in it that is out of memory
//! (`OOMPolicy=`). So it is asked whose they are.
//!
//! Invariant: [`find`] changes nothing, and what [`take`] changes is below `BASE`. Cgroup v1 can't be delegated safely; there,
//! and on hybrid machines, nobody has a `BASE`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use crate::host::{self, CGROUPS};

/// What becomes of the processes in a cgroup that is taken.
const LEAF: &str = "stint-daemon";

/// What containers can have limits of.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "hugetlb"];

/// How often is tried to move processes of which new ones are born meanwhile.
const ROUNDS: usize = 16;

/// A cgroup of the user's own, ready for containers' below it.
#[derive(Debug)]
pub(crate) struct Delegation {
    pub(crate) base: PathBuf,
    /// Those that are on below it.
    pub(crate) controllers: Vec<String>,
}

static TAKEN: OnceLock<Option<Delegation>> = OnceLock::new();

/// What this process has taken.
pub(crate) fn taken() -> Option<&'static Delegation> {
    TAKEN.get().and_then(Option::as_ref)
}

/// Makes the cgroup that this process is in ready for containers, if it is one that the user may divide; of root's it changes
/// nothing. All processes in it move into one below it. Call it before the [zygote](crate::zygote).
pub fn take_cgroup() {
    if super::is_confined() && host::is_unified() {
        TAKEN.get_or_init(|| find(Path::new(CGROUPS)).and_then(|base| take(base).ok()));
    }
}

/// Whether this process has a cgroup to make containers' cgroups below: root has.
pub fn has_cgroup() -> bool {
    !super::is_confined() || taken().is_some()
}

/// Whether there could be one for another user than root on this machine.
pub fn can_have_cgroup() -> bool {
    host::is_unified()
}

/// The cgroup that this process was started in, if the user may make others below it.
fn find(mount: &Path) -> Option<PathBuf> {
    let own = own_folder(mount, &fs::read_to_string("/proc/self/cgroup").ok()?)?;
    // In a container something else may be mounted there than what this process is in.
    let pid = std::process::id().to_string();
    if !fs::read_to_string(own.join("cgroup.procs")).ok()?.lines().any(|line| line == pid) {
        return None;
    }
    let above = own.parent().filter(|_| own.ends_with(LEAF)).map(Path::to_owned);
    let base = above.into_iter().chain([own]).find(|folder| is_own(folder))?;
    unit_to_ask_for(&base).is_none_or(delegates).then_some(base)
}

/// The unit of a user's own systemd that a cgroup is of, or is in.
fn unit_to_ask_for(folder: &Path) -> Option<&str> {
    let mut names = folder.ancestors().filter_map(|folder| folder.file_name()?.to_str());
    let is_unit = |name: &str| [".service", ".scope", ".slice"].iter().any(|kind| name.ends_with(kind));
    let is_systemd = |name: &str| name.starts_with("user@") && name.ends_with(".service");
    let unit = names.find(|name| is_unit(name))?;
    // Some names are escaped, for what the kernel has in the same folder.
    (!is_systemd(unit) && names.any(is_systemd)).then(|| unit.strip_prefix('_').unwrap_or(unit))
}

/// Whether the user's systemd leaves the cgroup of a unit to what runs in it. Where it does not answer, it does not.
fn delegates(unit: &str) -> bool {
    let mut ask = Command::new("systemctl");
    ask.args(["--user", "show", "--property=Delegate", "--value", "--", unit]).stdin(Stdio::null());
    ask.output().is_ok_and(|answer| answer.stdout.trim_ascii() == b"yes")
}

/// The v2 line of `/proc/self/cgroup` as a folder. `None` where it leads out of the cgroup namespace.
fn own_folder(mount: &Path, text: &str) -> Option<PathBuf> {
    let path = Path::new(text.lines().find_map(|line| line.strip_prefix("0::"))?).strip_prefix("/").ok()?;
    path.components().all(|part| matches!(part, Component::Normal(_))).then(|| mount.join(path))
}

/// Whether this user may make cgroups in one, move processes between those, and give them controllers.
fn is_own(folder: &Path) -> bool {
    ["", "cgroup.procs", "cgroup.subtree_control"]
        .iter()
        .all(|name| rustix::fs::accessat(CWD, folder.join(name), Access::WRITE_OK, AtFlags::EACCESS).is_ok())
}

fn take(base: PathBuf) -> io::Result<Delegation> {
    let leaf = base.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for _ in 0..ROUNDS {
        if move_all(&base, &leaf)? && enable(&base)? {
            break;
        }
    }
    let controllers = words(&base.join("cgroup.subtree_control"))?;
    Ok(Delegation { base, controllers })
}

/// Moves the processes of one cgroup into another. True: it is empty.
fn move_all(from: &Path, to: &Path) -> io::Result<bool> {
    let all = words(&from.join("cgroup.procs"))?;
    for pid in &all {
        match write(&to.join("cgroup.procs"), pid) {
            Err(error) if error.raw_os_error() != Some(Errno::SRCH.raw_os_error()) => return Err(error),
            _ => {} // moved, or gone
        }
    }
    Ok(all.is_empty())
}

/// Turns on what there is. False: a process came in between.
fn enable(base: &Path) -> io::Result<bool> {
    let there = words(&base.join("cgroup.controllers"))?;
    for controller in CONTROLLERS.iter().filter(|name| there.iter().any(|it| it == *name)) {
        match write(&base.join("cgroup.subtree_control"), &format!("+{controller}")) {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => return Ok(false),
            // One that the kernel has reasons not to turn on is as good as not there.
            _ => {}
        }
    }
    Ok(true)
}

fn words(path: &Path) -> io::Result<Vec<String>> {
    Ok(fs::read_to_string(path)?.split_whitespace().map(str::to_owned).collect())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::process::Child;

    use super::*;

    #[test]
    fn the_own_cgroup_is_found_where_it_is_in_sight() {
        let own = |text| own_folder(Path::new("/c"), text);
        assert_eq!(own("0::/user.slice/a.scope\n"), Some(PathBuf::from("/c/user.slice/a.scope")));
        assert_eq!(own("9:memory:/x\n0::/\n"), Some(PathBuf::from("/c")), "the root of a namespace");
        assert_eq!(own("0::/../b.scope\n"), None, "outside of the namespace");
        assert_eq!(own("9:memory:/x\n"), None, "cgroup v1 alone");
    }

    #[test]
    fn only_units_of_a_users_own_systemd_are_asked_for() {
        let unit = |path: &str| unit_to_ask_for(Path::new(path)).map(str::to_owned);
        let users = "/c/user.slice/user-1000.slice/user@1000.service";
        assert_eq!(unit(&format!("{users}/app.slice/a.scope")).as_deref(), Some("a.scope"));
        assert_eq!(unit(&format!("{users}/app.slice/_cpu.service/mine")).as_deref(), Some("cpu.service"));
        assert_eq!(unit(users), None, "its own is always delegated to it");
        assert_eq!(unit("/c/system.slice/a.service"), None, "the system's gives away what is to be divided only");
        assert_eq!(unit("/c/mine"), None);
    }

    /// Cgroups to try it on: of a hybrid machine those that have no controllers, of another one all. `None`, with a notice: there
    /// are none that this user may change.
    fn cgroup(name: &str) -> Option<Folder> {
        let mounts = ["/sys/fs/cgroup/unified", CGROUPS].map(Path::new);
        let mount = mounts.into_iter().find(|mount| mount.join("cgroup.subtree_control").exists());
        let folder = mount.map(|mount| mount.join(format!("stint-test-{name}-{}", std::process::id())));
        match folder {
            Some(folder) if fs::create_dir(&folder).is_ok() => Some(Folder(folder)),
            _ => {
                eprintln!("skipped: no cgroup v2 can be made here");
                None
            }
        }
    }

    /// Removed with what is in it.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            for folder in [self.0.join(LEAF), self.0.clone()] {
                for _ in 0..100 {
                    if fs::remove_dir(&folder).is_ok() || !folder.exists() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            }
        }
    }

    fn sleeper(cgroup: &Path) -> Child {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        write(&cgroup.join("cgroup.procs"), &child.id().to_string()).unwrap();
        child
    }

    #[test]
    fn all_processes_leave_a_cgroup_that_is_taken_and_it_is_taken_again_as_it_is() {
        let Some(folder) = cgroup("take") else { return };
        let base = &folder.0;
        let mut children = [sleeper(base), sleeper(base)];
        let first = take(base.clone()).unwrap();
        let mut moved = words(&base.join(LEAF).join("cgroup.procs")).unwrap();
        moved.sort();
        let mut expected = children.each_ref().map(|child| child.id().to_string());
        expected.sort();
        assert_eq!(moved, expected);
        let again = take(base.clone()).unwrap();
        assert_eq!(again.controllers, first.controllers);
        assert_eq!(words(&base.join("cgroup.procs")).unwrap(), [""; 0]);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
