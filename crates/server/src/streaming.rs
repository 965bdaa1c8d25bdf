//! What goes on between a client and a pod's containers while both are there: logs, commands and ports.
//!
//! ```text
//!  GET  pods/x/log ──────────────── log.rs ─────────────────────────────────────────────┐
//!  GET  Upgrade: websocket ───▶ websocket.rs ─┬─▶ channels ─▶ command.rs (exec, attach) ├─▶ Node
//!  POST Upgrade: SPDY/3.1 ────▶ spdy.rs ──────┴─▶ streams ──▶ forward.rs (ports) ───────┘
//! ```
//!
//! Invariant: the pod is looked up, and everything that can be wrong with the request is said, before the connection
//! changes its protocol. Afterwards a slow side slows the other down; nothing is buffered without a bound.
//! Left out: the older form of a log over a WebSocket, proxying to pods and services.

mod channels;
mod command;
mod forward;
mod log;
pub mod node;
mod spdy;
mod upgrade;
mod websocket;

use axum::response::Response;
use http::Method;
use http::request::Parts;
use k8s_openapi::api::core::v1::Pod;

use crate::Api;
use crate::kinds::Subresource;
use crate::params::Params;
use crate::path::Place;
use crate::status::{Error, Result};
use crate::update::find;
use node::{ContainerRef, Node, NodeError, PodRef};
use stint_core::json;

/// Answers a request to one of the subresources that only a node can serve.
pub(crate) async fn answer(
    api: &Api,
    place: &Place,
    name: &str,
    subresource: Subresource,
    params: &Params,
    parts: &mut Parts,
) -> Result<Response> {
    match (subresource, &parts.method) {
        (Subresource::Log, &Method::GET) => log::log(api, place, name, params).await,
        (Subresource::Exec | Subresource::Attach, &Method::GET | &Method::POST) => {
            command::answer(api, place, name, subresource, params, parts)
        }
        (Subresource::PortForward, &Method::GET | &Method::POST) => forward::answer(api, place, name, params, parts),
        _ => Err(Error::MethodNotAllowed),
    }
}

/// A pod that a request is about.
struct Subject {
    pod: Pod,
    name: String,
}

impl Subject {
    fn find(api: &Api, place: &Place, name: &str) -> Result<Self> {
        let entry = find(api, place, name)?;
        let pod = json::read(&entry.value)
            .map_err(|error| Error::Internal(format!("cannot read the stored {}: {error}", entry.key)))?;
        Ok(Self { pod, name: name.to_owned() })
    }

    /// The container called `asked`, or the only one.
    ///
    /// Upstream: `pkg/registry/core/pod/strategy.go` (`validateContainer`), v1.36.
    fn container(&self, asked: Option<&str>) -> Result<ContainerRef> {
        let spec = self.pod.spec.as_ref();
        let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let ephemeral = spec.and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
        let names = init
            .iter()
            .chain(containers)
            .map(|container| container.name.as_str())
            .chain(ephemeral.iter().map(|container| container.name.as_str()));
        let pod = &self.name;
        let container = match (asked, containers) {
            (Some(asked), _) if names.clone().any(|name| name == asked) => asked,
            (Some(asked), _) => {
                return Err(Error::BadRequest(format!("container {asked} is not valid for pod {pod}")));
            }
            (None, [only]) => only.name.as_str(),
            (None, []) => {
                return Err(Error::BadRequest(format!("a container name must be specified for pod {pod}")));
            }
            (None, _) => {
                let names = names.collect::<Vec<_>>().join(" ");
                return Err(Error::BadRequest(format!(
                    "a container name must be specified for pod {pod}, choose one of: [{names}]"
                )));
            }
        };
        Ok(ContainerRef { pod: self.reference(), container: container.to_owned() })
    }

    fn must_be_bound(&self) -> Result<()> {
        if self.is_bound() {
            Ok(())
        } else {
            Err(Error::BadRequest(format!("pod {} does not have a host assigned", self.name)))
        }
    }

    fn is_bound(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty())
    }

    fn reference(&self) -> PodRef {
        let meta = &self.pod.metadata;
        PodRef {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: self.name.clone(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }

    /// The node that runs the pod.
    fn node<'a>(&self, api: &'a Api) -> Result<&'a std::sync::Arc<dyn Node>> {
        api.node.as_ref().ok_or_else(|| {
            let node = self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
            Error::Node(NodeError::Unavailable(format!(
                "cannot reach node {node:?} of pod {:?}: this API server has no node",
                self.name
            )))
        })
    }
}
