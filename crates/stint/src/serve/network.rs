//! The network of pods, as the settings want it.
//!
//! Invariant: pods are never on another network than was asked for: where it can't be made, the daemon does not start.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use stint_agent::PodNetwork;
use stint_network::{Cni, CniConfig, Config, Network, Program, Router, RouterConfig};
use stint_runtime::rootless;

use crate::embedded::in_path;
use crate::folder;
use crate::rootless::{Network as Told, not_enforced};
use crate::settings::{NetworkKind, Resolved};

/// How many networks wait for pods.
const READY: usize = 8;

/// The network that each pod gets a part of. None: they are on this machine's.
pub fn open(resolved: &Resolved, id: &str) -> anyhow::Result<Option<PodNetwork>> {
    let settings = &resolved.settings;
    if rootless::caller() != 0 {
        return open_without_root(resolved, id);
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

/// The same for an ordinary user: networks of pods' own are behind a router, which needs a way out.
fn open_without_root(resolved: &Resolved, id: &str) -> anyhow::Result<Option<PodNetwork>> {
    let settings = &resolved.settings;
    let tell = |network: &Told| {
        if let Some(told) = not_enforced(network) {
            tracing::warn!("{told}");
        }
    };
    let program = match (settings.pod_network, way_out()) {
        (NetworkKind::Cni, _) => {
            bail!("CNI plugins need root: leave --pod-network out, or run as root")
        }
        (NetworkKind::Own, Err(lack)) => {
            bail!(
                "can't give pods networks of their own without root as things are: {lack}, or leave --pod-network out"
            )
        }
        (NetworkKind::Auto, Err(lack)) => {
            tell(&Told::HostsFor(lack));
            return Ok(None);
        }
        (NetworkKind::Host, _) => {
            tell(&Told::Hosts);
            return Ok(None);
        }
        (NetworkKind::Own | NetworkKind::Auto, Ok(program)) => program,
    };
    tell(&Told::AsAsked);
    let folder = folder::served(&resolved.data, id).network();
    let records = folder.join(".router");
    let config = RouterConfig {
        namespace: folder::router(id).unwrap_or_else(|| records.join("namespace")),
        folder: records,
        program,
        user: crate::rootless::meeting_place(&resolved.data),
        subnet: settings.pod_cidr,
    };
    let by = config.program.name();
    let opened = Router::open(&config).and_then(|router| {
        let network = Network::open_behind(&router, &Config { folder, subnet: settings.pod_cidr, ready: READY });
        network.inspect_err(|_| drop(router.close()))
    });
    let network = opened.context(
        "can't give pods networks of their own here (--pod-cidr chooses their addresses; --pod-network host has them all on \
         this machine's)",
    )?;
    tracing::info!("each pod has a network of its own, with an address of {}, and gets out by {by}", network.subnet());
    Ok(Some(PodNetwork::Bridge(network)))
}

/// What connects a router; or else what to do, for there to be something.
fn way_out() -> Result<Program, String> {
    let program = Program::find(|name| in_path(Path::new(name)));
    let program = program.ok_or("install passt or slirp4netns for networks of their own")?;
    let tun = File::options().read(true).write(true).open("/dev/net/tun");
    let tun = tun.map_err(|error| format!("networks of their own need /dev/net/tun, which can't be opened: {error}"));
    tun.map(|_| program)
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
