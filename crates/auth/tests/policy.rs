//! Decisions by stored roles and bindings.

use serde_json::{Value, json};
use stint_auth::policy::PREFIX;
use stint_auth::{Attributes, Policy, Resource, User, bootstrap, escalation};
use stint_store::{Mutation, Outcome, Store};

async fn put(store: &Store, plural: &str, object: Value) {
    let meta = &object["metadata"];
    let name = meta["name"].as_str().unwrap();
    let key = match meta["namespace"].as_str() {
        Some(namespace) => format!("{PREFIX}{plural}/{namespace}/{name}"),
        None => format!("{PREFIX}{plural}/{name}"),
    };
    let value = object.to_string();
    let mutation = match store.get(&key) {
        None => Mutation::create(key, move |_| value.into()),
        Some(entry) => Mutation::update(key, entry.revision, move |_| value.into()),
    };
    assert!(matches!(store.write(mutation).await.unwrap(), Outcome::Written(_)));
}

async fn delete(store: &Store, key: &str) {
    let key = format!("{PREFIX}{key}");
    let revision = store.get(&key).expect("it is there").revision;
    store.write(Mutation::delete(key, revision, |_| "{}".into())).await.unwrap();
}

async fn bootstrapped() -> (Store, Policy) {
    let store = Store::in_memory();
    for role in bootstrap::cluster_roles() {
        put(&store, "clusterroles", serde_json::to_value(role).unwrap()).await;
    }
    for binding in bootstrap::cluster_role_bindings() {
        put(&store, "clusterrolebindings", serde_json::to_value(binding).unwrap()).await;
    }
    (store.clone(), Policy::new(store))
}

fn bind(name: &str, namespace: Option<&str>, role: (&str, &str), subject: &Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1},
        "subjects": [subject],
    })
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"})
}

fn asked(verb: &str, group: &str, combined: &str, namespace: &str, name: &str) -> Attributes {
    let (resource, subresource) = combined.split_once('/').unwrap_or((combined, ""));
    Attributes::resource(
        verb,
        Resource {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
        },
    )
}

fn someone(name: &str) -> User {
    User::new(name, []).authenticated()
}

#[tokio::test]
async fn without_a_binding_only_what_everybody_may_is_allowed() {
    let (_, policy) = bootstrapped().await;
    let rows = [
        (someone("alice"), Attributes::path("get", "/api"), true),
        (someone("alice"), Attributes::path("get", "/apis/batch/v1"), true),
        (someone("alice"), Attributes::path("get", "/metrics"), false),
        (someone("alice"), Attributes::path("post", "/api"), false),
        (someone("alice"), asked("list", "", "pods", "default", ""), false),
        (someone("alice"), asked("create", "authorization.k8s.io", "selfsubjectaccessreviews", "", ""), true),
        (User::anonymous(), Attributes::path("get", "/version"), true),
        (User::anonymous(), Attributes::path("get", "/readyz"), true),
        (User::anonymous(), Attributes::path("get", "/api"), false),
        (User::anonymous(), asked("create", "authorization.k8s.io", "selfsubjectaccessreviews", "", ""), false),
        (User::new("root", ["system:masters"]), asked("delete", "", "nodes", "", "n"), true),
        (User::new("root", ["system:masters"]), Attributes::path("get", "/metrics"), true),
    ];
    for (user, asked, expected) in rows {
        assert_eq!(policy.decide(&user, &asked).allowed, expected, "{} {asked:?}", user.name);
    }
}

#[tokio::test]
async fn a_role_binding_gives_rights_in_its_namespace_only() {
    let (store, policy) = bootstrapped().await;
    put(&store, "rolebindings", bind("b", Some("a"), ("ClusterRole", "edit"), &user("alice"))).await;
    let alice = someone("alice");
    let verdict = policy.decide(&alice, &asked("create", "batch", "jobs", "a", ""));
    assert!(verdict.allowed);
    assert_eq!(verdict.reason, r#"RBAC: allowed by RoleBinding "b/a" of ClusterRole "edit" to User "alice""#);
    for (verb, combined, namespace) in
        [("create", "jobs", "b"), ("list", "jobs", ""), ("create", "jobs/status", "a"), ("bind", "jobs", "a")]
    {
        assert!(!policy.decide(&alice, &asked(verb, "batch", combined, namespace, "")).allowed, "{verb} {combined}");
    }
    assert!(!policy.decide(&someone("bob"), &asked("create", "batch", "jobs", "a", "")).allowed);
}

#[tokio::test]
async fn a_decision_knows_what_was_written_before_it() {
    let (store, policy) = bootstrapped().await;
    let (alice, asked) = (someone("alice"), asked("get", "", "pods", "a", "p"));
    let role = |verb: &str| {
        json!({
            "metadata": {"name": "r", "namespace": "a"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}],
        })
    };
    assert!(!policy.decide(&alice, &asked).allowed);
    put(&store, "rolebindings", bind("b", Some("a"), ("Role", "r"), &user("alice"))).await;
    let lost = policy.decide(&alice, &asked);
    assert_eq!((lost.allowed, lost.reason.as_str()), (false, r#"RBAC: role.rbac.authorization.k8s.io "r" not found"#));
    put(&store, "roles", role("get")).await;
    assert!(policy.decide(&alice, &asked).allowed);
    put(&store, "roles", role("list")).await;
    assert!(!policy.decide(&alice, &asked).allowed);
    put(&store, "roles", role("get")).await;
    put(&store, "rolebindings", bind("b", Some("a"), ("Role", "r"), &user("bob"))).await;
    assert!(!policy.decide(&alice, &asked).allowed);
    put(&store, "rolebindings", bind("b", Some("a"), ("Role", "r"), &user("alice"))).await;
    assert!(policy.decide(&alice, &asked).allowed);
    delete(&store, "rolebindings/a/b").await;
    assert!(!policy.decide(&alice, &asked).allowed);
}

#[tokio::test]
async fn service_accounts_are_bound_by_name_and_namespace() {
    let (store, policy) = bootstrapped().await;
    let here = json!({"kind": "ServiceAccount", "name": "robot"});
    let there = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "b"});
    put(&store, "rolebindings", bind("here", Some("a"), ("ClusterRole", "view"), &here)).await;
    put(&store, "rolebindings", bind("there", Some("c"), ("ClusterRole", "view"), &there)).await;
    put(&store, "clusterrolebindings", bind("nowhere", None, ("ClusterRole", "cluster-admin"), &here)).await;
    let may = |namespace: &str, place: &str| {
        let user = User::service_account(namespace, "robot").authenticated();
        policy.decide(&user, &asked("list", "", "pods", place, ""))
    };
    assert!(may("a", "a").allowed && may("b", "c").allowed);
    assert!(!may("b", "a").allowed && !may("a", "c").allowed && !may("a", "d").allowed);
    assert!(may("b", "c").reason.ends_with(r#"to ServiceAccount "robot/b""#), "{}", may("b", "c").reason);
}

#[tokio::test]
async fn aggregated_roles_have_the_rules_of_their_parts_and_of_parts_of_parts() {
    let (store, policy) = bootstrapped().await;
    put(&store, "clusterrolebindings", bind("b", None, ("ClusterRole", "admin"), &user("alice"))).await;
    let alice = someone("alice");
    let extra = asked("get", "example.com", "widgets", "", "w");
    assert!(policy.decide(&alice, &asked("list", "", "pods", "", "")).allowed, "view is part of edit, edit of admin");
    assert!(policy.decide(&alice, &asked("create", "rbac.authorization.k8s.io", "roles", "x", "")).allowed);
    assert!(!policy.decide(&alice, &extra).allowed);
    let label = |to: &str| {
        json!({
            "metadata": {"name": "w", "labels": {format!("rbac.authorization.k8s.io/aggregate-to-{to}"): "true"}},
            "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}],
        })
    };
    put(&store, "clusterroles", label("view")).await;
    assert!(policy.decide(&alice, &extra).allowed);
    put(&store, "clusterroles", label("nothing")).await;
    assert!(!policy.decide(&alice, &extra).allowed);
}

#[tokio::test]
async fn roles_that_aggregate_each_other_come_to_an_end() {
    let (store, policy) = bootstrapped().await;
    for (own, other) in [("a", "b"), ("b", "a")] {
        let role = json!({
            "metadata": {"name": own, "labels": {own: "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {other: "true"}}]},
            "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
        });
        put(&store, "clusterroles", role).await;
    }
    put(&store, "clusterrolebindings", bind("b", None, ("ClusterRole", "a"), &user("alice"))).await;
    assert!(!policy.decide(&someone("alice"), &asked("get", "", "pods", "a", "p")).allowed);
}

#[tokio::test]
async fn what_cannot_be_read_gives_nobody_anything() {
    let (store, policy) = bootstrapped().await;
    put(&store, "clusterrolebindings", bind("b", None, ("ClusterRole", "cluster-admin"), &user("alice"))).await;
    let asked = asked("get", "", "pods", "a", "p");
    assert!(policy.decide(&someone("alice"), &asked).allowed);
    put(&store, "clusterrolebindings", json!({"metadata": {"name": "b"}, "subjects": "everybody"})).await;
    assert!(!policy.decide(&someone("alice"), &asked).allowed);
}

#[tokio::test]
async fn a_watch_that_fell_behind_is_begun_anew() {
    let options = stint_store::Options { history_events: 4, ..stint_store::Options::default() };
    let store = Store::open_with(stint_store::MemoryDisk, &options).unwrap();
    let policy = Policy::new(store.clone());
    let (alice, asked) = (someone("alice"), asked("get", "", "pods", "a", "p"));
    assert!(!policy.decide(&alice, &asked).allowed);
    for number in 0..600 {
        let name = format!("b{number}");
        put(&store, "rolebindings", bind(&name, Some("x"), ("ClusterRole", "r"), &user("bob"))).await;
    }
    let role = json!({
        "metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    });
    put(&store, "clusterroles", role).await;
    put(&store, "rolebindings", bind("b", Some("a"), ("ClusterRole", "r"), &user("alice"))).await;
    assert!(policy.decide(&alice, &asked).allowed);
}

#[tokio::test]
async fn nobody_gives_away_what_they_do_not_have() {
    let (store, policy) = bootstrapped().await;
    put(&store, "rolebindings", bind("b", Some("a"), ("ClusterRole", "admin"), &user("alice"))).await;
    let index = policy.index();
    let alice = someone("alice");
    let wanted = |verbs: &[&str], resource: &str| vec![stint_auth::rules::rule(verbs, &[""], &[resource])];
    assert_eq!(escalation::confirm(&index, &alice, "a", &wanted(&["get", "list"], "pods")), Ok(()));
    assert_eq!(
        escalation::confirm(&index, &alice, "a", &wanted(&["get", "escalate"], "nodes")).unwrap_err(),
        "user \"alice\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"escalate\"]}"
    );
    assert!(escalation::confirm(&index, &alice, "b", &wanted(&["get"], "pods")).is_err());
    assert!(escalation::confirm(&index, &alice, "a", &escalation::everything()).is_err());
    let root = User::new("root", ["system:masters"]);
    assert_eq!(escalation::confirm(&index, &root, "", &escalation::everything()), Ok(()));
}

/// Ten thousand bindings of others must not make a decision slow. The bound is generous: a debug build on a busy machine.
#[tokio::test]
async fn a_decision_does_not_look_at_other_peoples_bindings() {
    let (store, policy) = bootstrapped().await;
    for number in 0..10_000 {
        let subject = user(&format!("user-{number}"));
        let name = format!("b{number}");
        put(&store, "clusterrolebindings", bind(&name, None, ("ClusterRole", "view"), &subject)).await;
    }
    let asked = asked("list", "batch", "jobs", "a", "");
    let user = someone("user-77");
    assert!(policy.decide(&user, &asked).allowed);
    // The best of many tries, since others may be at work.
    let tries = (0..1000).map(|_| {
        let start = std::time::Instant::now();
        assert!(policy.decide(&user, &asked).allowed);
        start.elapsed()
    });
    let each = tries.min().unwrap();
    eprintln!("a decision among 10,000 bindings: {each:?}");
    assert!(each < std::time::Duration::from_micros(500), "{each:?}");
}
