//! Bodies and what an API server says of them.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, Secret};

use super::*;

fn error(json: &str) -> String {
    decode::<Job>(json.as_bytes()).map(|d| d.unknown).unwrap_err().to_string()
}

#[test]
fn an_empty_object_is_a_job() {
    let decoded = decode::<Job>(b"{}").unwrap();
    assert_eq!(decoded.object, Job::default());
    let named = decode::<Job>(br#"{"apiVersion":"","kind":null,"metadata":null,"spec":null}"#).unwrap();
    assert_eq!(named.object, Job::default());
    assert!(named.unknown.is_empty());
}

#[test]
fn a_value_is_the_tree_that_it_would_be_written_down() {
    let json = r#"{"a":[1,-1,18446744073709551615,1.5,1e300,null,true,"\u00e4"],"b":{},"c":[]}"#;
    let value: Value = serde_json::from_str(json).unwrap();
    assert_eq!(Tree::of(value.clone()).0, Tree::read(value.to_string().as_bytes()).unwrap().0);
    assert_eq!(serde_json::from_slice::<Value>(&Tree::of(value.clone()).to_json()).unwrap(), value);
}

#[test]
fn type_errors_name_the_go_field() {
    for (json, text) in [
        (
            r#"{"spec":{"parallelism":"2"}}"#,
            "json: cannot unmarshal string into Go struct field JobSpec.spec.parallelism of type int32",
        ),
        (
            r#"{"spec":{"parallelism":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field JobSpec.spec.parallelism of type int32",
        ),
        (
            r#"{"spec":{"completions":99999999999}}"#,
            "json: cannot unmarshal number 99999999999 into Go struct field JobSpec.spec.completions of type int32",
        ),
        (r#"{"spec":[]}"#, "json: cannot unmarshal array into Go struct field Job.spec of type v1.JobSpec"),
        (
            r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"a"},{"command":[1]}]}}}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.command of type string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"restartPolicy":1}}}}"#,
            "json: cannot unmarshal number into Go struct field PodSpec.spec.template.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            r#"{"metadata":{"labels":{"a":true}}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"metadata":{"labels":[]}}"#,
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            r#"{"spec":{"suspend":"yes"}}"#,
            "json: cannot unmarshal string into Go struct field JobSpec.spec.suspend of type bool",
        ),
        (
            r#"{"metadata":{"name":5}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string",
        ),
    ] {
        assert_eq!(error(json), text, "{json}");
    }
}

#[test]
fn bad_quantities_and_times_are_told() {
    let quantity = r#"{"spec":{"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}}}"#;
    assert!(error(quantity).starts_with("quantities must match the regular expression"));
    assert_eq!(
        error(r#"{"metadata":{"creationTimestamp":"x"}}"#),
        r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#
    );
}

#[test]
fn quantities_become_canonical_and_may_be_numbers() {
    let json = br#"{"spec":{"containers":[{"resources":{"limits":{"cpu":0.5,"memory":"1024Ki","x.y/z":2}}}]}}"#;
    let pod = decode::<Pod>(json).unwrap().object;
    let resources = pod.spec.unwrap().containers.remove(0).resources.unwrap();
    let limits: Vec<_> = resources.limits.unwrap().into_iter().map(|(k, v)| format!("{k}={}", v.0)).collect();
    assert_eq!(limits, ["cpu=500m", "memory=1Mi", "x.y/z=2"]);
}

#[test]
fn dropped_fields_are_told_with_their_paths_in_document_order() {
    let json = br#"{"metadata":{"name":"a","name":"b","labels":{"x":"1","x":"2"}},
        "spec":{"template":{"spec":{"containers":[{"zed":1,"name":"c"}]}},"foo":{"deep":1},"Parallelism":1},"bar":2}"#;
    let decoded = decode::<Job>(json).unwrap();
    assert_eq!(
        decoded.unknown,
        [
            "duplicate field \"metadata.name\"",
            "duplicate field \"metadata.labels.x\"",
            "unknown field \"spec.template.spec.containers[0].zed\"",
            "unknown field \"spec.foo\"",
            "unknown field \"spec.Parallelism\"",
            "unknown field \"bar\"",
        ]
    );
    assert_eq!(decoded.object.metadata.name.as_deref(), Some("b"));
    assert!(decoded.strict_error().unwrap().starts_with("strict decoding error: duplicate field"));
}

#[test]
fn a_body_of_another_kind_is_refused() {
    let body = br#"{"apiVersion":"v1","kind":"Pod"}"#;
    let error = decode::<Job>(body).unwrap_err();
    assert_eq!(
        error.bad_request("batch", "v1", "Job", body),
        "Pod in version \"v1\" cannot be handled as a Job: converting (v1.Pod) to (batch.Job): unknown conversion"
    );
    assert!(decode::<CronJob>(br#"{"kind":"CronJob"}"#).is_ok());
}

#[test]
fn broken_json_is_unrecognized() {
    let message =
        |body: &str| decode::<Job>(body.as_bytes()).unwrap_err().bad_request("batch", "v1", "Job", body.as_bytes());
    assert_eq!(
        message(""),
        "the object provided is unrecognized (must be of type Job): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"
    );
    assert!(message("{\"a\":x}").contains("invalid character 'x' looking for beginning of value ({\"a\":x})"));
    assert!(message("[]").contains("json: cannot unmarshal array into Go value of type struct"));
    assert!(decode::<Job>(&vec![b'['; 1_000_000]).is_err());
}

#[test]
fn nulls_are_as_good_as_absent() {
    let json = br#"{"spec":{"parallelism":null,"template":{"metadata":null,"spec":{"containers":[null,{"env":null}],
        "nodeSelector":{"a":null}}}}}"#;
    let job = decode::<Job>(json).unwrap().object;
    let pod = job.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.containers.len(), 2);
    assert_eq!(pod.node_selector.unwrap()["a"], "");
}

#[test]
fn secrets_carry_bytes() {
    let secret = decode::<Secret>(br#"{"data":{"a":"aGk=","b":null},"stringData":{"c":"d"}}"#);
    let data = secret.unwrap().object.data.unwrap();
    assert_eq!(data["a"].0, b"hi");
    assert!(decode::<Secret>(br#"{"data":{"a":"*"}}"#).is_err());
}

#[test]
fn a_normal_job_is_read_defaulted_and_checked_well_below_a_millisecond() {
    let json = br#"{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"pi"},"spec":{"backoffLimit":4,"template":{
        "metadata":{"labels":{"app":"pi"}},"spec":{"restartPolicy":"Never","containers":[{"name":"pi","image":"perl:5.34.0",
        "command":["perl","-Mbignum=bpi","-wle","print bpi(2000)"],"env":[{"name":"A","value":"b"}],
        "resources":{"limits":{"cpu":"1","memory":"128Mi"}}}]}}}}"#;
    let round = || {
        let start = std::time::Instant::now();
        let mut job = decode::<Job>(json).unwrap().object;
        crate::defaults::job(&mut job);
        crate::admit::prepare_job(&mut job, "2f0c1f9e");
        assert_eq!(crate::validate::job_create(&job), []);
        start.elapsed()
    };
    // Unoptimized, and the one that nothing came between; optimized it is some twenty microseconds.
    let best = (0..200).map(|_| round()).min().unwrap();
    assert!(best < std::time::Duration::from_millis(5), "{best:?}");
}
