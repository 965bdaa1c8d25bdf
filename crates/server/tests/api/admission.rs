//! What a cluster does with new objects because of other objects: accounts, priorities, limits, quotas; and how
//! namespaces and evicted pods end.

use crate::support::{Answer, api, get, post, send};
use axum::Router;
use serde_json::{Value, json};
use stint_server::{Admission, Api, router};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CORE: &str = "/api/v1/namespaces/default";

async fn made(router: &Router, path: &str, body: &Value) -> Value {
    let answer = post(router, path, body).await;
    assert_eq!(answer.code, 201, "{path}: {}", answer.text);
    answer.json()
}

/// A cluster whose default namespace has its ServiceAccount.
async fn cluster() -> Router {
    let router = router(Api { admission: Admission::Cluster, ..api() });
    made(&router, &format!("{CORE}/serviceaccounts"), &json!({"metadata": {"name": "default"}})).await;
    router
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "busybox:1"}]}})
}

fn with(mut object: Value, path: &str, value: Value) -> Value {
    *object.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
    object
}

fn refused(answer: &Answer, why: &str) {
    assert_eq!(answer.code, 403, "{}", answer.text);
    assert_eq!(answer.json()["reason"], "Forbidden");
    assert_eq!(answer.message(), why);
}

#[tokio::test]
async fn a_pod_of_a_cluster_gets_account_tolerations_and_priority() {
    let router = cluster().await;
    let spec = made(&router, PODS, &pod("a")).await["spec"].clone();
    assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"), "{volume}");
    assert_eq!(spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);

    let mut other = pod("b");
    other["spec"]["serviceAccountName"] = json!("nosuch");
    refused(
        &post(&router, PODS, &other).await,
        "pods \"b\" is forbidden: error looking up service account default/nosuch: serviceaccount \"nosuch\" not found",
    );
    let mut other = pod("b");
    other["spec"]["priorityClassName"] = json!("x");
    refused(&post(&router, PODS, &other).await, "pods \"b\" is forbidden: no PriorityClass with name x was found");
    other["spec"]["priorityClassName"] = json!("system-node-critical");
    assert_eq!(made(&router, PODS, &other).await["spec"]["priority"], 2_000_001_000);
    let elsewhere = post(&router, "/api/v1/namespaces/none/pods", &pod("c")).await;
    assert_eq!((elsewhere.code, elsewhere.message()), (404, "namespaces \"none\" not found".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_a_moment_for_the_account_that_its_namespace_is_about_to_get() {
    let router = router(Api { admission: Admission::Cluster, ..api() });
    let refusal = "pods \"a\" is forbidden: error looking up service account default/default: serviceaccount \"default\" \
                   not found";
    let began = tokio::time::Instant::now();
    refused(&post(&router, PODS, &pod("a")).await, refusal);
    assert_eq!(began.elapsed().as_millis(), 1000);
    let accounts = format!("{CORE}/serviceaccounts");
    let account = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        // Another one is not the one.
        made(&router, &accounts, &json!({"metadata": {"name": "default-2"}})).await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        made(&router, &accounts, &json!({"metadata": {"name": "default"}})).await;
    };
    let began = tokio::time::Instant::now();
    let pod = pod("a");
    let (answer, ()) = tokio::join!(post(&router, PODS, &pod), account);
    assert_eq!((answer.code, began.elapsed().as_millis()), (201, 600), "{}", answer.text);
}

#[tokio::test]
async fn a_run_without_a_cluster_leaves_pods_as_they_are() {
    let router = router(api());
    let spec = made(&router, PODS, &pod("a")).await["spec"].clone();
    for field in ["serviceAccountName", "priority", "tolerations", "volumes"] {
        assert!(spec.get(field).is_none(), "{field}: {spec}");
    }
    assert_eq!(get(&router, "/api/v1/namespaces").await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_cluster_has_its_namespaces_and_classes_from_the_start() {
    let router = cluster().await;
    for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        assert_eq!(get(&router, &format!("/api/v1/namespaces/{name}")).await.code, 200, "{name}");
    }
    for name in ["default", "kube-public", "kube-system"] {
        refused(
            &send(&router, "DELETE", &format!("/api/v1/namespaces/{name}"), JSON, "").await,
            &format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted"),
        );
    }
}

#[tokio::test]
async fn limits_fill_in_and_refuse() {
    let router = cluster().await;
    let limits = json!([{"type": "Container", "default": {"cpu": "1"}, "max": {"cpu": "1"}}]);
    made(&router, &format!("{CORE}/limitranges"), &json!({"metadata": {"name": "l"}, "spec": {"limits": limits}}))
        .await;
    let created = made(&router, PODS, &pod("a")).await;
    let container = &created["spec"]["containers"][0];
    assert_eq!(container["resources"]["limits"]["cpu"], "1");
    let big = with(
        pod("b"),
        "/spec/containers/0",
        json!({
            "name": "c", "image": "busybox:1", "resources": {"limits": {"cpu": "2"}},
        }),
    );
    refused(
        &post(&router, PODS, &big).await,
        "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2",
    );
}

#[tokio::test]
async fn of_many_creations_at_once_only_as_many_pass_as_the_quota_allows() {
    let router = cluster().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "3", "count/jobs.batch": "0"}}});
    made(&router, &format!("{CORE}/resourcequotas"), &quota).await;
    let names: Vec<Value> = (0..20).map(|number| pod(&format!("p{number}"))).collect();
    let answers = futures::future::join_all(names.iter().map(|pod| post(&router, PODS, pod))).await;
    assert_eq!(answers.iter().filter(|answer| answer.code == 201).count(), 3);
    let refusal = answers.iter().find(|answer| answer.code == 403).unwrap();
    assert!(
        refusal
            .message()
            .ends_with(" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3"),
        "{}",
        refusal.text
    );
    let status = get(&router, &format!("{CORE}/resourcequotas/q")).await.json()["status"].clone();
    assert_eq!(
        status,
        json!({"hard": {"count/jobs.batch": "0", "pods": "3"}, "used": {"count/jobs.batch": "0", "pods": "3"}})
    );
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox:1"}],
    }}}});
    let answer = post(&router, "/apis/batch/v1/namespaces/default/jobs", &job).await;
    refused(
        &answer,
        "jobs.batch \"j\" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, used: count/jobs.batch=0, limited: count/jobs.batch=0",
    );
    assert_eq!(send(&router, "DELETE", &format!("{PODS}/{}", first(&router).await), JSON, "").await.code, 200);
    assert_eq!(post(&router, PODS, &pod("late")).await.code, 201, "what is gone uses nothing");
}

async fn first(router: &Router) -> String {
    get(router, PODS).await.json()["items"][0]["metadata"]["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_deleted_namespace_stays_until_it_is_finalized() {
    let router = cluster().await;
    made(&router, "/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    for _ in 0..2 {
        let answer = send(&router, "DELETE", "/api/v1/namespaces/n", JSON, "").await;
        assert_eq!(answer.code, 200, "{}", answer.text);
        assert_eq!(answer.json()["status"]["phase"], "Terminating");
        assert!(answer.json()["metadata"]["deletionTimestamp"].is_string());
    }
    let maps = "/api/v1/namespaces/n/configmaps";
    let refusal = post(&router, maps, &json!({"metadata": {"name": "c"}})).await;
    assert_eq!(refusal.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut namespace = get(&router, "/api/v1/namespaces/n").await.json();
    namespace["spec"]["finalizers"] = json!([]);
    let ordinary = send(&router, "PUT", "/api/v1/namespaces/n", JSON, namespace.to_string()).await;
    assert_eq!(ordinary.json()["spec"]["finalizers"], json!(["kubernetes"]), "only finalize lets go");
    let answer = send(&router, "PUT", "/api/v1/namespaces/n/finalize", JSON, namespace.to_string()).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    assert_eq!(get(&router, "/api/v1/namespaces/n").await.code, 404);
}

#[tokio::test]
async fn an_evicted_pod_says_so_and_goes() {
    let router = cluster().await;
    let mut bound = pod("a");
    bound["spec"]["nodeName"] = json!("n");
    made(&router, PODS, &bound).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    let other = json!({"metadata": {"name": "b"}});
    assert_eq!(post(&router, &format!("{PODS}/a/eviction"), &other).await.code, 400);
    let answer = post(&router, &format!("{PODS}/a/eviction"), &eviction).await;
    assert_eq!((answer.code, &answer.json()["status"]), (201, &json!("Success")), "{}", answer.text);
    let evicted = get(&router, &format!("{PODS}/a")).await.json();
    assert_eq!(evicted["metadata"]["deletionGracePeriodSeconds"], 30);
    let condition = &evicted["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["reason"]),
        (&json!("DisruptionTarget"), &json!("EvictionByEvictionAPI"))
    );
    assert_eq!(post(&router, &format!("{PODS}/none/eviction"), &json!({})).await.code, 404);
    let maps = format!("{CORE}/configmaps");
    made(&router, &maps, &json!({"metadata": {"name": "m"}})).await;
    assert_eq!(send(&router, "PATCH", &format!("{maps}/m"), MERGE, "{}").await.code, 200);
    assert_eq!(post(&router, &format!("{maps}/m/eviction"), &eviction).await.code, 404);
}

/// A pod that keeps every rule of Pod Security.
fn careful(name: &str) -> Value {
    let security = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"}});
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["securityContext"] = security;
    pod
}

async fn labelled(router: &Router, labels: Value) -> Answer {
    let patch = json!({"metadata": {"labels": labels}}).to_string();
    send(router, "PATCH", "/api/v1/namespaces/default", MERGE, patch).await
}

#[tokio::test]
async fn a_namespace_says_how_much_its_pods_may_ask_for() {
    let router = cluster().await;
    let mut wild = pod("wild");
    wild["spec"]["hostPID"] = json!(true);
    made(&router, PODS, &wild).await;
    let answer = labelled(&router, json!({"pod-security.kubernetes.io/enforce": "restricted"})).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    let existing = "existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce level \\\"restricted:latest\\\"";
    assert!(answer.warnings[0].contains(existing), "{:?}", answer.warnings);
    assert!(
        answer.warnings[1].contains("wild: host namespaces, allowPrivilegeEscalation != false"),
        "{:?}",
        answer.warnings
    );
    made(&router, PODS, &careful("good")).await;
    refused(
        &post(&router, PODS, &with(careful("bad"), "/spec/containers/0/securityContext/runAsNonRoot", json!(null)))
            .await,
        "pods \"bad\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot != true \
         (pod or container \"c\" must set securityContext.runAsNonRoot=true)",
    );
    // Its controllers are not stopped from asking; whoever makes them may be warned.
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {"restartPolicy": "Never",
        "hostNetwork": true, "containers": [{"name": "c", "image": "busybox:1"}]}}}});
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    assert!(post(&router, jobs, &job).await.warnings.is_empty());
    let answer = labelled(&router, json!({"pod-security.kubernetes.io/warn": "baseline"})).await;
    assert_eq!((answer.code, answer.warnings.len()), (200, 0), "{:?}", answer.warnings);
    let answer = post(&router, jobs, &with(job.clone(), "/metadata/name", json!("k"))).await;
    let warning = "would violate PodSecurity \\\"baseline:latest\\\": host namespaces (hostNetwork)";
    assert!(
        answer.code == 201 && answer.warnings.len() == 1 && answer.warnings[0].contains(warning),
        "{:?}",
        answer.warnings
    );
    let cron_job =
        json!({"metadata": {"name": "c"}, "spec": {"schedule": "@daily", "jobTemplate": {"spec": job["spec"]}}});
    let answer = post(&router, "/apis/batch/v1/namespaces/default/cronjobs", &cron_job).await;
    assert!(answer.code == 201 && answer.warnings[0].contains(warning), "{:?}", answer.warnings);
    // A pod that was there keeps being there, and may become no other that breaks the rules.
    let image = json!({"spec": {"containers": [{"name": "c", "image": "busybox:2"}]}}).to_string();
    let strategic = "application/strategic-merge-patch+json";
    let answer = send(&router, "PATCH", &format!("{PODS}/wild"), strategic, image).await;
    assert!(answer.code == 403 && answer.message().contains("violates PodSecurity"), "{}", answer.text);
    let label = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
    assert_eq!(send(&router, "PATCH", &format!("{PODS}/wild"), strategic, label).await.code, 200);
}

#[tokio::test]
async fn a_namespace_keeps_no_labels_of_pod_security_that_mean_nothing() {
    let router = cluster().await;
    let answer = labelled(&router, json!({"pod-security.kubernetes.io/enforce": "strict"})).await;
    assert_eq!(answer.code, 422, "{}", answer.text);
    assert_eq!(
        answer.message(),
        "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": \
         must be one of privileged, baseline, restricted"
    );
    let new = json!({"metadata": {"name": "n", "labels": {"pod-security.kubernetes.io/warn-version": "1.30"}}});
    let answer = post(&router, "/api/v1/namespaces", &new).await;
    assert!(answer.code == 422 && answer.message().contains("must be \"latest\" or \"v1.x\""), "{}", answer.text);
}
