//! Watches through a real `kube::Client`, and over raw bytes where a client library hides what is sent.

use std::time::Duration;

use crate::support::{api, client, config_map, forgetful_api, pod};
use axum::body::Body;
use futures::{StreamExt, TryStreamExt};
use http::Request;
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use stint_server::router;
use tower::ServiceExt;

const POST: PostParams = PostParams { dry_run: false, field_manager: None };

fn word(event: &WatchEvent<impl ResourceExt>) -> String {
    match event {
        WatchEvent::Added(object) => format!("ADDED {}", object.name_any()),
        WatchEvent::Modified(object) => format!("MODIFIED {}", object.name_any()),
        WatchEvent::Deleted(object) => format!("DELETED {}", object.name_any()),
        WatchEvent::Bookmark(_) => "BOOKMARK".into(),
        WatchEvent::Error(status) => format!("ERROR {} {}", status.code, status.reason),
    }
}

async fn words<K>(api: &Api<K>, params: &WatchParams, version: &str, count: usize) -> Vec<String>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + ResourceExt,
{
    let stream = api.watch(params, version).await.unwrap();
    let events = stream.take(count).map_ok(|event| word(&event)).try_collect();
    tokio::time::timeout(Duration::from_mins(2), events).await.expect("events in time").unwrap()
}

#[tokio::test]
async fn a_watch_resumes_after_the_version_that_it_is_given() {
    let maps: Api<ConfigMap> = Api::default_namespaced(client());
    let first = maps.create(&POST, &config_map("a", "1")).await.unwrap();
    maps.replace("a", &POST, &config_map("a", "2")).await.unwrap();
    maps.create(&POST, &config_map("b", "1")).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let version = first.resource_version().unwrap();
    let params = WatchParams::default();
    assert_eq!(words(&maps, &params, &version, 3).await, ["MODIFIED a", "ADDED b", "DELETED a"]);
    assert_eq!(words(&maps, &params, "0", 1).await, ["ADDED b"]);
}

#[tokio::test]
async fn a_watch_sees_its_namespace_and_its_kind_only() {
    let client = client();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let all: Api<ConfigMap> = Api::all(client.clone());
    let elsewhere: Api<ConfigMap> = Api::namespaced(client.clone(), "default2");
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client);
    let other = serde_json::from_value(json!({"metadata": {"name": "default2"}})).unwrap();
    let start = namespaces.create(&POST, &other).await.unwrap().resource_version().unwrap();
    elsewhere.create(&POST, &config_map("x", "1")).await.unwrap();
    pods.create(&POST, &pod("p")).await.unwrap();
    maps.create(&POST, &config_map("y", "1")).await.unwrap();
    let params = WatchParams::default();
    assert_eq!(words(&maps, &params, &start, 1).await, ["ADDED y"]);
    assert_eq!(words(&all, &params, &start, 2).await, ["ADDED x", "ADDED y"]);
}

#[tokio::test]
async fn an_object_that_starts_or_stops_matching_is_added_or_deleted() {
    let pods: Api<Pod> = Api::default_namespaced(client());
    let start = pods.create(&POST, &pod("p")).await.unwrap().resource_version().unwrap();
    for label in ["in", "out", "in"] {
        let patch = json!({"metadata": {"labels": {"x": label}}});
        pods.patch("p", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }
    let patch = json!({"metadata": {"labels": {"y": "z"}}});
    pods.patch("p", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    let labels = WatchParams::default().labels("x=in");
    let expected = ["ADDED p", "DELETED p", "ADDED p", "MODIFIED p", "MODIFIED p", "DELETED p"];
    assert_eq!(words(&pods, &labels, &start, 6).await, expected);
    let fields = WatchParams::default().fields("metadata.name=p,status.phase=Pending");
    assert_eq!(words(&pods, &fields, "0", 0).await.len(), 0);
    assert_eq!(words(&pods, &fields, &start, 6).await.last().unwrap(), "DELETED p");
}

#[tokio::test]
async fn a_released_object_is_only_seen_to_be_deleted_and_still_shows_its_finalizer() {
    let maps: Api<ConfigMap> = Api::default_namespaced(client());
    let mut map = config_map("a", "1");
    map.metadata.finalizers = Some(vec!["example.com/x".into()]);
    maps.create(&POST, &map).await.unwrap();
    let marked = maps.delete("a", &DeleteParams::default()).await.unwrap().unwrap_left();
    let none = json!({"metadata": {"finalizers": null}});
    let answer = maps.patch("a", &PatchParams::default(), &Patch::Merge(none)).await.unwrap();
    maps.create(&POST, &config_map("end", "1")).await.unwrap();
    let stream = maps.watch(&WatchParams::default(), &marked.resource_version().unwrap()).await.unwrap();
    let events: Vec<_> = stream.take(2).try_collect().await.unwrap();
    let WatchEvent::Deleted(last) = &events[0] else { panic!("{:?}", events[0]) };
    assert_eq!(last.finalizers(), ["example.com/x"]);
    assert_eq!(last.resource_version(), answer.resource_version());
    assert_eq!(word(&events[1]), "ADDED end");
}

#[tokio::test]
async fn what_has_left_the_history_is_an_expired_error_event() {
    let client = Client::new(router(forgetful_api(4)), "default");
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    for number in 0..10 {
        maps.create(&POST, &config_map(&format!("m{number}"), "1")).await.unwrap();
    }
    assert_eq!(words(&maps, &WatchParams::default(), "1", 2).await, ["ERROR 410 Expired"]);
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let maps: Api<ConfigMap> = Api::default_namespaced(client());
    maps.create(&POST, &config_map("a", "1")).await.unwrap();
    let last = maps.create(&POST, &config_map("b", "1")).await.unwrap();
    let params = WatchParams::default().initial_events();
    let stream = maps.watch(&params, "0").await.unwrap();
    let events: Vec<_> = stream.take(3).try_collect().await.unwrap();
    assert_eq!(events.iter().map(word).collect::<Vec<_>>(), ["ADDED a", "ADDED b", "BOOKMARK"]);
    let WatchEvent::Bookmark(end) = &events[2] else { panic!("no bookmark") };
    assert_eq!(end.metadata.annotations["k8s.io/initial-events-end"], "true");
    assert_eq!(Some(&end.metadata.resource_version), last.resource_version().as_ref());
}

#[tokio::test]
async fn the_watcher_of_kube_runtime_follows_both_ways_of_listing() {
    let maps: Api<ConfigMap> = Api::default_namespaced(client());
    maps.create(&POST, &config_map("a", "1")).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = Box::pin(watcher(maps.clone(), config));
        let mut seen = Vec::new();
        while seen.last() != Some(&"done".to_owned()) {
            seen.push(match events.try_next().await.unwrap().unwrap() {
                watcher::Event::Init => "init".into(),
                watcher::Event::InitApply(object) => object.name_any(),
                watcher::Event::InitDone => "done".into(),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(seen, ["init", "a", "done"]);
    }
}

async fn body(router: &axum::Router, query: &str) -> Body {
    let request = Request::get(format!("/api/v1/namespaces/default/configmaps?watch=1{query}")).body(Body::empty());
    router.clone().oneshot(request.unwrap()).await.unwrap().into_body()
}

/// Headers arrive with nothing to report, then one JSON document per line, and at the deadline a clean end.
#[tokio::test(start_paused = true)]
async fn a_quiet_watch_sends_bookmarks_and_ends_at_its_deadline() {
    let api = api();
    let router = router(api.clone());
    let stream = body(&router, "&allowWatchBookmarks=true&timeoutSeconds=150").await;
    let text = String::from_utf8(stream.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{text}"); // after 60 s, 120 s and 148 s
    for line in lines {
        assert_eq!(line["type"], "BOOKMARK");
        let version = api.store.revision().to_string();
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": version}});
        assert_eq!(line["object"], object);
    }
}

#[tokio::test]
async fn a_watch_ends_when_the_store_is_gone() {
    let api = api();
    let router = router(api.clone());
    let stream = body(&router, "").await;
    drop((router, api));
    let end = tokio::time::timeout(Duration::from_mins(2), stream.collect()).await.expect("ends").unwrap();
    assert!(end.to_bytes().is_empty());
}

#[tokio::test(start_paused = true)] // it waits for three seconds, which pass on a busy machine
async fn a_list_waits_for_a_version_that_is_about_to_come() {
    let api = api();
    let maps: Api<ConfigMap> = Api::default_namespaced(Client::new(router(api.clone()), "default"));
    maps.create(&POST, &config_map("a", "1")).await.unwrap();
    let next = (api.store.revision().0 + 1).to_string();
    let params = ListParams::default().at(&next).matching(kube::api::VersionMatch::NotOlderThan);
    let (list, made) = tokio::join!(maps.list(&params), async {
        tokio::task::yield_now().await;
        let b = config_map("b", "1");
        maps.create(&POST, &b).await
    });
    assert_eq!((list.unwrap().items.len(), made.unwrap().name_any().as_str()), (2, "b"));
}

/// The objects of a watch's first `count` events, asked for with `accept`.
async fn shaped(router: &axum::Router, query: &str, accept: &str, count: usize) -> Vec<Value> {
    let uri = format!("/api/v1/namespaces/default/configmaps?watch=true&{query}");
    let request = Request::builder().uri(uri).header("accept", accept).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    let mut body = response.into_body().into_data_stream();
    let (mut text, mut events) = (Vec::new(), Vec::new());
    while events.len() < count {
        text.extend(body.next().await.expect("more events").unwrap());
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            events.push(serde_json::from_slice(&line).unwrap());
        }
    }
    events
}

#[tokio::test]
async fn a_watch_is_told_in_rows_and_tells_the_columns_once() {
    let router = router(api());
    let maps: Api<ConfigMap> = Api::default_namespaced(Client::new(router.clone(), "default"));
    for name in ["a", "b"] {
        maps.create(&POST, &config_map(name, "1")).await.unwrap();
    }
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let events = shaped(&router, query, table, 3).await;
    let told: Vec<_> = events.iter().map(|event| (event["type"].as_str().unwrap(), &event["object"]["kind"])).collect();
    assert_eq!(told, [("ADDED", &json!("Table")), ("ADDED", &json!("Table")), ("BOOKMARK", &json!("Table"))]);
    assert_eq!(events[0]["object"]["columnDefinitions"].as_array().unwrap().len(), 3);
    assert_eq!(events[1]["object"]["columnDefinitions"], Value::Null);
    assert_eq!(events[1]["object"]["rows"][0]["cells"], json!(["b", 1, "0s"]));
    let version = &events[1]["object"]["rows"][0]["object"]["metadata"]["resourceVersion"];
    assert_eq!(&events[1]["object"]["metadata"]["resourceVersion"], version);
    assert_eq!(
        (&events[2]["object"]["rows"], &events[2]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"]),
        (&json!([]), &json!("true"))
    );
}

#[tokio::test]
async fn a_watch_of_metadata_tells_nothing_else() {
    let router = router(api());
    let maps: Api<ConfigMap> = Api::default_namespaced(Client::new(router.clone(), "default"));
    maps.create(&POST, &config_map("a", "1")).await.unwrap();
    let accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let events = shaped(&router, "", accept, 1).await;
    let object = &events[0]["object"];
    assert_eq!(
        (&object["kind"], &object["metadata"]["name"], object.get("data")),
        (&json!("PartialObjectMetadata"), &json!("a"), None)
    );
}

#[tokio::test]
async fn there_is_no_watch_in_yaml() {
    let request = Request::builder().uri("/api/v1/pods?watch=1").header("accept", "application/yaml");
    let response = router(api()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status().as_u16(), 406);
}
