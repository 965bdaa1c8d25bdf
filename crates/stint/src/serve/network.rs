//! The network of pods, as the settings want it.
//!
//! Invariant: pods are never on another network than was asked for: where it can't be made, the daemon does not start.

use anyhow::{Context, bail};
use stint_network::{Config, Network};
use stint_runtime::rootless;

use crate::folder;
use crate::settings::{PodNetwork, Resolved};

/// How many networks wait for pods.
const READY: usize = 8;

/// The network that each pod gets a part of. None: they are on this machine's.
pub fn open(resolved: &Resolved, id: &str) -> anyhow::Result<Option<Network>> {
    let settings = &resolved.settings;
    if rootless::caller() != 0 {
        if settings.pod_network == PodNetwork::Own && resolved.is_said("pod-network") {
            bail!("can't give pods networks of their own without root: leave --pod-network out, or run as root");
        }
        tracing::warn!("{}", crate::rootless::not_enforced(crate::rootless::Network::Hosts).unwrap_or_default());
        return Ok(None);
    }
    if settings.pod_network == PodNetwork::Host {
        tracing::info!("all pods are on this machine's network (--pod-network host)");
        return Ok(None);
    }
    let folder = folder::served(&resolved.data, id).network();
    let network = Network::open(&Config { folder, subnet: settings.pod_cidr, ready: READY });
    let network = network.context(
        "can't give pods networks of their own here (--pod-cidr chooses their addresses; --pod-network host has them all on \
         this machine's)",
    )?;
    tracing::info!("each pod has a network of its own, with an address of {}", network.subnet());
    Ok(Some(network))
}
