//! `docs/compatibility.md` says what the tables say, and the server does what they say.

#[path = "../../examples/compatibility.rs"]
#[allow(dead_code, reason = "the example's own `main`")]
mod example;

use crate::support::{api, get, send};
use serde_json::json;
use stint_server::differences::{ABSENT, DIFFERENCES};
use stint_server::kinds::{KINDS, Scope};
use stint_server::router;

#[test]
fn the_page_about_compatibility_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compatibility.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == example::page(),
        "docs/compatibility.md is old; run: cargo run -p stint-server --example compatibility > docs/compatibility.md"
    );
}

#[test]
fn a_row_of_the_page_is_a_row() {
    let cells = DIFFERENCES.iter().flat_map(|difference| [difference.what, difference.here, difference.why]);
    for cell in cells.chain(ABSENT.iter().map(|absent| absent.why)) {
        assert!(!cell.is_empty() && !cell.contains(['|', '\n']), "{cell:?}");
    }
}

#[tokio::test]
async fn what_is_refused_is_refused_with_its_reason() {
    let router = router(api());
    let discovery = get(&router, "/api/v1").await.json();
    let served: Vec<&str> =
        discovery["resources"].as_array().unwrap().iter().filter_map(|resource| resource["name"].as_str()).collect();
    for absent in ABSENT {
        let kind = KINDS.iter().find(|kind| kind.group.is_empty() && kind.plural == absent.plural).unwrap();
        let name = format!("{}/{}", absent.plural, absent.segment);
        assert!(!served.contains(&name.as_str()), "{name} is discovered");
        let place = if kind.scope == Scope::Namespaced { "/api/v1/namespaces/default" } else { "/api/v1" };
        for (method, path) in [
            ("GET", format!("{place}/{}/x/{}", absent.plural, absent.segment)),
            ("PATCH", format!("{place}/{}/x/{}", absent.plural, absent.segment)),
            ("GET", format!("{place}/{}/x/{}/further/down", absent.plural, absent.segment)),
        ] {
            let answer = send(&router, method, &path, "application/strategic-merge-patch+json", "{}").await;
            let status = answer.json();
            assert_eq!((answer.code, &status["reason"]), (404, &json!("NotFound")), "{method} {path}");
            assert_eq!(status["message"], format!("{name} is not served: {}", absent.why));
            // `kubectl debug` reads the name in the details: without one, it is the subresource that is missing.
            assert_eq!(status["details"], json!({}), "{method} {path}");
        }
    }
    for unknown in ["pods/x/nothing", "configmaps/x/proxy", "pods/x/log/further"] {
        let status = get(&router, &format!("/api/v1/namespaces/default/{unknown}")).await.json();
        assert_eq!(status["message"], "the server could not find the requested resource", "{unknown}");
    }
}
