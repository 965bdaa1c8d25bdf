//! `pods/log`: what is refused in which words, and that a followed log comes line by line.

use std::sync::Arc;

use crate::node::TestNode;
use crate::support::{api, get, post};
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use serde_json::json;
use stint_server::{Api, router};
use tower::ServiceExt;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Pods `one` (container `c`, bound), `two` (`c`, `d` and init container `i`, bound) and `unbound`.
async fn world() -> (axum::Router, Arc<TestNode>) {
    let node = Arc::new(TestNode::default());
    let router = router(Api { node: Some(node.clone()), ..api() });
    let container = |name: &str| json!({"name": name, "image": "busybox:1"});
    for (name, containers, init, node) in [
        ("one", vec![container("c")], vec![], Some("n")),
        ("two", vec![container("c"), container("d")], vec![container("i")], Some("n")),
        ("unbound", vec![container("c")], vec![], None),
    ] {
        let body = json!({
            "metadata": {"name": name},
            "spec": {"containers": containers, "initContainers": init, "nodeName": node},
        });
        let answer = post(&router, PODS, &body).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
    }
    (router, node)
}

#[tokio::test]
async fn refusals_name_the_container_or_the_option() {
    let (router, node) = world().await;
    node.write("c", "hello");
    let rows = [
        ("none/log", 404, "pods \"none\" not found"),
        ("two/log", 400, "a container name must be specified for pod two, choose one of: [i c d]"),
        ("one/log?container=zz", 400, "container zz is not valid for pod one"),
        ("unbound/log?container=zz", 400, "container zz is not valid for pod unbound"),
        ("two/log?container=d", 400, "container \"d\" in pod \"two\" is waiting to start: ContainerCreating"),
        ("one/log?previous=true", 400, "previous terminated container \"c\" in pod \"one\" not found"),
        ("one/log?tailLines=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        (
            "one/log?tailLines=-1",
            422,
            "PodLogOptions \"one\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "one/log?limitBytes=0&sinceSeconds=0",
            422,
            "PodLogOptions \"one\" is invalid: [limitBytes: Invalid value: 0: must be greater than 0, \
             sinceSeconds: Invalid value: 0: must be greater than 0]",
        ),
        (
            "one/log?sinceSeconds=3&sinceTime=2026-01-01T00:00:00Z",
            422,
            "PodLogOptions \"one\" is invalid: : Forbidden: at most one of `sinceTime` or `sinceSeconds` may be \
             specified",
        ),
        (
            "one/log?stream=x",
            422,
            "PodLogOptions \"one\" is invalid: stream: Unsupported value: \"x\": supported values: \"All\", \
             \"Stderr\", \"Stdout\"",
        ),
    ];
    for (path, code, message) in rows {
        let answer = get(&router, &format!("{PODS}/{path}")).await;
        assert_eq!((answer.code, answer.message().as_str()), (code, message), "{path}");
    }
    let unbound = get(&router, &format!("{PODS}/unbound/log")).await;
    assert_eq!((unbound.code, unbound.text.as_str()), (204, ""));
    assert_eq!(post(&router, &format!("{PODS}/one/log"), &json!({})).await.code, 405);
}

#[tokio::test]
async fn without_a_node_a_log_is_refused_for_now() {
    let router = router(api());
    let body = json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
    });
    post(&router, PODS, &body).await;
    let answer = get(&router, &format!("{PODS}/p/log")).await;
    assert_eq!(answer.code, 503);
    assert_eq!(answer.json()["reason"], "ServiceUnavailable");
}

#[tokio::test]
async fn the_query_becomes_options_with_a_point_in_time() {
    let (router, node) = world().await;
    node.write("i", "hello");
    let query =
        "container=i&timestamps=true&tailLines=5&limitBytes=9&sinceSeconds=60&insecureSkipTLSVerifyBackend=true";
    let answer = get(&router, &format!("{PODS}/two/log?{query}")).await;
    assert_eq!((answer.code, answer.text.as_str()), (200, "hello\n"));
    let (container, options) = node.asked.lock().unwrap().clone().unwrap();
    assert_eq!((container.container.as_str(), container.pod.name.as_str()), ("i", "two"));
    assert!(!container.pod.uid.is_empty());
    assert_eq!(options.since, Some("2026-01-02T03:03:05.678Z".parse().unwrap()));
    assert_eq!((options.tail_lines, options.limit_bytes), (Some(5), Some(9)));
    assert!(options.timestamps && !options.follow && !options.previous);
}

#[tokio::test]
async fn a_followed_log_comes_while_it_is_written() {
    let (router, node) = world().await;
    node.write("c", "first");
    let request = Request::get(format!("{PODS}/one/log?follow=true")).header("accept", "text/plain");
    let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain");
    let mut body = response.into_body();
    let next = async |body: &mut Body| body.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
    assert_eq!(next(&mut body).await.unwrap(), "first\n");
    node.write("c", "second");
    assert_eq!(next(&mut body).await.unwrap(), "second\n");
    node.end("c");
    assert_eq!(next(&mut body).await, None);
}
