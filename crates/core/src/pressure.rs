//! What a node does when it runs short of memory, disk or process ids.
//!
//! ```text
//!  readings ─► Monitor ─► conditions ─► shown on the Node, with taints that keep new pods away
//!                 │
//!                 └─► Crossed ─► reclaim: images that nobody uses, logs of what ended ─► enough? done
//!                                                                                      └► one pod, by rank, is evicted
//! ```
//!
//! Invariant: one pod at a time, and nothing of a pod is taken before what no pod needs.
//! Left out: the kernel's notifications of memory thresholds; readings are taken at an interval.
//! Upstream: `pkg/kubelet/eviction/{eviction_manager,helpers}.go`, `pkg/kubelet/images/image_gc_manager.go`, v1.36.

mod images;
mod monitor;
mod rank;
mod shown;
mod signal;
mod threshold;

pub use images::{ImagePolicy, ImageUse, shortfall};
pub use monitor::{Crossed, Monitor, Settings, Verdict};
pub use rank::{Candidate, ContainerUsage, ImageDisk, PodUsage, is_critical, message, order, refusal};
pub use shown::{conditions, taints};
pub use signal::{Amount, Condition, Readings, Signal};
pub use threshold::{DEFAULT_HARD, Grace, Level, graces, levels, reclaims};
