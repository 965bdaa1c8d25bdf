//! What a shim is told to do: the spec, boiled down to steps that need no thought.
//!
//! The daemon writes a plan (see `prepare`), the shim and the container's init obey it. Invariant: a step either
//! takes full effect or fails the start; none is optional, none is guessed at. Paths in a container are relative to
//! its root and never resolved without it.

use std::ffi::CString;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bundle::LogRotation;

/// Everything about one start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The container's name, for records.
    pub(crate) id: String,
    /// The container's folder on the host.
    pub(crate) dir: CString,
    /// The log file on the host.
    pub(crate) log: CString,
    /// When the next log file is begun; never, if not said.
    pub(crate) rotation: Option<LogRotation>,
    /// What remains to be deleted when the container is removed, for `state.json`.
    pub(crate) scratch: Vec<CString>,
    /// What its standard input is.
    pub(crate) stdin: Input,
    /// How the container comes to life.
    pub(crate) launch: Launch,
}

/// What a container's standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Input {
    /// `/dev/null`.
    Null,
    /// A pipe that stays open.
    Pipe,
    /// A pipe that the first who asks for it closes.
    PipeOnce,
    /// A terminal, which is its output as well.
    Terminal,
}

/// A command to run in a container that runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// By the steps that the container's first process took, as [`Confinement`] has them.
    Native {
        /// What its process does, in this order: the last is [`Step::Exec`].
        steps: Vec<Step>,
        /// Whether it gets a terminal.
        terminal: bool,
    },
    /// By a runc-compatible program: `exec`.
    Program {
        /// The program.
        program: CString,
        /// What comes after `exec` and the options that are the helper's: options, container, command.
        args: Vec<CString>,
        /// The container's folder on the host.
        dir: CString,
        /// Whether it gets a terminal.
        terminal: bool,
    },
}

/// What holds for every process of a container, as it is kept on record for later commands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Confinement<S> {
    /// The steps, the last of which executes the container's own program.
    pub(crate) steps: Vec<S>,
}

impl Step {
    /// Whether each process of a container has to take the step, or is it enough that the first has.
    pub(crate) fn is_for_each_process(&self) -> bool {
        match self {
            Self::JoinCgroup(_)
            | Self::OomScore(_)
            | Self::AppArmor(_)
            | Self::EnterUsers { .. }
            | Self::Rlimit(..)
            | Self::NoNewPrivileges
            | Self::Seccomp(..)
            | Self::Cwd(_)
            | Self::Become(..)
            | Self::Exec(..)
            | Self::Hold => true,
            Self::JoinNamespace(..)
            | Self::Loopback
            | Self::Root(_)
            | Self::Mount(_)
            | Self::Node(_)
            | Self::Sysctl(..)
            | Self::Folder(_)
            | Self::Mask(_)
            | Self::Protect(_)
            | Self::ProtectRoot
            | Self::Pivot
            | Self::Terminal
            | Self::Hostname(_)
            | Self::Domainname(_)
            | Self::Go
            | Self::HideCgroups => false,
        }
    }
}

/// How the container comes to life.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Launch {
    /// By our own init.
    Native {
        /// `CLONE_NEW*` for `clone3`.
        namespaces: u64,
        /// A PID namespace to be born into, by path. Without it, and without a new one, it is the host's.
        processes: Option<CString>,
        /// The ids of a user namespace of its own.
        users: Option<Users>,
        /// Whether the kernel can put the root filesystem together out of sight (Linux 6.15).
        detached: bool,
        /// The cgroups to make before and to remove after.
        cgroups: Cgroups,
        /// What init does, in this order; the last is [`Step::Exec`].
        steps: Vec<Step>,
    },
    /// By a runc-compatible program: `create`, `start`, `delete`.
    Program {
        /// The program.
        program: CString,
        /// What it sees as the root filesystem, mounted by the shim on the bundle's `rootfs`.
        root: Root,
        /// What is shown at paths in the container's folder, where the program finds it by name.
        staged: Vec<(Bind, CString)>,
        /// The user that owns the output pipes.
        uid: u32,
        /// The file that counts OOM kills, by the path the program is known to use.
        oom: Option<CString>,
        /// Cgroups above the container's, which neighbours share, with their limits.
        above: Vec<Group>,
        /// Controllers to enable for those, as [`Cgroups::enable`].
        enable: Vec<(CString, String)>,
        /// Cgroup folders that the program may leave behind.
        remove: Vec<CString>,
    },
}

/// Whom of the host the users and groups of a user namespace are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Users {
    pub(crate) uids: Vec<Ids>,
    pub(crate) gids: Vec<Ids>,
}

/// A range of ids: how it begins in the container, how on the host, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ids {
    pub(crate) inside: u32,
    pub(crate) outside: u32,
    pub(crate) size: u32,
}

impl Ids {
    /// The host's id for one of the container's.
    pub(crate) fn outside(all: &[Ids], id: u32) -> Option<u32> {
        let its = all.iter().find(|ids| id.checked_sub(ids.inside).is_some_and(|at| at < ids.size))?;
        its.outside.checked_add(id - its.inside)
    }
}

/// The cgroups of a container.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cgroups {
    /// Controllers to enable for children: `(cgroup.subtree_control, "+memory +pids")`, top down. Cgroup v2 only.
    pub(crate) enable: Vec<(CString, String)>,
    /// Folders to make, with the files to write in each.
    pub(crate) groups: Vec<Group>,
    /// Folders above those, which neighbours share, with their limits. Written once what is in them keeps them there.
    pub(crate) above: Vec<Group>,
    /// A folder that has all of the container's processes: those that are left when the first has ended are killed.
    /// `None`: they end with their PID namespace.
    pub(crate) kill: Option<CString>,
    /// Cgroup v2: the container is born into the first of `groups`.
    pub(crate) clone_into: bool,
    /// Cgroup v2: a device filter (eBPF instructions) to attach to the first of `groups`.
    pub(crate) device_filter: Option<Vec<u8>>,
    /// The file whose `oom_kill` line counts OOM kills.
    pub(crate) oom: Option<CString>,
    /// Folders to remove at the end; empty parents go too, up to `keep`.
    pub(crate) remove: Vec<CString>,
}

/// One cgroup folder.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    /// The folder; missing parents are made.
    pub(crate) path: CString,
    /// File names and what is written to them, in order.
    pub(crate) files: Vec<(CString, String)>,
    /// A class of containers shares it: when it exists it is used as it is.
    pub(crate) shared: bool,
}

/// The root filesystem.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Root {
    /// A host folder to mount it on, in the container's own mount namespace.
    pub(crate) mountpoint: CString,
    /// Layers, topmost first. None: it is what `frame` and `host_mounts` say, or without those an empty folder that takes no
    /// writes.
    pub(crate) lower: Vec<CString>,
    /// What is in a root without layers, folders before what is in them.
    pub(crate) frame: Vec<Frame>,
    /// Where overlayfs keeps its marks.
    pub(crate) marks: Marks,
    /// Where writes go.
    pub(crate) upper: Upper,
    /// Further filesystems of the host, shown under the same path: overlaid where possible, else read-only.
    pub(crate) host_mounts: Vec<CString>,
}

/// A part of a root that has no layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Frame {
    /// A folder and its permissions.
    Folder(CString, u32),
    /// An empty file.
    File(CString),
    /// A symbolic link and where it leads.
    Link(CString, CString),
}

/// Where overlayfs keeps its marks: in attributes that only the machine's root may write, or in those that any user may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Marks {
    /// `trusted.overlay.*`.
    Trusted,
    /// `user.overlay.*`.
    User,
}

/// Where writes go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Upper {
    /// A host folder that holds `upper` and `work`.
    Directory(CString),
    /// A tmpfs with these options.
    Tmpfs(Option<u64>),
}

/// A mount below the container's root.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// Path in the container without its leading slash.
    pub(crate) dest: CString,
    /// What is mounted.
    pub(crate) source: Source,
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(crate) clear: u64,
    /// `MOUNT_ATTR_*` to set on the whole tree.
    pub(crate) set_all: u64,
    /// `MS_PRIVATE` and the like (one), and whether for the whole tree.
    pub(crate) propagation: Option<(u64, bool)>,
    /// Fill it with the device nodes and links of a container's `/dev`.
    pub(crate) devices: bool,
    /// Show its files with the ids of the container's user namespace.
    pub(crate) mapped: bool,
}

/// What is mounted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Source {
    /// A new filesystem, with its parameters.
    New(CString, Vec<(CString, Option<CString>)>),
    /// A path of the host.
    Bind(Bind),
}

/// What a bind mount shows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Bind {
    /// A path of the host.
    pub(crate) source: CString,
    /// Something in it, which whoever writes there may change at any time: its path, which must not lead out.
    pub(crate) below: Option<CString>,
    /// Whether the mounts below it come along.
    pub(crate) recursive: bool,
}

/// A device node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Path in the container without its leading slash.
    pub(crate) path: CString,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, and permissions.
    pub(crate) mode: u32,
    /// Device number.
    pub(crate) rdev: u64,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}

/// Capability sets as bit masks.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Capabilities {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// One thing that the container's init does.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Move itself into a cgroup v1 folder, by its `tasks` file.
    JoinCgroup(CString),
    /// Enter a namespace by path.
    JoinNamespace(CString, u32),
    /// Bring up the loopback interface of a new network namespace.
    Loopback,
    /// Write its own `oom_score_adj`.
    OomScore(i32),
    /// Be confined by this AppArmor profile from exec on.
    AppArmor(CString),
    /// Mount the root filesystem; everything later happens in it.
    Root(Root),
    /// Become root of the container's own user namespace, and enter further namespaces that are its.
    EnterUsers {
        /// Whom of the host that makes of whom.
        users: Users,
        /// `CLONE_NEW*` of the further ones.
        namespaces: i32,
        /// The user of the host to whom the standard streams are given.
        owner: u32,
    },
    /// Mount something below the root.
    Mount(Mount),
    /// Make a device node.
    Node(Node),
    /// Write a sysctl: its path below `proc/sys`, its value.
    Sysctl(CString, String),
    /// Make a folder in the container, with its parents.
    Folder(CString),
    /// Hide a path.
    Mask(CString),
    /// Make a path read-only.
    Protect(CString),
    /// Make the root mount read-only.
    ProtectRoot,
    /// Make the container's root the root, and let go of the host's.
    Pivot,
    /// Open a terminal of the container's for the standard streams, and hand the other end to the shim.
    Terminal,
    /// Set the hostname.
    Hostname(CString),
    /// Set the NIS domain name.
    Domainname(CString),
    /// Wait until the shim has recorded the container.
    Go,
    /// Enter a new cgroup namespace.
    HideCgroups,
    /// Set a resource limit: number, name, soft, hard.
    Rlimit(u32, String, u64, u64),
    /// Forbid privileges to be gained by exec.
    NoNewPrivileges,
    /// Load a seccomp filter (BPF instructions as bytes, flags).
    Seccomp(Vec<u8>, u32),
    /// Go to a folder of the container.
    Cwd(CString),
    /// Drop to a user and to capability sets: uid, gid, groups (none: those it has, as they can't be set), umask.
    Become(u32, u32, Option<Vec<u32>>, Option<u32>, Capabilities),
    /// Execute the program: arguments, environment.
    Exec(Vec<CString>, Vec<CString>),
    /// Become a program that waits to be killed, and leaves no dead process of its PID namespace unreaped.
    Hold,
}

impl fmt::Display for Bind {
    /// As a verb phrase.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bind {}", self.source.to_string_lossy())?;
        match &self.below {
            Some(below) => write!(f, " (in it {}, and nothing outside)", below.to_string_lossy()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Step {
    /// The step as a verb phrase, for "failed to …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |s: &CString| s.to_string_lossy().into_owned();
        match self {
            Self::JoinCgroup(path) => write!(f, "join cgroup {}", text(path)),
            Self::JoinNamespace(path, _) => write!(f, "join the namespace {}", text(path)),
            Self::Loopback => f.write_str("bring up the loopback interface"),
            Self::OomScore(score) => write!(f, "set oomScoreAdj to {score} (lowering it needs CAP_SYS_RESOURCE)"),
            Self::AppArmor(profile) => write!(f, "apply the AppArmor profile {} (it must be loaded)", text(profile)),
            Self::Root(root) => {
                write!(f, "mount the root filesystem (layers {:?}) at {}", root.lower, text(&root.mountpoint))
            }
            Self::Mount(mount) => match &mount.source {
                Source::New(kind, options) => {
                    write!(f, "mount {} at /{} (options {options:?})", text(kind), text(&mount.dest))
                }
                Source::Bind(bind) if mount.mapped => write!(
                    f,
                    "{bind} to /{} with the ids of the container's user namespace (all filesystems in it have to know \
                     id-mapped mounts)",
                    text(&mount.dest)
                ),
                Source::Bind(bind) => write!(f, "{bind} to /{}", text(&mount.dest)),
            },
            Self::EnterUsers { .. } => f.write_str("enter its user namespace (Linux 6.15 makes its root filesystem)"),
            Self::Hold => {
                f.write_str("execute the program that holds its namespaces (vm.memfd_noexec must be below 2)")
            }
            Self::Node(node) => write!(f, "make device node /{}", text(&node.path)),
            Self::Sysctl(name, value) => write!(f, "set sysctl {} to {value:?}", text(name)),
            Self::Folder(path) => write!(f, "make folder /{}", text(path)),
            Self::Mask(path) => write!(f, "mask /{}", text(path)),
            Self::Protect(path) => write!(f, "make /{} read-only", text(path)),
            Self::ProtectRoot => f.write_str("make the root filesystem read-only"),
            Self::Pivot => f.write_str("change to the container's root"),
            Self::Terminal => f.write_str("open a terminal of the container's (mount devpts at /dev/pts)"),
            Self::Hostname(name) => write!(f, "set hostname {}", text(name)),
            Self::Domainname(name) => write!(f, "set domainname {}", text(name)),
            Self::Go => f.write_str("hear from the shim"),
            Self::HideCgroups => f.write_str("enter a cgroup namespace"),
            Self::Rlimit(_, name, soft, hard) => write!(
                f,
                "set {name} to {soft}:{hard} (going above the hard limit needs CAP_SYS_RESOURCE: ask for less)"
            ),
            Self::NoNewPrivileges => f.write_str("set no_new_privs"),
            Self::Seccomp(..) => f.write_str("load the seccomp filter"),
            Self::Cwd(path) => write!(f, "change to working directory {}", text(path)),
            Self::Become(uid, gid, ..) => write!(f, "become user {uid}:{gid} with the capabilities asked for"),
            Self::Exec(args, _) => write!(f, "execute {:?}", args.first()),
        }
    }
}

/// What a shim tells the daemon, one packet each.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The program was executed; comes with the pidfds of the container's init and of the shim. Of a command: with its
    /// pidfd, and its terminal if it has one.
    Started {
        /// Init's pid.
        pid: i32,
        /// Nanoseconds since the epoch.
        at: u64,
    },
    /// The container was not started; nothing of it is left.
    Failed(Failure),
    /// The exit record is in its place.
    Exited(crate::record::ExitRecord),
}

/// Why a start failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What kind of error to make of it.
    pub(crate) kind: FailureKind,
    /// What was attempted.
    pub(crate) step: String,
    /// The kernel's error number.
    pub(crate) errno: i32,
}

/// What kind of error to make of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FailureKind {
    /// The command does not exist.
    NotFound,
    /// The command can't be executed.
    NotExecutable,
    /// Anything else.
    Step,
}
