//! Watches: every committed event under a prefix, in order, from a revision on.
//!
//! ```text
//!             its mailbox is full                what it needs has left the history
//!   Live ──────────────────────────▶ Behind ──────────────────────────────▶ Expired
//!     ▲                                │
//!     └────────────────────────────────┘
//!        it took all from the history
//! ```
//!
//! A commit puts its events into the mailboxes of the watches that they interest. A mailbox is small: a watch that
//! does not keep up falls behind, and then reads from the history which all share. So one rule bounds memory and
//! decides who is too slow: a watch expires when the history no longer holds what it needs, also if that still lies in
//! its mailbox.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use futures::Stream;

use crate::history::History;
use crate::prefix::PrefixMap;
use crate::{Event, Options, Revision};

/// How many events a mailbox holds, before its watch falls behind.
const MAILBOX: usize = 256;

/// The events that a watch needs are no longer there. List again, and watch from the listing's revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("events after revision {after} have expired; the oldest watchable revision is {oldest}")]
pub struct Expired {
    /// The last revision that the watch has seen.
    pub after: Revision,
    /// The oldest revision from which a watch misses nothing.
    pub oldest: Revision,
}

/// Hands events from the one writer to the watches.
#[derive(Debug)]
pub(crate) struct Hub(Mutex<Board>);

#[derive(Debug)]
struct Board {
    history: History,
    watches: PrefixMap<BTreeMap<u64, Arc<Mutex<Mailbox>>>>,
    next_id: u64,
    closed: bool,
}

#[derive(Debug)]
struct Mailbox {
    phase: Phase,
    /// Undelivered events, oldest first.
    queue: VecDeque<Arc<Event>>,
    /// Every interesting event up to this revision is in the queue or was delivered.
    cursor: Revision,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Events come to the mailbox.
    Live,
    /// Events after the cursor have to be taken from the history.
    Behind,
    /// Some of them have left the history.
    Expired(Expired),
    /// The store is gone.
    Closed,
}

impl Hub {
    pub(crate) fn new(start: Revision, options: &Options) -> Self {
        Self(Mutex::new(Board {
            history: History::new(start, options),
            watches: PrefixMap::default(),
            next_id: 0,
            closed: false,
        }))
    }

    /// Adds a batch's events to the history and to the mailboxes that they interest. Wakes nobody while locked.
    pub(crate) fn publish(&self, events: Vec<Arc<Event>>) {
        let mut wakers = Vec::new();
        let mut board = self.lock();
        for event in events {
            board.history.push(event.clone());
            let floor = board.history.floor();
            for mailbox in board.watches.matches(&event.key).flat_map(BTreeMap::values) {
                wakers.extend(lock(mailbox).receive(&event, floor));
            }
        }
        drop(board);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends every watch, after what is in its mailbox.
    pub(crate) fn close(&self) {
        let mut wakers = Vec::new();
        let mut board = self.lock();
        board.closed = true;
        for mailbox in board.watches.values().flat_map(BTreeMap::values) {
            wakers.extend(lock(mailbox).waker.take());
        }
        drop(board);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, after: Revision) -> Result<Watch, Expired> {
        let mut board = self.lock();
        let oldest = board.history.floor();
        if after < oldest {
            return Err(Expired { after, oldest });
        }
        let phase = if after < board.history.revision() { Phase::Behind } else { Phase::Live };
        let mailbox = Arc::new(Mutex::new(Mailbox { phase, queue: VecDeque::new(), cursor: after, waker: None }));
        let id = board.next_id;
        board.next_id += 1;
        let prefix: Arc<str> = prefix.into();
        board.watches.entry(prefix.clone()).insert(id, mailbox.clone());
        drop(board);
        Ok(Watch { hub: self.clone(), mailbox, prefix, id, delivered: after, ended: false })
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().expect("nothing panics while it holds the board")
    }
}

fn lock(mailbox: &Mutex<Mailbox>) -> MutexGuard<'_, Mailbox> {
    mailbox.lock().expect("nothing panics while it holds a mailbox")
}

impl Mailbox {
    /// Takes an event that was just committed. Returns whom to wake.
    fn receive(&mut self, event: &Arc<Event>, floor: Revision) -> Option<Waker> {
        match self.phase {
            Phase::Live if event.revision <= self.cursor => None,
            // Nobody reads this mailbox, and it would keep alive what the history has let go of.
            Phase::Live | Phase::Behind if self.queue.front().is_some_and(|oldest| oldest.revision <= floor) => {
                self.expire(floor)
            }
            Phase::Live if self.queue.len() < MAILBOX => {
                self.queue.push_back(event.clone());
                self.cursor = event.revision;
                self.waker.take()
            }
            Phase::Live => {
                self.phase = Phase::Behind;
                None
            }
            Phase::Behind if self.cursor < floor => self.expire(floor),
            Phase::Behind | Phase::Expired(_) | Phase::Closed => None,
        }
    }

    /// Lets go of everything: some of what is needed has left the history. Returns whom to wake.
    fn expire(&mut self, oldest: Revision) -> Option<Waker> {
        let after = self.queue.front().map_or(self.cursor, |next| Revision(next.revision.0 - 1));
        self.phase = Phase::Expired(Expired { after, oldest });
        self.queue = VecDeque::new();
        self.waker.take()
    }

    /// Fills an empty mailbox from the history.
    fn catch_up(&mut self, history: &History, prefix: &str) {
        let oldest = history.floor();
        if self.cursor < oldest {
            self.phase = Phase::Expired(Expired { after: self.cursor, oldest });
            return;
        }
        for event in history.after(self.cursor) {
            if event.key.starts_with(prefix) {
                if self.queue.len() == MAILBOX {
                    return;
                }
                self.queue.push_back(event.clone());
            }
            self.cursor = event.revision;
        }
        self.phase = Phase::Live;
    }
}

/// A stream of the committed events under a prefix. Dropping it ends it.
///
/// It yields each event once, in revision order. When its reader is too slow it yields [`Expired`] and then ends; when
/// the store is closed it ends.
#[derive(Debug)]
pub struct Watch {
    hub: Arc<Hub>,
    mailbox: Arc<Mutex<Mailbox>>,
    prefix: Arc<str>,
    id: u64,
    delivered: Revision,
    ended: bool,
}

impl Watch {
    /// Waits for the next event. None: the watch has ended. Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Result<Arc<Event>, Expired>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Result<Arc<Event>, Expired>> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(next) => next,
            Poll::Pending => None,
        }
    }

    /// The revision up to which this watch has yielded everything there is, for bookmarks. It advances with every
    /// write to the store, also where nothing is written under the prefix, and never goes back.
    pub fn revision(&mut self) -> Revision {
        let board = self.hub.lock();
        let mailbox = lock(&self.mailbox);
        if mailbox.queue.is_empty() && mailbox.phase == Phase::Live {
            self.delivered = self.delivered.max(board.history.revision());
        }
        self.delivered
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Arc<Event>, Expired>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(event) = lock(&self.mailbox).queue.pop_front() {
            self.delivered = event.revision;
            return Poll::Ready(Some(Ok(event)));
        }
        // Always the board first, then a mailbox: the writer locks in this order, too.
        let board = self.hub.lock();
        let mut mailbox = lock(&self.mailbox);
        if mailbox.phase == Phase::Behind && mailbox.queue.is_empty() {
            mailbox.catch_up(&board.history, &self.prefix);
        }
        if let Some(event) = mailbox.queue.pop_front() {
            self.delivered = event.revision;
            return Poll::Ready(Some(Ok(event)));
        }
        if mailbox.phase == Phase::Live && board.closed {
            mailbox.phase = Phase::Closed;
        }
        match mailbox.phase {
            Phase::Live | Phase::Behind => {
                mailbox.waker = Some(context.waker().clone());
                Poll::Pending
            }
            Phase::Expired(expired) => {
                self.ended = true;
                Poll::Ready(Some(Err(expired)))
            }
            Phase::Closed => {
                self.ended = true;
                Poll::Ready(None)
            }
        }
    }
}

impl Stream for Watch {
    type Item = Result<Arc<Event>, Expired>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(context)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut board = self.hub.lock();
        if let Some(group) = board.watches.get_mut(&self.prefix) {
            group.remove(&self.id);
            if group.is_empty() {
                board.watches.remove(&self.prefix);
            }
        }
    }
}
