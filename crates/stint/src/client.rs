//! Clients of the API in this process, and of a daemon through its unix socket.
//!
//! Invariant: whoever writes says who it is, so that `managedFields` and audit logs tell controllers, agent and commands
//! apart. The API takes what precedes the `/` of a `User-Agent` for the name.

use std::path::{Path, PathBuf};

use anyhow::Context;
use axum::{Extension, Router};
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use stint_server::Peer;
use tokio::net::UnixStream;
use tower::ServiceExt;

use crate::folder;
use crate::remote::{self, Source};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The controllers.
    Controllers,
    /// This node's agent.
    Agent,
    /// A command, on behalf of its user.
    Command,
}

impl Part {
    /// What it calls itself.
    pub const fn agent(self) -> &'static str {
        match self {
            Part::Controllers => concat!("stint-controllers/", env!("CARGO_PKG_VERSION")),
            Part::Agent => concat!("stint-agent/", env!("CARGO_PKG_VERSION")),
            Part::Command => concat!("stint/", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// A client of `router` for `part` of this process, which may do everything.
pub fn client(router: &Router, part: Part) -> Client {
    let agent = HeaderValue::from_static(part.agent());
    let service = router.clone().layer(Extension(Peer::InProcess));
    let named = service.map_request(move |mut request: Request<Body>| {
        request.headers_mut().insert(USER_AGENT, agent.clone());
        request
    });
    Client::new(named, "default")
}

/// A client of the API that a kubeconfig names or else of the daemon of a data folder, for a command.
///
/// # Errors
///
/// Those of [`remote::client`] and [`daemon`].
pub async fn named(kubeconfig: Option<&Source>, data: &Path) -> anyhow::Result<Client> {
    match kubeconfig {
        Some(source) => remote::client(source, Part::Command).await,
        None => daemon(data),
    }
}

/// A client of the daemon of a data folder, through its unix socket: the kernel says who asks.
///
/// # Errors
///
/// If nobody listens there.
pub fn daemon(data: &Path) -> anyhow::Result<Client> {
    let socket = folder::socket(data);
    std::os::unix::net::UnixStream::connect(&socket).with_context(|| {
        format!("can't reach a daemon at {}: start `stint serve`, or name its folder with --data", socket.display())
    })?;
    let service = tower::service_fn(move |request: Request<Body>| ask(socket.clone(), request));
    Ok(Client::new(service, "default"))
}

/// Sends one request over a connection of its own.
async fn ask(socket: PathBuf, mut request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(Part::Command.agent()));
    let stream = UnixStream::connect(&socket).await.with_context(|| format!("can't reach {}", socket.display()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the API broke");
        }
    });
    Ok(sender.send_request(request).await?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::PostParams;
    use stint_store::Store;

    use super::*;
    use crate::real::{RandomIds, SystemClock};

    #[tokio::test]
    async fn each_part_is_the_manager_of_what_it_writes() {
        let api = stint_server::Api::new(Store::in_memory(), Arc::new(SystemClock), Arc::new(RandomIds));
        let router = stint_server::router(api);
        for (part, name) in
            [(Part::Controllers, "stint-controllers"), (Part::Agent, "stint-agent"), (Part::Command, "stint")]
        {
            let maps: Api<ConfigMap> = Api::default_namespaced(client(&router, part));
            let mut map = ConfigMap { data: Some([("a".to_owned(), "b".to_owned())].into()), ..ConfigMap::default() };
            map.metadata.name = Some(name.to_owned());
            let made = maps.create(&PostParams::default(), &map).await.unwrap();
            let managers = made.metadata.managed_fields.unwrap_or_default();
            assert_eq!(managers.iter().map(|entry| entry.manager.as_deref()).collect::<Vec<_>>(), [Some(name)]);
        }
    }
}
