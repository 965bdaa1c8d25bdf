//! Networks for pods on one machine: namespaces on a bridge, host ports, and the way out.
//!
//! Knows nothing of Kubernetes. It speaks to the kernel by netlink, and runs no program; or a network is made by CNI plugins,
//! which are programs ([`Cni`]). Of an ordinary user all is behind a [`Router`], whose way out is a program.
//!
//! ```no_run
//! # use stint_network::{Config, Network};
//! # async fn example() -> Result<(), stint_network::Error> {
//! let network = Network::open(&Config { folder: "/run/example".into(), subnet: None, ready: 4 })?;
//! let pod = network.take(&[]).await?;
//! println!("{:?} in {}", pod.addresses, pod.path.display());
//! network.leave(&pod, &[]).await?;
//! network.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! Why no library for netlink: see `docs/decisions/0005-network.md`.

mod cni;
mod dns;
mod error;
mod filter;
mod links;
mod netlink;
mod network;
mod router;
mod sandbox;
mod subnet;
#[cfg(test)]
mod tests;
mod traces;

pub use cni::{Bandwidth, Cni, CniConfig, Joining};
pub use dns::{Directory, Known, Server};
pub use error::Error;
pub use filter::{HostPort, Protocol};
pub use network::{Config, Network, RANGE, Sandbox, abandon};
pub use router::{Place, Program, Router, RouterConfig};
pub use subnet::Subnet;
