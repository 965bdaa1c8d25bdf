//! Waiting pods that wish for the same, in the order in which they get it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::wish::Wish;
use crate::plan::Uid;

/// A pod's place in the line: by priority, then age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// `spec.priority`, the highest first.
    pub priority: Reverse<i32>,
    /// `metadata.creationTimestamp`, in whole seconds.
    pub created: Timestamp,
    /// In which order they were seen.
    pub arrival: u64,
}

/// What tells groups apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// All pods with this wish.
    Wish(Arc<str>),
    /// One pod that is in the way of others, not by its wish but by itself.
    Alone(Uid),
}

/// The pods.
#[derive(Debug)]
pub struct Group {
    /// What they wish for.
    pub wish: Arc<Wish>,
    /// By their turn.
    pub members: BTreeMap<Turn, Uid>,
    /// Why none of them fits; `None` while that is to be found out.
    pub stuck: Option<Arc<str>>,
}

impl Group {
    /// A group without pods yet.
    pub fn new(wish: Arc<Wish>) -> Group {
        Group { wish, members: BTreeMap::new(), stuck: None }
    }

    /// Whose turn is first.
    pub fn first(&self) -> Option<Turn> {
        self.members.keys().next().copied()
    }
}
