//! What the door of the API costs a request: `cargo run --release -p stint-server --example door`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use serde_json::json;
use stint_auth::keys::{Keyring, generate};
use stint_auth::token::{Private, Reference, Tokens};
use stint_auth::{Attributes, Policy, Resource, User};
use stint_server::auth::Auth;
use stint_server::{Api, Peer, router};
use stint_store::Mutation;
use tower::ServiceExt;

const ROUNDS: u32 = 5000;
const PATH: &str = "/api/v1/namespaces/default/configmaps/m";
const ISSUER: &str = "https://kubernetes.default.svc";

fn main() {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(run());
}

async fn put(api: &Api, key: String, object: serde_json::Value) {
    api.store.write(Mutation::create(key, move |_| object.to_string().into())).await.expect("written");
}

async fn get(router: &axum::Router, peer: Option<&Peer>, token: Option<&str>) -> u16 {
    let mut request = Request::builder().uri(PATH);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut request = request.body(Body::empty()).expect("a request");
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer.clone());
    }
    let response = router.clone().oneshot(request).await.expect("answered");
    let code = response.status().as_u16();
    response.into_body().collect().await.expect("a body");
    code
}

async fn say(what: &str, router: &axum::Router, peer: Option<&Peer>, token: Option<&str>) {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        assert_eq!(get(router, peer, token).await, 200, "{what}");
    }
    println!("{what:<52}{:>9.2} µs", start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
}

async fn run() {
    let open = support::api();
    let keys = generate().and_then(|pem| Keyring::from_pem(&pem)).expect("keys");
    let tokens = Tokens::new(ISSUER, keys);
    let private = Private {
        namespace: "default".into(),
        serviceaccount: Reference { name: "robot".into(), uid: "u".into() },
        ..Private::default()
    };
    let now = open.clock.now();
    let token = tokens.issue(private, vec![ISSUER.into()], 3600, now, "id".into()).expect("a token");
    let auth = Auth::new(open.store.clone(), 1000).with_tokens(tokens);
    let guarded = Api { auth: Some(Arc::new(auth)), ..open.clone() };
    let (open_router, guarded_router) = (router(open.clone()), router(guarded));
    let map = serde_json::to_string(&support::config_map("m", "x")).expect("JSON");
    let path = "/api/v1/namespaces/default/configmaps";
    support::send(&open_router, "POST", path, "application/json", map).await;
    put(&open, "core/serviceaccounts/default/robot".into(), json!({"metadata": {"uid": "u"}})).await;
    for number in 0..1000 {
        let subject = match number {
            0 => json!({"kind": "ServiceAccount", "name": "robot"}),
            1 => json!({"kind": "User", "name": "alice"}),
            _ => json!({"kind": "User", "name": format!("user-{number}")}),
        };
        let binding = json!({
            "metadata": {"name": format!("b{number}"), "namespace": "default"},
            "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [subject],
        });
        put(&open, format!("rbac.authorization.k8s.io/rolebindings/default/b{number}"), binding).await;
    }
    let alice = Peer::ClientCertificate { name: "alice".into(), groups: Vec::new(), address: None };
    for round in ["first", "again"] {
        println!("get a ConfigMap, {round}:");
        say("  an API without a door", &open_router, None, None).await;
        say("  in process", &guarded_router, Some(&Peer::InProcess), None).await;
        say("  root", &guarded_router, Some(&Peer::UnixSocket { uid: 0, gid: 0 }), None).await;
        say("  by a certificate, among 1000 bindings", &guarded_router, Some(&alice), None).await;
        say("  by a token, among 1000 bindings", &guarded_router, None, Some(&token)).await;
    }
    let policy = Policy::new(open.store.clone());
    let user = User::new("alice", []).authenticated();
    let resource = Resource { resource: "configmaps".into(), namespace: "default".into(), ..Resource::default() };
    let asked = Attributes::resource("get", resource);
    policy.decide(&user, &asked);
    let start = Instant::now();
    for _ in 0..ROUNDS {
        assert!(policy.decide(&user, &asked).allowed);
    }
    println!("{:<52}{:>9.2} µs", "a decision", start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
}
