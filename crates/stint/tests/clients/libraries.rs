//! The official client libraries: `tests/clients` has a session for each, in its language.

use std::path::Path;
use std::process::Command;

use crate::{Daemon, installed, limited, repository, text};

/// Runs a session, and checks that it came to its end.
fn session(mut command: Command, last: &str) {
    let output = command.output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{}:\n{said}", output.status);
    assert!(said.ends_with(&format!("did: {last}\n")), "{said}");
}

/// How long a session may take, in seconds: it takes a few where nothing else is done.
const LIMIT: u32 = 900;

const LAST: &str = "delete the namespace and all that is in it";

#[test]
fn the_python_client_does_what_it_does_on_a_cluster() {
    let Some(python) = installed("python/bin/python") else { return };
    let Some(daemon) = Daemon::with_agent() else { return };
    let mut command = limited(LIMIT, &python);
    command.arg(repository().join("tests/clients/session.py")).arg(daemon.kubeconfig());
    session(command, LAST);
}

#[test]
fn the_javascript_client_does_what_it_does_on_a_cluster() {
    let Some(client) = installed("javascript/node_modules/@kubernetes/client-node") else { return };
    let Some(daemon) = Daemon::with_agent() else { return };
    let mut command = limited(LIMIT, Path::new("node"));
    command.arg(repository().join("tests/clients/session.mjs")).arg(daemon.kubeconfig());
    command.arg(client.ancestors().nth(3).unwrap());
    session(command, LAST);
}
