//! What is particular to kinds: shapes of events, kinds that can only be read, objects that a `PUT` makes.

use crate::support::{Answer, api, get, post, send};
use axum::Router;
use serde_json::{Value, json};
use stint_server::kinds::{Holds, KINDS, Scope};
use stint_server::router;

const JSON: &str = "application/json";
const CORE_EVENTS: &str = "/api/v1/namespaces/default/events";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

async fn put(router: &Router, path: &str, body: &Value) -> Answer {
    send(router, "PUT", path, JSON, body.to_string()).await
}

#[tokio::test]
async fn an_event_is_one_object_in_two_shapes() {
    let router = router(api());
    let old = json!({
        "metadata": {"name": "old"}, "involvedObject": {"kind": "Job", "name": "pi", "namespace": "default"},
        "reason": "Done", "message": "it is done", "count": 2, "source": {"component": "me"},
        "reportingComponent": "me", "type": "Normal",
    });
    assert_eq!(post(&router, CORE_EVENTS, &old).await.code, 201);
    let shown = get(&router, &format!("{EVENTS}/old")).await.json();
    assert_eq!(shown["apiVersion"], "events.k8s.io/v1");
    assert_eq!(shown["note"], "it is done");
    assert_eq!(shown["regarding"]["name"], "pi");
    assert_eq!(shown["deprecatedCount"], 2);
    assert_eq!(shown["deprecatedSource"]["component"], "me");
    let stored = get(&router, &format!("{CORE_EVENTS}/old")).await.json();
    assert_eq!(shown["metadata"], stored["metadata"], "revision and uid are the same");

    let new = json!({
        "metadata": {"name": "new"}, "regarding": {"kind": "Pod", "name": "x", "namespace": "default"},
        "eventTime": "2026-01-02T03:04:05.123456Z", "reportingController": "example.com/me", "reportingInstance": "me-0",
        "action": "Doing", "reason": "Done", "note": "new", "type": "Normal",
    });
    let made = post(&router, EVENTS, &new).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.json()["kind"], "Event");
    assert_eq!(made.json()["note"], "new");
    let stored = get(&router, &format!("{CORE_EVENTS}/new")).await.json();
    assert_eq!(stored["apiVersion"], "v1");
    assert_eq!((&stored["message"], &stored["involvedObject"]["name"]), (&json!("new"), &json!("x")));

    for (list, selector) in [(CORE_EVENTS, "involvedObject.name%3Dx"), (EVENTS, "regarding.name%3Dx")] {
        let items = get(&router, &format!("{list}?fieldSelector={selector}")).await.json()["items"].clone();
        assert_eq!(items.as_array().unwrap().len(), 1, "{list}: {items}");
        assert_eq!(items[0]["metadata"]["name"], "new");
        assert!(items[0].get("apiVersion").is_none(), "items of a list have no version");
    }

    let patch = r#"{"note":"newer","series":{"count":2,"lastObservedTime":"2026-01-02T03:04:06.000000Z"}}"#;
    let answer = send(&router, "PATCH", &format!("{EVENTS}/new"), "application/merge-patch+json", patch).await;
    assert_eq!(answer.code, 422, "{}", answer.text);
    assert!(answer.message().contains("message: Invalid value: \"newer\": field is immutable"), "{}", answer.text);
    let patch = r#"{"series":{"count":2,"lastObservedTime":"2026-01-02T03:04:06.000000Z"}}"#;
    let answer = send(&router, "PATCH", &format!("{EVENTS}/new"), "application/merge-patch+json", patch).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    assert_eq!(answer.json()["series"]["count"], 2);
}

#[tokio::test]
async fn a_kind_that_holds_nothing_can_be_listed_and_not_written() {
    let router = router(api());
    for kind in KINDS.iter().filter(|kind| kind.holds == Holds::Nothing) {
        let root = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
        let path = match kind.scope {
            Scope::Cluster => format!("{root}/{}/{}", kind.version, kind.plural),
            Scope::Namespaced => format!("{root}/{}/namespaces/default/{}", kind.version, kind.plural),
        };
        let list = get(&router, &path).await;
        assert_eq!((list.code, &list.json()["items"]), (200, &json!([])), "{kind:?}: {}", list.text);
        assert_eq!(get(&router, &format!("{path}/x")).await.code, 404, "{kind:?}");
        let body = json!({"metadata": {"name": "x"}});
        assert_eq!(post(&router, &path, &body).await.code, 405, "{kind:?}");
        assert_eq!(put(&router, &format!("{path}/x"), &body).await.code, 405, "{kind:?}");
        assert_eq!(send(&router, "DELETE", &path, JSON, "").await.code, 405, "{kind:?}");
    }
}

#[tokio::test]
async fn a_put_makes_leases_endpoints_and_events_but_no_config_maps() {
    let router = router(api());
    for (path, body) in [
        (format!("{LEASES}/l"), json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}})),
        ("/api/v1/namespaces/default/endpoints/e".to_owned(), json!({"metadata": {"name": "e"}})),
        (
            format!("{CORE_EVENTS}/e"),
            json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}, "reason": "x"}),
        ),
    ] {
        let answer = put(&router, &path, &body).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        assert!(answer.json()["metadata"]["uid"].is_string());
    }
    let none = put(&router, "/api/v1/namespaces/default/configmaps/c", &json!({"metadata": {"name": "c"}})).await;
    assert_eq!(none.code, 404);
    assert_eq!(put(&router, &format!("{LEASES}/x/status"), &json!({"metadata": {"name": "x"}})).await.code, 404);
}

#[tokio::test]
async fn a_lease_is_replaced_only_by_whoever_says_which_state() {
    let router = router(api());
    let body = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    let made = post(&router, LEASES, &body).await.json();
    let answer = put(&router, &format!("{LEASES}/l"), &body).await;
    assert_eq!(answer.code, 422);
    assert_eq!(
        answer.message(),
        "Lease.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
    let body = json!({"metadata": made["metadata"], "spec": {"holderIdentity": "you"}});
    assert_eq!(put(&router, &format!("{LEASES}/l"), &body).await.code, 200);
}

#[tokio::test]
async fn kept_objects_are_given_what_they_leave_out() {
    let router = router(api());
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}]});
    let made = post(&router, &format!("{rbac}/namespaces/default/rolebindings"), &binding).await.json();
    assert_eq!(made["roleRef"]["apiGroup"], "rbac.authorization.k8s.io", "{made}");
    assert_eq!(made["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");

    let limits = json!({"metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}}, {"type": "Pod", "max": {"cpu": "2"}},
    ]}});
    let made = post(&router, "/api/v1/namespaces/default/limitranges", &limits).await.json();
    let items = &made["spec"]["limits"];
    assert_eq!(items[0]["default"], json!({"cpu": "2"}), "{made}");
    assert_eq!(items[0]["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
    assert_eq!(items[1], json!({"type": "Pod", "max": {"cpu": "2"}}));

    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let services = "/api/v1/namespaces/default/services";
    let made = post(&router, services, &service).await.json();
    let spec = &made["spec"];
    assert_eq!(spec["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]), "{made}");
    assert_eq!((&spec["type"], &spec["clusterIPs"][0]), (&json!("ClusterIP"), &spec["clusterIP"]));
    let mut without_address = service.clone();
    without_address["spec"]["selector"] = json!({"app": "web"});
    let changed = put(&router, &format!("{services}/s"), &without_address).await.json();
    assert_eq!(changed["spec"]["clusterIP"], spec["clusterIP"], "who leaves it out means the same: {changed}");
    let mut elsewhere = service;
    elsewhere["spec"]["clusterIP"] = json!("10.96.255.255");
    assert_eq!(put(&router, &format!("{services}/s"), &elsewhere).await.code, 422);
}

#[tokio::test]
async fn kept_objects_that_break_rules_are_refused() {
    let router = router(api());
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let default = "/api/v1/namespaces/default";
    let cases = [
        (
            format!("{rbac}/clusterroles"),
            json!({"rules": [{"verbs": ["get"]}]}),
            "ClusterRole.rbac.authorization.k8s.io \"x\" is invalid: [rules[0].apiGroups: Required value: resource rules must supply at least one api group, rules[0].resources: Required value: resource rules must supply at least one resource]",
        ),
        (
            format!("{rbac}/namespaces/default/roles"),
            json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}),
            "Role.rbac.authorization.k8s.io \"x\" is invalid: rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        ),
        (
            format!("{rbac}/clusterrolebindings"),
            json!({"roleRef": {"kind": "Role", "name": "r"}}),
            "ClusterRoleBinding.rbac.authorization.k8s.io \"x\" is invalid: roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
        ),
        (
            format!("{default}/persistentvolumeclaims"),
            json!({"spec": {"accessModes": ["ReadWriteOnce"]}}),
            "PersistentVolumeClaim \"x\" is invalid: spec.resources[storage]: Required value",
        ),
        (
            "/api/v1/persistentvolumes".to_owned(),
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}}),
            "PersistentVolume \"x\" is invalid: spec: Required value: must specify a volume type",
        ),
        (
            format!("{default}/limitranges"),
            json!({"spec": {"limits": [{"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}}),
            "LimitRange \"x\" is invalid: spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
        ),
        (
            format!("{default}/resourcequotas"),
            json!({"spec": {"hard": {"pods": "-1"}}}),
            "ResourceQuota \"x\" is invalid: spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (format!("{default}/services"), json!({"spec": {}}), "Service \"x\" is invalid: spec.ports: Required value"),
        (
            "/apis/scheduling.k8s.io/v1/priorityclasses".to_owned(),
            json!({"value": 2_000_000_000}),
            "PriorityClass.scheduling.k8s.io \"x\" is invalid: value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        ),
        (
            "/apis/storage.k8s.io/v1/storageclasses".to_owned(),
            json!({"provisioner": ""}),
            "StorageClass.storage.k8s.io \"x\" is invalid: provisioner: Required value",
        ),
        (
            "/api/v1/namespaces".to_owned(),
            json!({"spec": {"finalizers": ["mine"]}}),
            "Namespace \"x\" is invalid: spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
        ),
    ];
    for (path, mut object, message) in cases {
        object["metadata"] = json!({"name": "x"});
        let answer = post(&router, &path, &object).await;
        assert_eq!((answer.code, answer.message().as_str()), (422, message), "{path}");
    }
    let account = json!({"metadata": {"name": "A"}});
    let answer = post(&router, &format!("{default}/serviceaccounts"), &account).await;
    assert!(answer.message().starts_with("ServiceAccount \"A\" is invalid: metadata.name: Invalid value: \"A\""));
    let status = json!({"metadata": {"name": "default"}, "status": {"phase": "Terminating"}});
    let answer = put(&router, "/api/v1/namespaces/default/status", &status).await;
    assert_eq!(answer.code, 422, "{}", answer.text);
}
