//! A session of the Python client: `exec` over a WebSocket with version 5 and `portforward` with version 4.
//!
//! The client comes from its registry into a virtual environment under the target folder; where it can't be had, the test
//! says that it is skipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::node::TestNode;
use crate::support::{api, post};
use serde_json::json;
use stint_server::{Api, router};
use tokio::net::TcpListener;

const CLIENT: &str = "kubernetes==36.0.3";

/// The interpreter of an environment that has the client.
fn python() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-client");
    let python = folder.join("bin/python");
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .output()
            .map_err(|error| format!("{} can't be started: {error}", program.display()))?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    };
    if run(&python, &["-c", "import kubernetes"]).is_err() {
        run(Path::new("python3"), &["-m", "venv", folder.to_str().expect("the folder's name is text")])?;
        run(&python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", CLIENT])?;
    }
    Ok(python)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_runs_commands_and_reaches_ports() {
    let python = match tokio::task::spawn_blocking(python).await.unwrap() {
        Ok(python) => python,
        Err(why) => return println!("skipped: the Python client {CLIENT} can't be had: {why}"),
    };
    let node = Arc::new(TestNode::default());
    node.write("c", "a line of log");
    let router = router(Api { node: Some(node), ..api() });
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "busybox:1"}]},
    });
    assert_eq!(post(&router, "/api/v1/namespaces/default/pods", &pod).await.code, 201);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = echo.local_addr().unwrap().port().to_string();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = connection.split();
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/streams.py");
    let session = tokio::task::spawn_blocking(move || {
        Command::new("timeout").arg("600").arg(python).args([script, &server, &port]).output()
    });
    let output = session.await.unwrap().unwrap();
    let (told, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(told, "c\nto and fro err 5\n300000 0\na line of log\n200000 None\n", "{complaints}");
}
