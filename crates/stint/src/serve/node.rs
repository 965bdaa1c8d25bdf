//! This node's services, as the API asks for them.
//!
//! The API is there before the agent, which reaches it through a client, and must let go of it before the store can close;
//! so the agent's half comes later and goes earlier.
//! Invariant: nothing is decided here.

use std::sync::{Arc, PoisonError, RwLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use stint_agent::service::{self, Service, ServiceError};
use stint_server::streaming::node::{
    Connection, ContainerRef, Exit, LogOptions, LogSource, LogStream, Node, NodeError, PodRef, Process, Streams,
    TerminalSize,
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

    fn exec(
        &self,
        container: ContainerRef,
        command: Vec<String>,
        streams: Streams,
    ) -> BoxFuture<'_, Result<Process, NodeError>> {
        async move {
            let process = self.service()?.exec(&container_ref(container), command, wanted(streams)).await;
            let code = |code| if code == 0 { Exit::Success } else { Exit::Code(code) };
            Ok(joined(process.map_err(failed)?, code))
        }
        .boxed()
    }

    fn attach(&self, container: ContainerRef, streams: Streams) -> BoxFuture<'_, Result<Process, NodeError>> {
        async move {
            let process = self.service()?.attach(&container_ref(container), wanted(streams)).await;
            // Whoever looks on is not told how it went.
            Ok(joined(process.map_err(failed)?, |_| Exit::Success))
        }
        .boxed()
    }

    fn forward(&self, pod: PodRef, port: u16) -> BoxFuture<'_, Result<Box<dyn Connection>, NodeError>> {
        async move {
            let connection = self.service()?.forward(&pod_ref(pod), port).await.map_err(failed)?;
            Ok::<Box<dyn Connection>, NodeError>(Box::new(connection))
        }
        .boxed()
    }
}

fn wanted(Streams { stdin, stdout, stderr, tty }: Streams) -> service::Streams {
    service::Streams { stdin, stdout, stderr, tty }
}

/// A process in the API's words; `outcome` makes its of an exit code.
fn joined(process: service::Process, outcome: impl FnOnce(i32) -> Exit + Send + 'static) -> Process {
    let service::Process { stdin, stdout, stderr, resize, exit } = process;
    let resize = resize.map(|mut resize| -> Box<dyn FnMut(TerminalSize) + Send> {
        Box::new(move |TerminalSize { width, height }| resize(width, height))
    });
    let exit = exit.map(|exit| exit.map(outcome).map_err(failed)).boxed();
    Process { stdin, stdout, stderr, resize, exit }
}

fn pod_ref(PodRef { namespace, name, uid }: PodRef) -> service::PodRef {
    service::PodRef { namespace, name, uid }
}

fn container_ref(ContainerRef { pod, container }: ContainerRef) -> service::ContainerRef {
    service::ContainerRef { pod: pod_ref(pod), container }
}

fn failed(error: ServiceError) -> NodeError {
    match error {
        ServiceError::BadRequest(why) => NodeError::BadRequest(why),
        ServiceError::NotFound(why) => NodeError::NotFound(why),
        ServiceError::Internal(why) => NodeError::Internal(why),
    }
}
