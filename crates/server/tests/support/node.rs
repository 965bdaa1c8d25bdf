//! A node in the test process: its containers are this machine, their logs what a test wrote into them.
#![allow(dead_code)] // each program uses its part

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use stint_server::streaming::node::{
    Connection, ContainerRef, Exit, LogOptions, LogStream, Node, NodeError, PodRef, Process, Streams, TerminalSize,
};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Runs every command on the machine itself, and connects to the machine's own ports.
#[derive(Default)]
pub struct TestNode {
    logs: Mutex<HashMap<String, watch::Sender<Log>>>,
    /// What the last request for a log asked for.
    pub asked: Mutex<Option<(ContainerRef, LogOptions)>>,
    /// The sizes that terminals were told.
    pub sizes: Arc<Mutex<Vec<TerminalSize>>>,
}

#[derive(Clone, Default)]
struct Log {
    lines: Vec<Bytes>,
    ended: bool,
}

impl TestNode {
    /// Adds a line to the log of a container.
    pub fn write(&self, container: &str, line: &str) {
        let mut logs = self.logs.lock().unwrap();
        let log = logs.entry(container.to_owned()).or_default();
        log.send_modify(|log| log.lines.push(Bytes::from(format!("{line}\n"))));
    }

    /// Lets those who follow a log come to its end.
    pub fn end(&self, container: &str) {
        self.logs.lock().unwrap().entry(container.to_owned()).or_default().send_modify(|log| log.ended = true);
    }
}

impl Node for TestNode {
    fn logs(&self, container: ContainerRef, options: LogOptions) -> BoxFuture<'_, Result<LogStream, NodeError>> {
        *self.asked.lock().unwrap() = Some((container.clone(), options.clone()));
        let name = container.container;
        if options.previous {
            let why = format!("previous terminated container {name:?} in pod {:?} not found", container.pod.name);
            return std::future::ready(Err(NodeError::BadRequest(why))).boxed();
        }
        let logs = self.logs.lock().unwrap();
        let Some(log) = logs.get(&name).map(watch::Sender::subscribe) else {
            let pod = container.pod.name;
            let why = format!("container {name:?} in pod {pod:?} is waiting to start: ContainerCreating");
            return std::future::ready(Err(NodeError::BadRequest(why))).boxed();
        };
        let lines = stream::unfold((log, 0), move |(mut log, at)| async move {
            let known = log.wait_for(|log| log.lines.len() > at || log.ended || !options.follow).await.ok()?;
            let line = known.lines.get(at).cloned()?;
            drop(known);
            Some((Ok(line), (log, at + 1)))
        });
        std::future::ready(Ok(lines.boxed())).boxed()
    }

    fn exec(
        &self,
        container: ContainerRef,
        command: Vec<String>,
        streams: Streams,
    ) -> BoxFuture<'_, Result<Process, NodeError>> {
        let sizes = self.sizes.clone();
        async move {
            let (program, arguments) =
                command.split_first().ok_or_else(|| NodeError::BadRequest("no command was given".into()))?;
            let pipe = |wanted| if wanted { Stdio::piped() } else { Stdio::null() };
            let mut child = tokio::process::Command::new(program)
                .args(arguments)
                .env("CONTAINER", &container.container)
                .stdin(pipe(streams.stdin))
                .stdout(pipe(streams.stdout))
                .stderr(pipe(streams.stderr))
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| NodeError::Internal(format!("error executing command in container: {error}")))?;
            Ok(Process {
                stdin: child.stdin.take().map(|stdin| Box::new(stdin) as _),
                stdout: child.stdout.take().map(|stdout| Box::new(stdout) as _),
                stderr: child.stderr.take().map(|stderr| Box::new(stderr) as _),
                resize: streams.tty.then(|| Box::new(move |size| sizes.lock().unwrap().push(size)) as _),
                exit: async move {
                    let status = child.wait().await.map_err(|error| NodeError::Internal(error.to_string()))?;
                    Ok(match status.code() {
                        Some(0) => Exit::Success,
                        Some(code) => Exit::Code(code),
                        None => Exit::Code(137),
                    })
                }
                .boxed(),
            })
        }
        .boxed()
    }

    fn attach(&self, container: ContainerRef, streams: Streams) -> BoxFuture<'_, Result<Process, NodeError>> {
        self.exec(container, vec!["cat".into()], streams)
    }

    fn forward(&self, pod: PodRef, port: u16) -> BoxFuture<'_, Result<Box<dyn Connection>, NodeError>> {
        async move {
            let connecting = tokio::time::timeout(Duration::from_mins(1), TcpStream::connect(("127.0.0.1", port)));
            match connecting.await {
                Ok(Ok(stream)) => Ok(Box::new(stream) as _),
                Ok(Err(error)) => {
                    let why = format!("failed to connect to localhost:{port} inside pod {:?}: {error}", pod.name);
                    Err(NodeError::Internal(why))
                }
                Err(_) => Err(NodeError::Internal(format!("no answer from port {port}"))),
            }
        }
        .boxed()
    }
}
