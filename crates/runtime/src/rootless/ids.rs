//! Which ids a user namespace has, and how it comes by them: the user's own as 0, and after it the ranges that
//! `/etc/subuid` and `/etc/subgid` give to the user, where `newuidmap` and `newgidmap` are installed to map them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::{WaitId, WaitIdOptions};

use super::RootlessError;
use crate::sys::{self, Fork};

const USERS: &str = "/etc/subuid";
const GROUPS: &str = "/etc/subgid";

/// The ids of this process's namespace: `(inside, outside, count)`, as in `/proc/self/uid_map`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdMap(Vec<(u32, u32, u32)>);

impl IdMap {
    /// Where it can't be read, the whole.
    fn read(file: &str) -> Self {
        fs::read_to_string(file).map_or_else(|_| Self(vec![(0, 0, u32::MAX)]), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        let ranges = text.lines().filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((number(fields.next())?, number(fields.next())?, number(fields.next())?))
        });
        Self(ranges.collect())
    }

    /// Whether it is that of the machine itself: each id means itself.
    pub(crate) fn is_whole(&self) -> bool {
        self.0 == [(0, 0, u32::MAX)]
    }

    /// Whether there is such an id.
    pub(crate) fn has(&self, id: u32) -> bool {
        self.0.iter().any(|(inside, _, count)| id.checked_sub(*inside).is_some_and(|at| at < *count))
    }

    /// How many ids there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(.., count)| u64::from(*count)).sum()
    }
}

/// Whom the processes of this one's namespace can be.
#[derive(Debug)]
pub(crate) struct Ids {
    pub(crate) users: IdMap,
    pub(crate) groups: IdMap,
    /// Whether a process may have other groups beside its own than its parent: not with nothing but the user's own ids.
    pub(crate) groups_can_be_set: bool,
}

impl Ids {
    /// Of this process, which does not change its namespace after it has asked.
    pub(crate) fn here() -> &'static Self {
        static HERE: OnceLock<Ids> = OnceLock::new();
        HERE.get_or_init(|| Self {
            users: IdMap::read("/proc/self/uid_map"),
            groups: IdMap::read("/proc/self/gid_map"),
            groups_can_be_set: !fs::read_to_string("/proc/self/setgroups").is_ok_and(|word| word.trim() == "deny"),
        })
    }
}

/// `(first, count)`.
type Range = (u32, u32);

/// What the system's administrator gives to a user beside its own ids, and the programs that map them.
pub(super) struct Ranges {
    users: Vec<Range>,
    groups: Vec<Range>,
    newuidmap: PathBuf,
    newgidmap: PathBuf,
}

impl Ranges {
    /// `None`: nothing, or nobody who could map them.
    pub(super) fn of(user: u32) -> Option<Self> {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let name = name_of(user, &read("/etc/passwd"));
        let (users, groups) =
            (ranges(&read(USERS), user, name.as_deref()), ranges(&read(GROUPS), user, name.as_deref()));
        if users.is_empty() || groups.is_empty() {
            return None;
        }
        Some(Self { users, groups, newuidmap: program("newuidmap")?, newgidmap: program("newgidmap")? })
    }
}

/// Where a program of the system's is: never where a user's `PATH` could say, as it runs with more rights than the user.
fn program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/run/wrappers/bin"]
        .map(|folder| Path::new(folder).join(name))
        .into_iter()
        .find(|path| path.exists())
}

/// A user's name by its number.
fn name_of(user: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then(|| name.to_owned())
    })
}

/// The lines `NAME:FIRST:COUNT` of a user, by name or number.
fn ranges(text: &str, user: u32, name: Option<&str>) -> Vec<Range> {
    let own = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let whose = fields.next()?;
        let is_own = Some(whose) == name || whose.parse() == Ok(user);
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (is_own && range.1 > 0).then_some(range)
    });
    own.collect()
}

/// The arguments after the process: the own id as 0, the ranges from 1 on.
fn arguments(own: u32, ranges: &[Range]) -> Vec<String> {
    let mut all = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut next = 1_u32;
    for (first, count) in ranges {
        let Some(after) = next.checked_add(*count) else { break };
        all.extend([next, *first, *count].map(|number| number.to_string()));
        next = after;
    }
    all
}

/// A process outside of the namespace to be, that has the ids of its parent mapped.
pub(super) struct Helper {
    process: OwnedFd,
    go: OwnedFd,
}

impl Helper {
    const DONE: i32 = 0;
    const NOTHING: i32 = 1;
    const HALF: i32 = 2;

    pub(super) fn spawn(ranges: &Ranges, user: u32, group: u32) -> io::Result<Self> {
        let parent = rustix::process::getpid().as_raw_pid().to_string();
        let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        match sys::fork(0, None)? {
            Fork::Child => {
                drop(go);
                let run = |program: &Path, own, ranges: &[Range]| {
                    let status = Command::new(program).arg(&parent).args(arguments(own, ranges)).status();
                    status.is_ok_and(|status| status.success())
                };
                if rustix::io::read(&wait, &mut [0]) != Ok(1) {
                    sys::exit(Self::NOTHING); // there is no namespace
                }
                if !run(&ranges.newuidmap, user, &ranges.users) {
                    sys::exit(Self::NOTHING);
                }
                sys::exit(if run(&ranges.newgidmap, group, &ranges.groups) { Self::DONE } else { Self::HALF })
            }
            Fork::Parent(_, process) => Ok(Self { process, go }),
        }
    }

    /// Has the ids of this process, which is in its namespace now, mapped. False: nothing was.
    pub(super) fn map(self) -> Result<bool, RootlessError> {
        let _ = rustix::io::write(&self.go, b"g");
        let ended = rustix::process::waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED);
        match ended.ok().flatten().and_then(|status| status.exit_status()) {
            Some(Self::DONE) => Ok(true),
            Some(Self::HALF) => Err(RootlessError::Map { program: "newgidmap", file: GROUPS }),
            _ => Ok(false),
        }
    }
}

/// Maps the user's own ids alone, for which nobody has to be asked.
pub(super) fn map_own(user: u32, group: u32) -> io::Result<()> {
    // The kernel wants it before a group is mapped: else leaving groups could give rights.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_tells_which_ids_there_are() {
        let map = IdMap::parse("         0       1000          1\n         1     100000      65536\n");
        assert_eq!([0, 1, 65_536, 65_537].map(|id| map.has(id)), [true, true, true, false]);
        assert_eq!((map.count(), map.is_whole()), (65_537, false));
        assert!(IdMap::parse("         0          0 4294967295\n").is_whole());
    }

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "alice:100000:65536\n1000:300000:10\nbob:1:1\nalice:7:0\nnonsense\n";
        assert_eq!(ranges(text, 1000, Some("alice")), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(ranges(text, 1001, None), []);
        assert_eq!(
            name_of(1000, "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n").as_deref(),
            Some("alice")
        );
    }

    #[test]
    fn the_own_id_comes_first_and_the_ranges_follow_without_a_gap() {
        assert_eq!(arguments(1000, &[(5, 10), (50, 3)]), ["0", "1000", "1", "1", "5", "10", "11", "50", "3"]);
    }
}
