//! The Kubernetes API as an [`axum::Router`], over a [`Store`] of bytes.
//!
//! Controllers, agent and command line reach it through a `kube::Client` made of the router itself, in the process;
//! anything that speaks HTTP can be put in front of it.
//!
//! ```text
//!   path.rs ─▶ dispatch.rs ─▶ verbs/*.rs ──────────▶ Store
//!                  │             │  ▲
//!              params.rs     kinds.rs (the table) ─▶ strategy.rs, kinds/*.rs ─▶ stint_core
//!                  └── errors ──▶ status.rs
//! ```
//!
//! Architecture invariants:
//!
//! - A kind is one row of [`kinds::KINDS`] and its [`strategy::Strategy`]; no verb names a kind.
//! - An object is encoded once per revision; `get`, `list` and every watcher send those bytes (see [`encoding`]).
//! - Every refusal is an [`status::Error`], and becomes a `metav1::Status` in one place.
//! - A mutation runs in a task of its own once its body is read: a client that hangs up does not stop it half way.
//! - Time and ids are arguments ([`Clock`], [`Ids`]); tokio's time only waits (watch deadlines and bookmarks).
//!
//! Left out: see [`differences`].

pub mod auth;
pub mod differences;
pub mod encoding;
pub mod kinds;
pub mod strategy;

mod admission;
mod body;
mod discovery;
mod dispatch;
mod frames;
pub mod managed;
mod media;
pub mod observe;
mod openapi;
mod pages;
mod params;
mod path;
mod recent;
mod rules;
mod selector;
pub mod status;
pub mod streaming;
mod table;
mod update;
mod verbs;

use std::sync::Arc;

pub use admission::Admission;
pub use managed::Ownership;
pub use recent::Recent;
pub use stint_auth::{Peer, User};
pub use stint_core::clock::Clock;
use stint_store::Store;
use streaming::node::Node;

/// Where new names and uids come from.
pub trait Ids: Send + Sync + 'static {
    /// A new `metadata.uid`, unique for ever.
    fn uid(&self) -> String;
    /// Five random characters from `bcdfghjklmnpqrstvwxz2456789`, for `generateName`.
    fn suffix(&self) -> String;
}

/// What the API stands on.
#[derive(Clone)]
pub struct Api {
    /// Where the objects are.
    pub store: Store,
    /// Gives `creationTimestamp` and `deletionTimestamp`.
    pub clock: Arc<dyn Clock>,
    /// Gives uids and name suffixes.
    pub ids: Arc<dyn Ids>,
    /// What is done to new objects. An API for a run of one manifest does nothing.
    pub admission: Admission,
    /// Held from counting what a quota limits to writing what needs it.
    pub quotas: Arc<tokio::sync::Mutex<()>>,
    /// What runs the pods, for their logs, commands and ports. None: those are refused.
    pub node: Option<Arc<dyn Node>>,
    /// Who may do what. None: whoever reaches the API may do everything.
    pub auth: Option<Arc<auth::Auth>>,
    /// What tells how the process is. None: only that it answers.
    pub observe: Option<Arc<dyn observe::Observe>>,
    /// For whom this handle acts. None: for the process itself, which may do everything.
    pub requester: Option<Arc<User>>,
    /// Whether it is known who owns which fields.
    pub ownership: Ownership,
    /// Objects that are likely to be changed next.
    pub recent: Arc<Recent>,
}

impl Api {
    /// The API over `store`, open to whoever reaches it: for a process that serves itself.
    pub fn new(store: Store, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self {
            store,
            clock,
            ids,
            admission: Admission::Bare,
            quotas: Arc::default(),
            node: None,
            auth: None,
            observe: None,
            requester: None,
            ownership: Ownership::default(),
            recent: Arc::default(),
        }
    }
}

/// The Kubernetes API over `api`. Making it costs a few microseconds: nothing is built before it is asked for.
///
/// The router keeps the store open; watch bodies do not, and end when the last handle of the store is dropped. Calls need
/// a tokio runtime with its time enabled: mutations run as tasks, and watches have deadlines.
pub fn router(api: Api) -> axum::Router {
    dispatch::router(api)
}
