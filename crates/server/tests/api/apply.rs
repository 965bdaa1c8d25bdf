//! Server-side apply: configurations of several owners in one object.

use crate::support::{Answer, api, send};
use axum::Router;
use proptest::prelude::*;
use serde_json::{Value, json};
use stint_server::router;

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

async fn apply(router: &Router, manager: &str, config: &Value) -> Answer {
    let path = format!("{JOBS}/j?fieldManager={manager}");
    send(router, "PATCH", &path, APPLY, config.to_string()).await
}

async fn force(router: &Router, manager: &str, config: &Value) -> Answer {
    let path = format!("{JOBS}/j?fieldManager={manager}&force=true");
    send(router, "PATCH", &path, APPLY, config.to_string()).await
}

/// A configuration with these members in `spec` and this `metadata`.
#[allow(clippy::needless_pass_by_value, reason = "it is called with literals")]
fn config(meta: Value, spec: Value) -> Value {
    let mut config = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec});
    config["metadata"]["name"] = json!("j");
    config
}

#[allow(clippy::needless_pass_by_value, reason = "it is called with literals")]
fn template(containers: Value) -> Value {
    json!({"spec": {"restartPolicy": "Never", "containers": containers}})
}

fn job() -> Value {
    config(json!({}), json!({"template": template(json!([{"name": "c", "image": "busybox"}]))}))
}

/// Unlike a Job's, its template may change.
fn cron_job(containers: Value) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "j"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template(containers)}}},
    })
}

async fn apply_cron_job(router: &Router, manager: &str, config: &Value) -> Answer {
    send(router, "PATCH", &format!("{CRON_JOBS}/j?fieldManager={manager}"), APPLY, config.to_string()).await
}

fn owned_by(answer: &Answer, manager: &str) -> Value {
    let entries = answer.json()["metadata"]["managedFields"].clone();
    let entry = entries.as_array().into_iter().flatten().find(|entry| entry["manager"] == manager).cloned();
    entry.map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

fn fine(answer: Answer) -> Answer {
    assert!(answer.code < 300, "{}", answer.text);
    answer
}

#[tokio::test]
async fn applying_creates_and_owns_what_it_says_and_no_defaults() {
    let router = router(api());
    let made = apply(&router, "m", &job()).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let container = json!({".": {}, "f:image": {}, "f:name": {}});
    let template = json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": container}, "f:restartPolicy": {}}});
    assert_eq!(owned_by(&made, "m"), json!({"f:spec": {"f:template": template}}));
    assert_eq!(made.json()["metadata"]["managedFields"][0]["operation"], "Apply");
    assert_eq!(made.json()["spec"]["parallelism"], 1, "it is defaulted");
    let again = apply(&router, "m", &job()).await;
    assert_eq!((again.code, again.json()), (200, made.json()), "applying again changes nothing");
}

#[tokio::test]
async fn a_configuration_may_be_yaml() {
    let router = router(api());
    let yaml = "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: j\nspec:\n  template:\n    spec:\n      \
                restartPolicy: Never\n      containers:\n      - name: c\n        image: busybox\n";
    let path = format!("{JOBS}/j?fieldManager=m");
    assert_eq!(send(&router, "PATCH", &path, APPLY, yaml).await.code, 201);
    let twice = format!("{yaml}kind: Job\n");
    let path = format!("{path}&fieldValidation=Strict");
    let refused = send(&router, "PATCH", &path, APPLY, twice).await;
    assert_eq!(refused.code, 400);
    let message = "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 12: key \"kind\" already set in map";
    assert_eq!(refused.message(), message);
}

#[tokio::test]
async fn two_appliers_share_what_they_agree_on_and_conflict_where_they_do_not() {
    let router = router(api());
    let mut first = job();
    first["spec"]["parallelism"] = json!(2);
    fine(apply(&router, "m1", &first).await);
    fine(apply(&router, "m2", &config(json!({}), json!({"parallelism": 2}))).await);
    let change = config(json!({}), json!({"parallelism": 3}));
    let refused = apply(&router, "m2", &change).await;
    assert_eq!(refused.code, 409);
    assert_eq!(refused.json()["reason"], "Conflict");
    assert_eq!(refused.message(), "Apply failed with 1 conflict: conflict with \"m1\": .spec.parallelism");
    let cause =
        json!({"reason": "FieldManagerConflict", "message": "conflict with \"m1\"", "field": ".spec.parallelism"});
    assert_eq!(refused.json()["details"]["causes"], json!([cause]));
    let forced = fine(force(&router, "m2", &change).await);
    assert_eq!(forced.json()["spec"]["parallelism"], 3);
    assert!(owned_by(&forced, "m1")["f:spec"].get("f:parallelism").is_none(), "the loser does not own it any more");
}

#[tokio::test]
async fn conflicts_with_updaters_name_their_version() {
    let router = router(api());
    fine(apply(&router, "m1", &job()).await);
    let patch = r#"{"spec":{"parallelism":4,"suspend":true}}"#;
    send(&router, "PATCH", &format!("{JOBS}/j?fieldManager=u"), MERGE, patch).await;
    let refused = apply(&router, "m2", &config(json!({}), json!({"parallelism": 1, "suspend": false}))).await;
    let message =
        "Apply failed with 2 conflicts: conflicts with \"u\" using batch/v1:\n- .spec.parallelism\n- .spec.suspend";
    assert_eq!(refused.message(), message);
    assert_eq!(refused.json()["details"]["causes"][1]["message"], "conflict with \"u\" using batch/v1");
    // What is as somebody else wants it is no conflict.
    fine(apply(&router, "m2", &config(json!({}), json!({"parallelism": 4}))).await);
}

#[tokio::test]
async fn fields_given_up_go_unless_somebody_else_owns_them() {
    let router = router(api());
    let mut both = job();
    both["metadata"]["labels"] = json!({"a": "1", "b": "2", "c": "3"});
    both["metadata"]["annotations"] = json!({"only": "mine"});
    fine(apply(&router, "m1", &both).await);
    fine(apply(&router, "m2", &config(json!({"labels": {"b": "2"}}), json!({}))).await);
    send(&router, "PATCH", &format!("{JOBS}/j?fieldManager=u"), MERGE, r#"{"metadata":{"labels":{"d":"4"}}}"#).await;
    both["metadata"].as_object_mut().unwrap().remove("annotations");
    both["metadata"]["labels"] = json!({"a": "1"});
    let less = fine(apply(&router, "m1", &both).await);
    let labels = &less.json()["metadata"]["labels"];
    assert_eq!((&labels["a"], &labels["b"], &labels["d"]), (&json!("1"), &json!("2"), &json!("4")));
    assert!(labels.get("c").is_none(), "{labels}");
    assert!(less.json()["metadata"].get("annotations").is_none());
}

#[tokio::test]
async fn items_of_lists_belong_to_their_appliers() {
    let router = router(api());
    let containers =
        |answer: &Answer| answer.json()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"].clone();
    let first = cron_job(json!([{"name": "c", "image": "busybox"}]));
    fine(apply_cron_job(&router, "m1", &first).await);
    let with_env = |name: &str| {
        let mut config = cron_job(json!([{"name": "c", "env": [{"name": name, "value": "1"}]}]));
        config["metadata"]["finalizers"] = json!(["example.com/a"]);
        config
    };
    let added = fine(apply_cron_job(&router, "m2", &with_env("A")).await);
    assert_eq!(containers(&added)[0]["env"], json!([{"name": "A", "value": "1"}]));
    assert_eq!(containers(&added)[0]["image"], "busybox");
    assert_eq!(owned_by(&added, "m2")["f:metadata"], json!({"f:finalizers": {"v:\"example.com/a\"": {}}}));
    let changed = fine(apply_cron_job(&router, "m2", &with_env("B")).await);
    assert_eq!(containers(&changed)[0]["env"], json!([{"name": "B", "value": "1"}]));
    // The first applier's configuration without the item leaves the second's.
    let same = fine(apply_cron_job(&router, "m1", &first).await);
    assert_eq!(same.json()["metadata"]["resourceVersion"], changed.json()["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn an_atomic_field_has_one_owner() {
    let router = router(api());
    let mut first = job();
    first["spec"]["suspend"] = json!(true);
    first["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "1"});
    let made = fine(apply(&router, "m1", &first).await);
    assert_eq!(owned_by(&made, "m1")["f:spec"]["f:template"]["f:spec"]["f:nodeSelector"], json!({}));
    let other = config(json!({}), json!({"template": {"spec": {"nodeSelector": {"b": "2"}}}}));
    let refused = apply(&router, "m2", &other).await;
    let message = "Apply failed with 1 conflict: conflict with \"m1\": .spec.template.spec.nodeSelector";
    assert_eq!(refused.message(), message);
    let forced = fine(force(&router, "m2", &other).await);
    assert_eq!(forced.json()["spec"]["template"]["spec"]["nodeSelector"], json!({"b": "2"}));
}

#[tokio::test]
async fn a_field_handed_to_an_autoscaler_stays() {
    let router = router(api());
    let mut mine = job();
    mine["spec"]["parallelism"] = json!(2);
    fine(apply(&router, "user", &mine).await);
    send(&router, "PATCH", &format!("{JOBS}/j?fieldManager=scaler"), MERGE, r#"{"spec":{"parallelism":9}}"#).await;
    mine["spec"].as_object_mut().unwrap().remove("parallelism");
    let given_up = fine(apply(&router, "user", &mine).await);
    assert_eq!(given_up.json()["spec"]["parallelism"], 9);
}

#[tokio::test]
async fn what_client_side_apply_set_is_kubectls_own() {
    let router = router(api());
    let mut object = job();
    object["spec"]["parallelism"] = json!(2);
    let mut stored = object.clone();
    stored["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": object.to_string()});
    let path = format!("{JOBS}?fieldManager=kubectl-client-side-apply");
    fine(send(&router, "POST", &path, JSON, stored.to_string()).await);
    object["spec"]["parallelism"] = json!(3);
    let other = apply(&router, "m", &object).await;
    assert_eq!(other.code, 409);
    let kubectl = fine(apply(&router, "kubectl", &object).await);
    assert_eq!(kubectl.json()["spec"]["parallelism"], 3);
    let kept = kubectl.json()["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].clone();
    let kept: Value = serde_json::from_str(kept.as_str().unwrap()).unwrap();
    assert_eq!(kept["spec"]["parallelism"], 3);
}

#[tokio::test]
async fn a_status_is_applied_through_its_subresource() {
    let router = router(api());
    fine(apply(&router, "m", &job()).await);
    let status = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"},
        "spec": {"parallelism": 7}, "status": {"ready": 0}});
    let path = format!("{JOBS}/j/status?fieldManager=k");
    let applied = fine(send(&router, "PATCH", &path, APPLY, status.to_string()).await);
    assert_eq!((&applied.json()["status"]["ready"], &applied.json()["spec"]["parallelism"]), (&json!(0), &json!(1)));
    assert_eq!(owned_by(&applied, "k"), json!({"f:status": {"f:ready": {}}}));
    let path = format!("{JOBS}/none/status?fieldManager=k");
    assert_eq!(send(&router, "PATCH", &path, APPLY, status.to_string()).await.code, 404);
}

#[tokio::test]
async fn a_dry_run_applies_nothing() {
    let router = router(api());
    let path = format!("{JOBS}/j?fieldManager=m&dryRun=All");
    let dry = send(&router, "PATCH", &path, APPLY, job().to_string()).await;
    assert_eq!(dry.code, 201);
    assert_eq!(send(&router, "GET", &format!("{JOBS}/j"), JSON, "").await.code, 404);
    fine(apply(&router, "m", &job()).await);
    let mut more = job();
    more["spec"]["parallelism"] = json!(5);
    let dry = send(&router, "PATCH", &path, APPLY, more.to_string()).await;
    assert_eq!(dry.json()["spec"]["parallelism"], 5);
    assert_eq!(send(&router, "GET", &format!("{JOBS}/j"), JSON, "").await.json()["spec"]["parallelism"], 1);
}

#[tokio::test]
async fn a_configuration_that_makes_no_sense_is_refused() {
    let router = router(api());
    let with = |at: &str, value: Value| {
        let mut config = job();
        *config.pointer_mut(at).unwrap() = value;
        config
    };
    let mut managed = job();
    managed["metadata"]["managedFields"] = json!([]);
    let mut unknown = job();
    unknown["spec"]["foo"] = json!(1);
    let mut uid = job();
    uid["metadata"]["uid"] = json!("u");
    let typed = "failed to create typed patch object (/j; batch/v1, Kind=Job): ";
    for (config, code, message) in [
        (json!({}), 400, "invalid object type: /, Kind=".to_owned()),
        (with("/kind", json!("CronJob")), 400, "invalid object type: batch/v1, Kind=CronJob".to_owned()),
        (managed, 400, "metadata.managedFields must be nil".to_owned()),
        (unknown, 500, format!("{typed}.spec.foo: field not declared in schema")),
        (
            with("/spec/template", json!(1)),
            500,
            format!("{typed}.spec.template: expected map, got &{{1}}"),
        ),
        (
            with("/metadata/name", json!("other")),
            400,
            "the name of the object (other) does not match the name on the URL (j)".to_owned(),
        ),
        (
            uid,
            409,
            "Operation cannot be fulfilled on jobs.batch \"j\": uid mismatch: the provided object specified uid u, and no existing object was found".to_owned(),
        ),
    ] {
        let answer = apply(&router, "m", &config).await;
        assert_eq!((answer.code, answer.message()), (code, message), "{config}");
    }
    fine(apply(&router, "m", &job()).await);
    let mut stale = job();
    stale["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(apply(&router, "m", &stale).await.code, 409);
    let path = format!("{JOBS}/j?fieldManager=m");
    let refused = send(&router, "PATCH", &path, APPLY, "[1]").await;
    assert_eq!(refused.code, 400, "{}", refused.text);
}

/// Some configuration of a CronJob.
fn configs() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[ab]", "[12]", 0..3);
    let env = prop::collection::btree_map("[XY]", "[12]", 0..3);
    let spec = (prop::option::of(1..4), prop::option::of(any::<bool>()), prop::option::of("[no]"));
    (labels, env, spec).prop_map(|(labels, env, (parallelism, suspend, host))| {
        let env: Vec<Value> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let mut config = cron_job(json!([{"name": "c", "image": "busybox", "env": env}]));
        if let Some(parallelism) = parallelism {
            config["spec"]["jobTemplate"]["spec"]["parallelism"] = json!(parallelism);
        }
        if let Some(suspend) = suspend {
            config["spec"]["suspend"] = json!(suspend);
        }
        if let Some(host) = host {
            config["spec"]["jobTemplate"]["spec"]["template"]["spec"]["nodeSelector"] = json!({ "host": host });
        }
        if !labels.is_empty() {
            config["metadata"]["labels"] = json!(labels);
        }
        config
    })
}

/// Whether `object` says all that `config` says.
fn says(object: &Value, config: &Value) -> bool {
    match (object, config) {
        (Value::Object(object), Value::Object(config)) => {
            config.iter().all(|(name, value)| says(object.get(name).unwrap_or(&Value::Null), value))
        }
        (Value::Array(object), Value::Array(config)) => {
            config.iter().all(|item| object.iter().any(|other| says(other, item)))
        }
        (Value::Null, Value::Array(config)) => config.is_empty(),
        (object, config) => object == config,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_sole_applier_gets_what_it_says_and_twice_is_once(configs in prop::collection::vec(configs(), 1..5)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let router = router(api());
            for config in &configs {
                let applied = apply_cron_job(&router, "m", config).await;
                assert!(applied.code < 300, "{}", applied.text);
                assert!(says(&applied.json(), config), "{config} in {}", applied.text);
                assert_eq!(apply_cron_job(&router, "m", config).await.json(), applied.json());
                // What only an earlier configuration said is gone.
                let fresh = self::router(api());
                let mut alone = apply_cron_job(&fresh, "m", config).await.json();
                let mut object = applied.json();
                for object in [&mut alone, &mut object] {
                    let meta = object["metadata"].as_object_mut().unwrap();
                    for name in ["uid", "resourceVersion", "generation", "managedFields"] {
                        meta.remove(name);
                    }
                }
                assert_eq!(without_empty(object), without_empty(alone));
            }
        });
    }
}

/// An empty list or map reads as none.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .map(|(name, value)| (name, without_empty(value)))
                .filter(|(_, value)| *value != json!({}) && *value != json!([]) && !value.is_null())
                .collect(),
        ),
        Value::Array(items) => items.into_iter().map(without_empty).collect(),
        plain => plain,
    }
}
