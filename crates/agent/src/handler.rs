//! What probes and hooks do: run a command in the container, or ask a port of the pod.
//!
//! Invariant: nothing here takes longer than it may, and a command that does is killed. What an answer means for the
//! container is not decided here (see [`stint_core::pod::probe`]).
//!
//! Upstream: `pkg/probe/{exec,http,tcp,grpc}`, `pkg/probe/util.go` (`ResolveContainerPort`),
//! `pkg/kubelet/lifecycle/handlers.go` (`Run`), v1.36; the texts are theirs.

mod exec;
mod grpc;
mod web;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerPort, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use stint_core::pod::probe::{Answer, TRIES};
use stint_network::Place;
use stint_runtime::{ContainerId, Runtime};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use self::exec::Ran;

/// Where a container's handlers run, and where they ask.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) id: ContainerId,
    pub(crate) container: Arc<Container>,
    /// The pod's address.
    pub(crate) address: Option<String>,
    /// Where that address leads to the pod.
    pub(crate) place: Place,
}

impl Target {
    /// Asks a probe, again where it could not be asked.
    pub(crate) async fn probe(&self, probe: &Probe, limit: Duration) -> Answer {
        let mut answer = Answer::Errored("the probe has no handler".to_owned());
        for _ in 0..TRIES {
            answer = self.probe_once(probe, limit).await;
            if !matches!(answer, Answer::Errored(_)) {
                break;
            }
        }
        answer
    }

    async fn probe_once(&self, probe: &Probe, limit: Duration) -> Answer {
        if let Some(exec) = &probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            let words = command.join(" ");
            return match timeout(limit, exec::run(&*self.runtime, &self.id, command)).await {
                Ok(Ran::Ended { code: 0, .. }) => Answer::Success,
                Ok(Ran::Ended { output, .. }) => Answer::Failure(output),
                Ok(Ran::NotRun(fault)) => Answer::Errored(fault),
                Err(_) => Answer::Failure(format!("command timed out: {words:?} timed out after {limit:?}")),
            };
        }
        if let Some(get) = &probe.http_get {
            return match self.url(get) {
                Ok(url) => {
                    let (place, get) = (self.place(get.host.as_deref()), get.clone());
                    place.run(async move { web::probe(&url, &get, limit).await }).await.unwrap_or_else(closed)
                }
                Err(fault) => Answer::Errored(fault),
            };
        }
        if let Some(tcp) = &probe.tcp_socket {
            return match self.endpoint(tcp.host.as_deref(), &tcp.port) {
                Ok((host, port)) => {
                    let place = self.place(tcp.host.as_deref());
                    match place.run(async move { dial(&host, port, limit).await }).await {
                        Ok(Ok(_)) => Answer::Success,
                        Ok(Err(fault)) => Answer::Failure(fault),
                        Err(error) => closed(error),
                    }
                }
                Err(fault) => Answer::Errored(fault),
            };
        }
        if let Some(grpc) = &probe.grpc {
            return match self.endpoint(None, &IntOrString::Int(grpc.port)) {
                Ok((host, port)) => {
                    let service = grpc.service.clone().unwrap_or_default();
                    let asked = async move { grpc::health(&host, port, &service, limit).await };
                    self.place(None).run(asked).await.unwrap_or_else(closed)
                }
                Err(fault) => Answer::Errored(fault),
            };
        }
        Answer::Errored("missing probe handler".to_owned())
    }

    /// Runs a hook to its end, or to the container's, and tells what went wrong.
    pub(crate) async fn hook(&self, hook: &LifecycleHandler) -> Result<(), String> {
        tokio::select! {
            biased;
            result = self.hook_itself(hook) => result,
            _ = self.runtime.wait(&self.id) => Err("the container ended before its hook".to_owned()),
        }
    }

    async fn hook_itself(&self, hook: &LifecycleHandler) -> Result<(), String> {
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            return match exec::run(&*self.runtime, &self.id, command).await {
                Ran::Ended { code: 0, .. } => Ok(()),
                Ran::Ended { code, output } => Err(format!("its command ended with {code}: {output}")),
                Ran::NotRun(fault) => Err(fault),
            };
        }
        if let Some(get) = &hook.http_get {
            let (url, place, get) = (self.url(get)?, self.place(get.host.as_deref()), get.clone());
            let told = place.run(async move { web::notify(&url, &get).await }).await;
            return told.unwrap_or_else(|error| Err(error.to_string()));
        }
        if let Some(pause) = &hook.sleep {
            sleep(Duration::from_secs(u64::try_from(pause.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        // A cluster takes `tcpSocket` and fails to run it, too.
        Err("it has none of exec, httpGet and sleep".to_owned())
    }

    fn url(&self, get: &HTTPGetAction) -> Result<String, String> {
        let (host, port) = self.endpoint(get.host.as_deref(), &get.port)?;
        let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
        let path = get.path.as_deref().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(format!("{scheme}://{}{slash}{path}", join(&host, port)))
    }

    /// Where a host is asked: one that is named, from the machine.
    fn place(&self, host: Option<&str>) -> Place {
        if host.is_none_or(str::is_empty) { self.place.clone() } else { Place::default() }
    }

    /// The host and port to ask: the pod's own address, unless another is named.
    fn endpoint(&self, host: Option<&str>, port: &IntOrString) -> Result<(String, u16), String> {
        let named = host.filter(|host| !host.is_empty()).map(str::to_owned);
        let host = named.or_else(|| self.address.clone()).ok_or("the pod has no address")?;
        Ok((host, resolve(port, self.container.ports.as_deref().unwrap_or_default())?))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `unwrap_or_else` takes")]
fn closed(error: stint_network::Error) -> Answer {
    Answer::Errored(error.to_string())
}

/// A port by its number, by the name it has in the container, or by a number that is written as a text.
fn resolve(port: &IntOrString, ports: &[ContainerPort]) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match ports.iter().find(|port| port.name.as_ref() == Some(name)) {
            Some(port) => port.container_port,
            None => name.parse().map_err(|_| format!("port {name} not found"))?,
        },
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// `host:port`, with brackets where the host is an IPv6 address.
fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Connects; the error is told as Go tells it.
async fn dial(host: &str, port: u16, limit: Duration) -> Result<TcpStream, String> {
    match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(dial_fault(&join(host, port), &error)),
        Err(_) => Err(format!("dial tcp {}: i/o timeout", join(host, port))),
    }
}

fn dial_fault(address: &str, error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    match error.raw_os_error() {
        Some(_) => format!("dial tcp {address}: connect: {text}"),
        None => format!("dial tcp {address}: {text}"),
    }
}

#[cfg(test)]
mod tests;
