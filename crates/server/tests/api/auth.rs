//! Who may do what, through the router, as clients from outside see it.

use std::sync::Arc;

use crate::support::{config_map, job, pod};
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use stint_server::auth::Auth;
use stint_server::{Api, Peer, router};
use stint_store::Mutation;
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
        let api = crate::support::api();
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

const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

impl World {
    async fn post(&self, peer: &Peer, path: &str, body: &Value) -> Answer {
        self.send(Some(peer.clone()), "POST", path, &[], body).await
    }

    /// Stores an object of the core group.
    async fn put_core(&self, key: &str, object: Value) {
        let key = format!("core/{key}");
        if let Some(entry) = self.api.store.get(&key) {
            self.api.store.write(Mutation::delete(key.clone(), entry.revision, |_| "{}".into())).await.unwrap();
        }
        self.api.store.write(Mutation::create(key, move |_| object.to_string().into())).await.unwrap();
    }
}

#[tokio::test]
async fn may_i_is_answered_for_who_asks() {
    let world = World::new();
    world.allow("alice", &["get"], &["batch"], &["jobs", "jobs/status"], &[]).await;
    let path = format!("{REVIEWS}/selfsubjectaccessreviews");
    let ask = |attributes: Value| json!({"spec": {"resourceAttributes": attributes}});
    let yes = json!({"namespace": "default", "verb": "get", "group": "batch", "resource": "jobs"});
    let status_of_it =
        json!({"namespace": "default", "verb": "get", "group": "batch", "resource": "jobs", "subresource": "status"});
    let no = json!({"namespace": "default", "verb": "delete", "group": "batch", "resource": "jobs"});
    for (attributes, allowed) in
        [(&yes, true), (&status_of_it, true), (&no, false), (&json!({"verb": "*", "resource": "*"}), false)]
    {
        let answer = world.post(&certificate("alice"), &path, &ask(attributes.clone())).await;
        assert_eq!((answer.code, &answer.json()["status"]["allowed"]), (201, &json!(allowed)), "{attributes}");
    }
    let answer = world.post(&certificate("alice"), &path, &ask(yes.clone())).await.json();
    assert_eq!(
        (&answer["kind"], &answer["apiVersion"]),
        (&json!("SelfSubjectAccessReview"), &json!("authorization.k8s.io/v1"))
    );
    assert_eq!(answer["spec"]["resourceAttributes"], yes);
    let reason = answer["status"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("RBAC: allowed by RoleBinding \"alice-"), "{reason}");
    for peer in [root(), Peer::InProcess] {
        assert_eq!(world.post(&peer, &path, &ask(no.clone())).await.json()["status"], json!({"allowed": true}));
    }
    assert_eq!(world.post(&stranger(), &path, &ask(yes)).await.code, 403);
    let url = json!({"spec": {"nonResourceAttributes": {"path": "/healthz", "verb": "get"}}});
    assert_eq!(world.post(&certificate("alice"), &path, &url).await.json()["status"]["allowed"], true);
    let neither = world.post(&certificate("alice"), &path, &json!({"spec": {}})).await;
    assert_eq!(
        (neither.code, neither.message().as_str()),
        (
            422,
            "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: null: \
             exactly one of nonResourceAttributes or resourceAttributes must be specified"
        )
    );
    assert_eq!(world.code(&certificate("alice"), "GET", &path).await, 403);
    assert_eq!(world.code(&root(), "GET", &path).await, 405);
}

#[tokio::test]
async fn what_others_may_is_told_to_who_may_know() {
    let world = World::new();
    world.allow("bob", &["list"], &[""], &["pods"], &[]).await;
    world.allow("carol", &["create"], &["authorization.k8s.io"], &["localsubjectaccessreviews"], &[]).await;
    let everywhere = format!("{REVIEWS}/subjectaccessreviews");
    let here = format!("{REVIEWS}/namespaces/default/localsubjectaccessreviews");
    let body = |user: &str, namespace: &str| json!({"spec": {"user": user, "resourceAttributes": {"namespace": namespace, "verb": "list", "resource": "pods"}}});
    assert_eq!(world.post(&root(), &everywhere, &body("bob", "default")).await.json()["status"]["allowed"], true);
    assert_eq!(
        world.post(&root(), &everywhere, &body("bob", "other")).await.json()["status"],
        json!({"allowed": false})
    );
    assert_eq!(world.post(&certificate("carol"), &everywhere, &body("bob", "default")).await.code, 403);
    assert_eq!(
        world.post(&certificate("carol"), &here, &body("bob", "default")).await.json()["status"]["allowed"],
        true
    );
    assert_eq!(world.post(&certificate("carol"), &here, &body("bob", "other")).await.code, 422);
    let nobody = world.post(&root(), &everywhere, &body("", "default")).await;
    assert!(nobody.code == 422 && nobody.message().contains("at least one of user or group must be specified"));
    let masters = json!({"spec": {
        "groups": ["system:masters"], "resourceAttributes": {"verb": "delete", "resource": "nodes"},
    }});
    assert_eq!(world.post(&root(), &everywhere, &masters).await.json()["status"]["allowed"], true);
}

#[tokio::test]
async fn what_i_may_in_a_namespace_is_listed() {
    let world = World::new();
    world.allow("alice", &["get"], &["batch"], &["jobs"], &["mine"]).await;
    let path = format!("{REVIEWS}/selfsubjectrulesreviews");
    let answer = world.post(&certificate("alice"), &path, &json!({"spec": {"namespace": "default"}})).await;
    let status = &answer.json()["status"];
    assert_eq!((answer.code, &status["incomplete"]), (201, &json!(false)));
    let own = json!({"verbs": ["get"], "apiGroups": ["batch"], "resources": ["jobs"], "resourceNames": ["mine"]});
    assert!(status["resourceRules"].as_array().unwrap().contains(&own), "{status}");
    let paths = status["nonResourceRules"].to_string();
    assert!(paths.contains("/healthz") && paths.contains("/apis/*"), "{paths}");
    let elsewhere = world.post(&certificate("alice"), &path, &json!({"spec": {"namespace": "other"}})).await.json();
    assert!(!elsewhere["status"]["resourceRules"].as_array().unwrap().contains(&own));
    let nowhere = world.post(&certificate("alice"), &path, &json!({"spec": {}})).await;
    assert_eq!((nowhere.code, nowhere.message().as_str()), (400, "no namespace on request"));
}

#[tokio::test]
async fn who_am_i_is_answered() {
    let world = World::new();
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = world.post(&certificate("alice"), path, &json!({})).await;
    let expected = json!({"userInfo": {"username": "alice", "groups": ["system:authenticated"]}});
    assert_eq!((answer.code, &answer.json()["status"]), (201, &expected));
    let headers = [("impersonate-user", "system:serviceaccount:a:b"), ("impersonate-extra-x%2fy", "1")];
    let answer = world.send(Some(root()), "POST", path, &headers, &json!({})).await;
    let expected = json!({"userInfo": {
        "username": "system:serviceaccount:a:b",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"],
        "extra": {"x/y": ["1"]},
    }});
    assert_eq!(answer.json()["status"], expected);
    let extra = [("impersonate-user", "bob"), ("impersonate-extra-x%2Fy", "1")];
    let answer = world.send(Some(root()), "POST", path, &extra, &json!({"kind": "Pod", "apiVersion": "v1"})).await;
    assert_eq!(answer.code, 400);
}

#[tokio::test]
async fn discovery_lists_the_reviews() {
    let world = World::new();
    let groups = world.get(&root(), "/apis").await.text;
    for group in ["authentication.k8s.io", "authorization.k8s.io"] {
        assert!(groups.contains(group), "{groups}");
        assert_eq!(world.code(&root(), "GET", &format!("/apis/{group}")).await, 200);
        assert_eq!(world.code(&root(), "GET", &format!("/apis/{group}/v1beta1")).await, 404);
    }
    let list = world.get(&root(), REVIEWS).await.json();
    let local = &list["resources"][0];
    assert_eq!(
        (&local["name"], &local["namespaced"], &local["verbs"]),
        (&json!("localsubjectaccessreviews"), &json!(true), &json!(["create"]))
    );
}

/// A world with an account, a pod of it, and rights for it.
async fn world_of_a_robot() -> World {
    use stint_auth::keys::{Keyring, generate};
    use stint_auth::token::Tokens;
    let api = crate::support::api();
    let tokens = Tokens::new("https://kubernetes.default.svc", Keyring::from_pem(&generate().unwrap()).unwrap());
    let api = Api { auth: Some(Arc::new(Auth::new(api.store.clone(), OWNER).with_tokens(tokens))), ..api };
    let world = World { router: router(api.clone()), api };
    world.put_core("serviceaccounts/default/robot", json!({"metadata": {"uid": "u1"}})).await;
    world
        .put_core(
            "pods/default/p",
            json!({"metadata": {"uid": "u2"}, "spec": {"serviceAccountName": "robot", "nodeName": "n"}}),
        )
        .await;
    world.put_core("pods/default/q", json!({"metadata": {"uid": "u3"}, "spec": {"serviceAccountName": "other"}})).await;
    world.allow("system:serviceaccount:default:robot", &["list"], &[""], &["configmaps"], &[]).await;
    world
}

const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/robot/token";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

impl World {
    async fn token(&self, spec: Value) -> String {
        let answer = self.post(&root(), TOKEN, &json!({"spec": spec})).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        answer.json()["status"]["token"].as_str().unwrap().to_owned()
    }

    async fn with_token(&self, peer: Peer, token: &str, path: &str) -> u16 {
        let header = format!("Bearer {token}");
        self.send(Some(peer), "GET", path, &[("authorization", &header)], &Value::Null).await.code
    }
}

#[tokio::test]
async fn a_token_request_is_answered_with_a_token_that_works() {
    let world = world_of_a_robot().await;
    let answer = world.post(&root(), TOKEN, &json!({"spec": {"expirationSeconds": 600}})).await;
    let body = answer.json();
    assert_eq!((answer.code, &body["kind"]), (201, &json!("TokenRequest")));
    assert_eq!(body["metadata"]["name"], "robot");
    assert_eq!(body["spec"], json!({"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 600}));
    assert_eq!(body["status"]["expirationTimestamp"], "2026-01-02T03:14:05Z");
    let token = body["status"]["token"].as_str().unwrap();
    assert_eq!(world.with_token(stranger(), token, MAPS).await, 200);
    assert_eq!(world.with_token(stranger(), token, PODS).await, 403);
    let (before, rest) = token.split_at(token.len() - 20);
    let other = if rest.starts_with('A') { 'B' } else { 'A' };
    let changed = format!("{before}{other}{}", &rest[1..]);
    assert_eq!(world.with_token(stranger(), &changed, MAPS).await, 401);
    // A token is sent on purpose: it counts more than the socket, and less than a certificate.
    assert_eq!(world.with_token(root(), token, PODS).await, 403);
    assert_eq!(world.with_token(root(), &changed, PODS).await, 401);
    let admin = Peer::ClientCertificate { name: "admin".into(), groups: vec!["system:masters".into()], address: None };
    assert_eq!(world.with_token(admin, token, PODS).await, 200);
    let other = world.token(json!({"audiences": ["vault"]})).await;
    assert_eq!(world.with_token(stranger(), &other, MAPS).await, 401);
}

#[tokio::test]
async fn a_bound_token_ends_with_its_pod() {
    let world = world_of_a_robot().await;
    let bound = |name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}});
    let token = world.token(bound("p", "u2")).await;
    assert_eq!(world.with_token(stranger(), &token, MAPS).await, 200);
    world
        .put_core("pods/default/p", json!({"metadata": {"uid": "new"}, "spec": {"serviceAccountName": "robot"}}))
        .await;
    assert_eq!(world.with_token(stranger(), &token, MAPS).await, 401);
    let free = world.token(json!({})).await;
    assert_eq!(world.with_token(stranger(), &free, MAPS).await, 200);
    world.put_core("serviceaccounts/default/robot", json!({"metadata": {"uid": "new"}})).await;
    assert_eq!(world.with_token(stranger(), &free, MAPS).await, 401);
}

#[tokio::test]
async fn a_senseless_token_request_is_refused() {
    let world = world_of_a_robot().await;
    let bound = |api: &str, kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": api, "kind": kind, "name": name, "uid": uid}});
    let rows = [
        (json!({"expirationSeconds": 599}), 422, "may not specify a duration less than 10 minutes"),
        (json!({"expirationSeconds": 4_294_967_297_i64}), 422, "may not specify a duration larger than 2^32 seconds"),
        (json!({"expirationSeconds": -1}), 422, "less than 10 minutes"),
        (bound("v1", "Pod", "none", ""), 404, "pods \"none\" not found"),
        (
            bound("v1", "Pod", "p", "zzz"),
            409,
            "the UID in the bound object reference (zzz) does not match the UID in record",
        ),
        (
            bound("v1", "Pod", "q", ""),
            400,
            "cannot bind token for serviceaccount \"robot\" to pod running with different serviceaccount name.",
        ),
        (bound("batch/v1", "Job", "p", ""), 400, "cannot bind token to object of type batch/v1, Kind=Job"),
        (bound("v1", "ConfigMap", "p", ""), 400, "cannot bind token to object of type /v1, Kind=ConfigMap"),
        (bound("v1", "Pod", "../other/p", ""), 404, "not found"),
    ];
    for (spec, code, message) in rows {
        let answer = world.post(&root(), TOKEN, &json!({"spec": spec})).await;
        assert_eq!(answer.code, code, "{spec}: {}", answer.text);
        assert!(answer.message().contains(message), "{spec}: {}", answer.text);
    }
    let none = world.post(&root(), "/api/v1/namespaces/default/serviceaccounts/none/token", &json!({"spec": {}})).await;
    assert_eq!((none.code, none.message().as_str()), (404, "serviceaccounts \"none\" not found"));
    assert_eq!(world.post(&certificate("alice"), TOKEN, &json!({"spec": {}})).await.code, 403);
    assert_eq!(world.code(&root(), "GET", TOKEN).await, 405);
}

#[tokio::test]
async fn a_token_review_tells_whose_a_token_is() {
    let world = world_of_a_robot().await;
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let token = world.token(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}})).await;
    let review = |token: &str, audiences: &[&str]| json!({"spec": {"token": token, "audiences": audiences}});
    let status = world.post(&root(), path, &review(&token, &[])).await.json()["status"].clone();
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!(["https://kubernetes.default.svc"]));
    let user = &status["user"];
    assert_eq!((&user["username"], &user["uid"]), (&json!("system:serviceaccount:default:robot"), &json!("u1")));
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["n"]));
    let elsewhere = world.post(&root(), path, &review(&token, &["vault"])).await.json()["status"].clone();
    assert!(elsewhere["authenticated"].is_null() && elsewhere["error"].as_str().unwrap().contains("audiences"));
    let bad = world.post(&root(), path, &review("x", &[])).await.json()["status"].clone();
    assert_eq!(bad, json!({"error": "invalid bearer token"}));
    assert_eq!(world.post(&root(), path, &review("", &[])).await.code, 400);
    assert_eq!(world.post(&certificate("alice"), path, &review(&token, &[])).await.code, 403);
}

#[tokio::test]
async fn the_keys_of_tokens_are_public_to_service_accounts() {
    let world = world_of_a_robot().await;
    let token = world.token(json!({})).await;
    for path in ["/.well-known/openid-configuration", "/openid/v1/jwks"] {
        assert_eq!(world.with_token(stranger(), &token, path).await, 200, "{path}");
        assert_eq!(world.code(&certificate("alice"), "GET", path).await, 403, "{path}");
        assert_eq!(world.code(&stranger(), "GET", path).await, 403, "{path}");
    }
    let keys = world.get(&root(), "/openid/v1/jwks").await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    assert_eq!(keys.json()["keys"][0]["alg"], "ES256");
    assert!(keys.json()["keys"][0].get("d").is_none(), "no private key");
    let configuration = world.get(&root(), "/.well-known/openid-configuration").await.json();
    assert_eq!(configuration["jwks_uri"], "https://kubernetes.default.svc/openid/v1/jwks");
}

impl World {
    fn with(auth: impl FnOnce(Auth) -> Auth) -> Self {
        let api = crate::support::api();
        let api = Api { auth: Some(Arc::new(auth(Auth::new(api.store.clone(), OWNER)))), ..api };
        Self { router: router(api.clone()), api }
    }
}

#[tokio::test]
async fn the_audit_log_tells_of_every_request_and_holds_nothing_secret() {
    use stint_auth::audit::{AuditLog, Options};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let log = AuditLog::open(&Options::new(path.clone())).unwrap();
    let world = World::with(|auth| auth.with_audit(log));
    world.allow("bob", &["list"], &[""], &["pods"], &[]).await;
    let address = Some("10.0.0.9".parse().unwrap());
    let alice = Peer::ClientCertificate { name: "alice".into(), groups: Vec::new(), address };
    let agent = ("user-agent", "kubectl/v1.33");
    world
        .send(
            Some(alice),
            "GET",
            "/api/v1/namespaces/default/secrets/s?pretty=1",
            &[agent, ("audit-id", "mine")],
            &Value::Null,
        )
        .await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    world.send(Some(root()), "POST", "/api/v1/namespaces/default/secrets", &[], &secret).await;
    world.send(Some(root()), "GET", PODS, &[("impersonate-user", "bob")], &Value::Null).await;
    world.send(Some(stranger()), "GET", PODS, &[("authorization", "Bearer hunter2")], &Value::Null).await;
    world.send(Some(root()), "POST", &format!("{PODS}/p/exec?command=login&command=hunter2"), &[], &Value::Null).await;
    world.send(Some(root()), "GET", &format!("{PODS}?watch=true"), &[], &Value::Null).await;
    for path in ["/healthz", "/version", "/readyz"] {
        world.get(&stranger(), path).await;
    }
    world.send(Some(Peer::InProcess), "GET", PODS, &[], &Value::Null).await;
    let (store, World { api, router }) = (world.api.store.clone(), world);
    drop((api, router, store));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<[&str; 5]> = lines
        .iter()
        .map(|line| {
            let text = |value: &'static str| line.pointer(value).and_then(Value::as_str).unwrap_or_default();
            [
                text("/user/username"),
                text("/verb"),
                text("/objectRef/resource"),
                text("/stage"),
                text("/impersonatedUser/username"),
            ]
        })
        .collect();
    let done = "ResponseComplete";
    assert_eq!(
        told,
        [
            ["alice", "get", "secrets", done, ""],
            ["stint:uid:0", "create", "secrets", done, ""],
            ["stint:uid:0", "list", "pods", done, "bob"],
            ["", "list", "pods", done, ""],
            ["stint:uid:0", "create", "pods", "ResponseStarted", ""],
            ["stint:uid:0", "watch", "pods", "ResponseStarted", ""],
        ]
    );
    let codes: Vec<u64> = lines.iter().map(|line| line["responseStatus"]["code"].as_u64().unwrap()).collect();
    assert_eq!([codes[0], codes[1], codes[2], codes[3], codes[5]], [403, 201, 200, 401, 200]);
    assert_eq!(lines[0]["auditID"], "mine");
    assert_eq!((&lines[0]["sourceIPs"], &lines[0]["userAgent"]), (&json!(["10.0.0.9"]), &json!("kubectl/v1.33")));
    assert!(lines[1]["auditID"].as_str().unwrap().starts_with("00000000-"), "{}", lines[1]);
}

/// A body that never ends.
fn endless() -> Body {
    Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::convert::Infallible>>())
}

#[tokio::test]
async fn who_finds_no_place_is_told_to_come_again() {
    use stint_server::auth::Limits;
    let world = World::with(|auth| auth.with_limits(Limits::new(1, 1)));
    world.allow("alice", &["*"], &[""], &["configmaps"], &[]).await;
    let map = serde_json::to_value(config_map("m", "x")).unwrap();
    assert_eq!(world.post(&certificate("alice"), MAPS, &map).await.code, 201, "places are given back");
    let mut slow = Request::builder().method("POST").uri(MAPS).body(endless()).unwrap();
    slow.extensions_mut().insert(certificate("alice"));
    let slow = tokio::spawn(world.router.clone().oneshot(slow));
    let auth = world.api.auth.clone().unwrap();
    while auth.in_flight() != (0, 1) {
        tokio::task::yield_now().await;
    }
    let refused = world.post(&certificate("alice"), MAPS, &map).await;
    assert_eq!((refused.code, refused.headers["retry-after"].to_str().unwrap()), (429, "1"));
    let expected = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "Too many requests, please try again later.", "reason": "TooManyRequests",
        "details": {"retryAfterSeconds": 1}, "code": 429,
    });
    assert_eq!(refused.json(), expected);
    let rows = [
        (certificate("alice"), "GET", MAPS.to_owned(), 200),
        (certificate("alice"), "GET", format!("{MAPS}?watch=true"), 200),
        (certificate("alice"), "DELETE", format!("{MAPS}/m"), 429),
        (certificate("alice"), "GET", "/readyz".to_owned(), 200),
        (root(), "DELETE", format!("{MAPS}/m"), 200),
        (Peer::InProcess, "DELETE", format!("{MAPS}/m"), 404),
    ];
    for (peer, method, path, code) in rows {
        assert_eq!(world.code(&peer, method, &path).await, code, "{peer:?} {method} {path}");
    }
    slow.abort();
    assert!(slow.await.is_err());
    assert_eq!(auth.in_flight(), (0, 0), "a client that hangs up gives its place back");
    assert_eq!(world.post(&certificate("alice"), MAPS, &map).await.code, 201);
}

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn role(name: &str, verbs: &[&str], resource: &str) -> Value {
    json!({"metadata": {"name": name}, "rules": [{"apiGroups": [""], "resources": [resource], "verbs": verbs}]})
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({
        "metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })
}

#[tokio::test]
async fn nobody_gives_away_what_they_do_not_have() {
    let world = World::new();
    let alice = certificate("alice");
    // She may write all roles, everywhere, and hold nothing but pods.
    world.put("clusterroles", json!({"metadata": {"name": "granter"}, "rules": [
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"], "verbs": ["create", "update", "patch", "get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    ]})).await;
    world.put("clusterrolebindings", binding("granter", "ClusterRole", "granter", "alice")).await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(world.post(&alice, &roles, &role("pods", &["get", "list"], "pods")).await.code, 201);
    assert_eq!(world.post(&alice, &bindings, &binding("pods", "Role", "pods", "bob")).await.code, 201);
    let refused = world.post(&alice, &roles, &role("secrets", &["get", "list"], "secrets")).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (
            403,
            "roles.rbac.authorization.k8s.io \"secrets\" is forbidden: user \"alice\" (groups=[\"system:authenticated\"]) is \
             attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}"
        )
    );
    assert_eq!(
        world.post(&alice, &bindings, &binding("admin", "ClusterRole", "cluster-admin", "alice")).await.code,
        403
    );
    assert_eq!(world.post(&alice, &bindings, &binding("none", "ClusterRole", "none", "alice")).await.code, 404);
    let everywhere = format!("{RBAC}/clusterrolebindings");
    assert_eq!(
        world.post(&alice, &everywhere, &binding("admin", "ClusterRole", "cluster-admin", "alice")).await.code,
        403
    );
    let cluster_roles = format!("{RBAC}/clusterroles");
    let mut aggregated = role("all", &[], "pods");
    aggregated["rules"] = json!([]);
    aggregated["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
    let refused = world.post(&alice, &cluster_roles, &aggregated).await;
    assert_eq!(refused.code, 403);
    assert!(refused.message().ends_with("must have cluster-admin privileges to use the aggregationRule"));
    // By whatever way it is written.
    let path = format!("{roles}/pods");
    assert_eq!(world.send(Some(alice.clone()), "PUT", &path, &[], &role("pods", &["*"], "pods")).await.code, 403);
    for media in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
        let patch = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
        let answer = world.send(Some(alice.clone()), "PATCH", &path, &[("content-type", media)], &patch).await;
        assert_eq!(answer.code, 403, "{media}: {}", answer.text);
    }
    let patch = json!([{"op": "add", "path": "/rules/0/verbs/-", "value": "delete"}]);
    let json_patch = [("content-type", "application/json-patch+json")];
    assert_eq!(world.send(Some(alice.clone()), "PATCH", &path, &json_patch, &patch).await.code, 403);
    let dry = format!("{roles}?dryRun=All");
    assert_eq!(world.post(&alice, &dry, &role("secrets", &["get"], "secrets")).await.code, 403);
    // What changes nothing about rights is no escalation, and root may do it all.
    let finalizers = json!({"metadata": {"finalizers": ["example.com/x"]}});
    let merge = [("content-type", "application/merge-patch+json")];
    assert_eq!(world.send(Some(alice.clone()), "PATCH", &path, &merge, &finalizers).await.code, 200);
    assert_eq!(world.post(&root(), &roles, &role("secrets", &["get"], "secrets")).await.code, 201);
    assert_eq!(
        world.post(&root(), &everywhere, &binding("admin", "ClusterRole", "cluster-admin", "carol")).await.code,
        201
    );
    assert_eq!(world.code(&certificate("carol"), "GET", "/api/v1/secrets").await, 200);
}

#[tokio::test]
async fn to_bind_and_to_escalate_are_rights_of_their_own() {
    let world = World::new();
    let rbac = "rbac.authorization.k8s.io";
    world.allow("alice", &["create"], &[rbac], &["rolebindings"], &[]).await;
    world.allow("alice", &["bind"], &[rbac], &["clusterroles"], &["view"]).await;
    world.allow("bob", &["create", "escalate"], &[rbac], &["roles"], &[]).await;
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let roles = format!("{RBAC}/namespaces/default/roles");
    let (alice, bob) = (certificate("alice"), certificate("bob"));
    assert_eq!(world.post(&alice, &bindings, &binding("v", "ClusterRole", "view", "carol")).await.code, 201);
    assert_eq!(world.post(&alice, &bindings, &binding("e", "ClusterRole", "edit", "carol")).await.code, 403);
    assert_eq!(world.code(&certificate("carol"), "GET", PODS).await, 200);
    assert_eq!(world.code(&certificate("carol"), "GET", "/api/v1/namespaces/default/secrets").await, 403);
    assert_eq!(world.post(&bob, &roles, &role("r", &["*"], "*")).await.code, 201);
    assert_eq!(world.post(&bob, &format!("{RBAC}/clusterroles"), &role("r", &["*"], "*")).await.code, 403);
}

#[tokio::test]
async fn an_aggregated_role_shows_the_rules_that_it_gives() {
    let world = World::new();
    let view = format!("{RBAC}/clusterroles/view");
    let shown = world.get(&root(), &view).await.json();
    assert!(shown["rules"].to_string().contains("cronjobs"), "{shown}");
    let admin = world.get(&root(), &format!("{RBAC}/clusterroles/admin")).await.text;
    assert!(admin.contains("cronjobs") && admin.contains("rolebindings"), "parts of parts: {admin}");
    let mut widgets = role("widgets", &["get"], "widgets");
    widgets["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    assert_eq!(world.post(&root(), &format!("{RBAC}/clusterroles"), &widgets).await.code, 201);
    for _ in 0..1000 {
        if world.get(&root(), &view).await.text.contains("widgets") {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the new rule is not shown");
}

#[tokio::test]
async fn the_store_closes_with_the_api() {
    let world = World::new();
    world.get(&root(), "/version").await;
    let mut watch = world.api.store.watch("", world.api.store.revision()).unwrap();
    drop(world);
    while let Some(event) = watch.next().await {
        event.unwrap();
    }
}

#[tokio::test]
async fn to_update_or_to_apply_is_no_right_to_create() {
    let world = World::new();
    world
        .allow("alice", &["get", "patch", "update"], &["", "coordination.k8s.io"], &["configmaps", "leases"], &[])
        .await;
    let alice = certificate("alice");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "x"}});
    let lease = json!({"metadata": {"name": "l"}, "spec": {}});
    let apply = [("content-type", "application/apply-patch+yaml")];
    let of_map = format!("{MAPS}/m?fieldManager=me");
    let of_lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let refused = world.send(Some(alice.clone()), "PATCH", &of_map, &apply, &map).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (
            403,
            r#"configmaps "m" is forbidden: User "alice" cannot create resource "configmaps" in API group "" in the namespace "default""#
        )
    );
    assert_eq!(world.send(Some(alice.clone()), "PUT", of_lease, &[], &lease).await.code, 403);
    // A role that she could not write is no way around, either.
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
    });
    world.allow("bob", &["create", "patch"], &["rbac.authorization.k8s.io"], &["roles"], &[]).await;
    let of_role = format!("{RBAC}/namespaces/default/roles/r?fieldManager=me");
    assert_eq!(world.send(Some(certificate("bob")), "PATCH", &of_role, &apply, &role).await.code, 403);
    world.allow("alice", &["create"], &["", "coordination.k8s.io"], &["configmaps", "leases"], &[]).await;
    let made = world.send(Some(alice.clone()), "PATCH", &of_map, &apply, &map).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(world.send(Some(alice.clone()), "PATCH", &of_map, &apply, &map).await.code, 200);
    assert_eq!(world.send(Some(alice), "PUT", of_lease, &[], &lease).await.code, 201);
}
