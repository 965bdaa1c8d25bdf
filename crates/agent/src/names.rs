//! Answers for the names of pods: what `core::dns` decides, over what the agent knows of its pods and the API of Services.
//!
//! Invariant: a pod is found as long as the agent has its object; a Service as the API has it when it is asked for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::Value;
use stint_core::dns::{self, Asked, NamedPod, NamedService};
use stint_network::{Directory, Known};
use stint_runtime::BoxFuture;

/// The pods that have names, by uid. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<Mutex<HashMap<String, NamedPod>>>);

impl Names {
    /// The pod's object is now this.
    pub(crate) fn changed(&self, uid: &str, pod: &Pod) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match NamedPod::of(pod) {
            Some(named) => drop(all.insert(uid.to_owned(), named)),
            None => drop(all.remove(uid)),
        }
    }

    /// The pod's object is gone.
    pub(crate) fn gone(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Finds names for the pods of a node.
pub(crate) struct Finder {
    pub(crate) names: Names,
    pub(crate) client: Client,
    /// What the names of pods end with.
    pub(crate) domain: String,
    /// Where the API is reached, if pods can.
    pub(crate) api: Option<IpAddr>,
}

impl Directory for Finder {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Known> {
        Box::pin(async move {
            let asked = Asked::by(name, &self.domain);
            let service = match asked {
                Asked::Elsewhere => return Known::Elsewhere,
                Asked::Nothing => return Known::Nothing,
                Asked::Branch => return Known::Addresses(Vec::new()),
                Asked::Service { service: "kubernetes", namespace: "default" } if self.api.is_some() => {
                    let api = self.api.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
                    return Known::Addresses(api.into_iter().collect());
                }
                Asked::Service { service, namespace } | Asked::Host { service, namespace, .. } => {
                    self.service(namespace, service).await
                }
            };
            let Some(service) = service else { return Known::Nothing };
            let all = self.names.0.lock().unwrap_or_else(PoisonError::into_inner);
            dns::addresses(&asked, &service, all.values()).map_or(Known::Nothing, Known::Addresses)
        })
    }
}

impl Finder {
    async fn service(&self, namespace: &str, name: &str) -> Option<NamedService> {
        // A pod may ask for anything; what is no name must not become another path.
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !text.is_empty();
        if !plain(namespace) || !plain(name) {
            return None;
        }
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        let text = match self.client.request_text(request).await {
            Ok(text) => text,
            Err(kube::Error::Api(status)) if status.code == 404 => return None,
            Err(error) => {
                tracing::warn!(namespace, name, %error, "a Service could not be read for a pod that asked for its name");
                return None;
            }
        };
        let service: Value = serde_json::from_str(&text).ok()?;
        let spec = &service["spec"];
        let selector = spec["selector"].as_object().into_iter().flatten();
        Some(NamedService {
            selector: selector.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
            with_unready: spec["publishNotReadyAddresses"] == true,
            is_headless: spec["clusterIP"] == "None",
        })
    }
}
