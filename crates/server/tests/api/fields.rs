//! What `docs/compatibility.md` says of the fields of a pod: nothing is left out, and all of it is so.

use std::collections::{BTreeMap, BTreeSet};

use stint_core::validate::unhonoured;
use stint_schema::{Schema, Shape, Value};
use stint_server::differences::fields::{Here, WHOLE, types};

use crate::shown::assert_shown;

const CORE: &str = "io.k8s.api.core.v1.";

/// Every row, as `Type.member`.
fn rows() -> BTreeMap<String, &'static Here> {
    let of = |of: &'static stint_server::differences::fields::ApiType| {
        of.fields.iter().map(|field| (format!("{}.{}", of.name, field.name), &field.here))
    };
    types().flat_map(of).collect()
}

/// The structs that a value is made of.
fn inner(value: &Value) -> Option<&'static str> {
    match value {
        Value::Object(id) => Some(Schema::get().at(*id).name),
        Value::List(item) | Value::Map(item) => inner(item),
        _ => None,
    }
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[test]
fn every_field_of_a_pods_spec_has_its_row() {
    let known: BTreeMap<&str, _> = types().map(|of| (of.name, of.fields)).collect();
    let (mut seen, mut whole) = (BTreeSet::new(), BTreeSet::new());
    let mut next = vec![format!("{CORE}PodSpec")];
    while let Some(name) = next.pop() {
        if !seen.insert(short(&name).to_owned()) {
            continue;
        }
        let Some(fields) = known.get(short(&name)) else {
            assert!(WHOLE.contains(&short(&name)), "{name} has neither rows nor is it in WHOLE");
            whole.insert(short(&name).to_owned());
            continue;
        };
        let of = Schema::get().named(&name).unwrap();
        assert_eq!(of.shape, Shape::Struct);
        let wanted: Vec<&str> = of.fields().iter().map(|field| field.name).collect();
        let listed: Vec<&str> = fields.iter().map(|field| field.name).collect();
        assert_eq!(listed, wanted, "the fields of {name}, in the order of the API");
        for (field, row) in of.fields().iter().zip(*fields) {
            if matches!(row.here, Here::Yes { .. } | Here::Partly { .. }) {
                next.extend(inner(&field.value).map(str::to_owned));
            }
        }
    }
    let listed: BTreeSet<String> = known.keys().map(|name| (*name).to_owned()).chain(whole).collect();
    assert_eq!(listed, seen, "nothing is listed that no pod has");
    assert!(WHOLE.iter().all(|name| seen.contains(*name)), "{WHOLE:?}");
}

#[test]
fn what_is_not_honoured_is_warned_about_and_nothing_else_is() {
    let warned: BTreeSet<&str> = unhonoured::fields().map(|(field, _)| field).collect();
    let rows = rows();
    for (name, here) in &rows {
        match here {
            Here::Warned => assert!(warned.contains(name.as_str()), "{name} has no warning"),
            Here::Partly { .. } => {}
            Here::Yes { .. } | Here::Moot(_) => {
                assert!(!warned.contains(name.as_str()), "{name} is warned about, and its row says nothing of that");
            }
        }
    }
    for name in warned {
        assert!(rows.contains_key(name), "{name} is warned about and has no row");
    }
}

#[test]
fn every_field_that_is_honoured_is_shown_by_tests_that_are_there() {
    for (name, here) in rows() {
        let (Here::Yes { tests, .. } | Here::Partly { tests, .. }) = here else { continue };
        assert!(!tests.is_empty(), "{name} is shown by a test");
        assert_shown(&name, tests);
    }
}
