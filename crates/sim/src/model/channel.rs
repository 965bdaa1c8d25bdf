//! One watch of a model world: what was committed comes late, in its order, and the watch may break.
//!
//! ```text
//!   Broken ──► Asked (Init told) ──► the API lists ──► Following: one event after the other, each with its own lag
//!      ▲                                                  │
//!      └────────────── it breaks, what is under way is lost ┘
//! ```
//!
//! Invariant: events of one kind come in the order of their revisions; a fresh list shows everything up to its revision.

use std::collections::VecDeque;
use std::sync::Arc;

use kube::runtime::watcher::Event;

/// A watch of objects of type `K`.
pub struct Channel<K> {
    /// What is under way, with the time at which it arrives.
    under_way: VecDeque<(u64, Event<Arc<K>>)>,
    /// When the API makes the list that was asked for.
    lists_at: Option<u64>,
}

impl<K> Channel<K> {
    /// A watch that begins now, whose list the API makes at `lists_at`.
    pub fn begins(now: u64, lists_at: u64) -> Channel<K> {
        Channel { under_way: VecDeque::from([(now, Event::Init)]), lists_at: Some(lists_at) }
    }

    /// When something happens here next.
    pub fn next(&self) -> Option<u64> {
        let arrives = self.under_way.front().map(|(at, _)| *at);
        [arrives, self.lists_at].into_iter().flatten().min()
    }

    /// Sends an event that arrives at `at`, or right after the one before it. Lost where no watch follows.
    pub fn send(&mut self, at: u64, event: Event<Arc<K>>) {
        if self.lists_at.is_none() {
            self.push(at, event);
        }
    }

    /// The API makes the list, if it is time for it.
    pub fn list<'a>(&mut self, now: u64, arrives: u64, objects: impl Iterator<Item = &'a Arc<K>>)
    where
        K: 'a,
    {
        if self.lists_at.is_none_or(|at| at > now) {
            return;
        }
        self.lists_at = None;
        for object in objects {
            self.push(arrives, Event::InitApply(object.clone()));
        }
        self.push(arrives, Event::InitDone);
    }

    /// What has arrived.
    pub fn receive(&mut self, now: u64) -> Option<Event<Arc<K>>> {
        self.under_way.pop_front_if(|(at, _)| *at <= now).map(|(_, event)| event)
    }

    fn push(&mut self, at: u64, event: Event<Arc<K>>) {
        let last = self.under_way.back().map_or(0, |(at, _)| *at);
        self.under_way.push_back((at.max(last), event));
    }
}

/// The event with the object itself, which `mend` may change.
pub fn owned<K: Clone>(event: Event<Arc<K>>, mend: impl Fn(&mut K)) -> Event<K> {
    let own = |object: Arc<K>| {
        let mut object = Arc::unwrap_or_clone(object);
        mend(&mut object);
        object
    };
    match event {
        Event::Apply(object) => Event::Apply(own(object)),
        Event::Delete(object) => Event::Delete(own(object)),
        Event::InitApply(object) => Event::InitApply(own(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}
