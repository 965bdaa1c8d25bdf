//! Discovery in both forms, and paths that lead nowhere.

use crate::support::{api, get};
use axum::body::Body;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use stint_server::router;
use tower::ServiceExt;

async fn ask(router: &axum::Router, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

fn recorded(file: &str) -> Option<Value> {
    let path = format!("{}/../../../shared/reference/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no recorded answers at {path}");
        return None;
    };
    Some(serde_json::from_str(&text).expect("recorded answers are JSON"))
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn named<'a>(list: &'a Value, member: &str, name: &Value) -> Option<&'a Value> {
    list.as_array().unwrap().iter().find(|entry| entry[member] == *name)
}

/// The same, without what is optional or what a server need not serve: verbs of kinds that are read only are a part.
fn compare(ours: &Value, theirs: &Value, member: &str, differ: &mut Vec<String>) {
    for (field, value) in ours.as_object().unwrap() {
        match field.as_str() {
            "subresources" => {
                for sub in value.as_array().unwrap() {
                    match named(&theirs["subresources"], "subresource", &sub["subresource"]) {
                        Some(known) if known == sub => {}
                        known => differ.push(format!("{}: {sub} is {known:?}", ours[member])),
                    }
                }
            }
            "verbs" => {
                let known: Vec<&Value> = theirs["verbs"].as_array().unwrap().iter().collect();
                let verbs = value.as_array().unwrap();
                if !verbs.iter().all(|verb| known.contains(&verb)) {
                    differ.push(format!("{}: verbs {value}", ours[member]));
                }
            }
            _ if theirs[field] == *value => {}
            _ => differ.push(format!("{}: {field} {value} is {}", ours[member], theirs[field])),
        }
    }
}

#[tokio::test]
async fn discovery_in_one_piece_tells_what_a_real_server_tells_of_the_same_kinds() {
    let router = router(api());
    for (path, file) in [("/api", "api_agg_v2.json"), ("/apis", "apis_agg_v2.json")] {
        let (code, headers, body) = ask(&router, path, &[("accept", AGGREGATED)]).await;
        assert_eq!((code, headers["content-type"].to_str().unwrap()), (200, AGGREGATED));
        assert_eq!(
            (&headers["vary"], &headers["cache-control"]),
            (&"Accept".parse().unwrap(), &"public".parse().unwrap())
        );
        let tag = headers["etag"].to_str().unwrap();
        assert_eq!(tag.len(), 130);
        let (code, _, nothing) = ask(&router, path, &[("accept", AGGREGATED), ("if-none-match", tag)]).await;
        assert_eq!((code, nothing.as_str()), (304, ""));
        let Some(theirs) = recorded(file) else { return };
        let ours: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&ours["kind"], &ours["apiVersion"]), (&theirs["kind"], &theirs["apiVersion"]));
        let mut differ = Vec::new();
        let order = |list: &Value| -> Vec<Value> {
            list["items"].as_array().unwrap().iter().map(|item| item["metadata"].clone()).collect()
        };
        let known: Vec<Value> = order(&theirs).into_iter().filter(|group| order(&ours).contains(group)).collect();
        assert_eq!(order(&ours), known, "groups in their order");
        for item in ours["items"].as_array().unwrap() {
            let group = named(&theirs["items"], "metadata", &item["metadata"]).unwrap();
            for version in item["versions"].as_array().unwrap() {
                let known = named(&group["versions"], "version", &version["version"]).unwrap();
                assert_eq!(version["freshness"], known["freshness"]);
                for resource in version["resources"].as_array().unwrap() {
                    match named(&known["resources"], "resource", &resource["resource"]) {
                        None => differ.push(format!("{} is not known", resource["resource"])),
                        Some(known) => compare(resource, known, "resource", &mut differ),
                    }
                }
            }
        }
        assert!(differ.is_empty(), "{path}: {}", differ.join("\n"));
    }
}

#[tokio::test]
async fn plain_lists_tell_what_a_real_server_tells_of_the_same_kinds() {
    let router = router(api());
    for (path, file) in [
        ("/api/v1", "disc_core_v1.json"),
        ("/apis/batch/v1/", "disc_batch_v1.json"),
        ("/apis/coordination.k8s.io/v1", "disc_coordination_v1.json"),
    ] {
        let Some(theirs) = recorded(file) else { return };
        let ours = get(&router, path).await.json();
        let mut differ = Vec::new();
        assert_eq!(ours["groupVersion"], theirs["groupVersion"]);
        for resource in ours["resources"].as_array().unwrap() {
            match named(&theirs["resources"], "name", &resource["name"]) {
                None => differ.push(format!("{} is not known", resource["name"])),
                Some(known) => compare(resource, known, "name", &mut differ),
            }
        }
        assert!(differ.is_empty(), "{path}: {}", differ.join("\n"));
    }
}

#[tokio::test]
async fn the_form_of_discovery_is_negotiated() {
    let router = router(api());
    for (accept, kind) in [
        ("application/json", "APIGroupList"),
        ("*/*", "APIGroupList"),
        (
            "application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io,application/json",
            "APIGroupDiscoveryList",
        ),
        ("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json", "APIGroupList"),
    ] {
        let (_, _, body) = ask(&router, "/apis", &[("accept", accept)]).await;
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["kind"], kind, "{accept}");
    }
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    assert_eq!(ask(&router, "/apis", &[("accept", beta)]).await.0, 406);
}

#[tokio::test]
async fn a_path_that_is_not_there_says_how_far_it_was_understood() {
    let router = router(api());
    for path in
        ["/apis/nothing.example.com", "/apis/nothing.example.com/v1", "/nothing", "/apis/nothing.example.com/v1/things"]
    {
        let answer = get(&router, path).await;
        assert_eq!((answer.code, answer.text.as_str()), (404, "404 page not found\n"), "{path}");
    }
    for path in ["/apis/batch/v2", "/api/v2", "/apis/batch/v1/things"] {
        let answer = get(&router, path).await.json();
        let message = "the server could not find the requested resource";
        assert_eq!((&answer["message"], &answer["details"]), (&json!(message), &json!({})), "{path}");
    }
    let paths = get(&router, "/").await.json();
    assert!(paths["paths"].as_array().unwrap().contains(&json!("/apis/batch/v1")), "{paths}");
}
