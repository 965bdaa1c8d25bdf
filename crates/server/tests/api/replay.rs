//! Properties: whatever is written, revisions grow, and the watch replays into the list.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{api, get, send};
use axum::body::Body;
use futures::StreamExt;
use http::Request;
use proptest::prelude::*;
use serde_json::{Value, json};
use stint_server::router;
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// One request, about one of a few objects.
#[derive(Clone, Debug)]
enum Step {
    Create(u8, u8, bool),
    Replace(u8, u8),
    Label(u8, bool),
    Release(u8),
    Delete(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_u8, 0..3_u8, any::<bool>()).prop_map(|(name, value, held)| Step::Create(name, value, held)),
        (0..4_u8, 0..3_u8).prop_map(|(name, value)| Step::Replace(name, value)),
        (0..4_u8, any::<bool>()).prop_map(|(name, on)| Step::Label(name, on)),
        (0..4_u8).prop_map(Step::Release),
        (0..4_u8).prop_map(Step::Delete),
    ];
    prop::collection::vec(step, 1..60)
}

async fn take(router: &axum::Router, step: &Step) -> Option<u64> {
    let body = |name: u8, value: u8, held: bool| {
        let finalizers = if held { json!(["example.com/x"]) } else { json!([]) };
        json!({"metadata": {"name": format!("m{name}"), "finalizers": finalizers}, "data": {"k": value.to_string()}})
            .to_string()
    };
    let at = |name: u8| format!("{MAPS}/m{name}");
    let answer = match step {
        Step::Create(name, value, held) => send(router, "POST", MAPS, JSON, body(*name, *value, *held)).await,
        Step::Replace(name, value) => send(router, "PUT", &at(*name), JSON, body(*name, *value, false)).await,
        Step::Label(name, on) => {
            let label = if *on { json!("on") } else { Value::Null };
            let patch = json!({"metadata": {"labels": {"x": label}}}).to_string();
            send(router, "PATCH", &at(*name), MERGE, patch).await
        }
        Step::Release(name) => send(router, "PATCH", &at(*name), MERGE, r#"{"metadata":{"finalizers":null}}"#).await,
        Step::Delete(name) => send(router, "DELETE", &at(*name), JSON, "").await,
    };
    assert!(answer.code < 500, "{step:?}: {}", answer.text);
    answer.json()["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok())
}

/// Follows a watch until `end` is created, and returns what is left, by name.
async fn replay(router: &axum::Router, selector: &str) -> BTreeMap<String, Value> {
    let request = Request::get(format!("{MAPS}?watch=1&resourceVersion=1{selector}")).body(Body::empty()).unwrap();
    let mut stream = router.clone().oneshot(request).await.unwrap().into_body().into_data_stream();
    let (mut text, mut last) = (String::new(), 0);
    let mut state = BTreeMap::new();
    loop {
        let Some(end) = text.find('\n') else {
            text.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
            continue;
        };
        let event: Value = serde_json::from_str(&text[..end]).unwrap();
        text.drain(..=end);
        let object = event["object"].clone();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let revision: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(revision > last, "revisions grow");
        last = revision;
        match event["type"].as_str().unwrap() {
            "ADDED" if name == "end" => return state,
            "ADDED" => assert!(state.insert(name, object).is_none(), "added once"),
            "MODIFIED" => assert!(state.insert(name, object).is_some(), "modified after it was added"),
            "DELETED" => assert!(state.remove(&name).is_some(), "deleted after it was added"),
            other => panic!("{other}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_watch_replays_into_the_list(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let router = router(api());
            let mut last = 0;
            let mut seen = BTreeSet::new();
            for step in &steps {
                if let Some(revision) = take(&router, step).await {
                    // An answer is either about a new revision or about one that was seen before.
                    assert!(revision > last || seen.contains(&revision), "{step:?}");
                    last = last.max(revision);
                    seen.insert(revision);
                }
            }
            for selector in ["", "&labelSelector=x%3Don"] {
                let list = get(&router, &format!("{MAPS}?{selector}")).await.json();
                let listed: BTreeMap<String, Value> = list["items"].as_array().unwrap().iter().map(|item| {
                    let mut item = item.clone();
                    item["kind"] = "ConfigMap".into();
                    item["apiVersion"] = "v1".into();
                    (item["metadata"]["name"].as_str().unwrap().to_owned(), item)
                }).collect();
                let end = json!({"metadata": {"name": "end", "labels": {"x": "on"}}}).to_string();
                send(&router, "POST", MAPS, JSON, end).await;
                assert_eq!(replay(&router, selector).await, listed);
                send(&router, "DELETE", &format!("{MAPS}/end"), JSON, "").await;
            }
        });
    }
}
