//! The ConfigMaps, Secrets and tokens that a pod's environment and volumes are made from.
//!
//! Invariant: only objects that the pod names are read, each once per preparation, from the API and not from a
//! cache. Tokens are had elsewhere ([`crate::tokens`]).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Secret, Volume};
use kube::{Api, Client};

use crate::error::Error;
use crate::tokens::Ask;

/// Which objects are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Names of ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Names of Secrets.
    pub secrets: BTreeSet<String>,
}

/// The entries of a ConfigMap or a Secret.
pub(crate) type Entries<'a> = BTreeMap<&'a str, &'a [u8]>;

/// The objects that exist, and the pod's tokens.
#[derive(Clone, Default)]
pub struct Sources {
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Secret>,
    /// ServiceAccount tokens by what was asked for.
    pub tokens: BTreeMap<Ask, String>,
}

impl Wanted {
    /// What the container's environment needs.
    pub fn by_container(container: &Container) -> Wanted {
        let mut wanted = Wanted::default();
        for from in container.env_from.iter().flatten() {
            wanted.config_maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
            wanted.secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            wanted.config_maps.extend(from.config_map_key_ref.iter().map(|r| r.name.clone()));
            wanted.secrets.extend(from.secret_key_ref.iter().map(|r| r.name.clone()));
        }
        wanted
    }

    /// What the pod's volumes need.
    pub fn by_volumes(spec: &PodSpec) -> Wanted {
        let mut wanted = Wanted::default();
        for volume in spec.volumes.iter().flatten() {
            wanted.add_volume(volume);
        }
        wanted
    }

    fn add_volume(&mut self, volume: &Volume) {
        self.config_maps.extend(volume.config_map.iter().map(|v| v.name.clone()));
        self.secrets.extend(volume.secret.iter().filter_map(|v| v.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            self.config_maps.extend(source.config_map.iter().map(|v| v.name.clone()));
            self.secrets.extend(source.secret.iter().map(|v| v.name.clone()));
        }
    }

    /// Reads them. One that does not exist is left out.
    pub async fn read(&self, client: &Client, namespace: &str) -> Result<Sources, Error> {
        let mut sources = Sources::default();
        if !self.config_maps.is_empty() {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            for name in &self.config_maps {
                let found =
                    api.get_opt(name).await.map_err(Error::api("read ConfigMap", format!("{namespace}/{name}")))?;
                sources.config_maps.extend(found.map(|map| (name.clone(), map)));
            }
        }
        if !self.secrets.is_empty() {
            let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
            for name in &self.secrets {
                let found =
                    api.get_opt(name).await.map_err(Error::api("read Secret", format!("{namespace}/{name}")))?;
                sources.secrets.extend(found.map(|secret| (name.clone(), secret)));
            }
        }
        Ok(sources)
    }
}

impl Sources {
    /// The entries of a ConfigMap, binary ones included; `None` if it does not exist.
    pub(crate) fn config_map(&self, name: &str) -> Option<Entries<'_>> {
        let map = self.config_maps.get(name)?;
        let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
        let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
        Some(text.chain(binary).collect())
    }

    /// The entries of a Secret; `None` if it does not exist.
    pub(crate) fn secret(&self, name: &str) -> Option<Entries<'_>> {
        let secret = self.secrets.get(name)?;
        let data = secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
        // The server moves stringData to data; another one may not have.
        let text = secret.string_data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
        Some(data.chain(text).collect())
    }

    /// A token that was asked for.
    pub(crate) fn token(&self, ask: &Ask) -> Result<&str, Error> {
        let missing = || Error::config(format!("there is no token for the audience {:?}", ask.audience));
        self.tokens.get(ask).map(String::as_str).ok_or_else(missing)
    }
}
