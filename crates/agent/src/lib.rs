//! The node agent: pods from the Kubernetes API become containers of the [`Runtime`](stint_runtime::Runtime).
//!
//! ```text
//!   watch of pods ──► Agent ──one worker per pod──► core::pod::step ──► effects ──► Runtime, ImageStore, volumes
//!                                 ▲                      │
//!                                 └──────events──────────┴──► status writer ──► pods/status
//! ```
//!
//! Architecture invariants:
//!
//! - `core::pod` decides, a worker obeys: it holds no opinion about a pod.
//! - One worker per pod owns the pod's state; everything else sends it events.
//! - One writer per pod owns its API object; of consecutive statuses only the newest is written.
//! - Containers outlive the agent. On start its state is rebuilt from the pods' folders before anything is decided.
//! - What others may ask of the pods is [`service`]; it only reads what workers keep.
//! - Time is [`Clock`]; tokio's time only waits, a minute at most at a stretch.
//!
//! [`unsupported`] tells what means something else for the pods of `stint run`.

mod agent;
mod app_armor;
mod bundle;
pub mod claims;
mod collector;
mod downward;
mod error;
mod etc;
mod events;
mod expand;
mod folder;
mod gauge;
mod handler;
mod holder;
mod huge_pages;
mod ids;
mod images;
mod isolation;
mod keeper;
pub mod logs;
mod names;
mod network;
mod node;
mod pressure;
mod prober;
mod processes;
mod reclaim;
mod recover;
pub mod service;
mod signal;
mod sources;
pub mod spec;
mod status;
mod target;
mod termination;
mod tokens;
mod unsupported;
mod usage;
mod volumes;
mod worker;

pub use agent::{Agent, AgentConfig, NoObserver, Observer, ROOTFS_ANNOTATION, RootfsMode};
pub use downward::{Downward, Limits, Machine};
pub use error::Error;
pub use expand::expand;
pub use folder::{Folders, PodFolder, log_path};
pub use gauge::{Gauge, MachineGauge, Measured};
pub use images::release_images;
pub use isolation::{Isolation, POD_MAX_PIDS};
pub use network::PodNetwork;
pub use pressure::PressureConfig;
pub use recover::sweep;
pub use sources::{Sources, Wanted};
pub use stint_core::clock::Clock;
pub use stint_core::pod::Attempt;
pub use tokens::Ask;
pub use unsupported::unsupported;
