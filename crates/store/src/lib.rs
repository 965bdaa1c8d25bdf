//! Durable objects with revisions, history and watch, over bytes.
//!
//! A [`Store`] maps keys to values. Every write takes the next [`Revision`]; readers see what is durable, and only
//! that; a [`Watch`] replays every committed [`Event`] after a revision, in order. The store knows no Kubernetes
//! kind: keys are strings that a caller chooses so that a prefix names what it lists and watches.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use stint_store::{Mutation, Outcome, Store};
//!
//! let store = Store::in_memory();
//! let listing = store.list("jobs/");
//! let mut watch = store.watch("jobs/", listing.revision)?;
//!
//! let create = Mutation::create("jobs/pi", |revision| format!("pi, written at {revision}").into());
//! let Outcome::Written(entry) = store.write(create).await? else { panic!("there was no pi before") };
//! assert_eq!(entry.value, "pi, written at 1");
//! assert_eq!(store.get("jobs/pi"), Some(entry.clone()));
//!
//! let event = watch.next().await.expect("the store is open")?;
//! assert_eq!((&event.key, event.revision), (&entry.key, entry.revision));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Architecture invariants:
//!
//! - One writer decides every mutation. What it answered is durable, and what it did not answer is not visible.
//! - Revisions grow by one per write and never repeat, across restarts too.
//! - A write that was queued runs to its end, whether or not its caller still waits.
//! - After a failed commit nothing more is written until the store is opened again.
//! - The cost of an event follows the watchers that it interests; the bytes of a value exist once.
//! - Nothing here reads a clock or randomness, and below [`Disk`] sits either SQLite or a simulator.

mod decide;
mod disk;
mod error;
mod history;
mod index;
mod object;
mod prefix;
mod sqlite;
mod store;
mod watch;
mod writer;

pub use disk::{Change, Disk, DiskError, Loaded, MemoryDisk};
pub use error::Error;
pub use index::{Page, Snapshot};
pub use object::{Encode, Entry, Event, EventKind, Listing, Mutation, Outcome, Revision};
pub use sqlite::SqliteDisk;
pub use store::{Options, Store};
pub use watch::{Expired, Watch};
