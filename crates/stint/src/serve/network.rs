//! The network of pods, as the settings want it.
//!
//! Invariant: pods are never on another network than was asked for: where it can't be made, the daemon does not start.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};
use stint_agent::PodNetwork;
use stint_network::{Cni, CniConfig, Config, Network};
use stint_runtime::rootless;

use crate::folder;
use crate::settings::{NetworkKind, Resolved};

/// How many networks wait for pods.
const READY: usize = 8;

/// The network that each pod gets a part of. None: they are on this machine's.
pub fn open(resolved: &Resolved, id: &str) -> anyhow::Result<Option<PodNetwork>> {
    let settings = &resolved.settings;
    if rootless::caller() != 0 {
        if matches!(settings.pod_network, NetworkKind::Own | NetworkKind::Cni) {
            bail!("can't give pods networks of their own without root: leave --pod-network out, or run as root");
        }
        tracing::warn!("{}", crate::rootless::not_enforced(crate::rootless::Network::Hosts).unwrap_or_default());
        return Ok(None);
    }
    let folder = folder::served(&resolved.data, id).network();
    let records = resolved.data.join("cni");
    if matches!(settings.pod_network, NetworkKind::Cni | NetworkKind::Auto)
        && let Some(cni) = by_plugins(resolved, folder.clone(), records.clone())?
    {
        return Ok(Some(PodNetwork::Plugins(cni)));
    }
    // Only the plugins that made them can take them back.
    if fs::read_dir(&records).is_ok_and(|mut all| all.next().is_some()) {
        bail!(
            "pods have networks that CNI plugins made, as {} tells: start with a CNI configuration until these pods have ended, \
             or remove that folder to give up their addresses",
            records.display()
        );
    }
    if settings.pod_network == NetworkKind::Host {
        tracing::info!("all pods are on this machine's network (--pod-network host)");
        return Ok(None);
    }
    let network = Network::open(&Config { folder, subnet: settings.pod_cidr, ready: READY });
    let network = network.context(
        "can't give pods networks of their own here (--pod-cidr chooses their addresses; --pod-network host has them all on \
         this machine's)",
    )?;
    tracing::info!("each pod has a network of its own, with an address of {}", network.subnet());
    Ok(Some(PodNetwork::Bridge(network)))
}

/// The network of the CNI configuration that is there; `None` where there is none and none was asked for.
fn by_plugins(resolved: &Resolved, folder: PathBuf, records: PathBuf) -> anyhow::Result<Option<Cni>> {
    let settings = &resolved.settings;
    let configurations = settings.cni_conf_dir.0.clone();
    let shown = configurations.display().to_string();
    let config = CniConfig { configurations, plugins: settings.cni_bin_dir.0.clone(), folder, records };
    let cni = Cni::open(&config).context(
        "can't give pods networks by CNI plugins (--pod-network own has them on a bridge of Stint's own, and looks at no \
         configuration)",
    )?;
    match &cni {
        Some(cni) => tracing::info!(
            "CNI plugins give each pod a network, {} of {shown} (--pod-network own has them on a bridge of Stint's own)",
            cni.name()
        ),
        None if settings.pod_network == NetworkKind::Cni => {
            bail!("there is no CNI configuration in {shown}, and --pod-network is cni")
        }
        None => {}
    }
    Ok(cni)
}
