//! Runs one plugin: a program that is told by its environment what to do, on its input how, and says on its output what it did.
//!
//! Invariant: a plugin that does not end is ended, and its time is bounded.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Deserialize;
use serde_json::Value;

use super::record::Record;
use crate::error::Error;
use crate::sandbox::is_namespace;

/// How long a plugin may take.
const TIMEOUT: Duration = Duration::from_mins(2);

/// What a plugin is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Put the namespace on the network.
    Add,
    /// Take it off.
    Del,
}

impl Command {
    /// In lower case, as errors have it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Command::Add => "add",
            Command::Del => "delete",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
        }
    }
}

/// The folders with plugins.
#[derive(Clone, Debug)]
pub(super) struct Plugins(Vec<PathBuf>);

impl Plugins {
    pub(super) fn new(folders: Vec<PathBuf>) -> Plugins {
        Plugins(folders)
    }

    /// The program of this name.
    pub(super) fn find(&self, kind: &str) -> Result<PathBuf, Error> {
        let is_program = |path: &PathBuf| {
            std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        let found = self.0.iter().map(|folder| folder.join(kind)).find(is_program);
        let folders = || self.0.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| Error::NoPlugin { kind: kind.to_owned(), folders: folders() })
    }

    /// Has a plugin do something for the pod of this name; returns what it says.
    pub(super) fn run(
        &self,
        kind: &str,
        command: Command,
        name: &str,
        record: &Record,
        config: &Value,
    ) -> Result<Vec<u8>, Error> {
        let failed = |message: String| Error::Plugin { kind: kind.to_owned(), command: command.word(), message };
        let path = std::env::join_paths(&self.0).map_err(|fault| failed(fault.to_string()))?;
        let args: Vec<String> = record.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut process = std::process::Command::new(self.find(kind)?);
        process
            .env("CNI_COMMAND", command.variable())
            .env("CNI_CONTAINERID", name)
            // After a reboot it is not there any more, which DEL is to be told.
            .env(
                "CNI_NETNS",
                if is_namespace(&record.namespace) { record.namespace.as_os_str() } else { OsStr::new("") },
            )
            .env("CNI_IFNAME", &record.interface)
            .env("CNI_ARGS", args.join(";"))
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = run(process, config.to_string()).map_err(failed)?;
        if output.status.success() { Ok(output.stdout) } else { Err(failed(refusal(&output))) }
    }
}

fn run(mut process: std::process::Command, input: String) -> Result<Output, String> {
    let mut child = process.spawn().map_err(|error| error.to_string())?;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
    let pidfd = pidfd.map_err(|errno| errno.to_string())?;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        // One that ends before it has read says why.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let _ = tell.send(child.wait_with_output());
    });
    let Ok(output) = told.recv_timeout(TIMEOUT) else {
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        return Err(format!("it did not end within {} s", TIMEOUT.as_secs()));
    };
    output.map_err(|error| error.to_string())
}

/// What a plugin says that failed.
fn refusal(output: &Output) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        msg: String,
        #[serde(default)]
        details: String,
    }
    match serde_json::from_slice(&output.stdout) {
        Ok(Refusal { msg, details }) if details.is_empty() => msg,
        Ok(Refusal { msg, details }) => format!("{msg}; {details}"),
        Err(_) => {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("netplugin failed with no error message: {:?} ({})", said.trim(), output.status)
        }
    }
}
