//! The API's documents over HTTP, and what every kubectl makes of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::api;
use axum::body::Body;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::Value;
use stint_server::router;
use tower::ServiceExt;

const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

async fn get(router: &axum::Router, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

#[tokio::test]
async fn the_index_leads_to_documents_that_may_be_kept() {
    let router = router(api());
    let (code, _, index) = get(&router, "/openapi/v3?timeout=32s", &[("accept", "application/json, */*")]).await;
    assert_eq!(code, 200);
    let index: Value = serde_json::from_slice(&index).unwrap();
    for path in ["api/v1", "apis/batch/v1", "apis/apps/v1", "apis/rbac.authorization.k8s.io/v1"] {
        let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap_or_else(|| panic!("{path} is missing"));
        let (code, headers, body) = get(&router, url, &[("accept", "application/json")]).await;
        assert_eq!((code, headers["cache-control"].to_str().unwrap()), (200, "public, immutable"), "{path}");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["expires"], "Sat, 02 Jan 2027 03:04:05 GMT");
        let document: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["openapi"], "3.0.0");
        let tag = headers["etag"].to_str().unwrap();
        let (code, _, body) = get(&router, url, &[("if-none-match", tag)]).await;
        assert_eq!((code, body.len()), (304, 0), "{path}");
    }
}

#[tokio::test]
async fn a_wrong_hash_leads_to_the_right_one_and_none_is_fine() {
    let router = router(api());
    let (code, headers, _) = get(&router, "/openapi/v3/apis/batch/v1?hash=ABC", &[]).await;
    assert_eq!(code, 301);
    let right = headers["location"].to_str().unwrap();
    assert!(right.starts_with("/openapi/v3/apis/batch/v1?hash="), "{right}");
    assert_eq!(get(&router, right, &[]).await.0, 200);
    let (code, headers, _) = get(&router, "/openapi/v3/apis/batch/v1", &[]).await;
    assert_eq!((code, headers.get("cache-control")), (200, None));
    assert_eq!(get(&router, "/openapi/v3/apis/none/v1", &[]).await.0, 404);
    assert_eq!(get(&router, "/openapi/v9", &[]).await.0, 404);
}

#[tokio::test]
async fn version_2_comes_as_json_or_protobuf_and_packed() {
    let router = router(api());
    let (code, headers, json) = get(&router, "/openapi/v2", &[]).await;
    assert_eq!((code, headers["content-type"].to_str().unwrap()), (200, "application/json"));
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["swagger"], "2.0");
    let asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (code, headers, plain) = get(&router, "/openapi/v2?timeout=32s", &[("accept", asked)]).await;
    assert_eq!((code, headers["content-type"].to_str().unwrap()), (200, GNOSTIC));
    assert!(plain.starts_with(b"\x0a\x032.0"), "it starts with the version");
    let (_, headers, packed) = get(&router, "/openapi/v2", &[("accept", asked), ("accept-encoding", "gzip")]).await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert!(packed.len() * 4 < plain.len(), "{} of {}", packed.len(), plain.len());
    assert_eq!(get(&router, "/openapi/v2", &[("accept", "text/html")]).await.0, 406);
}

/// Where kubectls of several versions lie side by side on machines with a cloud SDK.
const FOLDER: &str = "/usr/lib/google-cloud-sdk/bin";

fn kubectls() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubectl.1.")));
    found.sort();
    if found.is_empty() {
        println!("skipped: no kubectl.1.* in {FOLDER}");
    }
    found
}

/// Output, errors and exit code of one command.
fn told(kubectl: &Path, server: &str, home: &Path, arguments: &[&str]) -> (String, String, i32) {
    let output = Command::new(kubectl)
        .arg(format!("--server={server}"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap_or(-1))
}

const JOB: &str = "apiVersion: batch/v1
kind: Job
metadata:
  name: NAME
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: c
        image: busybox:1
";

#[test]
fn kubectl_explains_and_checks_what_it_creates() {
    let kubectls = kubectls();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let address = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router(api())).await });
        address
    });
    let server = format!("http://{address}");
    for (at, kubectl) in kubectls.iter().enumerate() {
        let home = tempfile::tempdir().unwrap();
        let version = kubectl.display();
        let run = |arguments: &[&str]| told(kubectl, &server, home.path(), arguments);
        let (out, errors, code) = run(&["explain", "job.spec.backoffLimit"]);
        assert_eq!(code, 0, "{version}: {errors}");
        assert!(out.contains("Specifies the number of retries before marking this job failed"), "{version}: {out}");
        let (out, errors, code) = run(&["explain", "pods", "--recursive"]);
        assert!(code == 0 && out.contains("topologySpreadConstraints"), "{version}: {errors}{out}");
        let (out, errors, code) = run(&["explain", "job.spec.template", "--output=plaintext-openapiv2"]);
        assert!(code == 0 && out.contains("Describes the pod that will be created"), "{version}: {errors}{out}");
        let name = format!("job-{at}");
        let manifest = JOB.replace("NAME", &name);
        std::fs::write(home.path().join("job.yaml"), &manifest).unwrap();
        let (out, errors, code) = run(&["create", "--validate=true", "-f", "job.yaml"]);
        assert_eq!((out.as_str(), code), (format!("job.batch/{name} created\n").as_str(), 0), "{version}: {errors}");
        std::fs::write(home.path().join("bad.yaml"), manifest.replace("restartPolicy", "restartPolizei")).unwrap();
        let (out, errors, code) = run(&["create", "--validate=true", "-f", "bad.yaml"]);
        assert!(code == 1 && errors.contains("restartPolizei"), "{version}: {out}{errors}");
        // A check by the client alone, against the documents.
        let (out, errors, code) = run(&["apply", "--dry-run=client", "--validate=true", "-f", "job.yaml"]);
        assert_eq!(code, 0, "{version}: {errors}{out}");
    }
}
