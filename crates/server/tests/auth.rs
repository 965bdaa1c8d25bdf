//! Who may do what, through the router, as clients from outside see it.

mod support;

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use stint_server::auth::Auth;
use stint_server::{Api, Peer, router};
use stint_store::Mutation;
use support::{config_map, job, pod};
use tower::ServiceExt;

/// The user id that the daemon has in these tests.
const OWNER: u32 = 1000;

struct World {
    api: Api,
    router: axum::Router,
}

struct Answer {
    code: u16,
    headers: http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl World {
    fn new() -> Self {
        let api = support::api();
        let api = Api { auth: Some(Arc::new(Auth::new(api.store.clone(), OWNER))), ..api };
        Self { router: router(api.clone()), api }
    }

    async fn send(
        &self,
        peer: Option<Peer>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let mut request = request.body(body).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        // A watch does not end: its head is enough.
        let body = if path.contains("watch=") && code == 200 {
            Vec::new()
        } else {
            response.into_body().collect().await.unwrap().to_bytes().to_vec()
        };
        Answer { code, headers, text: String::from_utf8(body).unwrap() }
    }

    async fn get(&self, peer: &Peer, path: &str) -> Answer {
        self.send(Some(peer.clone()), "GET", path, &[], &Value::Null).await
    }

    async fn code(&self, peer: &Peer, method: &str, path: &str) -> u16 {
        self.send(Some(peer.clone()), method, path, &[], &Value::Null).await.code
    }

    /// Stores an object of rbac.authorization.k8s.io.
    async fn put(&self, plural: &str, object: Value) {
        let meta = &object["metadata"];
        let name = meta["name"].as_str().unwrap();
        let key = match meta["namespace"].as_str() {
            Some(namespace) => format!("rbac.authorization.k8s.io/{plural}/{namespace}/{name}"),
            None => format!("rbac.authorization.k8s.io/{plural}/{name}"),
        };
        self.api.store.write(Mutation::create(key, move |_| object.to_string().into())).await.unwrap();
    }

    /// Lets a user do this in the namespace `default`.
    async fn allow(&self, user: &str, verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) {
        let name = format!("{user}-{}", self.api.store.revision());
        let rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names});
        self.put("roles", json!({"metadata": {"name": name, "namespace": "default"}, "rules": [rule]})).await;
        let role = json!({"kind": "Role", "name": name});
        let subjects = json!([{"kind": "User", "name": user}]);
        let meta = json!({"name": name, "namespace": "default"});
        self.put("rolebindings", json!({"metadata": meta, "roleRef": role, "subjects": subjects})).await;
    }
}

fn certificate(name: &str) -> Peer {
    Peer::ClientCertificate { name: name.into(), groups: Vec::new(), address: None }
}

fn root() -> Peer {
    Peer::UnixSocket { uid: 0, gid: 0 }
}

fn stranger() -> Peer {
    Peer::Tcp { address: None }
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn root_the_owner_and_the_process_itself_may_do_everything() {
    let world = World::new();
    for peer in [root(), Peer::UnixSocket { uid: OWNER, gid: 5 }, Peer::InProcess] {
        assert_eq!(world.code(&peer, "GET", "/api/v1/secrets").await, 200, "{peer:?}");
    }
    let masters =
        Peer::ClientCertificate { name: "admin".into(), groups: vec!["system:masters".into()], address: None };
    assert_eq!(world.code(&masters, "GET", "/api/v1/secrets").await, 200);
    assert_eq!(world.code(&Peer::UnixSocket { uid: 1001, gid: 0 }, "GET", "/api/v1/secrets").await, 403);
}

#[tokio::test]
async fn without_credentials_only_health_and_version_are_readable() {
    let world = World::new();
    for path in ["/healthz", "/livez", "/readyz", "/version", "/version/"] {
        assert_eq!(world.code(&stranger(), "GET", path).await, 200, "{path}");
        let unmarked = world.send(None, "GET", path, &[], &Value::Null).await;
        assert_eq!(unmarked.code, 200, "{path}");
    }
    for path in ["/api", "/apis", "/apis/batch/v1", "/openapi/v3", "/metrics", PODS, "/nowhere", "/", "/api/v1/none"] {
        assert_eq!(world.code(&stranger(), "GET", path).await, 403, "{path}");
        let unmarked = world.send(None, "GET", path, &[], &Value::Null).await;
        assert_eq!(unmarked.code, 403, "a request of which nothing is known is one from outside: {path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(world.code(&stranger(), method, "/version").await, 403, "{method}");
    }
    let told = world.get(&stranger(), PODS).await;
    assert_eq!(
        told.message(),
        r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "default""#
    );
}

#[tokio::test]
async fn refusals_are_worded_as_upstream_words_them() {
    let world = World::new();
    let alice = certificate("alice");
    let rows = [
        (
            "GET",
            "/apis/batch/v1/namespaces/t1/jobs/base",
            r#"jobs.batch "base" is forbidden: User "alice" cannot get resource "jobs" in API group "batch" in the namespace "t1""#,
            json!({"name": "base", "group": "batch", "kind": "jobs"}),
        ),
        (
            "GET",
            "/api/v1/namespaces/t1/pods/p/log",
            r#"pods "p" is forbidden: User "alice" cannot get resource "pods/log" in API group "" in the namespace "t1""#,
            json!({"name": "p", "kind": "pods"}),
        ),
        (
            "DELETE",
            "/api/v1/nodes",
            r#"nodes is forbidden: User "alice" cannot deletecollection resource "nodes" in API group "" at the cluster scope"#,
            json!({"kind": "nodes"}),
        ),
        ("GET", "/metrics", r#"forbidden: User "alice" cannot get path "/metrics""#, json!({})),
    ];
    for (method, path, message, details) in rows {
        let answer = world.send(Some(alice.clone()), method, path, &[], &Value::Null).await;
        let expected = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": "Forbidden", "details": details, "code": 403,
        });
        assert_eq!((answer.code, answer.json()), (403, expected), "{method} {path}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn bad_credentials_are_worse_than_none() {
    let world = World::new();
    for token in ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
        let headers = [("authorization", format!("Bearer {token}"))];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for path in ["/version", PODS] {
            let answer = world.send(Some(stranger()), "GET", path, &headers, &Value::Null).await;
            let expected = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "Unauthorized", "reason": "Unauthorized", "code": 401,
            });
            assert_eq!((answer.code, answer.json()), (401, expected), "{token} {path}");
        }
    }
    let basic = [("authorization", "Basic cm9vdDpyb290")];
    assert_eq!(world.send(Some(stranger()), "GET", "/version", &basic, &Value::Null).await.code, 200);
    assert_eq!(world.send(Some(stranger()), "GET", PODS, &basic, &Value::Null).await.code, 403);
}

#[tokio::test]
async fn a_right_to_names_is_none_to_lists_except_of_that_name() {
    let world = World::new();
    world.allow("alice", &["*"], &[""], &["pods"], &["mine"]).await;
    let alice = certificate("alice");
    let rows = [
        ("GET", format!("{PODS}/mine"), 404),
        ("GET", format!("{PODS}/other"), 403),
        ("GET", PODS.to_owned(), 403),
        ("GET", format!("{PODS}?watch=1"), 403),
        ("GET", format!("{PODS}?fieldSelector=metadata.name%3Dmine"), 200),
        ("GET", format!("{PODS}?fieldSelector=metadata.name%3Dmine&watch=true"), 200),
        ("GET", format!("{PODS}?fieldSelector=metadata.name%3Dother"), 403),
        ("GET", format!("{PODS}?fieldSelector=metadata.name!%3Dmine"), 403),
        ("GET", format!("{PODS}?fieldSelector=status.phase%3Dmine"), 403),
        ("GET", format!("{PODS}?fieldSelector=metadata.name"), 403),
        ("GET", format!("{PODS}?labelSelector=metadata.name%3Dmine"), 403),
        ("POST", PODS.to_owned(), 403),
        ("DELETE", PODS.to_owned(), 403),
        ("DELETE", format!("{PODS}?fieldSelector=metadata.name%3Dmine"), 403),
        ("GET", format!("{PODS}/mine/status"), 403),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dmine".to_owned(), 403),
    ];
    for (method, path, code) in rows {
        assert_eq!(world.code(&alice, method, &path).await, code, "{method} {path}");
    }
}

#[tokio::test]
async fn a_list_of_one_name_shows_only_that_one() {
    let world = World::new();
    world.allow("alice", &["list"], &[""], &["configmaps"], &["mine"]).await;
    for name in ["mine", "other"] {
        let body = serde_json::to_value(config_map(name, "x")).unwrap();
        let path = "/api/v1/namespaces/default/configmaps";
        assert_eq!(world.send(Some(root()), "POST", path, &[], &body).await.code, 201);
    }
    for selector in ["metadata.name%3Dmine", "metadata.name%3Dmine,metadata.name%3Dother", "metadata.name%3D%3Dmine"] {
        let path = format!("/api/v1/namespaces/default/configmaps?fieldSelector={selector}");
        let answer = world.get(&certificate("alice"), &path).await;
        assert_eq!(answer.code, 200, "{selector}");
        assert!(!answer.text.contains("other"), "{selector}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_right_to_an_object_is_none_to_what_is_behind_it_and_the_other_way_round() {
    let world = World::new();
    world.allow("alice", &["get", "update", "create"], &[""], &["pods"], &[]).await;
    world.allow("bob", &["get", "create"], &[""], &["pods/log", "pods/status"], &[]).await;
    world.allow("carol", &["get"], &[""], &["pods/exec"], &[]).await;
    world.allow("dave", &["get", "create"], &[""], &["pods/exec"], &[]).await;
    let rows = [
        ("alice", "GET", "/p", 404),
        ("alice", "GET", "/p/log", 403),
        ("alice", "PUT", "/p/status", 403),
        ("alice", "POST", "/p/exec", 403),
        ("alice", "GET", "/p/exec", 403),
        ("alice", "POST", "/p/binding", 403),
        ("bob", "GET", "/p", 403),
        ("bob", "GET", "/p/status", 404),
        ("bob", "GET", "/p/exec", 403),
        ("bob", "GET", "", 403),
        ("carol", "GET", "/p/exec", 403),
        ("carol", "POST", "/p/exec", 403),
    ];
    for (user, method, rest, code) in rows {
        assert_eq!(
            world.code(&certificate(user), method, &format!("{PODS}{rest}")).await,
            code,
            "{user} {method} {rest}"
        );
    }
    assert_ne!(world.code(&certificate("dave"), "GET", &format!("{PODS}/p/exec")).await, 403);
}

#[tokio::test]
async fn no_way_of_writing_a_path_leads_elsewhere() {
    let world = World::new();
    world.allow("alice", &["*"], &["*"], &["*"], &[]).await;
    let pod = serde_json::to_value(pod("p")).unwrap();
    for namespace in ["kube-system", "default"] {
        let body = json!({"metadata": {"name": namespace}});
        world.send(Some(root()), "POST", "/api/v1/namespaces", &[], &body).await;
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        assert_eq!(world.send(Some(root()), "POST", &path, &[], &pod).await.code, 201);
    }
    let alice = certificate("alice");
    assert_eq!(world.code(&alice, "GET", &format!("{PODS}/p")).await, 200);
    let tricks = [
        "/api/v1/namespaces/kube-system/pods/p",
        "/api/v1/namespaces/default/../kube-system/pods/p",
        "/api/v1/namespaces/default/%2e%2e/kube-system/pods/p",
        "/api/v1/namespaces/default%2F..%2Fkube-system/pods/p",
        "/api/v1/namespaces/default/pods/..%2F..%2Fkube-system%2Fpods%2Fp",
        "/api/v1/namespaces/default/pods/%2e%2e%2fkube-system%2fp",
        "/api/v1/namespaces/default%00/pods/p",
        "/api/v1/namespaces//kube-system/pods/p",
        "/api/v1/namespaces/default//../kube-system/pods/p",
        "//api/v1/namespaces/kube-system/pods/p",
        "/api//v1/namespaces/kube-system/pods/p",
        "/api/v1/./namespaces/kube-system/pods/p",
        "/%61pi/v1/namespaces/kube-system/pods/p",
        "/api/v1/namespaces/%6Bube-system/pods/p",
        "/version/../api/v1/namespaces/kube-system/pods/p",
        "/healthz/..%2Fapi/v1/namespaces/kube-system/pods/p",
        "/api/v1/pods",
        "/api/v1/nodes",
        "/api/v1/namespaces",
        "/api/v1/namespaces/kube-system",
        "/apis//v1/pods",
        "/apis/%20/v1/pods",
        "/metrics/%2e%2e/version",
    ];
    for path in tricks {
        let answer = world.get(&alice, path).await;
        assert!(matches!(answer.code, 403 | 404), "{path}: {} {}", answer.code, answer.text);
        assert!(!answer.text.contains("\"uid\""), "{path}: {}", answer.text);
    }
    assert_eq!(world.code(&alice, "GET", "/api/v1/namespaces/default").await, 200, "her own namespace she may see");
}

#[tokio::test]
async fn to_impersonate_takes_a_right_for_each_part_of_the_identity() {
    let world = World::new();
    world.allow("bob", &["list"], &[""], &["pods"], &[]).await;
    let rule = |group: &str, resource: &str, names: &[&str]| json!({"verbs": ["impersonate"], "apiGroups": [group], "resources": [resource], "resourceNames": names});
    let rules = json!([
        rule("", "users", &["bob"]),
        rule("", "groups", &["dev"]),
        rule("authentication.k8s.io", "userextras/scopes", &["view"]),
        rule("authentication.k8s.io", "uids", &["7"]),
    ]);
    world.put("clusterroles", json!({"metadata": {"name": "imp"}, "rules": rules})).await;
    let binding = json!({
        "metadata": {"name": "imp"}, "roleRef": {"kind": "ClusterRole", "name": "imp"},
        "subjects": [{"kind": "User", "name": "alice"}],
    });
    world.put("clusterrolebindings", binding).await;
    let rows: &[(&[(&str, &str)], u16)] = &[
        (&[], 403),
        (&[("impersonate-user", "bob")], 200),
        (&[("impersonate-user", "bob"), ("impersonate-group", "dev")], 200),
        (&[("impersonate-user", "bob"), ("impersonate-uid", "7")], 200),
        (&[("impersonate-user", "bob"), ("impersonate-uid", "8")], 403),
        (&[("impersonate-user", "bob"), ("impersonate-extra-scopes", "view")], 200),
        (&[("impersonate-user", "bob"), ("impersonate-extra-scopes", "edit")], 403),
        (&[("impersonate-user", "bob"), ("impersonate-extra-other", "view")], 403),
        (&[("impersonate-user", "bob"), ("impersonate-group", "system:masters")], 403),
        (&[("impersonate-user", "bob"), ("impersonate-group", "dev"), ("impersonate-group", "system:masters")], 403),
        (&[("impersonate-user", "carol")], 403),
        (&[("impersonate-user", "system:serviceaccount:default:bob")], 403),
        (&[("impersonate-user", "")], 400),
        (&[("impersonate-group", "dev")], 400),
        (&[("impersonate-uid", "7")], 400),
        (&[("impersonate-extra-scopes", "view")], 400),
    ];
    for (headers, code) in rows {
        let answer = world.send(Some(certificate("alice")), "GET", PODS, headers, &Value::Null).await;
        assert_eq!(answer.code, *code, "{headers:?}: {}", answer.text);
    }
    let told = world.send(Some(stranger()), "GET", PODS, &[("impersonate-user", "bob")], &Value::Null).await;
    assert_eq!(
        told.message(),
        r#"users "bob" is forbidden: User "system:anonymous" cannot impersonate resource "users" in API group "" at the cluster scope"#
    );
    // Who may do everything gives it up.
    let headers = [("impersonate-user", "nobody")];
    assert_eq!(world.send(Some(root()), "GET", PODS, &headers, &Value::Null).await.code, 403);
    let headers = [("impersonate-user", "system:anonymous")];
    assert_eq!(world.send(Some(root()), "GET", "/api", &headers, &Value::Null).await.code, 403);
    let headers = [("impersonate-user", "nobody"), ("impersonate-group", "system:masters")];
    assert_eq!(world.send(Some(root()), "GET", PODS, &headers, &Value::Null).await.code, 200);
}

#[tokio::test]
async fn a_mutation_is_checked_before_its_body_is_looked_at() {
    let world = World::new();
    let answer = world
        .send(Some(certificate("alice")), "POST", "/apis/batch/v1/namespaces/default/jobs", &[], &json!("nonsense"))
        .await;
    assert_eq!(answer.code, 403);
    let body = serde_json::to_value(job("j")).unwrap();
    let path = "/apis/batch/v1/namespaces/default/jobs";
    world.allow("alice", &["create"], &["batch"], &["jobs"], &[]).await;
    assert_eq!(world.send(Some(certificate("alice")), "POST", path, &[], &body).await.code, 201);
}

#[tokio::test]
async fn the_usual_roles_are_there_and_making_them_again_changes_nothing() {
    let world = World::new();
    world.get(&root(), "/version").await;
    assert!(world.api.store.get("rbac.authorization.k8s.io/clusterroles/cluster-admin").is_some());
    let revision = world.api.store.revision();
    let again = router(world.api.clone());
    let request = Request::builder().uri("/version").body(Body::empty()).unwrap();
    assert_eq!(again.oneshot(request).await.unwrap().status(), 200);
    assert_eq!(world.api.store.revision(), revision);
}
