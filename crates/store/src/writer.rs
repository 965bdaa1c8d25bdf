//! The one writer: decide, commit, publish, answer, in this order.
//!
//! Over an immediate disk it runs on the caller. Otherwise it is a thread that takes everything which waits as one
//! batch: while one commit is on its way to the disk the next batch gathers, so writers share an fsync.

use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot};

use crate::decide::{Batch, decide};
use crate::error::shared;
use crate::watch::Hub;
use crate::{Disk, Error, Mutation, Outcome, Revision, Snapshot};

/// The most mutations in one commit, so that a batch of large values stays within a few megabytes.
const BATCH: usize = 512;
/// The most mutations that wait for the writer. Further callers wait for a place.
const QUEUE: usize = 4096;

/// What readers and watchers see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) current: RwLock<Snapshot>,
    pub(crate) hub: Arc<Hub>,
    /// What the commit said that failed, after which nothing is written any more.
    pub(crate) failure: OnceLock<String>,
}

impl Shared {
    /// Reads the committed state. Keep it short: a commit waits for it.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Snapshot) -> T) -> T {
        read(&self.current.read().expect("nothing panics while it changes the state"))
    }
}

type Answer = Result<Outcome, Error>;
type Job = (Mutation, oneshot::Sender<Answer>);

/// How mutations reach the writer.
pub(crate) enum Writer {
    /// On the caller, one at a time.
    Immediate(Mutex<Committer>),
    /// Through a queue. Both are taken when the store is dropped.
    Thread { queue: Option<mpsc::Sender<Job>>, thread: Option<JoinHandle<()>> },
}

impl Writer {
    pub(crate) fn start(disk: Box<dyn Disk>, shared: Arc<Shared>) -> Result<Self, Error> {
        let immediate = disk.immediate();
        let mut committer = Committer { disk, shared, failed: None };
        if immediate {
            return Ok(Self::Immediate(Mutex::new(committer)));
        }
        let (queue, mut jobs) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                let mut waiting = Vec::new();
                while jobs.blocking_recv_many(&mut waiting, BATCH) > 0 {
                    committer.answer(waiting.drain(..));
                }
            })
            .map_err(|error| Error::Thread(Arc::new(error)))?;
        Ok(Self::Thread { queue: Some(queue), thread: Some(thread) })
    }

    pub(crate) async fn write(&self, mutation: Mutation) -> Answer {
        match self {
            Self::Immediate(committer) => {
                let mut committer = committer.lock().expect("nothing panics while it commits");
                committer.commit([mutation]).pop().expect("a commit answers every mutation")
            }
            Self::Thread { queue, .. } => {
                let (answer, answered) = oneshot::channel();
                let queue = queue.as_ref().ok_or(Error::Closed)?;
                queue.send((mutation, answer)).await.map_err(|_| Error::Closed)?;
                answered.await.map_err(|_| Error::Closed)?
            }
        }
    }
}

impl Drop for Writer {
    /// Waits until what was queued is written and the disk is let go.
    fn drop(&mut self) {
        if let Self::Thread { queue, thread } = self {
            drop(queue.take());
            if let Some(thread) = thread.take()
                && thread.thread().id() != thread::current().id()
            {
                // A panic of the writer has been reported by the panic hook, and its callers saw `Closed`.
                drop(thread.join());
            }
        }
    }
}

/// Carries out mutations on a disk that it alone has.
pub(crate) struct Committer {
    disk: Box<dyn Disk>,
    shared: Arc<Shared>,
    failed: Option<(Revision, Arc<dyn std::error::Error + Send + Sync>)>,
}

impl Committer {
    fn answer(&mut self, jobs: impl Iterator<Item = Job>) {
        let (mutations, callers): (Vec<_>, Vec<_>) = jobs.unzip();
        for (answer, caller) in self.commit(mutations).into_iter().zip(callers) {
            // A caller that has gone does not change what was written.
            let _ = caller.send(answer);
        }
    }

    /// Carries out mutations as one batch, and returns an answer for each.
    fn commit(&mut self, mutations: impl IntoIterator<Item = Mutation>) -> Vec<Answer> {
        if let Some((revision, source)) = &self.failed {
            let refused = |_| Err(Error::Poisoned { revision: *revision, source: source.clone() });
            return mutations.into_iter().map(refused).collect();
        }
        let Batch { revision, changes, events, answers } = decide(&self.shared.read(Snapshot::clone), mutations);
        if changes.is_empty() {
            return answers;
        }
        if let Err(cause) = self.disk.commit(&changes, revision) {
            let source = shared(cause);
            let _ = self.shared.failure.set(source.to_string());
            self.failed = Some((revision, source.clone()));
            return answers.iter().map(|_| Err(Error::Commit { revision, source: source.clone() })).collect();
        }
        self.shared.current.write().expect("nothing panics while it changes the state").apply(changes, revision);
        self.shared.hub.publish(events);
        answers
    }
}
