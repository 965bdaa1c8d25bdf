//! The latest events, bounded in number and bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::{Event, Options, Revision};

/// A run of events without gaps: revision `floor + 1` first, `revision` last.
#[derive(Debug)]
pub(crate) struct History {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    floor: Revision,
    max_events: usize,
    max_bytes: usize,
}

impl History {
    /// An empty history that starts after a revision.
    pub(crate) fn new(start: Revision, options: &Options) -> Self {
        Self {
            events: VecDeque::new(),
            bytes: 0,
            floor: start,
            max_events: options.history_events,
            max_bytes: options.history_bytes,
        }
    }

    /// The greatest revision after which nothing is missing.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// The revision of the latest event.
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.floor.0 + self.events.len() as u64)
    }

    /// Adds the next event, and forgets old ones that are over the bounds.
    pub(crate) fn push(&mut self, event: Arc<Event>) {
        debug_assert_eq!(event.revision, self.revision().next(), "every revision has exactly one event");
        self.bytes += weight(&event);
        self.events.push_back(event);
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= weight(&oldest);
            self.floor = oldest.revision;
        }
    }

    /// The events after a revision, which must not be below the floor.
    pub(crate) fn after(&self, revision: Revision) -> impl Iterator<Item = &Arc<Event>> {
        let skip = usize::try_from(revision.0 - self.floor.0).unwrap_or(usize::MAX);
        self.events.range(skip.min(self.events.len())..)
    }
}

/// The bytes that an event may keep alive.
fn weight(event: &Event) -> usize {
    event.key.len() + event.value.len() + event.previous.as_ref().map_or(0, bytes::Bytes::len)
}
