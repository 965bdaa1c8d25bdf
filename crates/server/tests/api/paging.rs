//! Lists in pages, and lists of earlier states.

use crate::support::{Answer, api, config_map, forgetful_api, get, post, send};
use serde_json::Value;
use stint_server::router;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(router: &axum::Router, names: &[&str]) {
    for name in names {
        let answer = post(router, MAPS, &serde_json::to_value(config_map(name, "x")).unwrap()).await;
        assert_eq!(answer.code, 201, "{answer:?}");
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

async fn page(router: &axum::Router, query: &str) -> Value {
    let answer = get(router, &format!("{MAPS}?{query}")).await;
    assert_eq!(answer.code, 200, "{answer:?}");
    answer.json()
}

fn token(page: &Value) -> &str {
    page["metadata"]["continue"].as_str().unwrap()
}

#[tokio::test]
async fn pages_are_of_one_state() {
    let router = router(api());
    create(&router, &["a", "b", "c", "d", "e"]).await;
    let first = page(&router, "limit=2").await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &3.into()));
    create(&router, &["bb", "f"]).await;
    send(&router, "DELETE", &format!("{MAPS}/d"), "application/json", "").await;
    let second = page(&router, &format!("limit=2&continue={}", token(&first))).await;
    assert_eq!((names(&second), &second["metadata"]["remainingItemCount"]), (vec!["c", "d"], &1.into()));
    let last = page(&router, &format!("limit=2&continue={}", token(&second))).await;
    assert_eq!(names(&last), ["e"]);
    assert!(last["metadata"].get("continue").is_none() && last["metadata"].get("remainingItemCount").is_none());
    for page in [&second, &last] {
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    }
    let all = get(&router, "/api/v1/configmaps?limit=4").await.json();
    let rest = get(&router, &format!("/api/v1/configmaps?continue={}", token(&all))).await.json();
    assert_eq!((names(&all), names(&rest)), (vec!["a", "b", "bb", "c"], vec!["e", "f"]));
}

#[tokio::test]
async fn a_page_is_filled_with_what_a_selector_takes() {
    let router = router(api());
    create(&router, &["a", "b", "c", "d"]).await;
    let first = page(&router, "limit=2&fieldSelector=metadata.name!%3Db").await;
    assert_eq!((names(&first), first["metadata"].get("remainingItemCount")), (vec!["a", "c"], None));
    let query = format!("limit=2&fieldSelector=metadata.name!%3Db&continue={}", token(&first));
    assert_eq!(names(&page(&router, &query).await), ["d"]);
}

#[tokio::test]
async fn the_limit_means_nothing_for_any_state() {
    let router = router(api());
    create(&router, &["a", "b", "c"]).await;
    for query in ["limit=2&resourceVersion=0", "limit=-1", "limit=0", "limit=3"] {
        let list = page(&router, query).await;
        assert!(names(&list).len() == 3 && list["metadata"].get("continue").is_none(), "{query}");
    }
}

#[tokio::test]
async fn an_earlier_state_is_listed_while_it_is_known() {
    let router = router(forgetful_api(6));
    create(&router, &["a", "b"]).await;
    let before = page(&router, "").await;
    let version = before["metadata"]["resourceVersion"].as_str().unwrap();
    send(&router, "DELETE", &format!("{MAPS}/a"), "application/json", "").await;
    create(&router, &["c"]).await;
    let exact = format!("resourceVersionMatch=Exact&resourceVersion={version}");
    assert_eq!(page(&router, &exact).await, before);
    let first = page(&router, &format!("{exact}&limit=1")).await;
    assert_eq!(names(&first), ["a"]);
    assert_eq!(names(&page(&router, &format!("limit=1&continue={}", token(&first))).await), ["b"]);
    create(&router, &["d", "e", "f", "g", "h", "i", "j"]).await;
    let gone = get(&router, &format!("{MAPS}?{exact}")).await;
    assert_eq!((gone.code, gone.message().as_str()), (410, "The resourceVersion for the provided list is too old."));
    let gone = get(&router, &format!("{MAPS}?limit=1&continue={}", token(&first))).await;
    let status = gone.json();
    assert_eq!((gone.code, &status["reason"]), (410, &"Expired".into()));
    let rest = page(&router, &format!("limit=3&continue={}", token(&status))).await;
    assert_eq!(names(&rest), ["b", "c", "d"]);
    assert_ne!(rest["metadata"]["resourceVersion"], version);
    assert_eq!(names(&page(&router, &format!("limit=2&continue={}", token(&rest))).await), ["e", "f"]);
}

#[tokio::test]
async fn options_that_contradict_each_other_are_refused() {
    let router = router(api());
    create(&router, &["a", "b"]).await;
    let first = page(&router, "limit=1").await;
    let token = token(&first);
    let said = |answer: Answer| (answer.code, answer.message());
    let ask = async |query: &str| said(get(&router, &format!("{MAPS}?{query}")).await);
    let wrong = "specifying resource version is not allowed when using continue";
    assert_eq!(ask(&format!("continue={token}&resourceVersion=1")).await, (400, wrong.into()));
    let (code, message) = ask(&format!("continue={token}&resourceVersion=1&resourceVersionMatch=Exact")).await;
    assert!(
        code == 422 && message.contains("resourceVersionMatch is forbidden when continue is provided"),
        "{message}"
    );
    let (code, message) = ask("continue=x*").await;
    assert!(code == 400 && message.starts_with("invalid continue token: continue key is not valid"), "{message}");
    let parse = "strconv.ParseInt: parsing \"x\": invalid syntax";
    assert_eq!(ask("limit=x").await, (400, parse.into()));
    assert_eq!(ask("resourceVersion=99&resourceVersionMatch=Exact").await.0, 504);
}
