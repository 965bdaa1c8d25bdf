//! What the API says, word for word, to requests that no client library would send.

use crate::support::{Answer, api, config_map, get, job, post, send};
use serde_json::{Value, json};
use stint_server::router;

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn value(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

fn told(answer: &Answer) -> (u16, String, String) {
    let status = answer.json();
    assert_eq!(
        (&status["kind"], &status["apiVersion"], &status["status"]),
        (&json!("Status"), &json!("v1"), &json!("Failure"))
    );
    assert_eq!(status["code"], answer.code);
    let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
    (answer.code, text("reason"), text("message"))
}

#[tokio::test]
async fn refusals_are_worded_as_upstream_words_them() {
    let router = router(api());
    let mut versioned = value(&config_map("v", "1"));
    versioned["metadata"]["resourceVersion"] = "5".into();
    let mut elsewhere = value(&config_map("v", "1"));
    elsewhere["metadata"]["namespace"] = "other".into();
    post(&router, MAPS, &value(&config_map("there", "1"))).await;
    let rows: Vec<(&str, &str, Value, u16, &str, &str)> = vec![
        (
            "GET",
            "/apis/batch/v1/namespaces/default/jobs/none",
            Value::Null,
            404,
            "NotFound",
            "jobs.batch \"none\" not found",
        ),
        ("GET", "/api/v1/namespaces/default/pods/none", Value::Null, 404, "NotFound", "pods \"none\" not found"),
        (
            "GET",
            "/api/v1/namespaces/default/none",
            Value::Null,
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/pods/p/none",
            Value::Null,
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            "GET",
            "/apis/batch/v2/jobs",
            Value::Null,
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            "PUT",
            MAPS,
            Value::Null,
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        (
            "POST",
            "/api/v1/namespaces/default/configmaps/there",
            Value::Null,
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        (
            "POST",
            "/api/v1/configmaps",
            Value::Null,
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        ("POST", MAPS, value(&config_map("there", "2")), 409, "AlreadyExists", "configmaps \"there\" already exists"),
        ("POST", MAPS, versioned, 500, "", "resourceVersion should not be set on objects to be created"),
        (
            "POST",
            MAPS,
            elsewhere,
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "POST",
            "/api/v1/namespaces/zzz/configmaps",
            value(&config_map("a", "1")),
            404,
            "NotFound",
            "namespaces \"zzz\" not found",
        ),
        (
            "PUT",
            "/api/v1/namespaces/default/configmaps/a",
            value(&config_map("q", "1")),
            400,
            "BadRequest",
            "the name of the object (q) does not match the name on the URL (a)",
        ),
        (
            "GET",
            "/api/v1/configmaps?labelSelector=a===b",
            Value::Null,
            400,
            "BadRequest",
            "unable to parse requirement: found '=', expected: identifier",
        ),
        (
            "GET",
            "/api/v1/configmaps?labelSelector==a",
            Value::Null,
            400,
            "BadRequest",
            "found '=', expected: !, identifier, or 'end of string'",
        ),
        (
            "GET",
            "/api/v1/configmaps?resourceVersion=abc",
            Value::Null,
            400,
            "BadRequest",
            "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax",
        ),
        (
            "GET",
            "/api/v1/configmaps?resourceVersion=999&resourceVersionMatch=Exact",
            Value::Null,
            504,
            "Timeout",
            "Timeout: Too large resource version: 999, current: 2",
        ),
        (
            "POST",
            "/apis/batch/v1/namespaces/default/jobs?dryRun=foo",
            value(&job("a")),
            422,
            "Invalid",
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"foo\"]: supported values: \"All\"",
        ),
        (
            "DELETE",
            "/api/v1/namespaces/default/configmaps/there?propagationPolicy=x",
            Value::Null,
            422,
            "Invalid",
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"x\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
    ];
    for (method, path, body, code, reason, message) in rows {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = send(&router, method, path, "application/json", body).await;
        assert_eq!(told(&answer), (code, reason.to_owned(), message.to_owned()), "{method} {path}");
    }
}

#[tokio::test]
async fn an_invalid_job_is_told_every_fault_with_its_field() {
    let router = router(api());
    let mut bad = value(&job("a"));
    bad["spec"]["parallelism"] = json!(-1);
    bad["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
    let answer = post(&router, JOBS, &bad).await;
    let status = answer.json();
    assert_eq!(
        status["message"],
        "Job.batch \"a\" is invalid: [spec.parallelism: Invalid value: -1: must be greater than or equal to 0, \
         spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"]"
    );
    let details = json!({"name": "a", "group": "batch", "kind": "Job", "causes": [
        {"reason": "FieldValueInvalid", "message": "Invalid value: -1: must be greater than or equal to 0", "field": "spec.parallelism"},
        {"reason": "FieldValueRequired", "message": "Required value: valid values: \"OnFailure\", \"Never\"", "field": "spec.template.spec.restartPolicy"},
    ]});
    assert_eq!((answer.code, &status["details"]), (422, &details));
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_ignored() {
    let router = router(api());
    let mut odd = value(&job("a"));
    odd["spec"]["foo"] = json!(1);
    odd["bar"] = json!(2);
    let with = |validation: &str| format!("{JOBS}?dryRun=All&fieldValidation={validation}");
    let strict = post(&router, &with("Strict"), &odd).await;
    assert_eq!(
        told(&strict).2,
        "Job in version \"v1\" cannot be handled as a Job: strict decoding error: unknown field \"bar\", unknown field \"spec.foo\""
    );
    let warned = post(&router, &with("Warn"), &odd).await;
    assert_eq!(warned.warnings, [r#"299 - "unknown field \"bar\"""#, r#"299 - "unknown field \"spec.foo\"""#]);
    assert_eq!((warned.code, post(&router, &with("Ignore"), &odd).await.warnings.len()), (201, 0));
    assert_eq!(post(&router, &with("x"), &odd).await.code, 422);
}

#[tokio::test]
async fn bodies_that_are_no_objects_are_refused() {
    let router = router(api());
    for (body, message) in [
        (
            "",
            "the object provided is unrecognized (must be of type Job): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
        ),
        (
            r#"{"kind":"Pod","apiVersion":"v1"}"#,
            "Pod in version \"v1\" cannot be handled as a Job: converting (v1.Pod) to (batch.Job): unknown conversion",
        ),
        (
            r#"{"spec":{"parallelism":"x"}}"#,
            "Job in version \"v1\" cannot be handled as a Job: json: cannot unmarshal string into Go struct field JobSpec.spec.parallelism of type int32",
        ),
    ] {
        let answer = send(&router, "POST", JOBS, "application/json", body).await;
        assert_eq!(told(&answer), (400, "BadRequest".into(), message.into()));
    }
    let large = format!(r#"{{"data":{{"k":"{}"}}}}"#, "x".repeat(3 * 1024 * 1024));
    let large = send(&router, "POST", MAPS, "application/json", large).await;
    assert_eq!(
        told(&large),
        (413, "RequestEntityTooLarge".into(), "Request entity too large: limit is 3145728".into())
    );
    assert_eq!(send(&router, "POST", MAPS, "text/html", "x").await.code, 415);
}

#[tokio::test]
async fn patches_that_make_no_sense_are_refused() {
    let router = router(api());
    post(&router, MAPS, &value(&config_map("a", "1"))).await;
    let path = format!("{MAPS}/a");
    let merge = "application/merge-patch+json";
    for (media, body, code, message) in [
        (merge, "", 400, "error decoding patch: unexpected end of JSON input"),
        (
            merge,
            "[]",
            400,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        (
            "application/json-patch+json",
            r#"[{"op":"remove","path":"/none"}]"#,
            422,
            "the server rejected our request due to an error in our request",
        ),
        (
            "application/apply-patch+yaml",
            "{}",
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        ("application/apply-patch+cbor", "{}", 415, "415: Unsupported Media Type"),
        (
            "application/strategic-merge-patch+json",
            "[]",
            400,
            "json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        (
            "application/strategic-merge-patch+json",
            r#"{"data":"x"}"#,
            422,
            " \"\" is invalid: patch: Invalid value: \"map[data:x]\": cannot restore map from string",
        ),
        (
            "application/json-patch+json",
            "{}",
            400,
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ),
        (
            "application/json-patch+json",
            r#"[{"op":"unheard","path":"/data"}]"#,
            422,
            "the server rejected our request due to an error in our request",
        ),
        (
            "application/json-patch+json",
            r#"[{"op":1,"path":"/data"}]"#,
            400,
            "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string",
        ),
        (
            merge,
            r#"{"metadata":{"name":"b"}}"#,
            400,
            "the name of the object (b) does not match the name on the URL (a)",
        ),
    ] {
        let answer = send(&router, "PATCH", &path, media, body).await;
        assert_eq!((answer.code, answer.message().as_str()), (code, message), "{body}");
    }
    let answer = send(&router, "PATCH", &path, merge, r#"{"data":{"k":5}}"#).await;
    assert_eq!(answer.code, 422);
    assert!(answer.message().starts_with(" \"\" is invalid: patch: Invalid value: \"{"), "{}", answer.message());
    assert_eq!(answer.json()["details"]["causes"][0]["field"], "patch");
}

#[tokio::test]
async fn a_job_deleted_without_a_policy_comes_with_a_warning_even_if_it_is_not_there() {
    let router = router(api());
    let answer = send(&router, "DELETE", &format!("{JOBS}/none"), "application/json", "").await;
    assert_eq!((answer.code, answer.warnings.len()), (404, 1));
    assert!(answer.warnings[0].starts_with("299 - \"child pods are preserved by default"));
    let answer =
        send(&router, "DELETE", &format!("{JOBS}/none?propagationPolicy=Background"), "application/json", "").await;
    assert_eq!((answer.code, answer.warnings.len()), (404, 0));
}

#[tokio::test]
async fn an_immediate_deletion_is_answered_with_a_status_or_the_pod() {
    let router = router(api());
    let made = post(&router, MAPS, &value(&config_map("a", "1"))).await.json();
    let gone = send(&router, "DELETE", &format!("{MAPS}/a"), "application/json", "").await;
    let details = json!({"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]});
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    assert_eq!((gone.code, gone.json()), (200, status));
    let pods = "/api/v1/namespaces/default/pods";
    post(&router, pods, &value(&crate::support::pod("p"))).await;
    let gone = send(&router, "DELETE", &format!("{pods}/p"), "application/json", "").await;
    assert_eq!(gone.json()["kind"], "Pod");
}

#[tokio::test]
async fn a_long_list_is_whole_and_its_items_have_no_kind() {
    let router = router(api());
    for number in 0..60 {
        post(&router, MAPS, &value(&config_map(&format!("m{number:02}"), &"x".repeat(3000)))).await;
    }
    let list = get(&router, "/api/v1/configmaps").await.json();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 60);
    for (number, item) in items.iter().enumerate() {
        assert_eq!(item["metadata"]["name"], format!("m{number:02}"));
        assert!(item.get("kind").is_none() && item.get("apiVersion").is_none());
    }
    assert_eq!(get(&router, "/api/v1/namespaces/none/pods").await.json()["items"], json!([]));
}

#[tokio::test]
async fn the_api_says_what_it_serves() {
    let router = router(api());
    assert_eq!(get(&router, "/readyz").await.text, "ok");
    assert_eq!(get(&router, "/version/").await.json()["minor"], "36");
    assert_eq!(get(&router, "/api").await.json()["versions"], json!(["v1"]));
    let groups = get(&router, "/apis/").await.json();
    let names: Vec<_> = groups["groups"].as_array().unwrap().iter().map(|group| group["name"].clone()).collect();
    for group in ["apps", "batch", "coordination.k8s.io", "events.k8s.io", "rbac.authorization.k8s.io"] {
        assert!(names.contains(&json!(group)), "{group}");
    }
    assert_eq!(get(&router, "/apis/batch").await.json()["preferredVersion"]["groupVersion"], "batch/v1");
    let resources = get(&router, "/apis/batch/v1").await.json();
    let names: Vec<_> = resources["resources"].as_array().unwrap().iter().map(|kind| kind["name"].clone()).collect();
    assert_eq!(names, ["cronjobs", "cronjobs/status", "jobs", "jobs/status"]);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["cj"]));
    for path in ["/apis/none", "/none", "/apis/none/v1/x"] {
        let answer = get(&router, path).await;
        assert_eq!((answer.code, answer.text.as_str()), (404, "404 page not found\n"), "{path}");
    }
}
