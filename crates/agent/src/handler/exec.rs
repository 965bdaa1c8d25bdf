//! A command in a container, and what it said.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future;
use stint_runtime::{ContainerId, Output, ProcessSpec, Runtime, Stdio};
use tokio::io::AsyncReadExt;

use crate::error::chain;

/// How much of the output is kept, in bytes (`maxReadLength`).
const KEPT: usize = 10 * 1024;
/// How long what a command left behind may hold its output open after it has ended.
const LINGER: Duration = Duration::from_secs(1);

/// How a command went.
pub(super) enum Ran {
    /// It ended.
    Ended {
        /// Its exit code; 128 + n for signal n.
        code: i32,
        /// The beginning of what it wrote.
        output: String,
    },
    /// It could not be run.
    NotRun(String),
}

/// Runs a command to its end; it is killed when the future is dropped.
pub(super) async fn run(runtime: &dyn Runtime, id: &ContainerId, command: Vec<String>) -> Ran {
    let stdio = Stdio::Pipes { stdin: false, stdout: true, stderr: true };
    let handle = match runtime.exec(id, ProcessSpec { args: command, stdio, ..ProcessSpec::default() }).await {
        Ok(handle) => handle,
        Err(error) => return Ran::NotRun(chain(&error)),
    };
    let said = Mutex::new(Vec::new());
    let reading = future::join(drain(handle.stdout, &said), drain(handle.stderr, &said));
    let mut reading = std::pin::pin!(reading);
    let mut exit = handle.exit;
    let (exit, open) = match future::select(&mut exit, reading.as_mut()).await {
        future::Either::Left((exit, _)) => (exit, true),
        future::Either::Right((_, exit)) => (exit.await, false),
    };
    if open {
        let _ = tokio::time::timeout(LINGER, reading).await;
    }
    match exit {
        Ok(exit) => {
            let said = said.lock().unwrap_or_else(PoisonError::into_inner);
            Ran::Ended { code: exit.code, output: String::from_utf8_lossy(&said).into_owned() }
        }
        Err(error) => Ran::NotRun(chain(&error)),
    }
}

/// Reads to the end, so that the command never waits for its reader; keeps the beginning.
async fn drain(output: Option<Output>, said: &Mutex<Vec<u8>>) {
    let Some(mut output) = output else { return };
    let mut piece = [0; 1024];
    while let Ok(size @ 1..) = output.read(&mut piece).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT.saturating_sub(said.len()).min(size);
        said.extend_from_slice(&piece[..room]);
    }
}
