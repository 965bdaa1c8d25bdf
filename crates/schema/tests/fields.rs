//! Objects as sets of fields, with real types.

use serde_json::{Value, json};
use stint_schema::fields::FieldSet;
use stint_schema::form::Form;
use stint_schema::merge::{compare, complete, faults, fields_of, merge, remove};

fn form(of: &str) -> Form {
    Form::of(of).unwrap_or_else(|| panic!("the table has {of}"))
}

const JOB: &str = "io.k8s.api.batch.v1.Job";
const POD_SPEC: &str = "io.k8s.api.core.v1.PodSpec";
const CONTAINER: &str = "io.k8s.api.core.v1.Container";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

#[test]
fn the_fields_of_an_object_are_its_leaves_items_and_keys() {
    let rows = [
        (
            META,
            json!({"labels": {"a": "1"}, "annotations": {}, "finalizers": ["x"], "ownerReferences": [{"uid": "u", "name": "n"}]}),
            json!({
                "f:annotations": {},
                "f:finalizers": {"v:\"x\"": {}},
                "f:labels": {"f:a": {}},
                "f:ownerReferences": {"k:{\"uid\":\"u\"}": {}},
            }),
        ),
        (
            POD_SPEC,
            json!({"nodeSelector": {"a": "1"}, "tolerations": [], "containers": [], "securityContext": {}, "volumes": [{"name": "v"}]}),
            json!({
                "f:nodeSelector": {},
                "f:securityContext": {},
                "f:tolerations": {},
                "f:volumes": {"k:{\"name\":\"v\"}": {".": {}, "f:name": {}}},
            }),
        ),
        (
            CONTAINER,
            json!({"ports": [{"containerPort": 80}], "args": ["a"], "resources": {"limits": {"cpu": "1"}}}),
            json!({
                "f:args": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                "f:resources": {"f:limits": {"f:cpu": {}}},
            }),
        ),
        (JOB, json!({"status": {"conditions": [{"type": "a"}]}}), json!({"f:status": {"f:conditions": {}}})),
    ];
    for (of, object, expected) in rows {
        assert_eq!(fields_of(form(of), &object).to_json(), expected, "{object}");
    }
}

#[test]
fn two_objects_differ_by_added_modified_and_removed_fields() {
    let rows = [
        // (type, old, new, removed, modified, added)
        (JOB, json!({"spec": {"a": 1}}), json!({"spec": {"a": 1}}), json!({}), json!({}), json!({})),
        (
            JOB,
            json!({"spec": {"parallelism": 1, "completions": 1}}),
            json!({"spec": {"parallelism": 2, "suspend": true}}),
            json!({"f:spec": {"f:completions": {}}}),
            json!({"f:spec": {"f:parallelism": {}}}),
            json!({"f:spec": {"f:suspend": {}}}),
        ),
        (
            META,
            json!({}),
            json!({"labels": {"a": "1"}}),
            json!({}),
            json!({}),
            json!({"f:labels": {".": {}, "f:a": {}}}),
        ),
        (
            META,
            json!({"labels": {}}),
            json!({"labels": {"a": "1"}}),
            json!({}),
            json!({}),
            json!({"f:labels": {"f:a": {}}}),
        ),
        (
            META,
            json!({"finalizers": ["a", "b"]}),
            json!({"finalizers": ["b", "c"]}),
            json!({"f:finalizers": {"v:\"a\"": {}}}),
            json!({}),
            json!({"f:finalizers": {"v:\"c\"": {}}}),
        ),
        (
            POD_SPEC,
            json!({"containers": [{"name": "a", "image": "x"}, {"name": "b"}], "nodeSelector": {"a": "1"}}),
            json!({"containers": [{"name": "c"}, {"name": "a", "image": "y"}], "nodeSelector": {"a": "2"}}),
            json!({"f:containers": {"k:{\"name\":\"b\"}": {".": {}, "f:name": {}}}}),
            json!({"f:containers": {"k:{\"name\":\"a\"}": {"f:image": {}}}, "f:nodeSelector": {}}),
            json!({"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}}}}),
        ),
        // An element that is there twice is one field.
        (
            CONTAINER,
            json!({"env": [{"name": "a", "value": "1"}]}),
            json!({"env": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}),
            json!({"f:env": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:value": {}}}}),
            json!({}),
            json!({"f:env": {"k:{\"name\":\"a\"}": {}}}),
        ),
    ];
    for (of, old, new, removed, modified, added) in rows {
        let found = compare(form(of), &old, &new);
        assert_eq!(found.removed.to_json(), removed, "removed: {old} to {new}");
        assert_eq!(found.modified.to_json(), modified, "modified: {old} to {new}");
        assert_eq!(found.added.to_json(), added, "added: {old} to {new}");
    }
}

#[test]
fn a_configuration_merges_into_a_live_object() {
    let rows = [
        // (type, live, configuration, merged)
        (
            META,
            json!({"labels": {"a": "1", "b": "2"}}),
            json!({"labels": {"a": "3"}, "name": "n"}),
            json!({"labels": {"a": "3", "b": "2"}, "name": "n"}),
        ),
        (
            POD_SPEC,
            json!({"tolerations": [{"key": "a"}], "nodeSelector": {"a": "1"}}),
            json!({"tolerations": [{"key": "b"}], "nodeSelector": {"b": "2"}}),
            json!({"tolerations": [{"key": "b"}], "nodeSelector": {"b": "2"}}),
        ),
        (
            POD_SPEC,
            json!({"containers": [{"name": "x", "image": "1"}, {"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "b"}, {"name": "x", "image": "2"}, {"name": "n"}]}),
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "x", "image": "2"}, {"name": "n"}]}),
        ),
        (
            META,
            json!({"finalizers": ["a", "b"]}),
            json!({"finalizers": ["c", "b"]}),
            json!({"finalizers": ["a", "c", "b"]}),
        ),
        (
            POD_SPEC,
            json!({"securityContext": {"runAsUser": 1}}),
            json!({"securityContext": {}}),
            json!({"securityContext": {"runAsUser": 1}}),
        ),
        (POD_SPEC, json!({}), json!({"containers": []}), json!({"containers": []})),
    ];
    for (of, live, config, merged) in rows {
        let found = merge(form(of), &live, &config);
        assert_eq!(found, merged, "{config} into {live}");
        assert_eq!(merge(form(of), &found, &config), found, "merging again changes nothing");
    }
}

#[test]
fn fields_are_removed_with_what_is_below_them() {
    let pod = json!({"containers": [{"name": "a", "image": "x"}, {"name": "b"}], "nodeName": "n", "hostPID": true});
    let set = FieldSet::from_json(&json!({
        "f:containers": {"k:{\"name\":\"a\"}": {"f:image": {}}, "k:{\"name\":\"b\"}": {".": {}, "f:name": {}}},
        "f:nodeName": {},
    }));
    let left = remove(form(POD_SPEC), &pod, &set.unwrap());
    assert_eq!(left, json!({"containers": [{"name": "a"}], "hostPID": true}));
}

#[test]
fn a_configuration_of_other_types_is_refused() {
    let rows = [
        (json!({"spec": {"foo": 1}}), ".spec.foo: field not declared in schema"),
        (json!({"spec": {"parallelism": "x"}}), ".spec.parallelism: expected numeric (int or float), got string"),
        (json!({"spec": {"suspend": 1}}), ".spec.suspend: expected boolean, got &{1}"),
        (json!({"spec": {"template": 1}}), ".spec.template: expected map, got &{1}"),
        (
            json!({"metadata": {"labels": {"a": 1}}}),
            ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"name": "x"}, {"name": "x"}]}}}}),
            ".spec.template.spec.containers: duplicate entries for key [name=\"x\"]",
        ),
    ];
    for (config, why) in rows {
        assert_eq!(faults(form(JOB), &config), [why], "{config}");
    }
    let fine =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "x", "resources": {"limits": {"cpu": 1}}}]}}}});
    assert_eq!(faults(form(JOB), &fine), Vec::<String>::new());
}

#[test]
fn what_go_holds_by_value_is_always_there_and_zeros_are_not() {
    let mut job = json!({});
    complete(form(JOB), &mut job);
    let meta = json!({});
    let template = json!({"metadata": meta, "spec": {"containers": null}});
    assert_eq!(job, json!({"metadata": meta, "spec": {"template": template}, "status": {}}));
    let mut spec: Value = json!({"containers": [{"name": "a"}]});
    complete(form(POD_SPEC), &mut spec);
    assert_eq!(spec, json!({"containers": [{"name": "a", "resources": {}}]}));
    let mut spec = json!({"containers": [], "hostNetwork": false, "volumes": [], "nodeSelector": {}, "securityContext": {}, "priority": 0});
    complete(form(POD_SPEC), &mut spec);
    let kept = json!({"containers": [], "securityContext": {}, "priority": 0});
    assert_eq!(spec, kept, "zeros are left out where no pointer tells them from nothing");
}
