//! Strategic merge patches of real types.

use serde_json::{Value, json};
use stint_schema::form::Form;
use stint_schema::strategic::{apply, unrestorable};

fn patched(of: &str, document: &Value, patch: &Value) -> Result<Value, String> {
    let form = Form::of(of).unwrap_or_else(|| panic!("the table has {of}"));
    let document = document.as_object().unwrap().clone();
    apply(form, document, patch.as_object().unwrap()).map(Value::Object).map_err(|error| error.to_string())
}

const POD_SPEC: &str = "io.k8s.api.core.v1.PodSpec";
const CONTAINER: &str = "io.k8s.api.core.v1.Container";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const JOB: &str = "io.k8s.api.batch.v1.Job";

#[test]
fn patches_merge_as_their_types_say() {
    let rows = [
        // (type, before, patch, after)
        (
            JOB,
            json!({"spec": {"parallelism": 1, "completions": 2}}),
            json!({"spec": {"parallelism": null, "suspend": true}}),
            json!({"spec": {"completions": 2, "suspend": true}}),
        ),
        // Lists of maps merge by their key; the items of the patch are in its order, before the others.
        (
            POD_SPEC,
            json!({"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "image": "y"}, {"name": "c", "image": null, "$retainKeys": ["name"]}]}),
            json!({"containers": [{"name": "a", "image": "y"}, {"name": "c"}, {"name": "b"}]}),
        ),
        (
            POD_SPEC,
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        ),
        (
            POD_SPEC,
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        // The live items that an order does not name keep their places between those that it does.
        (
            POD_SPEC,
            json!({"containers": [{"name": "a"}, {"name": "x"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "i"}]}),
            json!({"containers": [{"name": "x"}, {"name": "b", "image": "i"}, {"name": "a"}]}),
        ),
        (
            POD_SPEC,
            json!({"containers": [{"name": "x"}, {"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "b", "image": "i"}]}),
            json!({"containers": [{"name": "x"}, {"name": "a"}, {"name": "b", "image": "i"}]}),
        ),
        // An order alone moves and changes nothing else.
        (
            POD_SPEC,
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b"}, {"name": "a"}]}),
        ),
        // Sets of plain values.
        (
            META,
            json!({"finalizers": ["x", "batch.kubernetes.io/job-tracking"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["batch.kubernetes.io/job-tracking"]}),
            json!({"finalizers": ["x"]}),
        ),
        (META, json!({}), json!({"$deleteFromPrimitiveList/finalizers": ["x"]}), json!({})),
        (META, json!({"finalizers": ["x"]}), json!({"finalizers": ["y", "x"]}), json!({"finalizers": ["y", "x"]})),
        (
            META,
            json!({"ownerReferences": [{"uid": "1", "name": "a"}, {"uid": "2"}]}),
            json!({"ownerReferences": [{"uid": "1", "$patch": "delete"}]}),
            json!({"ownerReferences": [{"uid": "2"}]}),
        ),
        // Without a merge key a list is replaced.
        (CONTAINER, json!({"args": ["1", "2"]}), json!({"args": ["3"]}), json!({"args": ["3"]})),
        (
            POD_SPEC,
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        ),
        (
            CONTAINER,
            json!({"ports": [{"containerPort": 80}, {"containerPort": 81}]}),
            json!({"ports": [{"containerPort": 81, "name": "x"}]}),
            json!({"ports": [{"containerPort": 80}, {"containerPort": 81, "name": "x"}]}),
        ),
        (
            POD_SPEC,
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]}),
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
        ),
        // Directives on whole maps.
        (
            POD_SPEC,
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "replace", "b": "2"}}),
            json!({"nodeSelector": {"b": "2"}}),
        ),
        (
            POD_SPEC,
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "delete"}}),
            json!({"nodeSelector": {}}),
        ),
        (POD_SPEC, json!({}), json!({"nodeSelector": {"$patch": "delete", "a": "b"}}), json!({})),
        (POD_SPEC, json!({}), json!({"nodeSelector": {"a": "b", "c": null}}), json!({"nodeSelector": {"a": "b"}})),
        (JOB, json!({"a": 1}), json!({"$patch": "replace", "b": 2}), json!({"b": 2})),
    ];
    for (of, before, patch, after) in rows {
        assert_eq!(patched(of, &before, &patch), Ok(after), "{patch} on {before}");
    }
}

#[test]
fn a_patch_that_makes_no_sense_is_told_so() {
    let pair = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let rows = [
        (json!({"containers": [{"image": "x"}]}), "map: map[image:x] does not contain declared merge key: name"),
        (
            json!({"containers": [{"name": "a", "$patch": "merge"}]}),
            "merging lists cannot yet be specified in the patch",
        ),
        (json!({"containers": [{"name": "a", "$patch": "x"}]}), "unknown patch type: x in map: map[$patch:x name:a]"),
        (json!({"$patch": "x"}), "unknown patch type: x in map: map[$patch:x]"),
        (json!({"$retainKeys": "x"}), "invalid patch format of retainKeys"),
        (json!({"$retainKeys": ["a"], "b": 1}), "invalid patch format of retainKeys"),
        (json!({"$setElementOrder/containers": 1}), "expected a []interface {}, but received a int64"),
        (
            json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}),
            "The order in patch list:\n[map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
        ),
        (
            json!({"$setElementOrder/nothing": []}),
            "unable to find api field in struct PodSpec for the json field \"nothing\"",
        ),
        (json!({"containers": [[]]}), "list element types are not identical: [[map[name:a] map[name:b]] [[]]]"),
        (json!({"containers": [1]}), "list element types are not identical: [[map[name:a] map[name:b]] [1]]"),
    ];
    for (patch, why) in rows {
        assert_eq!(patched(POD_SPEC, &pair, &patch), Err(why.to_owned()), "{patch}");
    }
}

#[test]
fn a_document_of_the_wrong_types_is_told_in_go_words() {
    let rows = [
        (json!({"spec": {"parallelism": "x"}}), Some("unrecognized type: int32")),
        (json!({"spec": {"suspend": 1}}), Some("unrecognized type: bool")),
        (json!({"spec": "x"}), Some("cannot restore struct from: string")),
        (json!({"spec": []}), Some("cannot restore struct from: slice")),
        (json!({"metadata": {"labels": "x"}}), Some("cannot restore map from string")),
        (json!({"metadata": {"labels": {"a": true}}}), Some("unrecognized type: string")),
        (json!({"spec": {"template": {"spec": {"containers": {}}}}}), Some("cannot restore slice from map")),
        (json!({"spec": {"parallelism": null, "template": {"spec": {"containers": []}}}, "x": 1}), None),
    ];
    for (document, why) in rows {
        assert_eq!(unrestorable(Form::of(JOB).unwrap(), &document).as_deref(), why, "{document}");
    }
}
