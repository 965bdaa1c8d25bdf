//! How answers look: JSON, YAML, for people, compressed; and what is said when there is no such form.

use std::io::Read;

use crate::support::{api, config_map, get, post, send};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use stint_server::router;
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn ask(router: &axum::Router, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Bytes) {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes())
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn an_object_is_answered_in_yaml_and_for_people() {
    let router = router(api());
    post(&router, MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "yes"}})).await;
    let (code, headers, body) = ask(&router, &format!("{MAPS}/a"), &[("accept", "application/yaml")]).await;
    assert_eq!((code, &headers["content-type"]), (200, &"application/yaml".parse().unwrap()));
    assert!(text(&body).starts_with("apiVersion: v1\ndata:\n  k: \"yes\"\nkind: ConfigMap\n"), "{}", text(&body));
    let (_, _, compact) = ask(&router, &format!("{MAPS}/a"), &[]).await;
    assert!(text(&compact).ends_with("}\n") && !text(&compact).contains("  "));
    for (path, headers) in
        [("?pretty=true", [("user-agent", "kubectl")]), ("", [("user-agent", "curl/8.1")]), ("?pretty=1", [("x", "y")])]
    {
        let (_, _, pretty) = ask(&router, &format!("{MAPS}/a{path}"), &headers).await;
        assert!(text(&pretty).starts_with("{\n  \"apiVersion\": \"v1\",\n  "), "{}", text(&pretty));
        let (pretty, compact): (Value, Value) =
            (serde_json::from_slice(&pretty).unwrap(), serde_json::from_slice(&compact).unwrap());
        assert_eq!(pretty, compact);
    }
    let (_, _, plain) = ask(&router, &format!("{MAPS}/a?pretty=false"), &[("user-agent", "curl/8.1")]).await;
    assert_eq!(plain, compact);
    let (code, _, missing) = ask(&router, &format!("{MAPS}/b"), &[("accept", "application/yaml")]).await;
    assert!(code == 404 && text(&missing).contains("reason: NotFound\n"), "{}", text(&missing));
}

#[tokio::test]
async fn bodies_may_be_yaml() {
    let router = router(api());
    let body = "metadata: {name: a}\ndata:\n  x: \"0777\"\nimmutable: on\n";
    let answer = send(&router, "POST", MAPS, "application/yaml", body).await;
    assert_eq!((answer.code, &answer.json()["immutable"]), (201, &json!(true)), "{answer:?}");
    let twice = "metadata: {name: b}\ndata: {x: y}\n";
    let answer = send(&router, "POST", &format!("{MAPS}?fieldValidation=Strict"), "application/yaml", twice).await;
    assert_eq!(answer.code, 400, "{answer:?}");
    let answer = send(&router, "POST", MAPS, "application/yaml", "a: [").await;
    assert!(answer.code == 400 && answer.message().starts_with("error converting YAML to JSON: yaml: "), "{answer:?}");
    let answer =
        send(&router, "DELETE", &format!("{MAPS}/a"), "application/yaml", "preconditions: {uid: other}\n").await;
    assert_eq!(answer.code, 409, "{answer:?}");
    let answer = send(&router, "POST", MAPS, "application/xml", "<a/>").await;
    let message = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!((answer.code, answer.message().as_str()), (415, message));
}

#[tokio::test]
async fn a_form_that_there_is_not_is_refused_in_json() {
    let router = router(api());
    let (code, _, body) = ask(&router, MAPS, &[("accept", "text/html")]).await;
    let status: Value = serde_json::from_slice(&body).unwrap();
    let message = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!((code, status["message"].as_str(), &status["details"]), (406, Some(message), &json!({})));
    let (code, _, body) = ask(&router, MAPS, &[("accept", "application/json;as=Foo;v=v1;g=meta.k8s.io")]).await;
    let status: Value = serde_json::from_slice(&body).unwrap();
    let message = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!((code, status["message"].as_str(), status.get("details")), (406, Some(message), None));
}

#[tokio::test]
async fn large_reads_are_compressed_for_those_who_ask() {
    let router = router(api());
    let unzip = |body: &Bytes| {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&**body).read_to_string(&mut text).unwrap();
        text
    };
    for number in 0..300 {
        post(&router, MAPS, &serde_json::to_value(config_map(&format!("m{number}"), &"x".repeat(1000))).unwrap()).await;
    }
    let plain = get(&router, MAPS).await.text;
    for (accept, path) in [("application/json", MAPS), ("application/yaml", MAPS)] {
        let (_, headers, body) = ask(&router, path, &[("accept", accept), ("accept-encoding", "gzip")]).await;
        assert_eq!(
            (&headers["content-encoding"], &headers["vary"]),
            (&"gzip".parse().unwrap(), &"Accept-Encoding".parse().unwrap())
        );
        assert!(body.len() < 100_000);
        if accept == "application/json" {
            assert_eq!(unzip(&body), plain);
        } else {
            assert!(unzip(&body).starts_with("apiVersion: v1\nitems:\n- data:\n"));
        }
    }
    let (_, headers, _) = ask(&router, &format!("{MAPS}/m1"), &[("accept-encoding", "gzip")]).await;
    assert!(!headers.contains_key("content-encoding"));
    let (_, headers, body) = ask(&router, MAPS, &[("accept-encoding", "identity")]).await;
    assert!(!headers.contains_key("content-encoding") && text(&body) == plain);
}

#[tokio::test]
async fn a_request_has_an_id() {
    let router = router(api());
    let (_, headers, _) = ask(&router, MAPS, &[("audit-id", "mine")]).await;
    assert_eq!(headers["audit-id"], "mine");
    let (_, first, _) = ask(&router, MAPS, &[]).await;
    let (_, second, _) = ask(&router, "/nothing", &[]).await;
    assert_ne!(first["audit-id"], second["audit-id"]);
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[tokio::test]
async fn protobuf_goes_in_and_out() {
    let router = router(api());
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {"template": {"spec": {
        "containers": [{"name": "c", "image": "busybox"}], "restartPolicy": "Never"}}}});
    let body = stint_schema::protobuf::encode_object(&job).unwrap();
    let answer = send(&router, "POST", jobs, PROTOBUF, body).await;
    assert_eq!((answer.code, &answer.json()["spec"]["completions"]), (201, &json!(1)), "{answer:?}");
    let plain = get(&router, &format!("{jobs}/a")).await.json();
    let (code, headers, message) = ask(&router, &format!("{jobs}/a"), &[("accept", PROTOBUF)]).await;
    assert_eq!((code, &headers["content-type"]), (200, &PROTOBUF.parse().unwrap()));
    assert_eq!(stint_schema::protobuf::decode_object(&message).unwrap()["spec"]["selector"], plain["spec"]["selector"]);
    let (_, _, list) = ask(&router, jobs, &[("accept", "application/vnd.kubernetes.protobuf,application/json")]).await;
    let list = stint_schema::protobuf::decode_object(&list).unwrap();
    assert_eq!((&list["kind"], &list["items"][0]["spec"]["selector"]), (&json!("JobList"), &plain["spec"]["selector"]));
    let accept = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let (_, _, list) = ask(&router, jobs, &[("accept", &accept)]).await;
    let list = stint_schema::protobuf::decode_object(&list).unwrap();
    assert_eq!(
        (&list["kind"], &list["items"][0]["metadata"]["uid"]),
        (&json!("PartialObjectMetadataList"), &plain["metadata"]["uid"])
    );
    let (code, _, missing) = ask(&router, &format!("{jobs}/b"), &[("accept", PROTOBUF)]).await;
    assert_eq!((code, &stint_schema::protobuf::decode_object(&missing).unwrap()["reason"]), (404, &json!("NotFound")));
    let options = json!({"apiVersion": "batch/v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "preconditions": {"uid": "x"}});
    let body = stint_schema::protobuf::encode_object(
        &json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "preconditions": {"uid": "x"}}),
    );
    let answer = send(&router, "DELETE", &format!("{jobs}/a"), PROTOBUF, body.unwrap()).await;
    assert_eq!(answer.code, 409, "{answer:?}");
    // Go's typed clients name the group of the object that they delete.
    let of = stint_schema::Schema::get().object("v1", "DeleteOptions").unwrap();
    let message = stint_schema::protobuf::encode(of, &options).unwrap();
    let body = stint_schema::protobuf::envelop("batch/v1", "DeleteOptions", &message);
    let answer = send(&router, "DELETE", &format!("{jobs}/a"), PROTOBUF, body).await;
    assert_eq!(answer.code, 409, "{answer:?}");
    for broken in [&b""[..], b"{}", b"k8s\0\xff\xff", b"k8s\0"] {
        let answer = send(&router, "POST", jobs, PROTOBUF, broken.to_vec()).await;
        assert_eq!(answer.code, 400, "{answer:?}");
    }
}

#[tokio::test]
async fn a_watch_in_protobuf_is_frames_with_their_lengths() {
    let router = router(api());
    post(&router, MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await;
    let request = Request::builder().uri(format!("{MAPS}?watch=1")).header("accept", PROTOBUF);
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], format!("{PROTOBUF};stream=watch"));
    let frame = response.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
    assert_eq!(length, frame.len() - 4);
    assert!(frame[4..].starts_with(b"\n\x05ADDED\x12"));
    let at = frame.windows(4).position(|window| window == b"k8s\0").unwrap();
    let object = stint_schema::protobuf::decode_object(&frame[at..]).unwrap();
    assert_eq!((&object["kind"], &object["data"]["k"]), (&json!("ConfigMap"), &json!("v")));
}
