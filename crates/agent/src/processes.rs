//! The machine's processes, by the namespace of process ids that they are in: so a container's own are told from all others,
//! whatever cgroups there are.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A namespace of process ids, by its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Namespace(u64);

/// What was there at one moment.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    namespaces: HashMap<i32, Namespace>,
    own: Option<Namespace>,
}

impl Processes {
    /// Those that are there now. What ends meanwhile is left out.
    pub(crate) fn read() -> Processes {
        let namespace = |pid: &str| Some(Namespace(fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?.ino()));
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let process = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name.parse().ok()?, namespace(&name)?))
        };
        Processes { namespaces: entries.filter_map(process).collect(), own: namespace("self") }
    }

    /// The namespace that a process is in.
    pub(crate) fn namespace(&self, pid: i32) -> Option<Namespace> {
        self.namespaces.get(&pid).copied()
    }

    /// Whether it is the one that this process is in.
    pub(crate) fn is_own(&self, namespace: Namespace) -> bool {
        self.own == Some(namespace)
    }

    /// The processes in a namespace.
    pub(crate) fn within(&self, namespace: Namespace) -> Vec<i32> {
        self.namespaces.iter().filter(|(_, of)| **of == namespace).map(|(pid, _)| *pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_those_of_its_namespace() {
        let processes = Processes::read();
        let own = i32::try_from(std::process::id()).unwrap();
        let namespace = processes.namespace(own).unwrap();
        assert!(processes.is_own(namespace));
        assert!(processes.within(namespace).contains(&own));
    }
}
