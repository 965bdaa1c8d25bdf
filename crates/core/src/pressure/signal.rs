//! What is measured of a node, and which condition a shortage of it makes.
//!
//! Upstream: `pkg/kubelet/eviction/api/types.go` (`Signal`), `helpers.go` (`signalToNodeCondition`, `signalToResource`),
//! `pkg/kubelet/nodestatus/setters.go`, v1.36.

use std::collections::BTreeMap;

/// One thing that a node may run short of. The order is that in which shortages are dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory, in bytes.
    MemoryAvailable,
    /// The filesystem that pods write to, in bytes.
    NodefsAvailable,
    /// Its inodes.
    NodefsInodesFree,
    /// The filesystem of images, in bytes.
    ImagefsAvailable,
    /// Its inodes.
    ImagefsInodesFree,
    /// Process ids.
    PidAvailable,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Signal; 6] = [
        Signal::MemoryAvailable,
        Signal::NodefsAvailable,
        Signal::NodefsInodesFree,
        Signal::ImagefsAvailable,
        Signal::ImagefsInodesFree,
        Signal::PidAvailable,
    ];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory.available",
            Signal::NodefsAvailable => "nodefs.available",
            Signal::NodefsInodesFree => "nodefs.inodesFree",
            Signal::ImagefsAvailable => "imagefs.available",
            Signal::ImagefsInodesFree => "imagefs.inodesFree",
            Signal::PidAvailable => "pid.available",
        }
    }

    /// The resource that is short, as people are told.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory",
            Signal::NodefsAvailable | Signal::ImagefsAvailable => "ephemeral-storage",
            Signal::NodefsInodesFree | Signal::ImagefsInodesFree => "inodes",
            Signal::PidAvailable => "pids",
        }
    }

    /// The condition of the node.
    pub fn condition(self) -> Condition {
        match self {
            Signal::MemoryAvailable => Condition::MemoryPressure,
            Signal::PidAvailable => Condition::PidPressure,
            _ => Condition::DiskPressure,
        }
    }
}

/// What a node says of itself while it is short of something, in the order of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// `MemoryPressure`.
    MemoryPressure,
    /// `DiskPressure`.
    DiskPressure,
    /// `PIDPressure`.
    PidPressure,
}

impl Condition {
    /// Every condition.
    pub const ALL: [Condition; 3] = [Condition::MemoryPressure, Condition::DiskPressure, Condition::PidPressure];

    /// `type` of the node's condition.
    pub fn name(self) -> &'static str {
        match self {
            Condition::MemoryPressure => "MemoryPressure",
            Condition::DiskPressure => "DiskPressure",
            Condition::PidPressure => "PIDPressure",
        }
    }

    /// `key` of the node's taint.
    pub fn taint(self) -> &'static str {
        match self {
            Condition::MemoryPressure => "node.kubernetes.io/memory-pressure",
            Condition::DiskPressure => "node.kubernetes.io/disk-pressure",
            Condition::PidPressure => "node.kubernetes.io/pid-pressure",
        }
    }
}

/// How much there is, and how much of it nobody uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Unused.
    pub available: u64,
    /// In all.
    pub capacity: u64,
}

/// What was measured. What could not be is not there, and counts as enough.
pub type Readings = BTreeMap<Signal, Amount>;
