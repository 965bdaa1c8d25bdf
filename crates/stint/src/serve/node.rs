//! This node's services, as the API asks for them.
//!
//! The API is there before the agent, which reaches it through a client, and must let go of it before the store can close;
//! so the agent's half comes later and goes earlier.
//! Left out: commands, attaching and ports, until the agent has them.

use std::sync::{Arc, PoisonError, RwLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use stint_agent::service::{self, Service, ServiceError};
use stint_server::streaming::node::{
    Connection, ContainerRef, LogOptions, LogSource, LogStream, Node, NodeError, PodRef, Process, Streams,
};

/// The agent of this process, while it is at work.
#[derive(Clone, Default)]
pub struct Here(Arc<RwLock<Option<Service>>>);

impl Here {
    /// The agent is at work, or no longer.
    pub fn set(&self, service: Option<Service>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = service;
    }

    fn service(&self) -> Result<Service, NodeError> {
        let service = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        service.ok_or_else(|| NodeError::Unavailable("no agent is at work in this server".to_owned()))
    }
}

impl Node for Here {
    fn logs(&self, container: ContainerRef, options: LogOptions) -> BoxFuture<'_, Result<LogStream, NodeError>> {
        async move {
            let options = service::LogOptions {
                follow: options.follow,
                previous: options.previous,
                since: options.since,
                timestamps: options.timestamps,
                tail_lines: options.tail_lines,
                limit_bytes: options.limit_bytes,
                stream: match options.stream {
                    LogSource::All => service::LogSource::All,
                    LogSource::Stdout => service::LogSource::Stdout,
                    LogSource::Stderr => service::LogSource::Stderr,
                },
            };
            self.service()?.logs(&container_ref(container), options).await.map_err(failed)
        }
        .boxed()
    }

    fn exec(&self, _: ContainerRef, _: Vec<String>, _: Streams) -> BoxFuture<'_, Result<Process, NodeError>> {
        std::future::ready(Err(unavailable("run commands in containers"))).boxed()
    }

    fn attach(&self, _: ContainerRef, _: Streams) -> BoxFuture<'_, Result<Process, NodeError>> {
        std::future::ready(Err(unavailable("attach to containers"))).boxed()
    }

    fn forward(&self, _: PodRef, _: u16) -> BoxFuture<'_, Result<Box<dyn Connection>, NodeError>> {
        std::future::ready(Err(unavailable("connect to ports"))).boxed()
    }
}

fn unavailable(what: &str) -> NodeError {
    NodeError::Unavailable(format!("this node's agent can't {what} yet"))
}

fn container_ref(ContainerRef { pod, container }: ContainerRef) -> service::ContainerRef {
    let pod = service::PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid };
    service::ContainerRef { pod, container }
}

fn failed(error: ServiceError) -> NodeError {
    match error {
        ServiceError::BadRequest(why) => NodeError::BadRequest(why),
        ServiceError::NotFound(why) => NodeError::NotFound(why),
        ServiceError::Internal(why) => NodeError::Internal(why),
    }
}
